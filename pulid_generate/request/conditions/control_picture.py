"""Pictures that ControlNets read: which file, which picture, how strongly, when. Knows no model;
imports no torch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pulid_extract.shared.picture_file import decode_picture
from pulid_generate.errors import RequestError
from pulid_generate.request.conditions.canny import canny_edges
from pulid_generate.request.conditions.start_picture import FORMATS, read_source

# sd-cli's
STRENGTH = 0.9
MAX_STRENGTH = 100
# modes of unions that read edges, by name and by number
EDGES = ("canny", "0")


@dataclass(frozen=True, eq=False)
class ControlUse:
    """One ControlNet in a drawing."""

    path: Path
    # (H, W, 3) uint8 RGB of the size that is drawn
    pixels: np.ndarray = field(repr=False)
    strength: float = STRENGTH
    # Shares of the steps
    start: float = 0.0
    end: float = 1.0
    # Of a union, by name or number
    mode: str | None = None
    # Of the ControlNet's file, once it was found; for the picture's metadata
    net_sha256: str = ""

    @cached_property
    def sha256(self) -> str:
        """Of the pixels as they are used."""
        return hashlib.sha256(np.ascontiguousarray(self.pixels).tobytes()).hexdigest()

    def check(self, steps: int) -> None:
        """Raise RequestError for a share in which no step of so many lies whole."""
        if not any(in_share(step, steps, self.start, self.end) for step in range(steps)):
            raise RequestError(
                f"control-start {self.start:g}, control-end {self.end:g}: no step of {steps} lies "
                f"between them, so {self.path.name} would do nothing; give a wider share, or more "
                "steps"
            )


def in_share(step: int, steps: int, start: float, end: float) -> bool:
    """Whether a step, from 0, of so many lies whole between two shares of them."""
    return step / steps >= start and (step + 1) / steps <= end


@dataclass(frozen=True)
class ControlTexts:
    """What the flags say, in the order in which it was said."""

    nets: Sequence[str]
    images: Sequence[str]
    strengths: Sequence[str] = ()
    starts: Sequence[str] = ()
    ends: Sequence[str] = ()
    modes: Sequence[str] = ()
    # Reduce the pictures to their edges: those of a mode that reads edges, else all
    canny: bool = False


def read_controls(texts: ControlTexts, width: int, height: int) -> tuple[ControlUse, ...]:
    """The ControlNets of a drawing of width x height pixels. One value of a kind holds for all.
    Raises RequestError, InputError.
    """
    count = len(texts.nets)
    images = _for_each(texts.images, count, "control-image")
    strengths = _for_each(texts.strengths or [str(STRENGTH)], count, "control-strength")
    starts = _for_each(texts.starts or ["0"], count, "control-start")
    ends = _for_each(texts.ends or ["1"], count, "control-end")
    modes: list[str | None] = [None] * count
    if texts.modes:
        modes = [mode or None for mode in _for_each(texts.modes, count, "control-mode")]
    wants_edges = [texts.canny] * count
    if texts.canny and any(mode in EDGES for mode in modes):
        wants_edges = [mode in EDGES for mode in modes]
    uses = []
    for index, net in enumerate(texts.nets):
        start = _number(starts[index], "control-start", 0, 1)
        end = _number(ends[index], "control-end", 0, 1)
        if start >= end:
            raise RequestError(
                f"control-start {start:g}, control-end {end:g}: expected an end behind the start"
            )
        uses.append(
            ControlUse(
                Path(net).expanduser(),
                _pixels(images[index], width, height, wants_edges[index]),
                _number(strengths[index], "control-strength", -MAX_STRENGTH, MAX_STRENGTH),
                start,
                end,
                modes[index],
            )
        )
    return tuple(uses)


def _for_each(values: Sequence[str], count: int, name: str) -> list[str]:
    if len(values) == count:
        return list(values)
    if len(values) == 1:
        return list(values) * count
    raise RequestError(
        f"{name}: is given {len(values)} times for {count} --control-net; give one for each, or "
        "one for all"
    )


def _number(text: str, name: str, least: float, most: float) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise RequestError(f"{name} {text!r}: expected a number from {least:g} to {most:g}")
    return number


def _pixels(name: str, width: int, height: int, canny: bool) -> np.ndarray:
    data, where = read_source(name, "--control-image")
    image = decode_picture(data, where, FORMATS, "black", to_srgb=True).convert("RGB")
    fitted = np.array(ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS))
    return canny_edges(fitted) if canny else fitted
