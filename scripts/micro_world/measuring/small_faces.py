"""Measures what the detail pass does for small faces, through the two programs, on people that
nothing was trained on: scenes from far away before and after, and three people side by side.

    PYTHONPATH=scripts python -m micro_world.measuring.small_faces
        [--folder build/micro_world/small_faces] [--people 16] [--scenes 4] [--side 112]

Prints the tables of docs/detail.md as Markdown on standard output, and leaves before_after.png in
the folder.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from micro_world.measuring.judges import MODELS, SIDE, Eyes, Gallery, Seen, read
from micro_world.measuring.preservation import (
    JUDGED,
    extract,
    generate,
    run,
    scenes,
    write_portraits,
)
from micro_world.measuring.seams import Edges, step_across
from micro_world.people import FIRST_TEST_PERSON
from micro_world.prompts import T5_LENGTH, plain_prompt
from micro_world.scenes import DISTANCES, Scene
from pulid_generate.detail.crops import crop_of
from pulid_generate.request.conditions.mask_edge import REACH
from pulid_generate.request.passes.detail import DetailSettings, parse_detail_args

# Faces are redrawn in the small world's own size, with hair that the detector's box leaves out
ARGUMENTS = (
    f"denoising_strength=0.9,inpaint_width={SIDE},inpaint_height={SIDE},"
    "dilate_erode=44,inpaint_padding=8,mask_blur=3"
)
# Of the pictures, whose composition is then larger than what a face is redrawn in
FAR_SIDE = 112
SETTINGS = DetailSettings(**parse_detail_args(ARGUMENTS))
# pixels beyond the mask that the feather reaches
FEATHER = math.ceil(REACH * SETTINGS.mask_blur)
FAR = 2
# what the edge is measured at -> pixels beyond the mask
SEAM_LINES = (
    ("two pixels inside the mask's edge", -2),
    ("at the mask's edge", 0),
    ("a pixel further out", 1),
    ("where the feather ends", FEATHER),
    ("a pixel further out, untouched", FEATHER + 1),
)
# neither among the people that are drawn nor among those of training
FIRST_STRANGER = FIRST_TEST_PERSON + 40
DETAIL = (
    *("--models-dir", MODELS, "--steps", 8, "--t5-max-length", T5_LENGTH),
    *("--dtype", "float32"),
)


def far_scenes(count: int) -> list[Scene]:
    """Scenes in which the face is small."""
    assert "far" in DISTANCES[FAR]
    return [
        replace(scene, distance=FAR).placed(np.random.default_rng((7, number)))
        for number, scene in enumerate(scenes(count))
    ]


def row_of(
    scene: Scene, seed: int, identity: Path, detail: bool, side: int = FAR_SIDE
) -> dict[str, Any]:
    """A row of a batch. In a crop of the face nothing is far away, so its prompt does not say
    so. side: of the picture, in pixels.
    """
    row = {
        "prompt": plain_prompt(scene),
        "seed": seed,
        "width": side,
        "height": side,
        "pulid-id-embedding": str(identity),
    }
    if detail:
        row |= {
            "ad_model": "antelopev2",
            "ad_prompt": plain_prompt(replace(scene, distance=0)),
            "extra_ad_args": ARGUMENTS,
        }
    return row


@dataclass(frozen=True)
class Judged:
    """What the judges say of pictures, means."""

    cosine: float
    picked: float
    obeyed: float

    @classmethod
    def of(
        cls, eyes: Eyes, gallery: Gallery, pictures: Sequence[tuple[np.ndarray, int, Scene]]
    ) -> Judged:
        """pictures: (uint8 RGB (H, W, 3), the person, what was asked for)."""
        cosines, picked, obeyed = [], [], []
        for pixels, person, scene in pictures:
            seen = Seen(person, 0, 1.0, eyes.who(pixels), eyes.what(pixels))
            cosines.append(gallery.cosine(seen))
            picked.append(gallery.picked(seen))
            obeyed += [seen.choices[name] == getattr(scene, name) for name in JUDGED]
        return cls(float(np.mean(cosines)), float(np.mean(picked)), float(np.mean(obeyed)))


def mask_edges(box: Edges, side: int = FAR_SIDE) -> Edges:
    """Of the mask over a face's box in a square picture."""
    left, top, right, bottom = box
    crop = crop_of((left, top, right - left, bottom - top), (side, side), SETTINGS, (SIDE, SIDE))
    assert crop is not None
    return crop.face


def changed_outside(before: np.ndarray, after: np.ndarray, box: Edges) -> int:
    """How many pixels differ beyond the mask of a face's box, and its feather."""
    different = (before != after).any(-1)
    left, top, right, bottom = mask_edges(box, len(before))
    # a detector's box is rounded here and there
    reach = FEATHER + 1
    rows, columns = max(top - reach, 0), max(left - reach, 0)
    different[rows : bottom + reach, columns : right + reach] = False
    return int(different.sum())


def face_box(eyes: Eyes, pixels: np.ndarray) -> Edges:
    """Of the largest face, in whole pixels."""
    faces = eyes.pack.detect(np.ascontiguousarray(pixels[..., ::-1]))
    sizes = [(face.box[2] - face.box[0]) * (face.box[3] - face.box[1]) for face in faces]
    box = faces[int(np.argmax(sizes))].box
    return int(box[0]), int(box[1]), int(np.ceil(box[2])), int(np.ceil(box[3]))


def beside(before: Sequence[np.ndarray], after: Sequence[np.ndarray]) -> Image.Image:
    """Ten of the pictures at most, each of another person, before above after."""
    rows = []
    for drawn in (before, after):
        rows.append(np.concatenate(drawn[::5][:10], axis=1))
    whole = Image.fromarray(np.concatenate(rows))
    return whole.resize((whole.width * 3 // 2, whole.height * 3 // 2), Image.Resampling.LANCZOS)


def side_by_side(portraits: Sequence[Path]) -> Image.Image:
    """Strangers beside each other, each as large as a picture of the small world."""
    whole = Image.new("RGB", (SIDE * len(portraits), SIDE))
    for place, path in enumerate(portraits):
        with Image.open(path) as portrait:
            whole.paste(portrait.convert("RGB").resize((SIDE, SIDE)), (place * SIDE, 0))
    return whole


def third(pixels: np.ndarray, place: int) -> np.ndarray:
    """One of the portraits of `side_by_side`."""
    return pixels[:, place * SIDE : (place + 1) * SIDE]


def put_two_in(folder: Path, identities: Sequence[Path], strangers: Path) -> tuple[Path, Path]:
    """Three strangers, of whom the first and the last become two people by their regions; (before,
    after). strangers: a folder of three portraits.
    """
    before, after = folder / "three.png", folder / "two_of_three.png"
    side_by_side(sorted(strangers.glob("*.png"))).save(before)
    people = []
    for place, identity in zip((0, 2), identities, strict=True):
        people += ["--identity", f"{identity},box={place * SIDE},0,{SIDE},{SIDE}"]
    run(
        *("pulid-generate", "detail", before, *people, *DETAIL, "-W", SIDE, "-H", SIDE),
        *("-p", "a portrait of a person", "--extra-ad-args", ARGUMENTS, "-o", after),
    )
    return before, after


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("build/micro_world/small_faces"))
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--side", type=int, default=FAR_SIDE, help="of the pictures, pixels")
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    write_portraits(folder / "portraits", asked.people)
    extract(MODELS, folder / "portraits", folder / "identities")
    identities = sorted((folder / "identities").glob("*.pulidembd"))
    eyes = Eyes()
    gallery = Gallery(eyes, write_portraits(folder / "references", asked.people, series=1))
    wanted = far_scenes(asked.scenes)
    keys = [(person, scene) for person in range(asked.people) for scene in range(asked.scenes)]

    pictures = {}
    for detail in (False, True):
        rows = [
            row_of(wanted[scene], scene, identities[person], detail, asked.side)
            for person, scene in keys
        ]
        paths = generate(MODELS, rows, folder / ("after" if detail else "before"))
        pictures[detail] = [read(path) for path in paths]
    outside, boxes = 0, []
    for before, after in zip(pictures[False], pictures[True], strict=True):
        boxes.append(face_box(eyes, before))
        outside += changed_outside(before, after, boxes[-1])
    print(f"{len(keys)} pictures from far away, {asked.people} people, {asked.scenes} scenes:\n")
    print("| | likeness | right one picked | prompt obeyed | face's width | changed outside |")
    print("|---|---|---|---|---|---|")
    for detail, name in ((False, "before"), (True, "after")):
        judged = Judged.of(
            *(eyes, gallery),
            [
                (pixels, person, wanted[scene])
                for pixels, (person, scene) in zip(pictures[detail], keys, strict=True)
            ],
        )
        told = outside if detail else "-"
        widths = []
        for pixels in pictures[detail]:
            left, _, right, _ = face_box(eyes, pixels)
            widths.append(right - left)
        print(
            f"| {name} | {judged.cosine:.3f} | {judged.picked:.1%} | {judged.obeyed:.1%} | "
            f"{np.median(widths):.0f} | {told} |"
        )

    beside(pictures[False], pictures[True]).save(folder / "before_after.png")
    print("\n| step between neighbours, of 255 | before | after |\n|---|---|---|")
    for name, beyond in SEAM_LINES:
        steps = []
        for drawn in (pictures[False], pictures[True]):
            pairs = zip(drawn, boxes, strict=True)
            across = [
                step_across(pixels, mask_edges(box, asked.side), beyond) for pixels, box in pairs
            ]
            steps.append(f"{np.mean(across):.2f}")
        print(f"| {name} | {steps[0]} | {steps[1]} |")

    strangers = folder / "strangers"
    write_portraits(strangers, 3, first=FIRST_STRANGER)
    before, after = (read(path) for path in put_two_in(folder, identities[:2], strangers))
    print("\nThree strangers side by side; two people are put in:\n")
    print("| face | cosine to the first before, after | to the second before, after |")
    print("|---|---|---|")
    for place, name in enumerate(("left (the first)", "middle (nobody's)", "right (the second)")):
        cells = []
        for person in (0, 1):
            for pixels in (before, after):
                seen = Seen(person, 0, 1.0, eyes.who(third(pixels, place)), {})
                cells.append(f"{gallery.cosine(seen):.3f}")
        print(f"| {name} | {cells[0]}, {cells[1]} | {cells[2]}, {cells[3]} |")
    same = np.array_equal(third(before, 1), third(after, 1))
    print(f"\nThe middle one is {'the same to the bit' if same else 'CHANGED'}.")


if __name__ == "__main__":
    main()
