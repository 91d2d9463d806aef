"""Two networks that tell people apart: antelopev2's place is taken by `GLINT`; `JUDGE`, of other
shape, seed and people, never conditions.

112x112 RGB in [-1, 1] -> one vector, learnt by cosines: two drawings of one person against all
others of a batch, with a margin, siblings among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from micro_world.dataset import faces, made
from micro_world.training.loop import Plan, half, place, train
from micro_world.training.onnx_files import write_network

EACH = 8  # drawings of a person
PAIRS = 32  # people and as many siblings in a batch, two drawings of each
MARGIN, TEMPERATURE = 0.15, 0.07
ATTRIBUTES = 0.3  # weight of the second task: to say what the person looks like


@dataclass(frozen=True)
class Kind:
    """name: of its files. first: the first person it learns from. people: how many."""

    name: str
    first: int
    seed: int
    plan: Plan
    people: int = 6000

    def network(self) -> nn.Sequential:
        return {"glint": _wide, "judge": _pooled}[self.name]()


GLINT = Kind("glint", 100_000, 21, Plan(700, rate=2e-3, warmup=100, decay=0.02))
JUDGE = Kind("judge", 200_000, 22, Plan(500, rate=2e-3, warmup=60, decay=0.02))


def conv(inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.inner = nn.Sequential(
            conv(width, width), nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.inner(x))


def _wide() -> nn.Sequential:
    """As ArcFace's ResNets end: flattened, then one matrix."""
    body = (
        conv(3, 24, stride=2),
        conv(24, 48, stride=2),
        Residual(48),
        conv(48, 80, stride=2),
        Residual(80),
        conv(80, 128, stride=2),
    )
    return nn.Sequential(*body, conv(128, 40, 1), nn.Flatten(), nn.Linear(40 * 49, 512))


def _pooled() -> nn.Sequential:
    """Large first kernel, max pooling, one mean over places at the end."""
    body = (
        conv(3, 48, 5, 4),
        conv(48, 96),
        nn.MaxPool2d(2),
        conv(96, 128),
        nn.MaxPool2d(2),
        conv(128, 192),
    )
    return nn.Sequential(*body, conv(192, 192), nn.AvgPool2d(7), nn.Flatten(), nn.Linear(192, 256))


def contrast(first: Tensor, second: Tensor) -> Tensor:
    """Cross-entropy of cosines, (N, D) against (N, D): row i belongs to row i, by more than a
    margin.
    """
    cosines = nn.functional.normalize(first, dim=1) @ nn.functional.normalize(second, dim=1).T
    logits = (cosines - MARGIN * torch.eye(len(cosines), device=cosines.device)) / TEMPERATURE
    labels = torch.arange(len(logits), device=logits.device)
    return 0.5 * (
        nn.functional.cross_entropy(logits, labels) + nn.functional.cross_entropy(logits.T, labels)
    )


def trained(kind: Kind, folder: Path) -> nn.Module:
    torch.manual_seed(kind.seed)
    network = kind.network()
    crops, attributes = made(folder, kind.name, kind.people, partial(faces, count=EACH), kind.first)
    wanted = torch.from_numpy(attributes.copy())
    model = nn.ModuleDict(
        {"network": network, "head": nn.Linear(network[-1].out_features, wanted.shape[1])}
    )

    def loss(step: int, generator: torch.Generator) -> Tensor:
        pairs = torch.randperm(kind.people // 2, generator=generator)[:PAIRS] * 2
        people = torch.cat([pairs, pairs + 1])
        places = torch.stack([torch.randperm(EACH, generator=generator)[:2] for _ in people])
        batch = torch.cat([rgb(crops, people, places[:, side]) for side in (0, 1)])
        with half():
            vectors = network(batch.to(place())).float()
        told = nn.functional.mse_loss(
            model["head"](vectors), wanted[people].repeat(2, 1).to(place())
        )
        return contrast(*vectors.chunk(2)) + ATTRIBUTES * told

    train(kind.name, model, loss, kind.plan, folder, cycle=0)
    settle(
        network,
        lambda generator: rgb(
            crops, *(torch.randint(top, (64,), generator=generator) for top in (kind.people, EACH))
        ),
    )
    return network


def rgb(crops, people: Tensor, places: Tensor) -> Tensor:
    """(N, 3, 112, 112) in [-1, 1] of crops (P, K, 112, 112, 3)."""
    import numpy as np

    chosen = np.stack(
        [
            crops[person, place]
            for person, place in zip(people.tolist(), places.tolist(), strict=True)
        ]
    )
    return torch.from_numpy(chosen).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def settle(network: nn.Module, batch_of) -> None:
    """Batch norms' statistics for the averaged weights."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
    network.train()
    generator = torch.Generator(next(network.parameters()).device).manual_seed(5)
    for _ in range(40):
        network(batch_of(generator))
    network.eval()


def export(network: nn.Module, path: Path) -> None:
    write_network(network, path, "input.1", ["None", 3, 112, 112], "fc1")
