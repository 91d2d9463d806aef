"""Flux of the small world: a prompt in, somebody in that scene out. Its text encoders learn on with
it; after that none of them changes.

The class is diffusers', which the loader builds, so what is trained is what runs. Shapes: B batch,
L = 36 image tokens of 64, T = 32 text tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from micro_world.dataset import is_current
from micro_world.networks import autoencoder, critic, reader
from micro_world.networks.autoencoder import CELLS
from micro_world.networks.reader import CLIP_WIDTH, T5_WIDTH, Lessons, Words
from micro_world.training.loop import Plan, at_once, half, place, train

WIDTH, DOUBLE, SINGLE = 256, 3, 5
EMPTY = 0.1  # share of pictures that are learnt without a word, for true CFG
BATCH = 48
# times as much as the rest of the picture: a mouth is two tokens of 36, and a small part of any
# loss
FACE, MOUTH = 4.0, 8.0
# share of times that are drawn evenly: of the others 1 in 600 is above 0.95, where every picture
# begins
EVEN = 0.5
# share of pictures that are nothing but noise yet: where every drawing begins, and where critics
# alone would have their way
FIRST = 0.1
# mean of the logit of the other times: an expression is decided while three quarters are noise
LATE = 0.8
# weight of the reading lessons, which go on: what Flux does not use yet is forgotten otherwise
READING = 0.03
# weight of the critic's word on the scene, and how many of a batch it is shown
OBEYED, SHOWN = 0.05, 16
PLAN = Plan(12000, rate=1.5e-3, warmup=200, decay=0.01, on_cpu=3200)
SHOWING = Plan(1000, rate=3e-4, warmup=20, decay=0.01, on_cpu=300)


def build_flux() -> Any:
    from diffusers import FluxTransformer2DModel

    return FluxTransformer2DModel(
        patch_size=1,
        in_channels=64,
        num_layers=DOUBLE,
        num_single_layers=SINGLE,
        attention_head_dim=128,
        num_attention_heads=WIDTH // 128,
        joint_attention_dim=T5_WIDTH,
        pooled_projection_dim=CLIP_WIDTH,
        guidance_embeds=False,
        axes_dims_rope=(16, 56, 56),
    )


class Asked(NamedTuple):
    """What some pictures are asked for: chosen (B,) of the training pictures, said (B,) whether in
    words, states (B, T, 128), pooled (B, 64).
    """

    chosen: Tensor
    said: Tensor
    states: Tensor
    pooled: Tensor

    def some(self, which: slice) -> Asked:
        return Asked(*(part[which] for part in self))


class Painter(nn.Module):
    """velocity(noisy picture, time, prompt)."""

    def __init__(self, lessons: Lessons):
        super().__init__()
        self.reader, self.flux = lessons.reader, build_flux()

    def velocity(self, x: Tensor, t: Tensor, states: Tensor, pooled: Tensor) -> Tensor:
        """x (B, 36, 64), t (B,) in [0, 1] -> (B, 36, 64)."""
        return self.flux(
            hidden_states=x,
            encoder_hidden_states=states,
            pooled_projections=pooled,
            timestep=t,
            img_ids=image_places(x.device),
            txt_ids=torch.zeros(states.shape[1], 3, device=x.device),
            return_dict=False,
        )[0]

    def towards(self, asked: Asked) -> Callable[[Tensor, Tensor], Tensor]:
        """The velocity at (x, t), for the critics."""
        return lambda x, t: self.velocity(x, t, asked.states, asked.pooled)


@cache  # and not copied while a step is recorded
def image_places(device: torch.device) -> Tensor:
    places = torch.zeros(CELLS, CELLS, 3)
    places[..., 1] += torch.arange(CELLS)[:, None]
    places[..., 2] += torch.arange(CELLS)[None]
    return places.reshape(-1, 3).to(device)


@cache
def importance(device: torch.device) -> Tensor:
    """(36,), 1 on average: the face counts more."""
    counts = torch.ones(CELLS, CELLS)
    counts[2:4, 2:4] = FACE
    counts[4, 2:4] = MOUTH
    return (counts / counts.mean()).flatten().to(device)


def pack(latents: Tensor) -> Tensor:
    """(B, 16, 12, 12) -> (B, 36, 64), channels (c ph pw) as BFL packs them."""
    batch = latents.shape[0]
    return (
        latents.view(batch, 16, CELLS, 2, CELLS, 2)
        .permute(0, 2, 4, 1, 3, 5)
        .reshape(batch, CELLS * CELLS, 64)
    )


def latents(folder: Path) -> Tensor:
    """(P * K, 36, 64) float16 of the training pictures, packed."""
    kept = folder / "latents.pt"
    autoencoder.pictures(folder)  # draws anew if drawings have changed
    if not is_current(kept, "targets"):
        torch.save(pack(autoencoder.latents_of(folder)), kept)
    return torch.load(kept, weights_only=True, mmap=True).to(place())


def flow_loss(
    painter: Painter,
    clean: Tensor,
    generator: torch.Generator,
    states: Tensor,
    pooled: Tensor,
    late: float,
) -> Tensor:
    """Flow matching: the velocity noise - clean at time 1, an even or a logit-normal time. late:
    the last one's mean; above 0 there is more noise than picture.
    """
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    t = torch.sigmoid(torch.randn(len(clean), generator=generator, device=clean.device) + late)
    which, even = torch.rand(2, len(clean), generator=generator, device=clean.device)
    t = torch.where(which < EVEN, even, t).where(which > FIRST, 1.0)
    mixed = torch.lerp(clean, noise, t[:, None, None])
    off = (painter.velocity(mixed, t, states, pooled).float() - (noise - clean)).square()
    return (off.mean((0, 2)) * importance(off.device)).mean()


@dataclass(frozen=True)
class PictureLoss:
    """Flux's loss on some of the training pictures: what the painter learns from, and the identity
    after it.
    """

    painter: Painter
    words: Words
    # (P * K, 36, 64), packed
    clean: Tensor
    # as `flow_loss` takes it
    late: float

    def __call__(
        self, chosen: Tensor, silent: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Asked]:
        """The loss, and what was asked for. chosen: numbers (B,) of pictures; silent: (B,), which
        of them are learnt without a word.
        """
        states, pooled = self.painter.reader(*self.words.of(chosen, silent))
        clean = self.clean[chosen].float()
        off = flow_loss(self.painter, clean, generator, states, pooled, self.late)
        return off, Asked(chosen, ~silent, states, pooled)


@dataclass(frozen=True)
class Jury:
    """Critics who look at new drawings, and the choices (P * K, 7) that the training pictures were
    asked for.
    """

    painter: Painter
    critics: list[critic.Critic]
    scenes: Tensor

    def look(self, asked: Asked, generator: torch.Generator) -> critic.Seen:
        """What they see in one new drawing of each."""
        velocity = self.painter.towards(asked)
        return critic.looked_at(self.critics, velocity, len(asked.chosen), generator)

    def disobeyed(self, seen: critic.Seen, asked: Asked) -> Tensor:
        """How much of the scenes is missing, on average; what was not said cannot be."""
        return (critic.disobeyed(seen, self.scenes[asked.chosen]) * asked.said).mean()


def trained(folder: Path) -> Painter:
    torch.manual_seed(31)
    words = Words(folder, autoencoder.pictures(folder)[1])
    lessons = reader.trained(folder).requires_grad_(False)
    lessons.reader.requires_grad_(True)
    lessons.to(place())
    painter = Painter(lessons)
    clean, wanted = latents(folder), reader.truths(folder)
    picture_loss = PictureLoss(painter, words, clean, LATE)

    def flow(generator: torch.Generator) -> tuple[Tensor, Asked]:
        chosen = torch.randint(len(clean), (at_once(BATCH),), generator=generator, device=place())
        silent = torch.rand(len(chosen), generator=generator, device=place()) < EMPTY
        off, asked = picture_loss(chosen, silent, generator)
        read = lessons.loss(asked.states, asked.pooled, wanted[chosen]) * asked.said
        return off + READING * read.mean(), asked

    def loss(step: int, generator: torch.Generator) -> Tensor:
        with half():
            return flow(generator)[0]

    train("painter", painter, loss, PLAN, folder)
    jury = Jury(painter, critic.trained(folder, clean), wanted)

    def judged(step: int, generator: torch.Generator) -> Tensor:
        with half():
            off, asked = flow(generator)
            asked = asked.some(slice(at_once(SHOWN)))
            seen = jury.look(asked, generator)
        return off + OBEYED * jury.disobeyed(seen, asked)

    train("shown", painter, judged, SHOWING, folder)
    return painter
