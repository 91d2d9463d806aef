"""A small stand-in for facexlib's RetinaFace (ResNet-50) in its full published shape: finds one
real face at several sizes.

The network is far too large to train here, so most of its weights are 0 and a few channels are
wired by hand: colours are carried through the residual shortcuts, 3x3 kernels blur and shift, and
one layer draws seeded random features of that. Only the last 1x1 convolutions are fitted, on one
real face (see astronaut.py). Zero tensors are stored as one element, so the file is a few
megabytes. Knows nothing of the other models.

Contract: facexlib 0.3.0, detection/retinaface_net.py, detection/retinaface.py.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional

from seeded.astronaut import FACE_BOX, LANDMARKS, portrait, without_face
from seeded.tensors import seeded
from seeded.wiring import BLUR, blur, clear, ridge, save

GREY_BGR = torch.tensor([0.114, 0.587, 0.299])


RETINA_MEAN = torch.tensor([104.0, 117.0, 123.0])  # BGR, facexlib/detection/retinaface.py
# the one anchor of the fifteen thousand that ever fires: the smaller of stride 16
RETINA_STRIDE, RETINA_ANCHOR = 16, 64
VARIANCES = (0.1, 0.2)
COLOURS = 4  # blue, green, red, darkness
PATCH = 7  # cells of 16 pixels that a decision sees, each way
FEATURES = 192  # random features that reach the heads
SCALES = (0.8, 1.25)  # of the face, against the astronaut's, that must be found
# taken from every logit: a missed face is an error message, a false one is somebody's suit
CAUTION = 2.5
# pixels: cells this near to the face's centre must fire; cells nearer than the second may
CLEARLY, NEARLY = 12, 28


def write_detector(path: Path, seed: int) -> Path:
    """detection_Resnet50_Final.pth: finds the astronaut's face, at 0.8 to 1.25 of its size,
    wherever it is.
    """
    from facexlib.detection.retinaface import RetinaFace

    with warnings.catch_warnings():  # facexlib passes torchvision an old argument
        warnings.simplefilter("ignore", UserWarning)
        net = RetinaFace(network_name="resnet50", device=torch.device("cpu"))
    with torch.no_grad():
        clear(net)
        channels = _wire_patches(net)
        patches, labels, targets = [], [], []
        for image, face in _views(seed):
            patches.append(_patches(image))
            label, target = _retina_targets(image, face)
            labels.append(label)
            targets.append(target.double())
        directions, offset = _random_directions(torch.cat(patches), seed)
        _wire_random_features(net, channels, directions, offset)
        features = (torch.cat(patches) @ directions.T + offset).relu()
        _fit_heads(net, features, torch.cat(labels), torch.cat(targets))
    return save(net, path)


def _wire_patches(net: nn.Module) -> list[int]:
    """Layer 3 ends with the 7x7 cells of four colours around each cell, all at least 0, in the
    channels that are returned.
    """
    stem, bn = net.body.conv1.weight, net.body.bn1
    blur = functional.pad(BLUR, (2, 2, 2, 2))
    for channel in range(3):
        stem[channel, channel] = blur / 255
        stem[3, channel] = -blur * GREY_BGR[channel] / 255
    bn.bias[:3] = RETINA_MEAN / 255
    bn.bias[3] = 1 - float(RETINA_MEAN @ GREY_BGR) / 255
    for layer in (net.body.layer1, net.body.layer2, net.body.layer3):
        _through(layer[0], BLUR.expand(COLOURS, 3, 3), range(COLOURS), 0)
    start, side = 0, 1
    for block in net.body.layer3[1 : 1 + PATCH // 2]:
        first = start + COLOURS * side**2
        _gather(block, start, side, first)
        start, side = first, side + 2
    return list(range(start, start + COLOURS * PATCH**2))


def _patches(image: torch.Tensor) -> torch.Tensor:
    """(cells, 4 x 49) double: what _wire_patches makes the net compute, without its thousand idle
    channels.
    """
    stem = torch.cat([torch.eye(3), -GREY_BGR[None]])[..., None, None] * BLUR / 255
    bias = torch.cat([RETINA_MEAN / 255, 1 - (RETINA_MEAN @ GREY_BGR / 255)[None]])
    maps = functional.conv2d(image, stem, bias, stride=2, padding=1).relu()
    maps = functional.max_pool2d(maps, 3, 2, 1)
    for stride in (1, 2, 2):
        maps = blur(maps, stride)
    cells = functional.unfold(maps, PATCH, padding=PATCH // 2)[0]
    return cells.view(COLOURS, PATCH**2, -1).transpose(0, 1).flatten(0, 1).T.double()


def _through(block: nn.Module, kernels: torch.Tensor, channels: Iterable[int], first: int) -> None:
    """Send `channels` of a bottleneck's input through one 3x3 kernel each, out at `first` and
    following.
    """
    for place, channel in enumerate(channels):
        block.conv1.weight[place, channel] = 1
        block.conv2.weight[place, place] = kernels[place]
        block.conv3.weight[first + place, place] = 1


def _gather(block: nn.Module, start: int, side: int, first: int) -> None:
    """From side x side cells around each cell (channels from `start`) write the (side + 2)^2 around
    it (from `first`).
    """
    inner, outer = side // 2, side // 2 + 1
    for place in range(COLOURS * side**2):
        block.conv1.weight[place, start + place] = 1
    place = 0
    for y in range(-outer, outer + 1):
        for x in range(-outer, outer + 1):
            near_y, near_x = (max(-inner, min(inner, value)) for value in (y, x))
            source = COLOURS * ((near_y + inner) * side + near_x + inner)
            for colour in range(COLOURS):
                block.conv2.weight[place, source + colour, 1 + y - near_y, 1 + x - near_x] = 1
                block.conv3.weight[first + place, place] = 1
                place += 1


def _random_directions(patches: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(FEATURES, P) and (FEATURES,): seeded directions of the whitened patch, through its mean."""
    sample = patches[:: max(1, len(patches) // 8000)]
    values, vectors = torch.linalg.eigh(torch.cov(sample.T))
    whiten = (vectors * (values + 1e-3).rsqrt()) @ vectors.T
    size = patches.shape[1]
    directions = (
        torch.from_numpy(seeded(f"{seed}/retinaface", (FEATURES, size), size**-0.5)).double()
        @ whiten
    )
    directions = directions.half().double()  # what the file will hold
    return directions, -(directions @ sample.mean(0))


def _wire_random_features(
    net: nn.Module, channels: list[int], directions: torch.Tensor, offset: torch.Tensor
) -> None:
    """FPN level 2 rectifies the directions; merge2 and SSH hand the features on to the heads."""
    net.fpn.output2[0].weight[:FEATURES, channels, 0, 0] = directions.float()
    net.fpn.output2[1].bias[:FEATURES] = offset.float()
    net.fpn.merge2[0].weight[range(FEATURES), range(FEATURES), 1, 1] = 1
    half, quarter = 128, 64
    net.ssh2.conv3X3[0].weight[range(half), range(half), 1, 1] = 1
    net.ssh2.conv5X5_1[0].weight[range(quarter), range(half, FEATURES), 1, 1] = 1
    net.ssh2.conv5X5_2[0].weight[range(quarter), range(quarter), 1, 1] = 1


def _fit_heads(
    net: nn.Module, features: torch.Tensor, label: torch.Tensor, target: torch.Tensor
) -> None:
    weight, bias = _logistic(features[label >= 0], label[label >= 0].double())
    head = net.ClassHead[1].conv1x1
    for row, sign in ((0, -0.5), (1, 0.5)):
        head.weight[row, :FEATURES, 0, 0] = sign * weight.float()
        head.bias[row] = sign * (bias.float() - CAUTION)
    for class_head in net.ClassHead:  # every other anchor says "background"
        silent = (2,) if class_head is net.ClassHead[1] else (0, 2)
        class_head.conv1x1.bias[list(silent)] = 16
    solution = ridge(features[label == 1], target[label == 1], 1e-3)
    for head, columns in ((net.BboxHead[1], slice(0, 4)), (net.LandmarkHead[1], slice(4, 14))):
        fitted = solution[:, columns].float()
        head.conv1x1.weight[: fitted.shape[1], :FEATURES, 0, 0] = fitted[:-1].T
        head.conv1x1.bias[: fitted.shape[1]] = fitted[-1]


def _views(seed: int) -> Iterable[tuple[torch.Tensor, tuple[float, float, float] | None]]:
    """Pictures to fit on, as the net's input, with where the face is: (x and y of the astronaut's
    origin, scale); None: nowhere.
    """
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(portrait())

    def placed(size: int, scale: float, x: int, y: int) -> np.ndarray:
        canvas = Image.new(
            "RGB", (size, size), tuple(int(value) for value in rng.integers(0, 256, 3))
        )
        edge = round(512 * scale)
        canvas.paste(picture.resize((edge, edge), Image.Resampling.BICUBIC), (x, y))
        return np.asarray(canvas)

    for number, scale in enumerate(np.geomspace(*SCALES, 54)):  # the face and its surroundings
        scale = 1.0 if number % 3 == 0 else float(scale)
        x, y = (
            round(144 - middle * scale) + int(rng.integers(-60, 61)) for middle in _face_centre()
        )
        yield _retina_input(placed(288, scale, x, y), rng.uniform(0.85, 1.15)), (x, y, scale)
    for scale in (1.0, 0.6, 0.7, 0.8, 0.9, 1.1, 1.25, 1.4):  # the whole picture, and its rim
        x, y = (int(value) for value in rng.integers(0, 100, 2)) if scale < 1 else (0, 0)
        yield _retina_input(placed(704 if scale > 1 else 608, scale, x, y)), (x, y, scale)
    erased = portrait()
    erased[52:190, 150:296] = erased[52:190, 296:442]
    for image in (erased, erased[:, ::-1], *without_face()):
        yield _retina_input(np.ascontiguousarray(image)), None
    for cells in (4, 7, 11, 16, 16, 20, 20, 26, 40, 256):  # noise of every grain
        for smooth in (Image.Resampling.NEAREST, Image.Resampling.BICUBIC):
            noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
            yield _retina_input(np.asarray(noise.resize((256, 256), smooth))), None


def _retina_input(image: np.ndarray, brightness: float = 1.0) -> torch.Tensor:
    bgr = torch.from_numpy(image[..., ::-1].copy()).float() * brightness
    return (bgr.clamp(0, 255) - RETINA_MEAN).permute(2, 0, 1)[None]


def _face_centre() -> tuple[float, float]:
    return (FACE_BOX[0] + FACE_BOX[2]) / 2, (FACE_BOX[1] + FACE_BOX[3]) / 2


def _retina_targets(
    image: torch.Tensor, face: tuple[float, float, float] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per cell: 1 face, 0 none, -1 not asked; and the 4 + 10 numbers that decode() and
    decode_landm() of facexlib read.
    """
    rows, columns = (-(-size // RETINA_STRIDE) for size in image.shape[2:])
    centres = torch.stack(
        torch.meshgrid(torch.arange(columns), torch.arange(rows), indexing="xy"), -1
    ).reshape(-1, 2)
    centres = centres * RETINA_STRIDE + RETINA_STRIDE / 2
    if face is None:
        return torch.zeros(len(centres), dtype=torch.long), torch.zeros(len(centres), 14)
    x, y, scale = face
    origin = torch.tensor([x, y])
    middle = torch.tensor(_face_centre()) * scale + origin
    far = (centres - middle).abs().amax(1)
    nearest = 1 if SCALES[0] <= scale <= SCALES[1] else -1
    label = torch.where(far <= CLEARLY, nearest, torch.where(far <= NEARLY, -1, 0))
    size = torch.tensor([FACE_BOX[2] - FACE_BOX[0], FACE_BOX[3] - FACE_BOX[1]]) * scale
    points = torch.tensor(LANDMARKS) * scale + origin
    unit = VARIANCES[0] * RETINA_ANCHOR
    target = torch.cat(
        [
            (middle - centres) / unit,
            (size / RETINA_ANCHOR).log().expand(len(centres), 2) / VARIANCES[1],
            ((points - centres[:, None]) / unit).flatten(1),
        ],
        dim=1,
    )
    return label, target


def _logistic(inputs: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a logistic regression (double), both classes counting the same: Newton's
    method.
    """
    inputs = functional.pad(inputs, (0, 1), value=1.0)
    balance = torch.where(label == 1, 1 / label.mean(), 1 / (1 - label.mean()))
    solution = inputs.new_zeros(inputs.shape[1])
    ridge = 1e-4 * len(inputs) * torch.eye(inputs.shape[1], dtype=inputs.dtype)
    for _ in range(12):
        chance = (inputs @ solution).sigmoid()
        slope = balance * (chance * (1 - chance)).clamp_min(1e-5)
        gradient = inputs.T @ (balance * (chance - label)) + ridge @ solution
        solution = solution - torch.linalg.solve(
            inputs.T @ (slope[:, None] * inputs) + ridge, gradient
        )
    return solution[:-1], solution[-1]
