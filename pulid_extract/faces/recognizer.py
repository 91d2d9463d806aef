"""One ArcFace-shaped network by itself: an aligned face in, a vector out. antelopev2's own, or any
other, as an independent judge.

Expects 112x112 pixels, channels first, RGB, (x - 127.5) / 127.5; or 0..255 as they are for a
network whose graph begins by subtracting and multiplying (nodes named Sub or _minus, Mul or _mul),
as those of MXNet do. Pictures here are uint8 BGR (H, W, 3). Knows nothing of detectors or of PuLID.

Sources: insightface 2.1, model_zoo/arcface_onnx.py (the rule for mean and scale) and
utils/face_align.py (the alignment).
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pulid_extract.networks import onnx_runtime
from pulid_extract.shared.errors import FaceError, WeightsError, first_line

# pixels that the network takes
SIDE = 112
# of antelopev2
PUBLISHED = "glintr100.onnx"


class Recognizer:
    """One network, with the name and the SHA-256 of its file, so that a number can say which
    network it is from.
    """

    def __init__(self, path: Path):
        """Raises WeightsError for a file that is not such a network."""
        self.name = path.name
        self.path = path
        self.sha256 = _sha256(path)
        self._model = _open(path)

    @classmethod
    def of_pack(cls, folder: Path) -> Recognizer:
        """antelopev2's recogniser: its published name, else the first of its shape in the folder,
        as insightface chooses.
        """
        if (folder / PUBLISHED).is_file():
            return cls(folder / PUBLISHED)
        for path in sorted(folder.glob("*.onnx")):
            try:
                return cls(path)
            except WeightsError:
                continue
        raise WeightsError(
            f"{folder}: no ArcFace network among its .onnx files; expected {PUBLISHED}"
        )

    @classmethod
    def sha256_of_pack(cls, folder: Path) -> str:
        """Of antelopev2's recogniser; one with its published name is not loaded for that. Raises
        WeightsError.
        """
        published = folder / PUBLISHED
        return _sha256(published) if published.is_file() else cls.of_pack(folder).sha256

    def embed(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """The face's vector, (D,) float32, not normalised. image: uint8 BGR (H, W, 3). landmarks:
        (5, 2) pixels of it.

        Raises FaceError for landmarks that lie on top of each other, WeightsError for a network
        that cannot run.
        """
        from insightface.utils.face_align import norm_crop

        try:
            with warnings.catch_warnings():
                # scikit-image: SimilarityTransform.estimate is deprecated
                warnings.simplefilter("ignore")
                crop = norm_crop(image, landmark=landmarks, image_size=SIDE)
        # a transform that does not exist: numpy and OpenCV each have their own error
        except Exception:
            raise FaceError(
                "the face's landmarks lie on top of each other; it cannot be aligned"
            ) from None
        try:
            vector = np.asarray(self._model.get_feat(crop), np.float32).reshape(-1)
        # onnxruntime raises anything for a network of another shape
        except Exception as error:
            raise WeightsError(f"{self.path}: the recogniser fails ({first_line(error)})") from None
        if not np.isfinite(vector).all():
            raise WeightsError(f"{self.path}: gives NaN or infinite values; download it again")
        return vector


def _open(path: Path) -> Any:
    onnxruntime = onnx_runtime.load()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from insightface.model_zoo.arcface_onnx import ArcFaceONNX

    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        inputs, outputs = session.get_inputs(), session.get_outputs()
        shape = ["?" if not isinstance(side, int) else side for side in inputs[0].shape]
        if len(inputs) != 1 or len(outputs) != 1 or not _fits(shape):
            raise WeightsError(
                f"{path}: takes {len(inputs)} of {'x'.join(map(str, shape))} and gives "
                f"{len(outputs)}; an ArcFace-shaped recogniser "
                f"takes one of Nx3x{SIDE}x{SIDE} and gives one vector"
            )
        model = ArcFaceONNX(str(path), session)
    except WeightsError:
        raise
    # onnx, protobuf and onnxruntime each have their own
    except Exception as error:
        raise WeightsError(
            f"{path}: onnxruntime cannot open it ({first_line(error)}); expected an .onnx "
            "recogniser"
        ) from None
    # which a file may leave open
    model.input_size = (SIDE, SIDE)
    return model


def _fits(shape: Sequence[int | str]) -> bool:
    """Whether an input of this shape, "?" for a side that is left open, takes N x 3 x 112 x 112."""
    if len(shape) != 4:
        return False
    pairs = zip(shape[1:], (3, SIDE, SIDE), strict=True)
    return all(side in ("?", wanted) for side, wanted in pairs)


def _sha256(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(
            f"{path}: cannot be read ({error.strerror or error}); expected an .onnx recogniser"
        ) from None
