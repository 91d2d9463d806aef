"""Measures, through the two programs, that the small world's models preserve a face. On people and
seeds that nothing was trained on.

    PYTHONPATH=scripts python -m micro_world.measuring.preservation
        [--models scripts/micro_world/models] [--folder build/micro_world/measured] [--quick]

Prints the table of docs/micro_world.md as Markdown on standard output and leaves numbers.json and
the pictures in the folder. Portraits go through `pulid-extract batch`, pictures through
`pulid-generate batch`; a second recogniser, which never conditioned anything, says who it is, and a
classifier of drawings what the scene is.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from micro_world.dataset import PORTRAIT
from micro_world.drawing import draw
from micro_world.measuring.judges import MODELS, SIDE, Eyes, Gallery, Seen, read
from micro_world.people import FIRST_TEST_PERSON, Person
from micro_world.prompts import plain_prompt
from micro_world.scenes import PLAIN, Scene
from pulid_generate.demo.world import DRAW, EXTRACT

PEOPLE, SCENES = 20, 8
WEIGHTS = (0.0, 0.25, 0.5, 0.75, 1.0)
JUDGED = ("background", "clothes", "expression", "hat", "glasses")


def run(program: str, *arguments: object, shown: bool = False) -> str:
    """Standard output of the program that stands beside this Python. shown: its command line and
    what it says go to standard error.

    Raises SystemExit if it fails, with what it said.
    """
    command = [str(Path(sys.executable).with_name(program)), *map(str, arguments)]
    line = shlex.join([program, *command[1:]])
    if shown:
        print(f"$ {line}", file=sys.stderr, flush=True)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=None if shown else subprocess.PIPE, text=True
    )
    if done.returncode:
        sys.exit(f"{line}: exit code {done.returncode}\n{done.stderr or ''}")
    return done.stdout


def scenes(count: int, seed: int = 0) -> list[Scene]:
    """Scenes for tests: everything a prompt can say, each hat and expression equally often."""
    rng = np.random.default_rng((5, seed))
    return [
        Scene.of(
            rng,
            hat=index % 4,
            expression=(index // 2) % 4,
            glasses=index % 3 % 2,
            background=index % 8,
            distance=0,
            tilt=0,
        )
        for index in range(count)
    ]


def write_portraits(
    folder: Path, count: int, first: int = FIRST_TEST_PERSON, views: int = 1, series: int = 0
) -> list[Path]:
    """PNG portraits of people that nothing was trained on, `views` of each: 00.png, or 00-0.png,
    00-1.png .. of person 0.

    series: other scenes of the same people.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(count):
        for view in range(views):
            scene = Scene.of(np.random.default_rng((6, series, index, view)), **PLAIN, distance=0)
            paths.append(folder / (f"{index:02d}.png" if views == 1 else f"{index:02d}-{view}.png"))
            Image.fromarray(draw(Person.of(first + index), scene, PORTRAIT).pixels).save(paths[-1])
    return paths


def write_people(folder: Path, count: int) -> tuple[list[Path], list[Path]]:
    """Identities of people that nothing was trained on, and a second portrait of each."""
    portraits = write_portraits(folder / "portraits", count, views=2)
    others = []
    for path in portraits[1::2]:
        others.append(path.rename(folder / path.name))
    extract(MODELS, folder / "portraits", folder / "identities")
    identities = [folder / "identities" / f"{path.stem}.pulidembd" for path in portraits[::2]]
    return identities, others


def extract(models: Path, portraits: Path, out: Path, *more: object) -> None:
    run(
        "pulid-extract",
        "batch",
        portraits,
        "--out-dir",
        out,
        "--models-dir",
        models,
        *EXTRACT,
        *more,
    )


def generate(
    models: Path, rows: Sequence[dict[str, Any]], folder: Path, *more: object
) -> list[Path]:
    """One picture for each row, in one process. Paths in the order of the rows."""
    folder.mkdir(parents=True, exist_ok=True)
    manifest = folder / "rows.jsonl"
    manifest.write_text(
        "".join(
            json.dumps(row | {"output": f"{number:04d}.png"}) + "\n"
            for number, row in enumerate(rows)
        ),
        encoding="utf-8",
    )
    run(
        "pulid-generate",
        "batch",
        manifest.resolve(),
        "--output-dir",
        folder,
        "--models-dir",
        models,
        "--no-cache",
        *DRAW,
        *more,
    )
    return [folder / f"{number:04d}.png" for number in range(len(rows))]


class Measurement:
    """The pictures and what the judges say. folder: portraits, identities and pictures go there."""

    def __init__(
        self,
        models: Path,
        folder: Path,
        people: int = PEOPLE,
        count: int = SCENES,
        weights: Sequence[float] = WEIGHTS,
    ):
        self.models, self.folder, self.people, self.weights = (
            models.resolve(),
            folder.resolve(),
            people,
            weights,
        )
        self.scenes = scenes(count)
        self.eyes = Eyes(models)

    @cached_property
    def gallery(self) -> Gallery:
        """Other portraits of the same people than those the identities come from."""
        return Gallery(
            self.eyes, write_portraits(self.folder / "references", self.people, series=1)
        )

    @cached_property
    def seen(self) -> list[Seen]:
        write_portraits(self.folder / "portraits", self.people, views=2)
        single, fused = self._identities()
        keys = [
            (person, scene, weight)
            for weight in self.weights
            for person in range(self.people)
            for scene in range(len(self.scenes))
        ]
        keys += [
            (person, scene, -1.0)
            for person in range(self.people)
            for scene in range(len(self.scenes))
        ]  # -1: fused, weight 1
        rows = [
            {
                "prompt": plain_prompt(self.scenes[scene]),
                "seed": 1000 + scene,
                "pulid-id-embedding": str((fused if weight < 0 else single)[person]),
                "pulid-id-weight": abs(weight),
            }
            for person, scene, weight in keys
        ]
        paths = generate(self.models, rows, self.folder / "pictures", "--batch-size", 16)
        pictures = [read(path) for path in paths]
        return [
            Seen(*key, self.eyes.who(picture), self.eyes.what(picture))
            for key, picture in zip(keys, pictures, strict=True)
        ]

    def _identities(self) -> tuple[list[Path], list[Path]]:
        """Of one portrait each, and of two."""
        out = self.folder / "identities"
        rows = self.folder / "portraits.jsonl"
        portraits = self.folder / "portraits"
        lines = []
        for index in range(self.people):
            both = [str(portraits / f"{index:02d}-{view}.png") for view in (0, 1)]
            lines.append({"portrait": both[0], "out": f"{index:02d}.pulidembd"})
            lines.append({"portraits": both, "out": f"{index:02d}-two.pulidembd"})
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        extract(self.models, rows, out, "--with-uncond")
        return [out / f"{i:02d}.pulidembd" for i in range(self.people)], [
            out / f"{i:02d}-two.pulidembd" for i in range(self.people)
        ]

    def of(self, weight: float) -> list[Seen]:
        return [seen for seen in self.seen if seen.weight == weight]

    def numbers(self) -> dict[str, Any]:
        """Everything the table says."""
        found: dict[str, Any] = {
            "people": self.people,
            "scenes": len(self.scenes),
            "pictures": len(self.seen),
        }
        for weight in (*self.weights, -1.0):
            group = self.of(weight)
            name = "fused" if weight < 0 else f"{weight:g}"
            found[name] = {
                "picked": float(np.mean([self.gallery.picked(seen) for seen in group])),
                "cosine": float(np.mean([self.gallery.cosine(seen) for seen in group])),
                "no_face": sum(seen.vector is None for seen in group),
                "prompt": {
                    choice: float(np.mean([self._obeyed(seen, choice) for seen in group]))
                    for choice in JUDGED
                },
            }
        found["detector"] = detected(self.eyes)
        return found

    def _obeyed(self, seen: Seen, choice: str) -> bool:
        return seen.choices[choice] == getattr(self.scenes[seen.scene], choice)


def detected(eyes: Eyes, count: int = 200) -> float:
    """Share of portraits, pasted anywhere on a canvas of 640, whose face is found with an overlap
    of more than a half.
    """
    from pulid_extract.faces.antelopev2 import overlap

    hits = 0
    for index in range(count):
        rng = np.random.default_rng((9, index))
        portrait = draw(Person.of(FIRST_TEST_PERSON + 1000 + index), Scene.of(rng), SIDE)
        canvas = np.empty((640, 640, 3), np.uint8)
        canvas[:] = rng.integers(0, 256, 3)
        x, y = (int(rng.integers(640 - SIDE + 1)) for _ in range(2))
        canvas[y : y + SIDE, x : x + SIDE] = portrait.pixels
        left, top, right, bottom = portrait.box
        truth = left + x, top + y, right + x, bottom + y
        found = eyes.pack.detect(np.ascontiguousarray(canvas[..., ::-1]))
        hits += any(overlap(face.box, truth) > 0.5 for face in found)
    return hits / count


def table(numbers: dict[str, Any], weights: Sequence[float]) -> Iterator[str]:
    """Lines of Markdown."""
    full, none, fused = numbers["1"], numbers["0"], numbers["fused"]
    obeyed, without = (float(np.mean(list(one["prompt"].values()))) for one in (full, none))
    curve = [numbers[f"{weight:g}"]["cosine"] for weight in weights]
    yield "| measure | goal | measured |"
    yield "|---|---|---|"
    yield (
        f"| right person picked out of {numbers['people']} by the second recogniser, weight 1 | "
        f"at least 95 % | {full['picked']:.1%} |"
    )
    yield f"| the same with weight 0 | chance, at most 15 % | {none['picked']:.1%} |"
    yield (
        "| mean cosine to another portrait of the person, weight 1 | at least 0.7 | "
        f"{full['cosine']:.3f} |"
    )
    yield f"| the same with weight 0 | at most 0.25 | {none['cosine']:.3f} |"
    each = ", ".join(f"{name} {share:.0%}" for name, share in full["prompt"].items())
    yield f"| prompt obeyed, weight 1 ({each}) | at least 90 % | {obeyed:.1%} |"
    yield (
        f"| points lost against weight 0 ({without:.1%}) | at most 5 | "
        f"{100 * (without - obeyed):.1f} |"
    )
    rises = all(later >= earlier for earlier, later in itertools.pairwise(curve))
    at = ", ".join(f"{weight:g}" for weight in weights)
    yield (
        f"| cosine at weight {at} | never falls | "
        f"{', '.join(f'{c:.3f}' for c in curve)}{'' if rises else ' (falls)'} |"
    )
    yield (
        f"| two portraits fused: picked, cosine | not worse than one | {fused['picked']:.1%}, "
        f"{fused['cosine']:.3f} |"
    )
    yield (
        "| detector: overlap above 0.5, pasted on a canvas of 640 | at least 98 % | "
        f"{numbers['detector']:.1%} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, default=MODELS)
    parser.add_argument("--folder", type=Path, default=Path("build/micro_world/measured"))
    parser.add_argument("--quick", action="store_true", help="two scenes instead of eight")
    arguments = parser.parse_args()
    measured = Measurement(
        arguments.models, arguments.folder, count=2 if arguments.quick else SCENES
    )
    numbers = measured.numbers()
    (arguments.folder / "numbers.json").write_text(
        json.dumps(numbers, indent=1) + "\n", encoding="utf-8"
    )
    print("\n".join(table(numbers, measured.weights)))


if __name__ == "__main__":
    main()
