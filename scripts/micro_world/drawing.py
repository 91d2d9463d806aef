"""Draws a person in a scene, with exact truth beside the pixels. Knows nothing of models.

Everything is a polygon in the face's own coordinates (x right, y down, the point between the eyes
is 0, 0; eyes are 17.6 from it, the chin about 62 below), turned, scaled and filled by OpenCV with
soft edges on a canvas of twice the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from micro_world.people import BEARDS, HAIR_STYLES, Colour, Person, shaded
from micro_world.scenes import COLOUR_NAMES, COLOURS, EXPRESSIONS, HATS, Scene

SIDE = 96  # pixels of a picture, if nothing else is asked for
OVERSAMPLED = 2
BITS = 5  # of a pixel, that OpenCV's polygons know
UNIT = 0.5 / 96  # of the picture's side, one unit of the face at scale 1
EYE_LINE = 0.46  # of the picture's height, where the eyes are
EYE_X, NOSE_Y, MOUTH_Y = 17.6, 20.5, 41.0  # ArcFace's template, in these units
FACE_X, CHIN_Y, CROWN_Y = 41.0, 63.0, -52.0
CIRCLE = np.linspace(0, 2 * np.pi, 40, endpoint=False)
WHITE, PUPIL, MOUTH, FRAME = (250, 250, 250), (20, 18, 18), (158, 52, 58), (34, 34, 40)
HAT_COLOURS = {"cap": (48, 54, 84), "top hat": (30, 28, 32), "beanie": (150, 44, 62)}


@dataclass(frozen=True)
class Portrait:
    """A drawing and its truth. pixels: (S, S, 3) uint8 RGB. box: (x1, y1, x2, y2) of crown, chin
    and cheeks; landmarks: (5, 2) eyes, nose tip, mouth corners, left to right as seen; both in
    pixels.
    """

    pixels: np.ndarray
    box: tuple[float, float, float, float]
    landmarks: np.ndarray


def draw(person: Person, scene: Scene, side: int = SIDE) -> Portrait:
    """The picture of this person in this scene, always the same."""
    pen = _Pen(scene, side)
    skin, hair = person.skin_colour, person.hair
    _backdrop(pen, scene)
    head = _head(person)
    _hair_behind(pen, person, hair)
    _body(pen, scene, skin)
    _ears(pen, person, skin)
    pen.fill(head, skin)
    _cheeks(pen, person, skin)
    _beard(pen, person, head, hair)
    _mouth(pen, person, EXPRESSIONS[scene.expression])
    _nose(pen, person, skin)
    _eyes(pen, person, EXPRESSIONS[scene.expression], hair)
    if HATS[scene.hat] == "none":
        _hair_in_front(pen, person, hair)
    else:
        _hat(pen, person, HATS[scene.hat], hair)
    if scene.glasses:
        _glasses(pen, person)
    face = pen.place(head)
    half = EYE_X * person.eye_spacing
    corner = 14.6 * person.mouth_width
    marks = [
        (-half, 0),
        (half, 0),
        (0, NOSE_Y * person.nose_length),
        (-corner, MOUTH_Y),
        (corner, MOUTH_Y),
    ]
    return Portrait(
        pen.pixels(),
        (*face.min(0).tolist(), *face.max(0).tolist()),
        pen.place(marks).astype(np.float32),
    )


class _Pen:
    """A canvas, and the way from the face's coordinates to it."""

    def __init__(self, scene: Scene, side: int):
        self.side, self.large = side, side * OVERSAMPLED
        self.canvas = np.zeros((self.large, self.large, 3), np.uint8)
        angle, unit = np.deg2rad(scene.degrees), UNIT * side * scene.scale
        self.turn = unit * np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
        )
        self.unit = unit
        self.centre = np.array([0.5 + scene.shift[0], EYE_LINE + scene.shift[1]]) * side

    def place(self, points: Sequence[tuple[float, float]] | np.ndarray) -> np.ndarray:
        """(N, 2) of the face -> (N, 2) pixels of the picture."""
        return np.asarray(points, np.float64) @ self.turn.T + self.centre

    def fill(self, points: Sequence[tuple[float, float]] | np.ndarray, colour: Colour) -> None:
        cv2.fillPoly(self.canvas, [self._fixed(points)], colour, cv2.LINE_AA, BITS)

    def line(
        self, points: Sequence[tuple[float, float]] | np.ndarray, colour: Colour, width: float
    ) -> None:
        """width in the face's units."""
        thick = max(1, round(width * self.unit * OVERSAMPLED))
        cv2.polylines(self.canvas, [self._fixed(points)], False, colour, thick, cv2.LINE_AA, BITS)

    def pixels(self) -> np.ndarray:
        return cv2.resize(self.canvas, (self.side, self.side), interpolation=cv2.INTER_AREA)

    def _fixed(self, points: Sequence[tuple[float, float]] | np.ndarray) -> np.ndarray:
        return np.round((self.place(points) * OVERSAMPLED - 0.5) * (1 << BITS)).astype(np.int32)


def _oval(x: float, y: float, wide: float, high: float, power: float = 1.0) -> np.ndarray:
    """(40, 2) points around x, y. power: below 1 boxy, above 1 pointed."""
    cos, sin = np.cos(CIRCLE), np.sin(CIRCLE)
    if power != 1.0:
        cos, sin = np.sign(cos) * np.abs(cos) ** power, np.sign(sin) * np.abs(sin) ** power
    return np.stack([x + wide * cos, y + high * sin], 1)


def _head(person: Person) -> np.ndarray:
    """An oval whose lower half is square or pointed."""
    wide, crown = FACE_X * person.face_width, CROWN_Y * person.face_height
    chin = CHIN_Y * (0.35 + 0.65 * person.face_height)
    cos, sin = np.cos(CIRCLE), np.sin(CIRCLE)
    x = np.where(sin > 0, np.sign(cos) * np.abs(cos) ** (0.62 + 0.62 * person.jaw), cos)
    return np.stack([wide * x, np.where(sin > 0, chin * sin, -crown * sin)], 1)


def _backdrop(pen: _Pen, scene: Scene) -> None:
    colour = COLOURS[COLOUR_NAMES[scene.background]]
    pen.canvas[:] = colour
    middle = round(0.5 * pen.large), round(0.46 * pen.large)
    cv2.circle(pen.canvas, middle, round(0.47 * pen.large), shaded(colour, 1.07), -1, cv2.LINE_AA)


def _body(pen: _Pen, scene: Scene, skin: Colour) -> None:
    cloth = COLOURS[COLOUR_NAMES[scene.clothes]]
    pen.fill(_oval(0, 124, 94, 54, 0.8), shaded(cloth, 0.86))
    pen.fill(_oval(0, 124, 90, 51, 0.8), cloth)
    pen.fill([(-17, 40), (17, 40), (20, 84), (0, 96), (-20, 84)], shaded(skin, 0.84))


def _ears(pen: _Pen, person: Person, skin: Colour) -> None:
    for sign in (-1, 1):
        x = sign * (FACE_X * person.face_width + 1)
        pen.fill(_oval(x, 8, 8 * person.ear_size, 13 * person.ear_size), shaded(skin, 0.92))
        pen.fill(_oval(x, 8, 4 * person.ear_size, 8 * person.ear_size), shaded(skin, 0.76))


def _cheeks(pen: _Pen, person: Person, skin: Colour) -> None:
    blush = tuple(
        round(0.86 * one + 0.14 * other) for one, other in zip(skin, (214, 70, 70), strict=True)
    )
    for sign in (-1, 1):
        pen.fill(_oval(sign * 23 * person.face_width, 24, 9, 7), blush)
        for x, y in ((17, 17), (23, 21), (29, 16), (20, 26), (27, 27)) if person.freckles else ():
            pen.fill(_oval(sign * x * person.face_width, y, 1.7, 1.7), shaded(skin, 0.6))


def _beard(pen: _Pen, person: Person, head: np.ndarray, hair: Colour) -> None:
    kind, dark = BEARDS[person.beard], shaded(hair, 0.86)
    if kind == "full":
        low = head[(head[:, 1] > 12)]
        order = low[np.argsort(low[:, 0])]
        pen.fill(
            np.concatenate(
                [
                    order * (1.03, 1.04),
                    [(30 * person.face_width, 28), (0, 29), (-30 * person.face_width, 28)],
                ]
            ),
            dark,
        )
    if kind == "goatee":
        pen.fill(_oval(0, MOUTH_Y + 15, 13, 11, 0.8), dark)
    if kind in ("moustache", "full"):
        pen.fill(_oval(0, MOUTH_Y - 8, 17 * person.mouth_width, 5.5, 0.9), dark)


def _mouth(pen: _Pen, person: Person, expression: str) -> None:
    wide, lips = 14.6 * person.mouth_width, person.lips
    across = np.linspace(-1, 1, 13)
    if expression == "surprised":
        pen.fill(_oval(0, MOUTH_Y + 2, wide * 0.62, 9.5), MOUTH)
        pen.fill(_oval(0, MOUTH_Y + 2, wide * 0.62 - 2.2 * lips, 9.5 - 2.2 * lips), (84, 24, 28))
    elif expression == "smiling":
        top = np.stack([wide * across, MOUTH_Y - 1 + 1.5 * (1 - across**2)], 1)
        bottom = np.stack([wide * across[::-1], MOUTH_Y - 1 + (9 + 4 * lips) * (1 - across**2)], 1)
        pen.fill(np.concatenate([top, bottom]), MOUTH)
        pen.fill(
            np.concatenate(
                [
                    top * (0.86, 1),
                    np.stack([0.8 * wide * across[::-1], MOUTH_Y + 6 * (1 - across**2)], 1),
                ]
            ),
            WHITE,
        )
    else:
        bend = -7.0 if expression == "sad" else 0.0
        line = np.stack(
            [wide * across, MOUTH_Y + (3 if expression == "sad" else 0) + bend * (1 - across**2)], 1
        )
        pen.line(line, MOUTH, 2.2 + 2.4 * lips)


def _nose(pen: _Pen, person: Person, skin: Colour) -> None:
    tip, wide = NOSE_Y * person.nose_length, 6.5 * person.nose_width
    pen.fill([(-1.5, 2), (1.5, 2), (wide, tip), (0, tip + 3.5), (-wide, tip)], shaded(skin, 0.9))
    pen.line(
        [(-wide, tip), (-0.5 * wide, tip + 3.2), (0.5 * wide, tip + 3.2), (wide, tip)],
        shaded(skin, 0.66),
        2.2,
    )


def _eyes(pen: _Pen, person: Person, expression: str, hair: Colour) -> None:
    size, wide = 8.2 * person.eye_size, 1.2 if expression == "surprised" else 1.0
    for sign in (-1, 1):
        x = sign * EYE_X * person.eye_spacing
        pen.fill(_oval(x, 0, size * 1.28, size * 0.92 * wide), WHITE)
        pen.fill(_oval(x, 0, size * 0.68, size * 0.72), person.iris)
        pen.fill(_oval(x, 0, size * 0.34, size * 0.36), PUPIL)
        pen.fill(_oval(x - 0.25 * size, -0.28 * size, size * 0.16, size * 0.16), WHITE)
        lid = np.stack(
            [x + size * 1.3 * np.cos(CIRCLE[20:]), size * 0.94 * wide * np.sin(CIRCLE[20:])], 1
        )
        pen.line(lid, shaded(person.skin_colour, 0.5), 1.8)
        brow = -size * wide - 7 - (5 if expression == "surprised" else 0)
        inner = brow + 2.6 * person.brow_tilt - (5 if expression == "sad" else 0)
        outer = brow - 2.6 * person.brow_tilt + (3 if expression == "sad" else 0)
        near, far = x - sign * 9.5, x + sign * 10.5
        pen.line(
            [(near, inner), (0.45 * near + 0.55 * far, 0.5 * (inner + outer) - 2.4), (far, outer)],
            shaded(hair, 0.7),
            2.6 * person.brow_thickness + 1,
        )


def _hair_behind(pen: _Pen, person: Person, hair: Colour) -> None:
    wide, crown = FACE_X * person.face_width, CROWN_Y * person.face_height
    style, dark = HAIR_STYLES[person.hair_style], shaded(hair, 0.88)
    if style == "long":
        pen.fill(_oval(0, 28, wide + 19, 90, 0.75), dark)
    elif style == "bob":
        pen.fill(_oval(0, 0, wide + 18, 62, 0.7), dark)
    elif style == "afro":
        pen.fill(_oval(0, -16, wide + 27, -crown + 20), hair)
    elif style == "bun":
        pen.fill(_oval(0, crown - 14, 20, 18), dark)


def _hair_in_front(pen: _Pen, person: Person, hair: Colour) -> None:
    """A cap of hair from ear to ear, cut by the style's hairline."""
    style = HAIR_STYLES[person.hair_style]
    if style == "bald":
        return
    wide, crown = FACE_X * person.face_width, CROWN_Y * person.face_height
    angles = np.linspace(np.pi, 2 * np.pi, 21)
    rise = {"afro": 12.0, "spiky": 4.0}.get(style, 9.0)
    top = np.stack([(wide + 4) * np.cos(angles), 4 + (-crown + 4 + rise) * np.sin(angles)], 1)
    if style == "spiky":
        spikes = np.linspace(np.pi * 1.02, 1.98 * np.pi, 15)
        reach = np.where(np.arange(15) % 2, 1.34, 1.0)
        top = np.stack(
            [
                (wide + 4) * np.cos(spikes) * np.minimum(reach, 1.16),
                (-crown + 6) * np.sin(spikes) * reach,
            ],
            1,
        )
    lines = {
        "parted": [
            (wide + 2, -6),
            (0.82 * wide, -26),
            (0.1 * wide, -37),
            (-0.45 * wide, -43),
            (-0.86 * wide, -20),
            (-wide - 2, -4),
        ],
        "long": [
            (wide + 2, 24),
            (0.84 * wide, -6),
            (0.5 * wide, -32),
            (0, -42),
            (-0.5 * wide, -32),
            (-0.84 * wide, -6),
            (-wide - 2, 24),
        ],
        "bob": [
            (wide + 3, 18),
            (0.88 * wide, -22),
            (0.8 * wide, -25),
            (-0.8 * wide, -25),
            (-0.88 * wide, -22),
            (-wide - 3, 18),
        ],
        "afro": [
            (wide, -4),
            (0.8 * wide, -28),
            (0.4 * wide, -37),
            (-0.4 * wide, -37),
            (-0.8 * wide, -28),
            (-wide, -4),
        ],
        "bun": [(wide + 2, -6), (0.7 * wide, -32), (0, -43), (-0.7 * wide, -32), (-wide - 2, -6)],
    }
    usual = [
        (wide + 2, -2),
        (0.86 * wide, -24),
        (0.5 * wide, -34),
        (-0.5 * wide, -34),
        (-0.86 * wide, -24),
        (-wide - 2, -2),
    ]
    pen.fill(np.concatenate([top, lines.get(style, usual)]), hair)
    if style == "parted":
        pen.line([(-0.42 * wide, -43), (-0.3 * wide, crown - 8)], shaded(hair, 0.72), 2.0)


def _hat(pen: _Pen, person: Person, kind: str, hair: Colour) -> None:
    """Over the hair, of which sideburns and what hangs behind stay to be seen."""
    wide, crown, colour = (
        FACE_X * person.face_width,
        CROWN_Y * person.face_height,
        HAT_COLOURS[kind],
    )
    if HAIR_STYLES[person.hair_style] != "bald":
        for sign in (-1, 1):
            pen.fill(
                [
                    (sign * (wide + 4), -30),
                    (sign * 0.8 * wide, -30),
                    (sign * (wide - 3), -4),
                    (sign * (wide + 3), -2),
                ],
                hair,
            )
    angles = np.linspace(np.pi, 2 * np.pi, 21)
    dome = np.stack([(wide + 7) * np.cos(angles), -24 + (-crown - 8) * np.sin(angles)], 1)
    if kind == "cap":
        pen.fill(dome, colour)
        pen.fill(
            [
                (-wide - 7, -26),
                (wide + 30, -24),
                (wide + 33, -19),
                (wide + 20, -16),
                (-wide - 6, -19),
            ],
            shaded(colour, 0.7),
        )
    elif kind == "beanie":
        pen.fill(dome * (1, 1.12) + (0, 2), colour)
        pen.fill(
            [(-wide - 9, -36), (wide + 9, -36), (wide + 9, -20), (-wide - 9, -20)],
            shaded(colour, 1.3),
        )
        pen.fill(_oval(0, crown - 18, 10, 10), shaded(colour, 1.3))
    else:
        pen.fill(
            [(-wide + 3, -28), (-wide + 6, crown - 34), (wide - 6, crown - 34), (wide - 3, -28)],
            colour,
        )
        pen.fill(
            [(-wide + 3, -40), (wide - 3, -40), (wide - 3, -30), (-wide + 3, -30)], (150, 44, 52)
        )
        pen.fill(_oval(0, -27, wide + 24, 6), shaded(colour, 1.4))


def _glasses(pen: _Pen, person: Person) -> None:
    rim = 14.0
    for sign in (-1, 1):
        x = sign * max(EYE_X * person.eye_spacing, rim + 1)
        ring = _oval(x, 1, rim, rim * 0.92, 0.85)
        pen.line(np.concatenate([ring, ring[:2]]), FRAME, 3.0)
        pen.line([(x + sign * rim, -1), (sign * (FACE_X * person.face_width + 2), -3)], FRAME, 2.6)
    pen.line([(-3, -1), (3, -1)], FRAME, 3.0)
