"""Looks at latents and says who is drawn, and what of a prompt can be seen. Flux and the identity
learn from it what a loss of single numbers hardly tells: PuLID compares a face that was drawn in
four steps with the one that was asked for.

It learns from the pictures that Flux learns from, and is gone when training is over. The judges
that measure have no part in it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from micro_world.networks import autoencoder, tower
from micro_world.networks.autoencoder import CELLS
from micro_world.networks.reader import choice_loss, truths
from micro_world.networks.recognisers import ATTRIBUTES, Residual, contrast, conv, settle
from micro_world.scenes import CHOICES
from micro_world.training.loop import Plan, at_once, half, place, some_of, train

WIDTH = 192
PEOPLE_AT_ONCE = 64
ROUGH = 0.5  # largest noise, in units of a latent's spread: four steps leave a rough picture
# of other seeds, and each through noise of its own: what pleases one of them alone is not a likeness
CRITICS = 3
STEPS = 4  # of a picture that it is shown
SHARPNESS = 0.07  # temperature of cosines
PLAN = Plan(3000, rate=2e-3, warmup=60, decay=0.02, on_cpu=400)


class Critic(nn.Module):
    """Packed latents (B, 36, 64) -> who: (B, 192), cosines between these tell people apart; what:
    logits of all choices, side by side.
    """

    def __init__(self) -> None:
        super().__init__()
        body = (
            conv(16, 96),
            Residual(96),
            conv(96, 160, stride=2),
            Residual(160),
            conv(160, 64, 1),
        )
        self.body = nn.Sequential(*body, nn.Flatten())
        self.who, self.what = (
            nn.Linear(64 * CELLS * CELLS, width) for width in (WIDTH, sum(CHOICES.values()))
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.reshape(-1, CELLS, CELLS, 16, 2, 2).permute(0, 3, 1, 4, 2, 5)
        seen = self.body(x.reshape(-1, 16, 2 * CELLS, 2 * CELLS))
        return self.who(seen), self.what(seen)


def roughened(x: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 36, 64), each with as much noise as chance will have."""
    rough = ROUGH * torch.rand(len(x), 1, 1, generator=generator, device=x.device)
    return x + rough * torch.randn(x.shape, generator=generator, device=x.device)


def trained(folder: Path, clean: Tensor) -> list[Critic]:
    """clean: (P * K, 36, 64), the latents of all training pictures."""
    return [_trained(number, folder, clean) for number in range(CRITICS)]


def _trained(number: int, folder: Path, clean: Tensor) -> Critic:
    torch.manual_seed(61 + number)
    scenes, wanted = (
        truths(folder),
        torch.from_numpy(np.array(tower.portraits(folder)[2])).to(place()),
    )
    critic = Critic()
    model = nn.ModuleDict({"critic": critic, "head": nn.Linear(WIDTH, wanted.shape[1])})

    def pictures(people: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two of each, the first of everybody first: places (2 * B,), latents (2 * B, 36, 64)."""
        places = some_of(autoencoder.EACH, 2, len(people), generator)
        chosen = (people[:, None] * autoencoder.EACH + places).T.reshape(-1)
        return chosen, roughened(clean[chosen].float(), generator)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        people = some_of(len(wanted), at_once(PEOPLE_AT_ONCE), 1, generator)[0]
        chosen, x = pictures(people, generator)
        with half():
            who, what = critic(x)
        told = nn.functional.mse_loss(model["head"](who.float()), wanted[people].repeat(2, 1))
        missed = choice_loss(what, scenes[chosen]).mean()
        return contrast(*who.float().chunk(2)) + ATTRIBUTES * told + missed

    train(f"critic{number}", model, loss, PLAN, folder)

    def some(generator: torch.Generator) -> Tensor:
        return pictures(
            torch.randint(len(wanted), (PEOPLE_AT_ONCE,), generator=generator, device=place()),
            generator,
        )[1]

    settle(critic.requires_grad_(False).to(place()), some)
    return critic


@torch.no_grad()
def everybody(critic: Critic, clean: Tensor) -> Tensor:
    """(P, 192) of length 1: what a person's pictures have in common."""
    with half():
        found = torch.cat([critic(some.float())[0].float() for some in clean.split(1000)])
    found = nn.functional.normalize(found, dim=1)
    return nn.functional.normalize(found.unflatten(0, (-1, autoencoder.EACH)).mean(1), dim=1)


def drawn(
    velocity: Callable[[Tensor, Tensor], Tensor], x: Tensor, generator: torch.Generator
) -> Tensor:
    """Noise (B, 36, 64) -> a picture in a few of Euler's steps, which a gradient goes through.
    velocity(x, times (B,)) -> (B, 36, 64).

    No two pictures have the same times, or what is learnt would hold for these few alone.
    """
    even = torch.linspace(1, 0, STEPS + 1, device=x.device).expand(len(x), -1)
    apart = (torch.rand(len(x), STEPS - 1, generator=generator, device=x.device) - 0.5) / STEPS
    times = even + nn.functional.pad(apart, (1, 1))
    for now, then in itertools.pairwise(times.unbind(1)):
        x = x + (then - now)[:, None, None] * velocity(x, now).float()
    return x


Seen = list[tuple[Tensor, Tensor]]  # by each critic: who (B, 192), what (B, sum of CHOICES)


def looked_at(
    critics: Sequence[Critic],
    velocity: Callable[[Tensor, Tensor], Tensor],
    count: int,
    generator: torch.Generator,
) -> Seen:
    """What they see in `count` new pictures. velocity: as `drawn` takes it."""
    noise = torch.randn(count, CELLS * CELLS, 64, generator=generator, device=generator.device)
    pictures = drawn(velocity, noise, generator)
    return [critic(roughened(pictures, generator)) for critic in critics]


def unlike(seen: Seen, people: Tensor, everybody: Sequence[Tensor]) -> Tensor:
    """Indexes (B,) of who was asked for, and (P, 192) of each critic -> (B,): cross-entropy of the
    cosines to all people.
    """

    def by(who: Tensor, known: Tensor) -> Tensor:
        cosines = nn.functional.normalize(who.float(), dim=1) @ known.T
        return nn.functional.cross_entropy(cosines / SHARPNESS, people, reduction="none")

    return torch.stack(
        [by(who, known) for (who, _), known in zip(seen, everybody, strict=True)]
    ).mean(0)


def disobeyed(seen: Seen, truth: Tensor) -> Tensor:
    """Choices (B, 7) that were asked for -> (B,): cross-entropies of what is seen of them."""
    return torch.stack([choice_loss(what, truth) for _, what in seen]).mean(0)
