"""What stands first in the --help of each command: its basics, and examples. The one table of them;
an option that is not named here stands under its table's heading. Imports no torch.
"""

from __future__ import annotations

from pulid_extract.shared.cli.help import HelpPage

_PERSON = ("prompt", "pulid_id_embedding", "pulid_id_weight")
_PICTURE = ("width", "height", "steps", "seed")
_MODELS = ("models_dir",)

# command -> its page; "" is the program itself
PAGES = {
    "": HelpPage(
        (*_PERSON, "output", *_PICTURE, "batch_count", *_MODELS),
        (
            ("pulid-generate pull schnell-q4 --models-dir models", "fetch Flux and the rest, once"),
            (
                'pulid-generate -p "a portrait in the rain" --models-dir models -o rain.png',
                "draw without a person",
            ),
            (
                'pulid-generate --pulid-id-embedding me.pulidembd -p "a portrait in the rain" '
                "--models-dir models",
                "draw the person of a .pulidembd; pulid-extract makes it from a photograph",
            ),
        ),
    ),
    "batch": HelpPage(
        (
            *("manifest", "prompts", "identities", "seeds", "output_dir", "name", "resume"),
            *("batch_size", *_PERSON, *_PICTURE, *_MODELS),
        ),
        (
            (
                "pulid-generate batch rows.jsonl --output-dir pictures --models-dir models",
                'a line of rows.jsonl: {"prompt": "in the rain", "seed": 7}',
            ),
            (
                "pulid-generate batch --prompts prompts.txt --identities people --seeds 1-4",
                "every prompt, person and seed",
            ),
        ),
    ),
    "detail": HelpPage(
        (
            *("pictures", "output", "output_dir", *_PERSON, "reference", "strength"),
            *("extra_ad_args", "width", "height", "steps", *_MODELS),
        ),
        (
            (
                "pulid-generate detail beach.jpg --pulid-id-embedding me.pulidembd -o me_there.png",
                "put me into this picture: its largest face becomes mine",
            ),
            (
                "pulid-generate detail drawn --output-dir mended --pulid-id-embedding me.pulidembd "
                "--reference me.jpg --strength 0.4",
                "a folder of pictures; in each, the face that is most like me is redrawn",
            ),
        ),
    ),
    "sweep": HelpPage(
        ("over", "output", "output_dir", *_PERSON, *_PICTURE, "reference", *_MODELS),
        (
            (
                "pulid-generate sweep --over id-weight=0,0.25,..,1.5 --pulid-id-embedding "
                'me.pulidembd -p "in the rain"',
                "how strong should the identity be?",
            ),
            (
                "pulid-generate sweep --over id-weight=0.6,0.8,1 --over id-start-step=0,2,4 "
                '--pulid-id-embedding me.pulidembd -p "in the rain"',
                "two options: columns and rows",
            ),
        ),
    ),
    "validate": HelpPage(
        (
            *("pulid_id_embedding", "reference", "truth", "stranger", "stranger_embedding"),
            *("prompts", "seeds", "output_dir", "require", "pulid_id_weight", "width", "height"),
            *("steps", *_MODELS),
        ),
        (
            (
                "pulid-generate validate --pulid-id-embedding me.pulidembd --reference me.jpg "
                "--truth me2.jpg --require 'mean_likeness>=0.5,copy_paste<=0.2' --steps 4",
                "exit code 1 unless it is so, for CI",
            ),
            (
                "pulid-generate validate --pulid-id-embedding me.pulidembd --reference me.jpg "
                "--stranger you.jpg --steps 4",
                "twelve prompts, two seeds; validation/report.html says how like me they are",
            ),
        ),
    ),
    "verify": HelpPage(
        (*_PERSON, "output", *_PICTURE, *_MODELS),
        (
            (
                "pulid-generate verify --pulid-id-embedding me.pulidembd -p portrait --models-dir "
                "models",
                "three pictures, compared by SHA-256",
            ),
        ),
    ),
    "doctor": HelpPage(
        (*_MODELS, "diffusion_model", "pulid_id_embedding", "device", "as_json"),
        (
            ("pulid-generate doctor --models-dir models", "is all there?"),
            (
                "pulid-generate doctor --models-dir models -W 1024 -H 1024 --max-vram 8",
                "would this fit into 8 GiB?",
            ),
        ),
    ),
    "serve": HelpPage(
        (
            *("host", "port", "identities", "output_dir", "studio", "api_key_file"),
            *("max_queue", *_MODELS),
        ),
        (
            (
                "pulid-generate serve --models-dir models --identities people",
                "then open http://127.0.0.1:7860 in a browser",
            ),
        ),
    ),
    "demo": HelpPage(
        (),
        (("pulid-generate demo", "a minute; look at demo/sheet.png"),),
    ),
    "inspect": HelpPage(
        (),
        (
            ("pulid-generate inspect models/*.safetensors", "what are these?"),
            ("pulid-generate inspect me.pulidembd out.png", "who, and how was it drawn?"),
        ),
    ),
    "pull": HelpPage(
        (),
        (
            ("pulid-generate pull schnell-q4 --models-dir models", "the smallest, no account"),
            ("pulid-generate pull dev --dry-run", "what would be fetched, and is there space?"),
        ),
    ),
}
