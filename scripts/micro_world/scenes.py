"""What a prompt can say of a picture of the small world, and what it cannot: where exactly the head
is. Knows nothing of people.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

COLOURS = {
    "red": (206, 66, 62),
    "green": (84, 158, 92),
    "blue": (70, 112, 198),
    "yellow": (236, 204, 84),
    "purple": (138, 92, 172),
    "grey": (158, 160, 166),
    "orange": (236, 142, 66),
    "teal": (62, 158, 158),
}
COLOUR_NAMES = tuple(COLOURS)
EXPRESSIONS = ("neutral", "smiling", "surprised", "sad")
HATS = ("none", "cap", "top hat", "beanie")
GLASSES = ("none", "glasses")
DISTANCES = ("middle", "close", "far")
TILTS = ("upright", "tilted")
# name of a choice -> how many there are of it; what a classifier of prompts judges
CHOICES = {
    "background": len(COLOUR_NAMES),
    "clothes": len(COLOUR_NAMES),
    "expression": len(EXPRESSIONS),
    "hat": len(HATS),
    "glasses": len(GLASSES),
    "distance": len(DISTANCES),
    "tilt": len(TILTS),
}
SCALES = {"middle": (0.95, 1.03), "close": (1.15, 1.25), "far": (0.72, 0.8)}
DEGREES = {"upright": (0.0, 4.0), "tilted": (13.0, 19.0)}


@dataclass(frozen=True)
class Scene:
    """Indexes of the tables above. shift: of the head, in shares of the picture. scale: 1 is a
    middle distance. degrees: clockwise.
    """

    background: int = 0
    clothes: int = 2
    expression: int = 0
    hat: int = 0
    glasses: int = 0
    distance: int = 0
    tilt: int = 0
    shift: tuple[float, float] = (0.0, 0.0)
    scale: float = 1.0
    degrees: float = 0.0

    @classmethod
    def of(cls, rng: np.random.Generator, **fixed: int) -> Scene:
        """A scene at random; clothes and background differ, so that both can be seen. fixed:
        choices that are not left to chance.
        """
        background = fixed.get("background", int(rng.integers(len(COLOUR_NAMES))))
        clothes = fixed.get(
            "clothes",
            (background + 1 + int(rng.integers(len(COLOUR_NAMES) - 1))) % len(COLOUR_NAMES),
        )
        scene = cls(
            background=background,
            clothes=clothes,
            expression=int(rng.integers(len(EXPRESSIONS))),
            hat=int(rng.choice(len(HATS), p=(0.52, 0.16, 0.16, 0.16))),
            glasses=int(rng.random() < 0.35),
            distance=int(rng.choice(len(DISTANCES), p=(0.6, 0.2, 0.2))),
            tilt=int(rng.random() < 0.25),
        )
        return replace(scene, **fixed).placed(rng)

    def placed(self, rng: np.random.Generator) -> Scene:
        """The same choices with a place, a size and an angle drawn for them."""
        sign = 1 if rng.random() < 0.5 else -1
        shift = float(rng.uniform(-0.05, 0.05)), float(rng.uniform(-0.03, 0.03))
        scale = float(rng.uniform(*SCALES[DISTANCES[self.distance]]))
        return replace(
            self,
            shift=shift,
            scale=scale,
            degrees=sign * float(rng.uniform(*DEGREES[TILTS[self.tilt]])),
        )

    def choices(self) -> tuple[int, ...]:
        """In the order of `CHOICES`."""
        return tuple(getattr(self, name) for name in CHOICES)


# What a portrait to extract from looks like: the face is free, the rest as it comes.
PLAIN = {"hat": 0, "glasses": 0, "tilt": 0}
