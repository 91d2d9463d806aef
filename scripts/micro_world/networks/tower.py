"""The small world's EVA tower, as the loader builds it, 20 blocks for PuLID's five taps. Learns who
somebody is from a grey view.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from micro_world.dataset import VIEW_SIDE, made, references
from micro_world.networks import autoencoder
from micro_world.networks.recognisers import contrast
from micro_world.training.loop import Plan, half, place, train
from pulid_extract.networks.eva_clip import MEAN, STD
from pulid_extract.networks.eva_tower import EvaTower

WIDTH, DEPTH, PATCH, HIDDEN, POOLED = 128, 20, 14, 256, 128
REFERENCES = 2  # portraits of each person
PEOPLE_AT_ONCE = 32
PLAN = Plan(350, rate=1e-3, warmup=100, decay=0.02)


def build() -> EvaTower:
    """Untrained; numbers to start from as timm's Eva has them."""
    model = EvaTower(VIEW_SIDE, PATCH, WIDTH, DEPTH, HIDDEN, POOLED)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for parameter in (model.pos_embed, model.cls_token):
            nn.init.trunc_normal_(parameter, std=0.02)
        for number, block in enumerate(model.blocks, 1):
            block.attn.proj.weight /= (2 * number) ** 0.5
            block.mlp.fc2.weight /= (2 * number) ** 0.5
        model.head.weight *= 0.001
    return model


def portraits(folder: Path) -> list[np.ndarray]:
    """crops (P, 2, 112, 112, 3), views (P, 2, 112, 112), attributes (P, A)."""
    return made(folder, "references", autoencoder.PEOPLE, partial(references, count=REFERENCES))


def pixels_of(views: np.ndarray) -> Tensor:
    """(N, 112, 112) uint8 grey -> (N, 3, 112, 112) as `eva_clip.preprocess` gives them."""
    grey = torch.from_numpy(np.ascontiguousarray(views)).float()[:, None] / 255
    return (grey - torch.tensor(MEAN).view(1, 3, 1, 1)) / torch.tensor(STD).view(1, 3, 1, 1)


def trained(folder: Path) -> Any:
    torch.manual_seed(41)
    _, views, attributes = portraits(folder)
    wanted = torch.from_numpy(attributes.copy())
    model = nn.ModuleDict({"tower": build(), "head": nn.Linear(POOLED, wanted.shape[1])})

    def loss(step: int, generator: torch.Generator) -> Tensor:
        people = torch.randperm(len(views), generator=generator)[:PEOPLE_AT_ONCE]
        batch = pixels_of(
            np.concatenate([views[people.numpy(), side] for side in range(REFERENCES)])
        )
        with half():
            normed, _ = model["tower"](batch.to(place()))
            pooled = model["tower"].pool(normed).float()
        told = nn.functional.mse_loss(
            model["head"](pooled), wanted[people].repeat(REFERENCES, 1).to(place())
        )
        return told + 0.1 * contrast(*pooled.chunk(2))

    return train("tower", model, loss, PLAN, folder, cycle=0)["tower"]
