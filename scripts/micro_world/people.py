"""Who lives in the small world: a person is nineteen numbers, drawn from a seed. Knows nothing of
pictures.

Seeds below `FIRST_TEST_PERSON` are people to train on; from there on they are for tests and the
demo only.
"""

from __future__ import annotations

import colorsys
from dataclasses import dataclass, fields, replace

import numpy as np

FIRST_TEST_PERSON = 1_000_000
Colour = tuple[int, int, int]

HAIR_STYLES = ("bald", "short", "parted", "long", "bob", "afro", "spiky", "bun")
BEARDS = ("none", "moustache", "goatee", "full")
SKIN = (
    (255, 226, 203),
    (243, 200, 165),
    (224, 172, 128),
    (186, 128, 86),
    (140, 88, 58),
    (96, 58, 38),
)
HAIR = (
    *((28, 24, 24), (74, 46, 30), (128, 78, 42), (206, 166, 92), (178, 70, 34), (150, 150, 155)),
    *((236, 232, 224), (196, 62, 118), (60, 92, 190), (58, 140, 92)),
)
IRIS = ((92, 58, 34), (56, 118, 190), (70, 140, 80), (128, 132, 140), (176, 122, 40), (40, 34, 34))

RANGES = {
    "skin": (0.0, 1.0),
    "face_width": (0.84, 1.12),
    "face_height": (0.9, 1.12),
    "jaw": (0.0, 1.0),
    "hair_shade": (0.85, 1.15),
    "eye_size": (0.78, 1.3),
    "eye_spacing": (0.86, 1.16),
    "brow_thickness": (0.5, 2.0),
    "brow_tilt": (-1.0, 1.0),
    "nose_length": (0.75, 1.3),
    "nose_width": (0.6, 1.5),
    "mouth_width": (0.75, 1.3),
    "lips": (0.6, 1.6),
    "ear_size": (0.7, 1.35),
}
KINDS = {
    "hair_style": len(HAIR_STYLES),
    "hair_colour": len(HAIR),
    "eye_colour": len(IRIS),
    "beard": len(BEARDS),
    "freckles": 2,
}
BEARD_SHARES, FRECKLE_SHARES = (0.55, 0.15, 0.15, 0.15), (0.7, 0.3)


@dataclass(frozen=True)
class Person:
    """Sizes are factors around 1, tones 0..1 along a palette, the rest indexes of the tables
    above.
    """

    skin: float
    face_width: float
    face_height: float
    jaw: float  # 0 is square, 1 is pointed
    hair_shade: float
    eye_size: float
    eye_spacing: float
    brow_thickness: float
    brow_tilt: float
    nose_length: float
    nose_width: float
    mouth_width: float
    lips: float
    ear_size: float
    hair_style: int
    hair_colour: int
    eye_colour: int
    beard: int
    freckles: int

    @classmethod
    def of(cls, seed: int) -> Person:
        """The person of this seed, always the same."""
        rng = np.random.default_rng((7, seed))
        shares = {"beard": BEARD_SHARES, "freckles": FRECKLE_SHARES}
        numbers = {name: float(rng.uniform(*limits)) for name, limits in RANGES.items()}
        return cls(
            **numbers,
            **{name: int(rng.choice(count, p=shares.get(name))) for name, count in KINDS.items()},
        )

    @classmethod
    def sibling(cls, seed: int) -> Person:
        """Like `of(seed)` in all but two to four attributes: what a recogniser must tell apart to
        be any good.
        """
        rng = np.random.default_rng((8, seed))
        names = [field.name for field in fields(cls)]
        changed = rng.choice(names, size=int(rng.integers(2, 5)), replace=False)
        other = cls.of(seed + FIRST_TEST_PERSON // 2)
        return replace(cls.of(seed), **{name: getattr(other, name) for name in changed})

    def attributes(self) -> np.ndarray:
        """(A,) float32: numbers around 0 with a spread of about 1, kinds as 0 or 1; for networks
        that learn to see them.
        """
        numbers = [
            (getattr(self, name) - (low + high) / 2) / (high - low) * 3.4
            for name, (low, high) in RANGES.items()
        ]
        kinds = [
            float(getattr(self, name) == index)
            for name, count in KINDS.items()
            for index in range(count)
        ]
        return np.float32([*numbers, *kinds])

    @property
    def skin_colour(self) -> Colour:
        """Between the two nearest tones of the palette."""
        place = self.skin * (len(SKIN) - 1)
        low = min(int(place), len(SKIN) - 2)
        return _blend(SKIN[low], SKIN[low + 1], place - low)

    @property
    def hair(self) -> Colour:
        return shaded(HAIR[self.hair_colour], self.hair_shade)

    @property
    def iris(self) -> Colour:
        return IRIS[self.eye_colour]


def shaded(colour: Colour, factor: float) -> Colour:
    """Darker below 1, lighter above."""
    hue, light, saturation = colorsys.rgb_to_hls(*(channel / 255 for channel in colour))
    red, green, blue = colorsys.hls_to_rgb(hue, min(1.0, light * factor), saturation)
    return round(red * 255), round(green * 255), round(blue * 255)


def _blend(first: Colour, second: Colour, share: float) -> Colour:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue
