"""Looks at latents and says who is drawn, and what of a prompt can be seen. Flux and the identity learn from it what a loss of single numbers
hardly tells: PuLID compares a face that was drawn in four steps with the one that was asked for.

It learns from the pictures that Flux learns from, and is gone when training is over. The judges that measure have no part in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from micro_world import autoencoder, tower
from micro_world.autoencoder import CELLS
from micro_world.reader import choice_loss, truths
from micro_world.recognisers import ATTRIBUTES, Residual, contrast, conv, settle
from micro_world.scenes import CHOICES
from micro_world.training import Plan, half, place, train

WIDTH = 192
PEOPLE_AT_ONCE = 64
ROUGH = 0.5  # largest noise, in units of a latent's spread: four steps leave a rough picture
STEPS = 4  # of a picture that it is shown
SHARPNESS = 0.07  # temperature of cosines
PLAN = Plan(700, rate=2e-3, warmup=60, decay=0.02)


class Critic(nn.Module):
    """Packed latents (B, 36, 64) -> who: (B, 192), cosines between these tell people apart; what: logits of all choices, side by side."""

    def __init__(self) -> None:
        super().__init__()
        body = (conv(16, 96), Residual(96), conv(96, 160, stride=2), Residual(160), conv(160, 64, 1))
        self.body = nn.Sequential(*body, nn.Flatten())
        self.who, self.what = (nn.Linear(64 * CELLS * CELLS, width) for width in (WIDTH, sum(CHOICES.values())))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.reshape(-1, CELLS, CELLS, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
        seen = self.body(x.reshape(-1, 16, 2 * CELLS, 2 * CELLS))
        return self.who(seen), self.what(seen)


def trained(folder: Path, clean: Tensor) -> Critic:
    """clean: (P * K, 36, 64), the latents of all training pictures."""
    torch.manual_seed(61)
    scenes, wanted = truths(folder), torch.from_numpy(np.array(tower.portraits(folder)[2]))
    critic = Critic()
    model = nn.ModuleDict({"critic": critic, "head": nn.Linear(WIDTH, wanted.shape[1])})

    def pictures(people: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two of each, the first of everybody first: places (2 * B,), latents (2 * B, 36, 64)."""
        places = torch.stack([torch.randperm(autoencoder.EACH, generator=generator)[:2] for _ in people])
        chosen = (people[:, None] * autoencoder.EACH + places).T.reshape(-1)
        x = clean[chosen].float()
        x = x + ROUGH * torch.rand(len(x), 1, 1, generator=generator) * torch.randn(x.shape, generator=generator)
        return chosen, x.to(place())

    def loss(step: int, generator: torch.Generator) -> Tensor:
        people = torch.randperm(len(wanted), generator=generator)[:PEOPLE_AT_ONCE]
        chosen, x = pictures(people, generator)
        with half():
            who, what = critic(x)
        told = nn.functional.mse_loss(model["head"](who.float()), wanted[people].repeat(2, 1).to(place()))
        missed = choice_loss(what, scenes[chosen].to(place())).mean()
        return contrast(*who.float().chunk(2)) + ATTRIBUTES * told + missed

    train("critic", model, loss, PLAN, folder)
    settle(critic, lambda g: pictures(torch.randint(len(wanted), (PEOPLE_AT_ONCE,), generator=g), g)[1])
    return critic.requires_grad_(False).to(place())


@torch.no_grad()
def everybody(critic: Critic, clean: Tensor) -> Tensor:
    """(P, 192) of length 1: what a person's pictures have in common."""
    with half():
        found = torch.cat([critic(some.to(place()).float())[0].float() for some in clean.split(1000)])
    found = nn.functional.normalize(found, dim=1)
    return nn.functional.normalize(found.unflatten(0, (-1, autoencoder.EACH)).mean(1), dim=1)


def drawn(velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, generator: torch.Generator) -> Tensor:
    """Noise (B, 36, 64) -> a picture in a few of Euler's steps, which a gradient goes through. velocity(x, times (B,)) -> (B, 36, 64).

    No two pictures have the same times, or what is learnt would hold for these few alone.
    """
    even = torch.linspace(1, 0, STEPS + 1).expand(len(x), -1)
    apart = (torch.rand(len(x), STEPS - 1, generator=generator) - 0.5) / STEPS
    times = even + nn.functional.pad(apart, (1, 1))
    for now, then in itertools.pairwise(times.to(x.device).unbind(1)):
        x = x + (then - now)[:, None, None] * velocity(x, now).float()
    return x


def unlike(who: Tensor, people: Tensor, everybody: Tensor) -> Tensor:
    """(B, 192), indexes (B,) of who was asked for, (P, 192) -> (B,): cross-entropy of the cosines to all people."""
    cosines = nn.functional.normalize(who.float(), dim=1) @ everybody.T
    return nn.functional.cross_entropy(cosines / SHARPNESS, people, reduction="none")
