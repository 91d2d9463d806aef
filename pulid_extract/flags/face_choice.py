"""Which face the flags mean, and which boxes: texts into checked values. Wrong usage for flags that
exclude each other, or that would change nothing. Knows no picture.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from pulid_extract.faces.choice import FaceChoice
from pulid_extract.flags.extract import ExtractFlags
from pulid_extract.flags.groups import FaceFlags
from pulid_extract.pictures.regions import FaceBox

# Called for wrong usage with a line for the user; must raise.
Fail = Callable[[str], Any]


def numbers(
    text: str, form: str, flag: str, kind: type[int] | type[float] = int
) -> tuple[Any, ...]:
    """The numbers of "1,2,3", as many as `form` ("X,Y,W,H") names. Raises typer.BadParameter for
    anything else.
    """
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError:
        values = ()
    wanted = form.count(",") + 1
    # NaN is not below either
    if len(values) != wanted or not all(abs(value) < 1e6 for value in values):
        what = "whole numbers" if kind is int else "numbers"
        raise typer.BadParameter(
            f"{text!r} is not {form}: {wanted} {what} of pixels", param_hint=f"'{flag}'"
        )
    return values


def face_choice(flags: FaceFlags, fail: Fail) -> FaceChoice:
    """The face that the flags mean. Raises what `fail` raises, and typer.BadParameter."""
    directly = {
        "--face-at": flags.face_at,
        "--face-box": flags.face_box,
        "--landmarks": flags.landmarks,
    }
    ways = [flag for flag, value in directly.items() if value is not None]
    counted = {"--face-index": flags.face_index, "--face-order": flags.face_order}
    counting = [flag for flag, value in counted.items() if value is not None]
    # --face-index and --face-order go together; neither goes with another way
    if ways:
        ways += counting[:1]
    if len(ways) > 1:
        fail(f"{ways[0]} and {ways[1]} both choose the face; give one of them.")
    if flags.face_box is not None or flags.landmarks is not None:
        by_hand = "--face-box" if flags.face_box is not None else "--landmarks"
        if flags.det_threshold is not None:
            fail(f"--det-threshold changes nothing with {by_hand}, which needs no detector.")
    if flags.face_at is not None:
        x, y = numbers(flags.face_at, "X,Y", "--face-at", float)
        return FaceChoice(at=(x, y))
    if flags.face_box is not None:
        return FaceChoice(box=_box(flags.face_box, "--face-box"))
    if flags.landmarks is not None:
        flat = numbers(flags.landmarks, "X,Y,X,Y,X,Y,X,Y,X,Y", "--landmarks", float)
        return FaceChoice(landmarks=tuple(zip(flat[::2], flat[1::2], strict=True)))
    return FaceChoice(index=flags.face_index or 0, order=flags.face_order or "largest")


def face_and_boxes(flags: ExtractFlags, fail: Fail) -> tuple[FaceChoice, tuple[FaceBox, ...]]:
    """The face that the flags of an extraction mean, and the boxes of --box. Raises what `fail`
    raises, and typer.BadParameter.
    """
    choice = face_choice(flags, fail)
    if flags.aligner != "retinaface" and not choice.detects:
        fail("--aligner changes nothing for a face that is given by hand.")
    boxes = []
    for text in flags.box or []:
        boxes.append(_box(text, "--box"))
    return choice, tuple(boxes)


def _box(text: str, flag: str) -> FaceBox:
    """Raises typer.BadParameter."""
    box = FaceBox(*numbers(text, "X,Y,W,H", flag))
    if box.width < 1 or box.height < 1:
        raise typer.BadParameter(
            f"{text!r} has no area; give X,Y,W,H with W and H above 0", param_hint=f"'{flag}'"
        )
    return box
