"""Who judges the small world's pictures: networks that see faces and scenes, and a gallery of
portraits that pictures are compared with.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from micro_world.scenes import CHOICES
from micro_world.train import JUDGE, PACK, PROMPT_JUDGE

MODELS = Path(__file__).parent.parent / "models"
# pixels of the pictures that the judge of prompts sees
SIDE = 96


class Eyes:
    """Sees faces and scenes in pictures: the pack's detector, a recogniser that is not the pack's,
    and the judge of prompts.
    """

    def __init__(self, models: Path = MODELS):
        from pulid_extract.faces.antelopev2 import Antelope
        from pulid_extract.faces.recognizer import Recognizer
        from pulid_extract.networks import onnx_runtime

        self.pack = Antelope(models / PACK)
        self.recogniser = Recognizer(models / JUDGE)
        self._scene = onnx_runtime.load().InferenceSession(
            str(models / PROMPT_JUDGE), providers=["CPUExecutionProvider"]
        )

    def who(self, picture: np.ndarray) -> np.ndarray | None:
        """(D,) float32 of length 1 of the largest face in uint8 RGB (H, W, 3); None if there is
        none.
        """
        bgr = np.ascontiguousarray(picture[..., ::-1])
        found = self.pack.detect(bgr)
        if not found:
            return None
        face = max(
            found, key=lambda face: (face.box[2] - face.box[0]) * (face.box[3] - face.box[1])
        )
        vector = self.recogniser.embed(bgr, face.landmarks)
        return vector / np.linalg.norm(vector)

    def what(self, picture: np.ndarray) -> dict[str, int]:
        """The judged choice for each of `CHOICES`."""
        if picture.shape[:2] != (SIDE, SIDE):
            picture = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA)
        pixels = picture.astype(np.float32).transpose(2, 0, 1)[None] / 127.5 - 1
        logits = self._scene.run(None, {"pixels": pixels})[0][0]
        edges = np.cumsum([0, *CHOICES.values()])
        return {
            name: int(logits[low:high].argmax())
            for name, (low, high) in zip(CHOICES, itertools.pairwise(edges), strict=True)
        }


def read(path: Path | str) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@dataclass(frozen=True)
class Seen:
    """One drawn picture: who was asked for, in which scene, how strongly; the judges' answers."""

    person: int
    scene: int
    weight: float
    vector: np.ndarray | None
    choices: dict[str, int]


class Gallery:
    """The reference portraits that pictures are compared with."""

    def __init__(self, eyes: Eyes, portraits: Sequence[Path]):
        vectors = [eyes.who(read(path)) for path in portraits]
        if missing := [
            str(path) for path, vector in zip(portraits, vectors, strict=True) if vector is None
        ]:
            sys.exit(f"no face found in {', '.join(missing)}")
        self.vectors = np.stack([vector for vector in vectors if vector is not None])

    def cosine(self, seen: Seen) -> float:
        """To the person who was asked for; -1 where no face is."""
        return float(self.vectors[seen.person] @ seen.vector) if seen.vector is not None else -1.0

    def picked(self, seen: Seen) -> bool:
        """Whether the person who was asked for is the most alike of all."""
        return seen.vector is not None and int((self.vectors @ seen.vector).argmax()) == seen.person
