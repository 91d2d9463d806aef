"""What ControlNets predict of a step, added to Flux's image tokens after its blocks.

By forward hooks, as the identity is; they fire after the identity's, so in a block where both are
added the identity reads the block's own output, and both are added to it. The next layers see the
sum. diffusers adds the same in the model's forward, after the block and so after its hooks.

Shapes: B pictures, L tokens of the picture, T text tokens, D width.

Source: huggingface/diffusers 0.42.1 transformer_flux.py (which residual follows which block).
"""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pulid_generate.request.conditions.control_picture import in_share


@dataclass(frozen=True, eq=False)
class Control:
    """One ControlNet with its picture, for one drawing."""

    # diffusers' FluxControlNetModel
    model: Any
    # Its picture: tokens (1, L, 64) of the autoencoder, or pixels (1, 3, H, W) from -1 to 1 for a
    # model that reads those
    picture: Tensor
    strength: float
    # Of a union
    mode: int | None = None
    # Shares of the steps
    start: float = 0.0
    end: float = 1.0

    def active(self, step: int, steps: int) -> bool:
        """Whether it is seen at a step, from 0."""
        return in_share(step, steps, self.start, self.end)

    def predict(self, **inputs: Any) -> Residuals:
        """Of a step. inputs: as of Flux, for the picture's tokens alone."""
        if not self.model.config.guidance_embeds:
            inputs["guidance"] = None
        mode = None
        if self.mode is not None:
            mode = torch.tensor([[self.mode]], device=self.picture.device)
        double, single = self.model(
            controlnet_cond=self.picture,
            controlnet_mode=mode,
            conditioning_scale=self.strength,
            return_dict=False,
            **inputs,
        )
        repeats = self.model.input_hint_block is not None
        return Residuals(double or (), single or (), repeats)


@dataclass(frozen=True, eq=False)
class Residuals:
    """Of one ControlNet: (B, L, D) each."""

    double: Sequence[Tensor]
    single: Sequence[Tensor]
    # Whether the double blocks' start over when they are through, as XLabs' do; others spread
    repeats: bool

    def after(self, index: int, blocks: int, *, double: bool) -> Tensor | None:
        """What follows a block, by its number among so many of its kind."""
        samples = self.double if double else self.single
        if not samples:
            return None
        if double and self.repeats:
            return samples[index % len(samples)]
        return samples[index // math.ceil(blocks / len(samples))]


@dataclass
class Added:
    """The live state of the hooks."""

    residuals: list[Residuals] = field(default_factory=list)

    def add(self, img: Tensor, index: int, blocks: int, *, double: bool) -> Tensor:
        """Image tokens (B, L + R, D) after a block; R of references stay as they are."""
        for residuals in self.residuals:
            sample = residuals.after(index, blocks, double=double)
            if sample is None:
                continue
            length = sample.shape[1]
            if length == img.shape[1]:
                img = img + sample
            else:
                img = torch.cat([img[:, :length] + sample, img[:, length:]], dim=1)
        return img


@contextlib.contextmanager
def attach_controls(transformer: Any) -> Iterator[Added]:
    """Attach idle hooks to a Flux transformer, behind those that are there. On leaving, the model
    is as it was.
    """
    added = Added()

    def hook_for(index: int, blocks: int, double: bool) -> Any:
        def hook(_block, _arguments, output):
            if not added.residuals:
                return None
            txt, img = output
            return txt, added.add(img, index, blocks, double=double)

        return torch.compiler.disable(hook) if "torch._dynamo" in sys.modules else hook

    with contextlib.ExitStack() as stack:
        for blocks, double in (
            (transformer.transformer_blocks, True),
            (transformer.single_transformer_blocks, False),
        ):
            for index, block in enumerate(blocks):
                hook = hook_for(index, len(blocks), double)
                stack.callback(block.register_forward_hook(hook).remove)
        yield added
