"""What stands first in the --help of each command: its basics, and examples. The one table of them;
an option that is not named here stands under its table's heading. Imports no torch.
"""

from __future__ import annotations

from pulid_extract.shared.cli.help import HelpPage

# command -> its page; "" is the program itself
PAGES = {
    "": HelpPage(
        ("portrait", "out", "models_dir", "face_index", "preview", "with_uncond", "device"),
        (
            ("pulid-extract --portrait me.jpg --out me.pulidembd", "one photograph"),
            (
                "pulid-extract --portrait *.jpg --out me.pulidembd --preview sheet.png",
                "several of one person, and a sheet that shows what was used",
            ),
            (
                "pulid-extract --portrait group.jpg --face-order left --face-index 1 --out "
                "ann.pulidembd",
                "the second face from the left; 'pulid-extract faces group.jpg' lists them",
            ),
        ),
    ),
    "faces": HelpPage(
        (),
        (
            (
                "pulid-extract faces group.jpg --face-order left --draw faces.png",
                "number them from the left, and show it",
            ),
        ),
    ),
    "batch": HelpPage(
        ("rows", "out_dir", "resume", "strict", "models_dir", "device"),
        (
            ("pulid-extract batch portraits --out-dir people", "one person in each picture"),
            (
                "pulid-extract batch people.csv --out-dir people --resume",
                "columns portrait and out; go on where it stopped",
            ),
        ),
    ),
    "score": HelpPage(
        (
            *("images", "reference", "truth", "stranger", "prompt", "minimum", "sheet", "as_json"),
            "models_dir",
        ),
        (
            ("pulid-extract score --reference me.jpg pictures", "how like me are they?"),
            (
                "pulid-extract score --reference me.jpg --min 0.5 out.png",
                "exit code 1 if it is not me",
            ),
            (
                'pulid-extract score --prompt "in the rain" out.png',
                "does it show that?",
            ),
        ),
    ),
    "worker": HelpPage(
        ("models_dir", "device"),
        (
            (
                "pulid-extract worker < tasks.jsonl",
                'a line: {"task": "extract", "portrait": ["me.jpg"], "out": "me.pulidembd"}',
            ),
        ),
    ),
    "cache": HelpPage((), (("pulid-extract cache clear", "forget every embedding and prompt"),)),
    "doctor": HelpPage((), (("pulid-extract doctor --models-dir models", "is all there?"),)),
    "pull": HelpPage(
        (),
        (
            ("pulid-extract pull --models-dir models", "everything an extraction needs"),
            ("pulid-extract pull --dry-run", "what would be fetched, and is there space?"),
        ),
    ),
}
