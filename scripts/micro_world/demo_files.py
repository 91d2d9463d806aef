"""What `pulid-generate demo` knows of the small world, made anew after a training: the portraits of
its people, written into the package, and the table of models' hashes, printed for world.py.

    PYTHONPATH=scripts python -m micro_world.demo_files
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from micro_world.dataset import PORTRAIT
from micro_world.drawing import draw
from micro_world.people import FIRST_TEST_PERSON, Person
from micro_world.scenes import Scene
from pulid_extract.shared.model_files.transfer import file_sha256
from pulid_generate.demo import scenes, world

# whose seeds are so far beyond the first that is for tests
PEOPLE = {"ada": 4, "ben": 5, "cleo": 12, "dan": 9}
PORTRAITS = Path(scenes.__file__).parent / "portraits"


def portrait(name: str) -> np.ndarray:
    """uint8 RGB (H, W, 3)."""
    person = Person.of(FIRST_TEST_PERSON + PEOPLE[name])
    return draw(person, Scene(background=7, clothes=5), PORTRAIT).pixels


def hashes() -> dict[str, tuple[int, str]]:
    """Bytes and SHA-256 of what the demo reads."""
    found = {}
    for name in world.FILES:
        path = world.CHECKOUT / world.FOLDER / name
        found[name] = (path.stat().st_size, file_sha256(path))
    return found


if __name__ == "__main__":
    for name in scenes.PEOPLE:
        Image.fromarray(portrait(name)).save(PORTRAITS / f"{name}.png")
    for name, (size, sha256) in hashes().items():
        print(f'    "{name}": ({size}, "{sha256}"),')
