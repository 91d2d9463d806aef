"""TODO"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pulid_extract.faces.choice import FaceChoice
from pulid_extract.flags.groups import FaceFlags


def numbers(
    text: str, form: str, flag: str, kind: type[int] | type[float] = int
) -> tuple[Any, ...]:
    """The numbers of "1,2,3", as many as `form` ("X,Y,W,H") names. Wrong usage for anything
    else.
    """
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError:
        values = ()
    # NaN is not below either
    if len(values) != form.count(",") + 1 or not all(abs(value) < 1e6 for value in values):
        what = "whole numbers" if kind is int else "numbers"
        raise typer.BadParameter(
            f"{text!r} is not {form}: {form.count(',') + 1} {what} of pixels",
            param_hint=f"'{flag}'",
        )
    return values


def face_choice(context: typer.Context, flags: FaceFlags) -> FaceChoice:
    """The face that the flags mean. Wrong usage for flags that exclude each other, or that would
    change nothing.
    """
    from pulid_extract.faces.choice import FaceChoice
    from pulid_extract.pictures.regions import FaceBox

    directly = {
        "--face-at": flags.face_at,
        "--face-box": flags.face_box,
        "--landmarks": flags.landmarks,
    }
    ways = [flag for flag, value in directly.items() if value is not None]
    counted = {"--face-index": flags.face_index, "--face-order": flags.face_order}
    ways += [flag for flag, value in counted.items() if value is not None][: 1 if ways else 0]
    if len(ways) > 1:
        context.fail(f"{ways[0]} and {ways[1]} both choose the face; give one of them.")
    if flags.face_box is not None or flags.landmarks is not None:
        by_hand = "--face-box" if flags.face_box is not None else "--landmarks"
        if flags.det_threshold is not None:
            context.fail(
                f"--det-threshold changes nothing with {by_hand}, which needs no detector."
            )
    if flags.face_at is not None:
        x, y = numbers(flags.face_at, "X,Y", "--face-at", float)
        return FaceChoice(at=(x, y))
    if flags.face_box is not None:
        return FaceChoice(box=FaceBox(*numbers(flags.face_box, "X,Y,W,H", "--face-box")))
    if flags.landmarks is not None:
        flat = numbers(flags.landmarks, "X,Y,X,Y,X,Y,X,Y,X,Y", "--landmarks", float)
        return FaceChoice(landmarks=tuple(zip(flat[::2], flat[1::2], strict=True)))
    return FaceChoice(index=flags.face_index or 0, order=flags.face_order or "largest")
