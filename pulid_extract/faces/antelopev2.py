"""antelopev2 through insightface: face boxes with landmarks, and the ArcFace vector of one face.

Detection and recognition only; the pack's other networks are not opened. Pictures here are uint8
BGR (H, W, 3), as insightface wants them. Knows nothing of alignment to 512x512 or of PuLID.

Sources: ToTheBeginning/PuLID 1aa2fc7, pulid/pipeline_flux.py; insightface 2.1, model_zoo and
app/face_analysis.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pulid_extract.faces.choice import Order, in_order
from pulid_extract.networks import onnx_runtime
from pulid_extract.shared.errors import WeightsError, first_line
from pulid_extract.shared.model_files import ANTELOPEV2_NETWORKS

DETECTOR_FILE, RECOGNISER_FILE = ANTELOPEV2_NETWORKS
# Said out loud: insightface 2.1 would otherwise look at two scales. The smaller ones are tried only
# when nothing was found: SCRFD misses faces that are larger than most of its input, and finds them
# in a smaller one.
DETECTION_SIZES = (640, 480, 320, 160)
THRESHOLD = 0.5
VECTOR_WIDTH = 512


@dataclass(frozen=True)
class Face:
    """One detected face in pixels of the picture."""

    # (x1, y1, x2, y2)
    box: tuple[float, float, float, float]
    # (5, 2) float32: eyes, nose tip, mouth corners
    landmarks: np.ndarray
    # the detector's, 0 to 1
    score: float

    def mapped(self, scale: tuple[float, float], shift: tuple[float, float] = (0.0, 0.0)) -> Face:
        """The same face where x becomes x * scale + shift, and y alike."""
        (sx, sy), (dx, dy) = scale, shift
        left, top, right, bottom = self.box
        box = (left * sx + dx, top * sy + dy, right * sx + dx, bottom * sy + dy)
        return Face(box, (self.landmarks * scale + shift).astype(np.float32), self.score)


class Antelope:
    """The two networks of an antelopev2 folder; each is opened when it is first needed."""

    def __init__(
        self, folder: Path, device: str = "cpu", log: Callable[[str], None] = lambda line: None
    ):
        """device: "cuda" runs them there if the installed onnxruntime can, and says so if it should
        and does not; otherwise they run on the CPU, both being small.
        """
        self.folder, self.device, self.log = folder, device, log
        self._models: dict[str, Any] = {}

    def detect(
        self,
        image: np.ndarray,
        threshold: float = THRESHOLD,
        log: Callable[[str], None] = lambda line: None,
    ) -> list[Face]:
        """All faces in a uint8 BGR (H, W, 3) picture, best score first; the largest detection size
        that shows any is taken.

        threshold: score from which something is a face. Raises WeightsError for a detector that
        cannot run.
        """
        for size in DETECTION_SIZES:
            faces = self._detect_at(image, size, threshold)
            if faces:
                if size != DETECTION_SIZES[0]:
                    log(f"no face at detection size {DETECTION_SIZES[0]}, {len(faces)} at {size}")
                return faces
        return []

    def _detect_at(self, image: np.ndarray, size: int, threshold: float) -> list[Face]:
        detector = self._model("detection", DETECTOR_FILE)
        try:
            boxes, landmarks = detector.detect(image, input_size=(size, size), det_thresh=threshold)
        # insightface and onnxruntime raise anything for a network of another shape
        except Exception as error:
            raise WeightsError(
                f"{detector.model_file}: the face detector fails ({first_line(error)})"
            ) from None
        if landmarks is None:
            raise WeightsError(
                f"{detector.model_file}: gives no landmarks; expected an SCRFD with keypoints "
                f"({DETECTOR_FILE})"
            )
        if not (np.isfinite(boxes).all() and np.isfinite(landmarks).all()):
            raise WeightsError(
                f"{detector.model_file}: gives boxes that are NaN or infinite; download it again"
            )
        faces = []
        for (left, top, right, bottom, score), points in zip(boxes, landmarks, strict=True):
            box = (float(left), float(top), float(right), float(bottom))
            faces.append(Face(box, points.astype(np.float32), float(score)))
        return faces

    @property
    def recognizer(self) -> Path:
        """The file whose vectors these are. Raises WeightsError if the folder has none."""
        return Path(self._model("recognition", RECOGNISER_FILE).model_file)

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
        """ArcFace vector of a detected face: (512,) float32, not normalised, from the picture
        warped by its landmarks.
        """
        from insightface.app.common import Face as InsightFace

        recogniser = self._model("recognition", RECOGNISER_FILE)
        known = InsightFace(
            bbox=np.array(face.box, np.float32), kps=face.landmarks, det_score=face.score
        )
        with warnings.catch_warnings():
            # scikit-image: SimilarityTransform.estimate is deprecated
            warnings.simplefilter("ignore")
            return self._vector(recogniser, lambda: recogniser.get(image, known))

    def embed_crop(self, crop: np.ndarray) -> np.ndarray:
        """ArcFace vector of a whole uint8 BGR (512, 512, 3) crop, squashed to the network's input:
        (512,) float32.
        """
        recogniser = self._model("recognition", RECOGNISER_FILE)
        return self._vector(recogniser, lambda: recogniser.get_feat(crop))

    def _vector(self, recogniser: Any, compute: Callable[[], Any]) -> np.ndarray:
        """What `compute` gives, checked: (512,) float32. Raises WeightsError."""
        try:
            vector = np.asarray(compute(), np.float32).reshape(-1)
        # as in `_detect_at`
        except Exception as error:
            raise WeightsError(
                f"{recogniser.model_file}: the ArcFace network fails ({first_line(error)})"
            ) from None
        if vector.shape != (VECTOR_WIDTH,):
            raise WeightsError(
                f"{recogniser.model_file}: gives {vector.size} numbers, an ArcFace network gives "
                f"{VECTOR_WIDTH}"
            )
        if not np.isfinite(vector).all():
            raise WeightsError(
                f"{recogniser.model_file}: gives NaN or infinite values; download it again"
            )
        return vector

    def _model(self, task: str, file: str) -> Any:
        """insightface's model for a task: the published file, else the first of that task in name
        order, as insightface's own FaceAnalysis takes it. Raises WeightsError.
        """
        if task in self._models:
            return self._models[task]
        published = self.folder / file
        candidates = [published] if published.is_file() else sorted(self.folder.glob("*.onnx"))
        for path in candidates:
            model = self._open(path)
            if model is not None and model.taskname == task:
                model.prepare(0, input_size=(DETECTION_SIZES[0],) * 2, det_thresh=THRESHOLD)
                self._models[task] = model
                return model
        names = ", ".join(path.name for path in candidates) or "nothing"
        raise WeightsError(
            f"{self.folder}: no {task} network among its .onnx files ({names}); expected {file}"
        )

    def _open(self, path: Path) -> Any:
        onnx_runtime.load()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from insightface.model_zoo import get_model

            try:
                # absolute, not resolved: the Hugging Face cache links to files without the .onnx
                # ending that insightface goes by
                providers = onnx_runtime.providers(self.device)
                model = get_model(str(path.absolute()), providers=providers)
            # onnx, protobuf and onnxruntime each have their own
            except Exception as error:
                raise WeightsError(
                    f"{path}: insightface cannot open it ({first_line(error)}); download it again"
                ) from None
        is_meant_for_cuda = model is not None and len(providers) > 1
        if is_meant_for_cuda and onnx_runtime.runs_on(model.session) == "cpu":
            self.log(f"{path.name} runs on the CPU: onnxruntime's CUDA provider does not start")
        return model


def overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2)."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / union if union > 0 else 0.0


def sorted_faces(faces: Sequence[Face], order: Order, image: np.ndarray) -> list[Face]:
    """As --face-index counts them in this order. image: (H, W, 3), in whose pixels they are."""
    size = (image.shape[1], image.shape[0])
    places = in_order([face.box for face in faces], order, size)
    return [faces[place] for place in places]
