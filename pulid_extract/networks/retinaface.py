"""RetinaFace on a ResNet-50: faces of a picture with five landmarks each. What facexlib's detector
computes, with its batch norms taken into its convolutions.

Attributes are names of the file, detection_Resnet50_Final.pth. It stands here because importing
facexlib imports its trackers and plots, and because it makes its anchors number by number. Knows
nothing of which face is meant.

Sources: facexlib 0.3.0, detection/retinaface.py, retinaface_net.py, retinaface_utils.py;
torchvision models/resnet.py; Deng et al., RetinaFace (arXiv 1905.00641).
Shapes: B batch, H, W of the picture, A anchors.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pulid_extract.networks.checkpoint import load_strictly, read_tensors, without_init
from pulid_extract.networks.folding import Convolution, fold_norms, norm_pairs
from pulid_extract.networks.resnet import ResNet, enlarged, shortcut

WHAT = "facexlib's RetinaFace"
# BGR, taken from every pixel
MEAN = (104.0, 117.0, 123.0)
# (blocks, width of their 3x3 convolution, stride) of ResNet-50's four layers
LAYERS = ((3, 64, 1), (4, 128, 2), (6, 256, 2), (3, 512, 2))
EXPANSION = 4
# of the pyramid's maps, and of the two square anchors in each of their cells, in pixels
STRIDES = (8, 16, 32)
ANCHORS = ((16, 32), (64, 128), (256, 512))
WIDTH = 256
# what the network's distances and sizes are scaled by
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
# IoU from which the weaker of two boxes is the same face again
SAME_FACE = 0.4
# last part of a convolution's name -> of its norm's; in nn.Sequential both are numbers
NORMS = {"conv1": "bn1", "conv2": "bn2", "conv3": "bn3", "0": "1"}


class Bottleneck(nn.Module):
    """Three convolutions and a shortcut; the stride is the second's, as in torchvision."""

    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        outputs = EXPANSION * width
        self.conv1 = Convolution(inputs, width, 1, activation="relu")
        self.conv2 = Convolution(width, width, 3, stride, activation="relu")
        self.conv3 = Convolution(width, outputs, 1)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 4 * width, H / stride, W / stride)."""
        output = self.conv3(self.conv2(self.conv1(maps)))
        return functional.relu_(output.add_(self.downsample(maps)))


def _resnet50() -> ResNet:
    layers, inputs = [], 64
    for blocks, width, stride in LAYERS:
        layer = nn.Sequential()
        for block in range(blocks):
            layer.append(Bottleneck(inputs, width, stride if block == 0 else 1))
            inputs = EXPANSION * width
        layers.append(layer)
    return ResNet(layers)


def _step(inputs: int, outputs: int, side: int, activation: str = "relu") -> nn.Sequential:
    return nn.Sequential(Convolution(inputs, outputs, side, activation=activation))


class Pyramid(nn.Module):
    """Maps of one width, coarse ones added to finer ones."""

    def __init__(self) -> None:
        super().__init__()
        for number, (_, width, _) in enumerate(LAYERS[1:], 1):
            self.add_module(f"output{number}", _step(EXPANSION * width, WIDTH, 1))
        self.merge1, self.merge2 = _step(WIDTH, WIDTH, 3), _step(WIDTH, WIDTH, 3)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Three maps, each (B, .., h, w) -> (B, 256, h, w)."""
        fine, middle, coarse = (
            self.get_submodule(f"output{number}")(one) for number, one in enumerate(maps, 1)
        )
        middle = self.merge2(middle + enlarged(coarse, middle))
        return [self.merge1(fine + enlarged(middle, fine)), middle, coarse]


class Context(nn.Module):
    """RetinaFace's SSH: three views of a map, 3, 5 and 7 cells wide."""

    def __init__(self) -> None:
        super().__init__()
        half, quarter = WIDTH // 2, WIDTH // 4
        self.conv3X3 = _step(WIDTH, half, 3, "none")
        self.conv5X5_1 = _step(WIDTH, quarter, 3)
        self.conv5X5_2 = _step(quarter, quarter, 3, "none")
        self.conv7X7_2 = _step(quarter, quarter, 3)
        self.conv7x7_3 = _step(quarter, quarter, 3, "none")

    def forward(self, maps: Tensor) -> Tensor:
        """(B, 256, h, w) -> (B, 256, h, w)."""
        five = self.conv5X5_1(maps)
        views = [self.conv3X3(maps), self.conv5X5_2(five), self.conv7x7_3(self.conv7X7_2(five))]
        return functional.relu_(torch.cat(views, dim=1))


class Head(nn.Module):
    """Numbers for every anchor of one map."""

    def __init__(self, numbers: int):
        super().__init__()
        self.numbers = numbers
        self.conv1x1 = nn.Conv2d(WIDTH, len(ANCHORS[0]) * numbers, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, 256, h, w) -> (B, h * w * 2, numbers)."""
        return self.conv1x1(maps).permute(0, 2, 3, 1).reshape(len(maps), -1, self.numbers)


class RetinaFace(nn.Module):
    """The network."""

    def __init__(self) -> None:
        super().__init__()
        self.body = _resnet50()
        self.fpn = Pyramid()
        self.ssh1, self.ssh2, self.ssh3 = Context(), Context(), Context()
        self.ClassHead = nn.ModuleList([Head(2) for _ in STRIDES])
        self.BboxHead = nn.ModuleList([Head(4) for _ in STRIDES])
        self.LandmarkHead = nn.ModuleList([Head(10) for _ in STRIDES])

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """pixels: (B, 3, H, W) float32 BGR, 0 to 255 less `MEAN`. Returns for every anchor its box
        (B, A, 4), the chance of a face (B, A) and its landmarks (B, A, 10), as `faces_of` reads
        them.
        """
        features = []
        for context, maps in zip(
            (self.ssh1, self.ssh2, self.ssh3), self.fpn(self.body(pixels)), strict=True
        ):
            features.append(context(maps))
        told = []
        for heads in (self.BboxHead, self.ClassHead, self.LandmarkHead):
            by_map = [head(maps) for head, maps in zip(heads, features, strict=True)]
            told.append(torch.cat(by_map, dim=1))
        boxes, classes, points = told
        return boxes, classes.softmax(dim=-1)[..., 1], points

    @torch.no_grad()
    def detect_faces(self, image: np.ndarray, confidence: float) -> np.ndarray:
        """Faces (N, 15) float32 of a uint8 BGR (H, W, 3) picture, best first: box (x1, y1, x2, y2),
        score, five (x, y), in pixels. confidence: the least score. What is not finite is for the
        caller to refuse.
        """
        weight = self.body.conv1.weight
        height, width = image.shape[:2]
        pixels = torch.from_numpy(np.ascontiguousarray(image)).to(weight.device).float()
        pixels = (pixels - pixels.new_tensor(MEAN)).permute(2, 0, 1)[None]
        boxes, scores, points = (one[0].float().cpu() for one in self(pixels.to(weight.dtype)))
        found = faces_of(boxes, scores, points, (height, width), confidence)
        # a damaged file gives as many as there are anchors, each to be compared with all others
        if not np.isfinite(found).all():
            return found
        return found[_not_again(found)]


def faces_of(
    boxes: Tensor, scores: Tensor, points: Tensor, size: tuple[int, int], confidence: float
) -> np.ndarray:
    """(N, 15) float32 of what the network says of every anchor, best first; see `RetinaFace`. size:
    (H, W) of the picture.
    """
    # NaN is above nothing; what a damaged file gives shall be seen
    keep = (~(scores <= confidence)).nonzero()[:, 0]
    order = keep[scores[keep].argsort(descending=True, stable=True)]
    anchors = torch.from_numpy(anchors_of(*size))[order]
    centres, sizes = anchors[:, :2], anchors[:, 2:]
    told = boxes[order]
    middle = centres + told[:, :2] * CENTRE_VARIANCE * sizes
    half = sizes * torch.exp(told[:, 2:] * SIZE_VARIANCE) / 2
    marks = points[order].unflatten(1, (5, 2)) * CENTRE_VARIANCE * sizes[:, None]
    marks = marks + centres[:, None]
    # (W, H): anchors are shares of the picture
    scale = torch.tensor([size[1], size[0]], dtype=torch.float32)
    columns = [(middle - half) * scale, (middle + half) * scale, scores[order, None]]
    columns.append((marks * scale).flatten(1))
    return torch.cat(columns, dim=1).numpy()


def anchors_of(height: int, width: int) -> np.ndarray:
    """(A, 4) float32: centre x and y, width and height of every anchor, as shares of the
    picture.
    """
    anchors = []
    for stride, sides in zip(STRIDES, ANCHORS, strict=True):
        rows = (np.arange(-(-height // stride)) + 0.5) * stride / height
        columns = (np.arange(-(-width // stride)) + 0.5) * stride / width
        grid = np.empty((len(rows), len(columns), len(sides), 4))
        grid[..., 0], grid[..., 1] = columns[None, :, None], rows[:, None, None]
        grid[..., 2], grid[..., 3] = np.divide(sides, width), np.divide(sides, height)
        anchors.append(grid.reshape(-1, 4))
    return np.concatenate(anchors).astype(np.float32)


def _not_again(faces: np.ndarray) -> list[int]:
    """Places of the faces (N, 15), best first, that no better one covers."""
    kept: list[int] = []
    areas = (faces[:, 2] - faces[:, 0]) * (faces[:, 3] - faces[:, 1])
    left = np.arange(len(faces))
    while len(left):
        best, left = left[0], left[1:]
        kept.append(int(best))
        corner = np.maximum(faces[best, :2], faces[left, :2])
        sides = np.minimum(faces[best, 2:4], faces[left, 2:4]) - corner
        shared = np.maximum(sides, 0).prod(axis=1)
        left = left[~(shared / (areas[best] + areas[left] - shared) > SAME_FACE)]
    return kept


def load_retinaface(path: Path, device: str = "cpu") -> RetinaFace:
    """The detector of a file, float32. Raises WeightsError if the file does not fit exactly."""
    with without_init():
        model = RetinaFace()
    names = [name for name, module in model.named_modules() if isinstance(module, Convolution)]
    pairs = norm_pairs(NORMS, names)
    load_strictly(model, fold_norms(read_tensors(path), pairs, path, WHAT), path, WHAT)
    return model.to(memory_format=torch.channels_last).to(device)
