"""Does a picture show what its prompt says? The cosine of CLIP's vectors of the two.

By EVA02-CLIP, both of whose towers are in one file, or by any CLIP as an .onnx of two inputs, as
the exporters of transformers write it. Pictures here are uint8 RGB (H, W, 3). Knows nothing of
faces.

Sources: Hessel et al., CLIPScore (arXiv 2104.08718; here 100 times the cosine, not clipped at 0);
open_clip transform.py (shorter side by bicubic, centre cut out) and constants.py;
huggingface/optimum exporters/onnx (the names of an exported CLIP's inputs and outputs).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pulid_extract.networks import onnx_runtime
from pulid_extract.networks.eva_clip import MEAN, STD
from pulid_extract.shared.clip_words import CLIP_END, open_clip_tokenizer
from pulid_extract.shared.errors import WeightsError, first_line

if TYPE_CHECKING:
    import torch

# of an .onnx that leaves the sides of its pictures and texts open
SIDE, LENGTH = 224, 77
PICTURE, WORDS, ATTENTION = "pixel_values", "input_ids", "attention_mask"
PICTURE_VECTOR, WORDS_VECTOR = "image_embeds", "text_embeds"


class Judge(Protocol):
    """Two towers with one space of vectors."""

    # of its file
    name: str
    path: Path

    # pixels that pictures have
    side: int
    # tokens that prompts have
    length: int

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """(P,) float32 of (3, side, side) float32, normalised as CLIP wants it."""

    def words(self, ids: np.ndarray) -> np.ndarray:
        """(P,) float32 of (length,) int64, zeros behind the end token."""


@dataclass(frozen=True)
class PromptScorer:
    """Compares pictures with prompts."""

    judge: Judge

    def points(self, image: np.ndarray, prompt: str) -> float:
        """100 times the cosine: about 20 to 35 for photographs and what they show. image: uint8 RGB
        (H, W, 3). Raises WeightsError for a judge that cannot run.
        """
        picture = self.judge.picture(pixels_of(image, self.judge.side)).astype(np.float64)
        words = self._words_of(prompt)
        length = float(np.linalg.norm(picture) * np.linalg.norm(words))
        if not np.isfinite(length):
            raise WeightsError(f"{self.judge.path}: gives NaN or infinite values; get it again")
        return 100 * float(picture @ words) / length if length else 0.0

    def is_cut(self, prompt: str) -> bool:
        """Whether the judge reads the beginning of the prompt only."""
        return len(self._tokenizer.encode(prompt).ids) > self.judge.length

    def _words_of(self, prompt: str) -> np.ndarray:
        """float64; remembered, for one prompt has many pictures."""
        if prompt not in self._known:
            ids = token_ids(self._tokenizer, prompt, self.judge.length)
            self._known[prompt] = self.judge.words(ids).astype(np.float64)
        return self._known[prompt]

    @cached_property
    def _known(self) -> dict[str, np.ndarray]:
        return {}

    @cached_property
    def _tokenizer(self) -> Any:
        return open_clip_tokenizer("extract")


def token_ids(tokenizer: Any, prompt: str, length: int) -> np.ndarray:
    """(length,) int64: a longer prompt is cut before its end token, a shorter one filled with 0.
    tokenizer: of `clip_words`.
    """
    ids = tokenizer.encode(prompt).ids
    if len(ids) > length:
        ids = [*ids[: length - 1], tokenizer.token_to_id(CLIP_END)]
    filled = np.zeros(length, np.int64)
    filled[: len(ids)] = ids
    return filled


def pixels_of(image: np.ndarray, side: int) -> np.ndarray:
    """(3, side, side) float32 of uint8 RGB (H, W, 3): the shorter side resized, the middle cut
    out.
    """
    from PIL import Image

    height, width = image.shape[:2]
    shorter = min(height, width)
    # rounded as torchvision's resize and center_crop, with which CLIPs were trained
    size = (int(side * width / shorter), int(side * height / shorter))
    small = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    left, top = (round((length - side) / 2) for length in size)
    square = np.asarray(small.crop((left, top, left + side, top + side)), np.float32) / 255
    normed = (square - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(normed.transpose(2, 0, 1))


class EvaJudge:
    """EVA02-CLIP, from the file of the extraction. Its image tower conditions PuLID with grey faces
    on white; what it says of a whole picture is another question.
    """

    def __init__(self, path: Path, device: str = "cpu"):
        """Raises WeightsError for a file without a text tower, InputError for a device whose
        memory runs out.
        """
        from pulid_extract.networks.clip_text import load_text_tower
        from pulid_extract.networks.devices import naming_memory
        from pulid_extract.networks.eva_clip import image_size, load_eva_clip

        self.name, self.path, self.device = path.name, path, device
        with naming_memory("EVA-CLIP", device):
            self._text = load_text_tower(path).to(device)
            self._image = load_eva_clip(path).to(device)
        self.side, self.length = image_size(self._image), self._text.length
        if self._text.text_projection.shape[1] != self._image.num_classes:
            raise WeightsError(
                f"{path}: its text tower gives {self._text.text_projection.shape[1]} numbers, its "
                f"image tower {self._image.num_classes}; get it again"
            )

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """As `Judge`."""
        import torch

        from pulid_extract.networks.devices import exact_arithmetic, naming_memory

        with torch.no_grad(), exact_arithmetic(), naming_memory("EVA-CLIP", self.device):
            batch = torch.from_numpy(pixels)[None].to(self.device)
            normed, _ = self._image(batch)
            return _numbers(self._image.pool(normed))

    def words(self, ids: np.ndarray) -> np.ndarray:
        """As `Judge`."""
        import torch

        from pulid_extract.networks.devices import exact_arithmetic, naming_memory

        with exact_arithmetic(), naming_memory("EVA-CLIP", self.device):
            return _numbers(self._text(torch.from_numpy(ids)[None].to(self.device)))


class OnnxJudge:
    """A CLIP as one .onnx: `pixel_values` and `input_ids` in, `image_embeds` and `text_embeds`
    out, each of a batch. Ids are those of OpenAI's vocabulary.
    """

    def __init__(self, path: Path):
        """Raises WeightsError for a file that is not one."""
        onnxruntime = onnx_runtime.load()
        self.name, self.path = path.name, path
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), providers=["CPUExecutionProvider"]
            )
        # onnx, protobuf and onnxruntime each have their own
        except Exception as error:
            raise WeightsError(
                f"{path}: onnxruntime cannot open it ({first_line(error)}); expected a CLIP as "
                ".onnx"
            ) from None
        inputs = {item.name: item.shape for item in self._session.get_inputs()}
        outputs = {item.name for item in self._session.get_outputs()}
        wanted = {PICTURE, WORDS}
        unknown = inputs.keys() - wanted - {ATTENTION}
        if not wanted <= inputs.keys() or unknown or not {PICTURE_VECTOR, WORDS_VECTOR} <= outputs:
            raise WeightsError(
                f"{path}: takes {', '.join(sorted(inputs))} and gives {', '.join(sorted(outputs))};"
                f" a judge of prompts takes {PICTURE} and {WORDS} and gives {PICTURE_VECTOR} and "
                f"{WORDS_VECTOR}"
            )
        self._has_attention = ATTENTION in inputs
        self.side = _side(inputs[PICTURE], -1, SIDE)
        self.length = _side(inputs[WORDS], -1, LENGTH)

    def picture(self, pixels: np.ndarray) -> np.ndarray:
        """As `Judge`."""
        return self._run(PICTURE_VECTOR, pixels, np.zeros(self.length, np.int64))

    def words(self, ids: np.ndarray) -> np.ndarray:
        """As `Judge`."""
        return self._run(WORDS_VECTOR, np.zeros((3, self.side, self.side), np.float32), ids)

    def _run(self, output: str, pixels: np.ndarray, ids: np.ndarray) -> np.ndarray:
        """The other half of the inputs is nothing; each vector depends on its own half alone."""
        given = {PICTURE: pixels[None], WORDS: ids[None]}
        if self._has_attention:
            given[ATTENTION] = (np.arange(len(ids)) <= ids.argmax()).astype(np.int64)[None]
        try:
            vector = np.asarray(self._session.run([output], given)[0], np.float32)
        except Exception as error:
            raise WeightsError(
                f"{self.path}: the judge of prompts fails ({first_line(error)})"
            ) from None
        return vector.reshape(-1)


def _numbers(vectors: torch.Tensor) -> np.ndarray:
    """The first of some vectors."""
    found: np.ndarray = vectors[0].float().cpu().numpy()
    return found


def _side(shape: list[Any], axis: int, otherwise: int) -> int:
    """A side of an input; `otherwise` where the graph leaves it open."""
    side = shape[axis] if len(shape) >= 2 else None
    return side if isinstance(side, int) else otherwise
