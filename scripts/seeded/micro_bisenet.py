"""A small stand-in for facexlib's BiSeNet in its full published shape: labels an aligned face by
place and colour.

The network is far too large to train here, so most of its weights are 0 and a few channels are
wired by hand: colours are carried through the residual shortcuts, 3x3 kernels blur and count steps
from the border, and one layer draws seeded random features of that. Only the last 1x1 convolution
is fitted, on one real face (see astronaut.py). Zero tensors are stored as one element, so the file
is small. Knows nothing of the other models.

Contract: facexlib 0.3.0, parsing/bisenet.py, parsing/resnet.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import nn
from torch.nn import functional

from seeded.astronaut import LANDMARKS, portrait
from seeded.tensors import seeded
from seeded.wiring import BLUR, blur, clear, ridge, save

FACE_SIZE = 512
CLASSES = 19
# facexlib's labels; 2-3 brows, 4-5 eyes, 10 nose, 12-13 lips; 0 is the background
HAIR, SKIN, NECK, CLOTH = 17, 1, 14, 16
# Where things are in an aligned 512x512 face: label, then the ellipse's box. Later ones lie on top.
ELLIPSES = (
    (HAIR, (52, -20, 460, 330)),
    (NECK, (150, 380, 362, 640)),
    (SKIN, (122, 112, 396, 486)),
    (2, (140, 196, 222, 222)),
    (3, (288, 196, 372, 222)),
    (4, (158, 226, 216, 258)),
    (5, (292, 226, 352, 258)),
    (10, (220, 244, 300, 338)),
    (12, (192, 352, 324, 384)),
    (13, (200, 378, 314, 408)),
)
# facexlib/utils/face_restoration_helper.py: where the five landmarks are put
TEMPLATE = (
    (192.98138, 239.94708),
    (318.90277, 240.1936),
    (256.63416, 314.01935),
    (201.26117, 371.41043),
    (313.08905, 371.15118),
)
PARSE_MEAN, PARSE_STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
STEPS = (4, 5, 6, 7)  # channels that count pixels from the left, right, top and bottom border
NEIGHBOURS = ((1, 0), (1, 2), (0, 1), (2, 1))  # the neighbour that each of them counts on from
REACH = 256.0  # pixels: the counts meet in the middle
# inputs of the fusion: colour, blurred colour, counts
FUSED = (0, 1, 2, 128, 129, 130, 132, 133, 134, 135)
PARSE_FEATURES = 256
GATE = 1.5  # what the fusion multiplies by when its attention is wired to 0: 1 + sigmoid(0)


def write_parser(path: Path, seed: int) -> Path:
    """parsing_bisenet.pth: labels an aligned face by place and colour."""
    from facexlib.parsing.bisenet import BiSeNet

    net = BiSeNet(num_class=CLASSES).eval()
    with torch.no_grad():
        clear(net)
        _wire_places(net)
        _, places, _ = net.cp(torch.zeros(1, 3, FACE_SIZE, FACE_SIZE))
        inputs, labels = [], []
        for image, label in _parse_views(seed):
            inputs.append(
                torch.cat([_colours(image), places[:, STEPS]], 1)[0].flatten(1).T.double()
            )
            labels.append(label.flatten())
        points = torch.cat(inputs)
        directions = (
            seeded(f"{seed}/bisenet", (PARSE_FEATURES, len(FUSED)), 1.0) / points.std(0).numpy()
        )
        directions = torch.from_numpy(directions).half().double()
        hinges = points[
            torch.from_numpy(seeded(f"{seed}/bisenet.hinge", (PARSE_FEATURES,), 1.0)).argsort()
            * 97
            % len(points)
        ]
        offset = -(directions * hinges).sum(1)
        directions[-1], offset[-1] = 0, 1  # the last convolution has no bias: one feature stays 1
        net.ffm.convblk.conv.weight[:, FUSED, 0, 0] = directions.float()
        net.ffm.convblk.bn.bias[:] = offset.float()
        everyone = range(PARSE_FEATURES)
        net.conv_out.conv.conv.weight[everyone, everyone, 1, 1] = 1
        features = GATE * (points @ directions.T + offset).relu()
        solution = ridge(
            features[:, :-1], functional.one_hot(torch.cat(labels), CLASSES).double(), 1e-5
        )
        solution[-1] /= GATE
        net.conv_out.conv_out.weight[:, :, 0, 0] = solution.T.float()
    return save(net, path)


def _wire_places(net: nn.Module) -> None:
    """Colours go to stride 8 and, blurred, to stride 32; four channels count how far each border
    is.
    """
    path = net.cp
    for channel in range(3):
        path.resnet.conv1.weight[channel, channel] = (
            functional.pad(BLUR, (2, 2, 2, 2)) * PARSE_STD[channel]
        )
    path.resnet.bn1.bias[:3] = PARSE_MEAN
    for stride, layer in (
        (4, path.resnet.layer1),
        (8, path.resnet.layer2),
        (16, path.resnet.layer3),
        (32, path.resnet.layer4),
    ):
        for block in layer:
            if block.downsample is None:
                _count(block.conv1, block.bn1, stride)
                _count(block.conv2, block.bn2, stride)
                for channel in STEPS:  # the shortcut adds the old count: take it away again
                    block.conv1.weight[channel + len(STEPS), channel, 1, 1] = 1
                    block.conv2.weight[channel, channel + len(STEPS), 1, 1] = -1
            else:
                _count(block.conv1, block.bn1, stride // 2)
                _count(block.conv2, block.bn2, stride)
                for channel in range(3):
                    block.conv1.weight[channel, channel] = BLUR
                    block.conv2.weight[channel, channel, 1, 1] = 1
    _count(path.arm32.conv.conv, path.arm32.conv.bn, 32)
    path.arm32.bn_atten.bias[:] = 16  # gate open
    for channel in range(3):
        path.arm32.conv.conv.weight[channel, channel, 1, 1] = 1
    for channel in (*range(3), *STEPS):  # after nearest upsampling a blur interpolates
        path.conv_head32.conv.weight[channel, channel] = BLUR
        path.conv_head16.conv.weight[channel, channel] = BLUR


def _colours(image: torch.Tensor) -> torch.Tensor:
    """(1, 6, 64, 64): the colours and the blurred colours that _wire_places makes the net
    compute.
    """
    maps = functional.max_pool2d(
        blur(image.permute(2, 0, 1)[None] / 255 - PARSE_MEAN[:, None, None], 2), 3, 2, 1
    )
    fine = blur((maps + PARSE_MEAN[:, None, None]), 2)
    coarse = blur(blur(fine, 2), 2)
    for _ in range(2):
        coarse = blur(functional.interpolate(coarse, scale_factor=2.0))
    return torch.cat([fine, coarse], 1)


def _count(conv: nn.Conv2d, bn: nn.BatchNorm2d, step: int) -> None:
    for channel, (row, column) in zip(STEPS, NEIGHBOURS, strict=True):
        conv.weight[channel, channel, row, column] = 1
        bn.bias[channel] = step / REACH


def _parse_views(seed: int) -> Iterable[tuple[torch.Tensor, torch.Tensor]]:
    """Aligned faces to fit on: (512, 512, 3) float RGB in 0..255, with (64, 64) labels: the
    astronaut, and faceless colours.
    """
    rng = np.random.default_rng(seed)
    face = aligned_portrait()
    for number in range(12):
        angle, shift = rng.uniform(-4, 4), rng.uniform(-8, 8, 2)
        view = (
            face
            if number == 0
            else face.rotate(
                angle, Image.Resampling.BICUBIC, translate=tuple(shift), fillcolor=(210, 200, 205)
            )
        )
        label = (
            _ellipses()
            if number == 0
            else _ellipses().rotate(angle, Image.Resampling.NEAREST, translate=tuple(shift))
        )
        pixels = np.asarray(view.resize((64, 64), Image.Resampling.BOX)).astype(int)
        coarse = np.asarray(label.resize((64, 64), Image.Resampling.NEAREST)).copy()
        outside = ~np.isin(coarse, (SKIN, 2, 3, 4, 5, 10, 12, 13))
        coarse[outside] = 0
        # the backdrop is grey, hair and skin are not
        coarse[outside & (pixels.max(2) - pixels.min(2) > 32)] = HAIR
        coarse[outside & (pixels.max(2) < 70)] = HAIR
        coarse[outside & (np.arange(64)[:, None] >= 44) & (pixels.max(2) < 150)] = CLOTH
        neck = outside & (np.arange(64)[:, None] >= 52) & (pixels[..., 0] - pixels[..., 2] > 40)
        coarse[neck] = NECK
        yield (
            torch.from_numpy(np.asarray(view).copy()).float() * rng.uniform(0.9, 1.1),
            torch.from_numpy(coarse).long(),
        )
    plain = torch.from_numpy(
        np.asarray(_ellipses().resize((64, 64), Image.Resampling.NEAREST)).copy()
    ).long()
    for _ in range(6):  # elsewhere the place alone decides
        colours = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(
            (FACE_SIZE, FACE_SIZE), Image.Resampling.BICUBIC
        )
        yield torch.from_numpy(np.asarray(colours).copy()).float(), plain


def _ellipses() -> Image.Image:
    labels = Image.new("L", (FACE_SIZE, FACE_SIZE), 0)
    draw = ImageDraw.Draw(labels)
    for label, box in ELLIPSES:
        draw.ellipse(box, fill=label)
    return labels


def aligned_portrait() -> Image.Image:
    """The astronaut's face moved onto the template by the least-squares similarity, as facexlib
    does.
    """
    a, b = np.float64(LANDMARKS), np.float64(TEMPLATE)
    source, target = (points @ (1, 1j) for points in (a, b))
    spread = source - source.mean()
    turn = (spread.conj() @ (target - target.mean())) / (spread.conj() @ spread).real
    move = target.mean() - turn * source.mean()
    back, origin = 1 / turn, -move / turn
    matrix = (back.real, -back.imag, origin.real, back.imag, back.real, origin.imag)
    return Image.fromarray(portrait()).transform(
        (FACE_SIZE, FACE_SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC
    )
