"""Who is drawn, and where: portraits, prompts, and the rows of a batch. Imports no torch."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path

from pulid_extract.shared.writing import make_folder, write_atomically

# whose portraits lie in portraits/, drawn by `python -m micro_world.demo_files`; nothing was
# trained on them
PEOPLE = ("ada", "ben", "cleo", "dan")
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
# of the rows that are drawn without PuLID
NOBODY = "nobody"
SEED = 42


def write_portraits(folder: Path) -> dict[str, Path]:
    """A portrait of each of PEOPLE, by name. Raises OutputError."""
    make_folder(folder, flag="--output-dir")
    portraits = {}
    for name in PEOPLE:
        file = resources.files(__package__).joinpath("portraits", f"{name}.png")
        portraits[name] = folder / f"{name}.png"
        write_atomically(portraits[name], file.read_bytes())
    return portraits


def write_rows(manifest: Path, identities: str) -> list[str]:
    """A manifest: everybody in every prompt, and nobody last. identities: the folder of the
    .pulidembd files as seen from the manifest. Gives the pictures' names. Raises OutputError.
    """
    lines, names = [], []
    for name in (*PEOPLE, NOBODY):
        for number, prompt in enumerate(PROMPTS):
            names.append(f"{name}_{number}.png")
            row = {"prompt": prompt, "seed": SEED, "output": names[-1]}
            if name != NOBODY:
                row["pulid-id-embedding"] = f"{identities}/{name}.pulidembd"
            lines.append(json.dumps(row) + "\n")
    write_atomically(manifest, "".join(lines).encode())
    return names
