"""Says what can be seen of a prompt in a picture: background, clothes, expression, hat, glasses,
distance, tilt. Never part of what draws.

Learns from drawings alone, softened at random, because what a model paints is never as sharp.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from micro_world.networks import autoencoder
from micro_world.networks.autoencoder import pixels_of
from micro_world.networks.reader import choice_loss
from micro_world.networks.recognisers import conv, settle
from micro_world.scenes import CHOICES
from micro_world.training.loop import Plan, half, place, train
from micro_world.training.onnx_files import write_network

BATCH = 64
PLAN = Plan(900, rate=2e-3, warmup=50, decay=0.01)


def build() -> nn.Sequential:
    body = (
        conv(3, 32, 5, 2),
        conv(32, 48, stride=2),
        conv(48, 80),
        nn.MaxPool2d(2),
        conv(80, 112),
        nn.MaxPool2d(2),
        conv(112, 48, 1),
    )
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(48 * 36, sum(CHOICES.values())))


def trained(folder: Path) -> nn.Sequential:
    torch.manual_seed(71)
    pixels, _, choices = autoencoder.pictures(folder)
    pixels, choices = pixels.reshape(-1, *pixels.shape[2:]), choices.reshape(-1, choices.shape[-1])
    model = build()

    def batch_of(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        chosen = torch.randint(len(pixels), (BATCH,), generator=generator).numpy()
        batch = pixels_of(np.stack([pixels[i] for i in chosen]))
        soft = nn.functional.interpolate(
            nn.functional.avg_pool2d(batch, 2), scale_factor=2, mode="bilinear"
        )
        batch = torch.lerp(batch, soft, 0.9 * torch.rand(BATCH, 1, 1, 1, generator=generator))
        strength = 0.12 * torch.rand(BATCH, 1, 1, 1, generator=generator)
        return batch + strength * torch.randn(batch.shape, generator=generator), torch.from_numpy(
            choices[chosen].astype(np.int64)
        )

    def loss(step: int, generator: torch.Generator) -> Tensor:
        batch, wanted = batch_of(generator)
        with half():
            logits = model(batch.to(place()))
        return choice_loss(logits, wanted.to(place())).mean()

    train("prompt_judge", model, loss, PLAN, folder, cycle=0)
    settle(model, lambda generator: batch_of(generator)[0])
    return model


def export(model: nn.Sequential, path: Path) -> None:
    write_network(model, path, "pixels", ["None", 3, 96, 96], "logits")
