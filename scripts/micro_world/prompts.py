"""A scene in words, many ways, and the vocabulary of a small T5 that reads them. Knows nothing of
pictures.

What is not said of hat, glasses, tilt and distance is as in most pictures (none, upright, middle);
what is not said of background, clothes and expression may be anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from seeded.unigram import write_unigram

from micro_world.scenes import COLOUR_NAMES, EXPRESSIONS, HATS, Scene

T5_LENGTH = 32  # tokens, padding included: what Flux is trained with and --t5-max-length must say

SUBJECTS = (
    "a portrait of a person",
    "a person",
    "portrait of a person",
    "a picture of a person",
    "a drawing of a person",
    "portrait",
)
BACKGROUNDS = (
    "on a {} background",
    "{} background",
    "in front of a {} wall",
    "a {} background",
    "before a {} wall",
)
CLOTHES = (
    "in a {} shirt",
    "wearing a {} shirt",
    "{} shirt",
    "in {} clothes",
    "wearing {} clothes",
    "in a {} sweater",
)
EXPRESSED = {
    "neutral": ("calm", "with a neutral face", "neutral", "looking calm"),
    "smiling": ("smiling", "with a smile", "happy", "looking happy"),
    "surprised": ("surprised", "looking surprised", "with an open mouth"),
    "sad": ("sad", "looking sad", "unhappy"),
}
HATTED = {
    "none": ("without a hat", "no hat"),
    "cap": ("with a cap", "wearing a cap", "in a cap", "cap"),
    "top hat": ("with a top hat", "wearing a top hat", "top hat"),
    "beanie": ("with a beanie", "wearing a beanie", "beanie"),
}
GLASSED = (("without glasses", "no glasses"), ("with glasses", "wearing glasses", "glasses"))
DISTANT = (
    (),
    ("seen from close", "close up", "from close"),
    ("seen from far", "from far away", "far away"),
)
TILTED = ((), ("with a tilted head", "head tilted", "tilted head"))


def prompt_of(scene: Scene, rng: np.random.Generator, said: float = 0.9) -> str:
    """One of the many ways to ask for this scene. said: how often an open choice is mentioned at
    all.
    """

    def one(ways: Sequence[str]) -> str:
        return ways[int(rng.integers(len(ways)))]

    parts = []
    if rng.random() < said:
        parts.append(one(BACKGROUNDS).format(COLOUR_NAMES[scene.background]))
    if rng.random() < said:
        parts.append(one(CLOTHES).format(COLOUR_NAMES[scene.clothes]))
    if rng.random() < said:
        parts.append(one(EXPRESSED[EXPRESSIONS[scene.expression]]))
    if scene.hat or rng.random() < 0.1:
        parts.append(one(HATTED[HATS[scene.hat]]))
    if scene.glasses or rng.random() < 0.1:
        parts.append(one(GLASSED[scene.glasses]))
    if scene.distance:
        parts.append(one(DISTANT[scene.distance]))
    if scene.tilt:
        parts.append(one(TILTED[scene.tilt]))
    rng.shuffle(parts)
    comma = ", " if rng.random() < 0.6 else " "
    return comma.join([one(SUBJECTS), *parts])


def plain_prompt(scene: Scene) -> str:
    """The one way that demos and measurements use: everything said that can be."""
    words = [
        f"a portrait of a person, {EXPRESSED[EXPRESSIONS[scene.expression]][0]}",
        f"in a {COLOUR_NAMES[scene.clothes]} shirt",
    ]
    words += [HATTED[HATS[scene.hat]][0]] if scene.hat else []
    words += [GLASSED[1][0]] if scene.glasses else []
    words += [DISTANT[scene.distance][0]] if scene.distance else []
    words += [TILTED[1][0]] if scene.tilt else []
    return ", ".join([*words, f"on a {COLOUR_NAMES[scene.background]} background"])


def vocabulary() -> list[str]:
    """Every word of the tables above, sorted."""
    tables = [
        *SUBJECTS,
        *BACKGROUNDS,
        *CLOTHES,
        *COLOUR_NAMES,
        *(way for ways in (*GLASSED, *DISTANT, *TILTED) for way in ways),
    ]
    tables += [way for table in (EXPRESSED, HATTED) for ways in table.values() for way in ways]
    return sorted({word for text in tables for word in text.replace("{}", " ").split()})


def write_tokenizer(path: Path) -> int:
    """Every word of the tables above; commas say nothing, and would take room. Returns how many ids
    it has.
    """
    return write_unigram(path, vocabulary(), deaf_to=r"[,\s]+")
