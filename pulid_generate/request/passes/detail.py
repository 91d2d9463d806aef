"""The detail pass as values: which faces, how they are cut out, redrawn and put back. Reads no file
and knows no model. Imports no torch.

Source of the names, the defaults and the meanings: leejet/stable-diffusion.cpp 97d29908
docs/adetailer.md, src/detailer.h and src/detailer.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from pulid_generate.errors import RequestError
from pulid_generate.files.layouts import TOKEN_PIXELS
from pulid_generate.sampling.names import check_method, check_schedule

FLAG = "extra-ad-args"
# The word for the pack of the models folder
ANTELOPEV2 = "antelopev2"
# Longest side of what is redrawn where none is given; smaller in a picture that is smaller
USUAL_SIDE = 512
SortBy = Literal["none", "left_to_right", "center_to_edge", "area"]
# Parts of a prompt; its own words; no drawing
SEPARATOR, PROMPT, SKIP = "[SEP]", "[PROMPT]", "[SKIP]"
# Keys of sd-cli's that are about YOLOv8 alone
OF_YOLO = ("input_size", "nms", "nms_threshold")


@dataclass(frozen=True, kw_only=True)
class DetailSettings:
    """One detail pass. Fields are the keys of --extra-ad-args but for the first ones."""

    # antelopev2's folder; None is the one of the models folder
    detector: str | None = None
    # In parts between [SEP], one for each face, the last for all further ones
    prompt: str = ""
    negative_prompt: str = ""
    # From which the detector's score is a face; None is the detector's own
    confidence: float | None = None
    # Faces that are looked at, the surest first
    max_detections: int = 100
    # Only so many of the largest; 0 is all
    mask_k_largest: int = 0
    # Share of the picture's area that a face has
    mask_min_ratio: float = 0.0
    mask_max_ratio: float = 1.0
    # Side of the square by which a face's box grows, or shrinks
    dilate_erode: int = 4
    # Pixels that the box moves: to the right, upwards
    x_offset: int = 0
    y_offset: int = 0
    # Sigma of the feather, in pixels of the picture
    mask_blur: int = 4
    # Pixels around the box that are seen
    inpaint_padding: int = 32
    # What is cut out is redrawn in this size, multiples of 16; None is the usual one
    inpaint_width: int | None = None
    inpaint_height: int | None = None
    denoising_strength: float = 0.4
    # 0, and less than 0 for the guidance: as the picture's own
    steps: int = 0
    cfg_scale: float = -1.0
    sample_method: str | None = None
    scheduler: str | None = None
    # What "the first face" is: none is by the detector's score
    sort_by: SortBy = "none"
    # Given, and without effect here
    idle: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, least, most in RANGES:
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                raise RequestError(f"{FLAG} {name}={value:g}: expected {least:g} to {most:g}")
        if self.mask_min_ratio > self.mask_max_ratio:
            raise RequestError(
                f"{FLAG} mask_min_ratio={self.mask_min_ratio:g}: is more than "
                f"mask_max_ratio={self.mask_max_ratio:g}, which leaves no face"
            )
        for name in ("inpaint_width", "inpaint_height"):
            value = getattr(self, name)
            if value is not None and value % TOKEN_PIXELS:
                raise RequestError(
                    f"{FLAG} {name}={value}: expected a multiple of {TOKEN_PIXELS}; "
                    f"try {max(value // TOKEN_PIXELS, 1) * TOKEN_PIXELS}"
                )
        if self.sort_by not in get_args(SortBy):
            raise RequestError(
                f"{FLAG} sort_by={self.sort_by}: expected {', '.join(get_args(SortBy))}"
            )
        if self.sample_method is not None:
            check_method(self.sample_method)
        if self.scheduler is not None:
            check_schedule(self.scheduler)

    def size_in(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) that faces of a picture of that size are redrawn in."""
        usual = max(min(USUAL_SIDE, width, height) // TOKEN_PIXELS, 1) * TOKEN_PIXELS
        return self.inpaint_width or usual, self.inpaint_height or usual

    def facts(self, width: int, height: int) -> dict[str, Any]:
        """For the picture's metadata: what decides the pass, defaults that change nothing left out.
        width, height: of the picture.
        """
        size = self.size_in(width, height)
        facts: dict[str, Any] = {
            "detector": ANTELOPEV2,
            "denoising_strength": self.denoising_strength,
            "inpaint_width": size[0],
            "inpaint_height": size[1],
            "inpaint_padding": self.inpaint_padding,
            "mask_blur": self.mask_blur,
            "dilate_erode": self.dilate_erode,
        }
        for item in fields(self):
            told = item.name in facts or item.name in ("detector", "idle")
            if not told and getattr(self, item.name) != item.default:
                facts[item.name] = getattr(self, item.name)
        return facts


# Field, least, most
RANGES: tuple[tuple[str, float, float], ...] = (
    ("confidence", 0, 1),
    ("max_detections", 1, 1000),
    ("mask_k_largest", 0, 1000),
    ("mask_min_ratio", 0, 1),
    ("mask_max_ratio", 0, 1),
    ("dilate_erode", -1024, 1024),
    ("x_offset", -8192, 8192),
    ("y_offset", -8192, 8192),
    ("mask_blur", 0, 512),
    ("inpaint_padding", 0, 4096),
    ("inpaint_width", TOKEN_PIXELS, 8192),
    ("inpaint_height", TOKEN_PIXELS, 8192),
    ("denoising_strength", 0, 1),
    ("steps", 0, 10_000),
    ("cfg_scale", -math.inf, 1000),
)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a finite number")
    return value


# Type of a field, as it is written there -> how its value is read, and what is expected
READERS: dict[str, tuple[Callable[[str], Any], str]] = {
    "int": (int, "a whole number"),
    "int | None": (int, "a whole number"),
    "float": (_number, "a number"),
    "float | None": (_number, "a number"),
    "str | None": (str, "a name"),
    "SortBy": (lambda text: text.lower().replace("-", "_"), "a word"),
}
# Fields that are not keys
NOT_KEYS = ("detector", "prompt", "negative_prompt", "idle")
KEYS = {item.name: str(item.type) for item in fields(DetailSettings) if item.name not in NOT_KEYS}


def parse_detail_args(text: str) -> dict[str, Any]:
    """The fields of `DetailSettings` that "key=value, key=value" gives. Raises RequestError for
    anything else.
    """
    values: dict[str, Any] = {}
    idle = []
    for part in text.split(","):
        if not part.strip():
            continue
        name, equals, value = part.partition("=")
        name, value = name.strip().lower(), value.strip()
        if not equals:
            raise RequestError(
                f"{FLAG} {part.strip()!r}: expected key=value, such as denoising_strength=0.5"
            )
        if name in OF_YOLO:
            idle.append(name)
        elif name in ("merge_masks", "invert_mask", "mask_mode"):
            _refuse_merging(name, value)
        elif name not in KEYS:
            raise RequestError(f"{FLAG} {name}: unknown key; expected one of {', '.join(KEYS)}")
        else:
            values[name] = _read(name, value)
    return values | {"idle": tuple(idle)}


def _read(name: str, value: str) -> Any:
    read, expected = READERS[KEYS[name]]
    try:
        return read(value)
    except ValueError:
        raise RequestError(f"{FLAG} {name}={value}: expected {expected}") from None


def _refuse_merging(name: str, value: str) -> None:
    """Raise RequestError for masks that are not one for each face."""
    if value.lower() not in ("none", "0", "false", "no", "off"):
        raise RequestError(
            f"{FLAG} {name}={value}: each face is redrawn with its own person, so masks are "
            "neither merged nor inverted; leave it out"
        )


def own_prompt_of(template: str, drawn: str) -> str:
    """The picture's own prompt, of which the first face that is redrawn has got the prompt `drawn`:
    `prompts_of` backwards, as far as the template says it.
    """
    for part in template.split(SEPARATOR):
        words = part.strip()
        if words == SKIP:
            continue
        before, _, after = words.partition(PROMPT)
        return drawn.removeprefix(before).removesuffix(after) if PROMPT in words else drawn
    return drawn


def prompts_of(template: str, own: str) -> list[str | None]:
    """The prompts of the first face, the second and so on, the last one for all further ones; None
    for a face that is left as it is.

    template: as typed. own: the picture's own prompt, in place of an empty part and of [PROMPT].
    """
    prompts: list[str | None] = []
    for part in template.split(SEPARATOR):
        words = part.strip()
        if words == SKIP:
            prompts.append(None)
        else:
            prompts.append(words.replace(PROMPT, own) or own)
    return prompts
