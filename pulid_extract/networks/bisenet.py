"""BiSeNet on a ResNet-18: which part of a face every pixel is. What facexlib's parser computes,
with its batch norms taken into its convolutions, and without the two outputs that only teach.

Attributes are names of the file, parsing_bisenet.pth. It stands here as retinaface.py does. Knows
nothing of what the labels mean.

Sources: facexlib 0.3.0, parsing/bisenet.py, parsing/resnet.py; Yu et al., BiSeNet (arXiv
1808.00897).
Shapes: B batch, H, W of the picture.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from pulid_extract.networks.checkpoint import load_strictly, read_tensors, without_init
from pulid_extract.networks.folding import Convolution, fold_norms, norm_pairs
from pulid_extract.networks.resnet import ResNet, enlarged, shortcut

WHAT = "facexlib's BiSeNet"
CLASSES = 19
# width and stride of ResNet-18's four layers, of two blocks each
LAYERS = ((64, 1), (128, 2), (256, 2), (512, 2))
# last part of a convolution's name -> of its norm's; in nn.Sequential both are numbers
NORMS = {
    "conv": "bn",
    "conv1": "bn1",
    "conv2": "bn2",
    "conv_atten": "bn_atten",
    "0": "1",
}
# outputs of the file that only teach
FOR_TRAINING = ("conv_out16.", "conv_out32.")


class Block(nn.Module):
    """Two convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = Convolution(inputs, outputs, 3, stride, activation="relu")
        self.conv2 = Convolution(outputs, outputs, 3)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride)."""
        output = self.conv2(self.conv1(maps))
        return functional.relu_(output.add_(self.downsample(maps)))


def _resnet18() -> ResNet:
    layers, inputs = [], 64
    for width, stride in LAYERS:
        layers.append(nn.Sequential(Block(inputs, width, stride), Block(width, width, 1)))
        inputs = width
    return ResNet(layers)


class Step(nn.Module):
    """A convolution, as the file nests it."""

    def __init__(self, inputs: int, outputs: int, side: int):
        super().__init__()
        self.conv = Convolution(inputs, outputs, side, activation="relu")

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w), at least 0."""
        return self.conv(maps)


class Refinement(nn.Module):
    """A map whose channels are weighed by what the whole of it shows."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = Step(inputs, outputs, 3)
        self.conv_atten = Convolution(outputs, outputs, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, inputs, h, w) -> (B, outputs, h, w)."""
        maps = self.conv(maps)
        return maps * self.conv_atten(_mean(maps)).sigmoid()


class ContextPath(nn.Module):
    """What the face shows, at strides 8."""

    def __init__(self) -> None:
        super().__init__()
        self.resnet = _resnet18()
        self.arm16, self.arm32 = Refinement(256, 128), Refinement(512, 128)
        self.conv_head32, self.conv_head16 = Step(128, 128, 3), Step(128, 128, 3)
        self.conv_avg = Step(512, 128, 1)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, H, W) -> (B, 128, H / 8, W / 8) twice: fine, and with its surroundings."""
        fine, middle, coarse = self.resnet(pixels)
        # of one pixel: the same everywhere
        surroundings = self.arm32(coarse) + self.conv_avg(_mean(coarse))
        surroundings = self.conv_head32(enlarged(surroundings, middle))
        surroundings = self.arm16(middle) + surroundings
        return fine, self.conv_head16(enlarged(surroundings, fine))


class Fusion(nn.Module):
    """Both maps joined, and weighed by what the whole of them shows."""

    def __init__(self) -> None:
        super().__init__()
        self.convblk = Step(256, 256, 1)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, fine: Tensor, surroundings: Tensor) -> Tensor:
        """(B, 128, h, w) twice -> (B, 256, h, w)."""
        maps = self.convblk(torch.cat([fine, surroundings], dim=1))
        weights = self.conv2(functional.relu(self.conv1(_mean(maps)))).sigmoid()
        return maps * weights + maps


class Output(nn.Module):
    """Scores of every class."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = Step(256, 256, 3)
        self.conv_out = nn.Conv2d(256, CLASSES, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """(B, 256, h, w) -> (B, 19, h, w)."""
        return self.conv_out(self.conv(maps))


class BiSeNet(nn.Module):
    """The network."""

    def __init__(self) -> None:
        super().__init__()
        self.cp = ContextPath()
        self.ffm = Fusion()
        self.conv_out = Output()

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: (B, 3, H, W) float32 RGB, normalised as for ImageNet. Returns the scores (B, 19,
        H, W).
        """
        scores = self.conv_out(self.ffm(*self.cp(pixels)))
        return functional.interpolate(
            scores, pixels.shape[-2:], mode="bilinear", align_corners=True
        )


def _mean(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, C, 1, 1)."""
    return functional.avg_pool2d(maps, maps.shape[-2:])


def load_bisenet(path: Path, device: str = "cpu") -> BiSeNet:
    """The parser of a file, float32. Raises WeightsError if the file does not fit exactly."""
    with without_init():
        model = BiSeNet()
    names = [name for name, module in model.named_modules() if isinstance(module, Convolution)]
    tensors = read_tensors(path, lambda name: not name.startswith(FOR_TRAINING))
    folded = fold_norms(tensors, norm_pairs(NORMS, names), path, WHAT)
    load_strictly(model, folded, path, WHAT)
    return model.to(memory_format=torch.channels_last).to(device)
