"""The whole toolkit on one page, in a small world whose networks are really trained: four people,
five prompts, one sheet to look at.

    make demo        (or: PYTHONPATH=scripts python -m micro_world.demo [FOLDER])

Runs the two programs as a user would, with the models of scripts/micro_world/models (about 48 MB)
in place of the real 37 GB. The people are drawings that nothing was trained on; under every picture
stands the cosine to the portrait, by a recogniser that never conditioned anything.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from micro_world.dataset import PORTRAIT
from micro_world.drawing import draw
from micro_world.measure import EXTRACT, GENERATE, run
from micro_world.people import FIRST_TEST_PERSON, Person
from micro_world.scenes import Scene
from micro_world.train import JUDGE
from pulid_generate.pictures.sheet import write_sheet
from pulid_generate.pictures.sheet_grid import Heading, SheetGrid, Thumbnail

ROOT = Path(__file__).resolve().parent.parent.parent
# relative, so that the commands shown are short
MODELS = Path(os.path.relpath(ROOT / "scripts" / "micro_world" / "models"))
# whose seeds are so far beyond the first that is for tests
PEOPLE = {"ada": 4, "ben": 5, "cleo": 12, "dan": 9}
PROMPTS = (
    "a portrait of a person, smiling, in a red shirt, on a blue background",
    "a portrait of a person, surprised, in a yellow shirt, with a top hat, on a green background",
    "a portrait of a person, calm, in a purple shirt, with glasses, on an orange background",
    "a portrait of a person, sad, in a grey shirt, with a beanie, on a teal background",
    (
        "a portrait of a person, smiling, in a green shirt, with a cap, with glasses, on a purple "
        "background"
    ),
)
SEED = 42

WHAT_NEXT = """\
These people are drawings and the networks that draw them are small (docs/micro_world.md). For photographs, fetch the real files, 13 GB with
Flux in 4 bits, and leave out the flags of the small world (--aligner, --parser, --t5-max-length, the sizes):

  pulid-extract pull --models-dir models
  pulid-generate pull schnell-q4 --models-dir models

antelopev2 is for non-commercial research, FLUX.1 dev for non-commercial use; README.md has the two command lines and where each file is from."""


shown = partial(run, shown=True)


def write_portraits(folder: Path) -> dict[str, Path]:
    """A portrait of each of PEOPLE, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    portraits = {}
    for name, number in PEOPLE.items():
        person = Person.of(FIRST_TEST_PERSON + number)
        scene = Scene(background=7, clothes=5)
        portraits[name] = folder / f"{name}.png"
        Image.fromarray(draw(person, scene, PORTRAIT).pixels).save(portraits[name])
    return portraits


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else os.path.relpath(ROOT / "demo"))
    portraits = write_portraits(folder / "portraits")
    shown(
        "pulid-extract",
        "batch",
        folder / "portraits",
        "--out-dir",
        folder / "identities",
        "--models-dir",
        MODELS,
        *EXTRACT,
    )
    rows = [
        {"prompt": prompt, "seed": SEED, "output": f"{name}_{number}.png"}
        | ({"pulid-id-embedding": f"identities/{name}.pulidembd"} if name in PEOPLE else {})
        for name in (*PEOPLE, "nobody")
        for number, prompt in enumerate(PROMPTS)
    ]
    manifest = folder / "rows.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    shown(
        "pulid-generate",
        "batch",
        manifest,
        "--output-dir",
        folder / "pictures",
        "--models-dir",
        MODELS,
        *GENERATE,
    )
    pictures = [folder / "pictures" / str(row["output"]) for row in rows]
    cosines = score(list(portraits.values()), pictures)
    table = shown(
        *(
            "pulid-generate",
            "verify",
            "--models-dir",
            MODELS,
            "--pulid-id-embedding",
            folder / "identities" / "ada.pulidembd",
        ),
        *("-p", PROMPTS[0], "--seed", SEED, "-o", folder / "out.png", *GENERATE),
    )
    print(table)
    right = sum(
        row.index(max(row)) == place // len(PROMPTS)
        for place, row in enumerate(cosines[: len(PEOPLE) * len(PROMPTS)])
    )
    count = len(PEOPLE) * len(PROMPTS)
    print(f"the right one of {len(PEOPLE)} people is the most alike in {right} of {count} pictures")
    verdict = table.splitlines()[-1]
    [sheet] = write_sheet(folder / "sheet.png", grid(portraits, pictures, cosines, verdict))
    print(f"{sheet}\n\n{WHAT_NEXT}")


def score(references: Sequence[Path], pictures: Sequence[Path]) -> list[list[float]]:
    """For each picture the cosine to each reference; -1 where no face is found."""
    given = [argument for path in references for argument in ("--reference", path)]
    lines = shown(
        "pulid-extract",
        "score",
        "--json",
        "--models-dir",
        MODELS,
        "--recognizer",
        MODELS / JUDGE,
        *given,
        *pictures,
    )
    found = [json.loads(line)["cosines"] for line in lines.splitlines()]
    return [one or [-1.0] * len(references) for one in found]


def grid(
    portraits: dict[str, Path],
    pictures: Sequence[Path],
    cosines: Sequence[Sequence[float]],
    verdict: str,
) -> SheetGrid:
    """People down, prompts across; last the row without PuLID, with the cosine to whoever is the
    most alike by chance.
    """
    cells = []
    for row in range(len(PEOPLE) + 1):
        line = []
        for column in range(len(PROMPTS)):
            place = row * len(PROMPTS) + column
            own = f"cosine {cosines[place][row]:.2f}" if row < len(PEOPLE) else ""
            caption = own or f"to anybody at most {max(cosines[place]):.2f}"
            line.append([Thumbnail(pictures[place], caption)])
        cells.append(line)
    rows = [Heading(name, path) for name, path in portraits.items()] + [
        Heading("without PuLID, the same seed")
    ]
    columns = [Heading(prompt.removeprefix("a portrait of a person, ")) for prompt in PROMPTS]
    return SheetGrid(cells, columns, rows, f"A portrait, a prompt, a picture. {verdict}")


if __name__ == "__main__":
    main()
