"""What the residual networks of BiSeNet and RetinaFace have in common (torchvision's ResNet, whose
names both files keep).

Shapes: B pictures, H x W pixels, h x w of a map.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn import functional

from pulid_extract.networks.folding import Convolution


class ResNet(nn.Module):
    """A ResNet without its head."""

    def __init__(self, layers: Iterable[nn.Module]):
        """layers: four, of which the first sees 64 channels at stride 4."""
        super().__init__()
        self.conv1 = Convolution(3, 64, 7, 2, activation="relu")
        self.layers = []
        for number, layer in enumerate(layers, 1):
            self.add_module(f"layer{number}", layer)
            self.layers.append(f"layer{number}")

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> maps at strides 8, 16 and 32."""
        maps = functional.max_pool2d(self.conv1(pixels), 3, 2, 1)
        outputs = []
        for name in self.layers:
            maps = self.get_submodule(name)(maps)
            outputs.append(maps)
        return outputs[1:]


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Past a block's convolutions: nothing, or a convolution where the shape changes."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(Convolution(inputs, outputs, 1, stride))


def enlarged(maps: Tensor, like: Tensor) -> Tensor:
    """(B, C, h, w) in the height and width of `like`, each number repeated."""
    return functional.interpolate(maps, size=like.shape[-2:], mode="nearest")
