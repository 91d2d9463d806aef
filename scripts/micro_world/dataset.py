"""What the networks of the small world are trained on: drawings with their truth, made once by two
processes and kept as .npy files.

Everything follows from the person's seed, so the same call makes the same bytes. Shapes: P people,
K drawings of each.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from micro_world.drawing import SIDE, Portrait, draw
from micro_world.people import Person
from micro_world.prompts import prompt_of
from micro_world.scenes import PLAIN, Scene
from pulid_extract.faces.crop import BORDER_BGR, CROP_SIDE, GREY, TEMPLATE

# Places of the five landmarks in a 112x112 crop: insightface 2.1, utils/face_align.py, arcface_dst
ARCFACE = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    np.float32,
)
ARCFACE_SIDE = 112
FFHQ, FFHQ_SIDE = TEMPLATE.astype(np.float32), CROP_SIDE
BORDER = BORDER_BGR[::-1]
VIEW_SIDE = 112  # of what the small EVA tower takes
PORTRAIT = 128  # pixels of a portrait that is made to extract from
CHUNK = 50  # people that a process draws at a time


def made(
    folder: Path,
    name: str,
    people: int,
    one: Callable[[int], tuple[np.ndarray, ...]],
    first: int = 0,
) -> list[np.ndarray]:
    """[(P, ..)] arrays of what `one(seed)` gives for seeds first .. first + people - 1; kept as
    folder/name.0.npy, .1.npy and so on.

    Kept drawings are compared with new ones of the first and the last person, and all are drawn
    again if anything has changed: portraits of somebody as he was drawn yesterday, beside drawings
    of him as he is drawn today, teach that a portrait says nothing.
    """
    ready = folder / f"{name}.ready"
    ends = {0: one(first), people - 1: one(first + people - 1)}
    paths = [folder / f"{name}.{index}.npy" for index in range(len(ends[0]))]
    if not (ready.exists() and all(path.exists() for path in paths) and _same(paths, people, ends)):
        if ready.exists():
            print(
                (
                    f"{name} are drawn otherwise than before; delete the checkpoints in {folder} "
                    "that learnt from them"
                ),
                file=sys.stderr,
            )
        ready.unlink(missing_ok=True)
        print(f"drawing {name}: {people} people", file=sys.stderr, flush=True)
        arrays = None
        # whatever the parent does at SIGTERM, which ends the pool: these go
        at_sigterm = signal.SIGTERM, signal.SIG_DFL
        with get_context("fork").Pool(
            len(os.sched_getaffinity(0)), signal.signal, at_sigterm
        ) as pool:
            for done, values in enumerate(pool.imap(one, range(first, first + people), CHUNK)):
                if arrays is None:
                    arrays = [
                        np.lib.format.open_memmap(path, "w+", value.dtype, (people, *value.shape))
                        for path, value in zip(paths, values, strict=True)
                    ]
                for array, value in zip(arrays, values, strict=True):
                    array[done] = value
        ready.touch()
    return [np.load(path, mmap_mode="r") for path in paths]


def _same(paths: Sequence[Path], people: int, ends: dict[int, tuple[np.ndarray, ...]]) -> bool:
    arrays = [np.load(path, mmap_mode="r") for path in paths]
    return all(len(array) == people for array in arrays) and all(
        np.array_equal(array[place], value)
        for place, values in ends.items()
        for array, value in zip(arrays, values, strict=True)
    )


def is_current(kept: Path, *sources: str) -> bool:
    """Whether a file that was computed from drawings is there and younger than them. sources: names
    as `made` takes them.
    """
    return kept.exists() and all(
        kept.stat().st_mtime >= kept.with_name(f"{name}.ready").stat().st_mtime for name in sources
    )


def targets(seed: int, count: int) -> tuple[np.ndarray, ...]:
    """Pictures to learn to draw: (K, 96, 96, 3) uint8, prompts (K,) text, choices (K, 7)."""
    rng, person = np.random.default_rng((1, seed)), Person.of(seed)
    scenes = [Scene.of(rng) for _ in range(count)]
    prompts = [prompt_of(scene, rng) for scene in scenes]
    pixels = np.stack([draw(person, scene).pixels for scene in scenes])
    return (
        pixels,
        np.array(prompts, dtype="U160"),
        np.array([scene.choices() for scene in scenes], np.int8),
    )


def aligned(
    portrait: Portrait,
    template: np.ndarray,
    side: int,
    rng: np.random.Generator | None = None,
    border: tuple[int, ...] = (0, 0, 0),
) -> np.ndarray:
    """(side, side, 3) uint8 RGB, the landmarks moved to the template's places. rng: as a detector
    that errs by a pixel or so would.
    """
    marks = portrait.landmarks
    if rng is not None:
        marks = marks + rng.normal(0, 0.008 * portrait.pixels.shape[0], marks.shape).astype(
            np.float32
        )
    matrix = cv2.estimateAffinePartial2D(marks, template, method=cv2.LMEDS)[0]
    return cv2.warpAffine(
        portrait.pixels, matrix, (side, side), borderMode=cv2.BORDER_CONSTANT, borderValue=border
    )


def person_of(seed: int) -> Person:
    """People to learn to recognise: every odd one is a sibling of the one before."""
    return Person.sibling(seed - 1) if seed % 2 else Person.of(seed)


def faces(seed: int, count: int) -> tuple[np.ndarray, ...]:
    """What a recogniser learns from: (K, 112, 112, 3) uint8 RGB of one person in any scene, soft or
    sharp, well or badly aligned; attributes (A,).
    """
    rng, person = np.random.default_rng((2, seed)), person_of(seed)
    crops = []
    for _ in range(count):
        side = int(rng.choice((SIDE, SIDE, 128, 192)))
        portrait = draw(person, Scene.of(rng), side)
        if rng.random() < 0.5:
            soft = cv2.GaussianBlur(
                portrait.pixels, (0, 0), float(rng.uniform(0.3, 1.1)) * side / SIDE
            )
            noise = rng.normal(0, float(rng.uniform(0, 8)), soft.shape)
            portrait = Portrait(
                np.clip(soft + noise, 0, 255).astype(np.uint8), portrait.box, portrait.landmarks
            )
        crops.append(aligned(portrait, ARCFACE, ARCFACE_SIDE, rng))
    return np.stack(crops), person.attributes()


def references(seed: int, count: int) -> tuple[np.ndarray, ...]:
    """Portraits to extract from, as the two networks of the identity see them: crops (K, 112, 112,
    3) RGB, grey views (K, 112, 112), attributes (A,). Of the same people as `targets`.
    """
    rng, person = np.random.default_rng((3, seed)), Person.of(seed)
    crops, views = [], []
    for _ in range(count):
        scene = Scene.of(rng, **PLAIN) if rng.random() < 0.8 else Scene.of(rng)
        portrait = draw(person, scene, int(rng.choice((SIDE, PORTRAIT, 192))))
        crops.append(aligned(portrait, ARCFACE, ARCFACE_SIDE, rng))
        views.append(grey_view(portrait, rng))
    return np.stack(crops), np.stack(views), person.attributes()


def grey_view(portrait: Portrait, rng: np.random.Generator | None = None) -> np.ndarray:
    """(112, 112) uint8: the aligned crop in grey, as EVA-CLIP sees it when no parser takes the
    background away.
    """
    crop = aligned(portrait, FFHQ, FFHQ_SIDE, rng, BORDER)
    small = cv2.resize(crop, (VIEW_SIDE, VIEW_SIDE), interpolation=cv2.INTER_AREA)
    return np.round(small @ np.float32(GREY)).astype(np.uint8)
