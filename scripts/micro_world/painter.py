"""Flux of the small world: a prompt in, somebody in that scene out. Its text encoders learn on with it; after that none of them changes.

The class is diffusers', which the loader builds, so what is trained is what runs. Shapes: B batch, L = 36 image tokens of 64, T = 32 text
tokens.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from micro_world import autoencoder, critic, reader
from micro_world.autoencoder import CELLS
from micro_world.dataset import is_current
from micro_world.reader import CLIP_WIDTH, T5_WIDTH, Lessons, Words, choice_loss
from micro_world.training import Plan, half, place, train

WIDTH, DOUBLE, SINGLE = 256, 3, 5
EMPTY = 0.1  # share of pictures that are learnt without a word, for true CFG
BATCH = 48
FACE, MOUTH = 4.0, 8.0  # times as much as the rest of the picture: a mouth is two tokens of 36, and a small part of any loss
EVEN = 0.5  # share of times that are drawn evenly: of the others 1 in 600 is above 0.95, where every picture begins
LATE = 0.8  # mean of the logit of the other times: an expression is decided while three quarters are noise
READING = 0.03  # weight of the reading lessons, which go on: what Flux does not use yet is forgotten otherwise
OBEYED, SHOWN = 0.05, 16  # weight of the critic's word on the scene, and how many of a batch it is shown
PLAN, SHOWING = Plan(8000, rate=1.5e-3, warmup=200, decay=0.01), Plan(400, rate=3e-4, warmup=20, decay=0.01)


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
            img_ids=image_places().to(x.device),
            txt_ids=torch.zeros(states.shape[1], 3, device=x.device),
            return_dict=False,
        )[0]


def image_places() -> Tensor:
    places = torch.zeros(CELLS, CELLS, 3)
    places[..., 1] += torch.arange(CELLS)[:, None]
    places[..., 2] += torch.arange(CELLS)[None]
    return places.reshape(-1, 3)


def importance() -> Tensor:
    """(36,), 1 on average: the face counts more."""
    counts = torch.ones(CELLS, CELLS)
    counts[2:4, 2:4] = FACE
    counts[4, 2:4] = MOUTH
    return (counts / counts.mean()).flatten()


def pack(latents: Tensor) -> Tensor:
    """(B, 16, 12, 12) -> (B, 36, 64), channels (c ph pw) as BFL packs them."""
    batch = latents.shape[0]
    return latents.view(batch, 16, CELLS, 2, CELLS, 2).permute(0, 2, 4, 1, 3, 5).reshape(batch, CELLS * CELLS, 64)


@contextmanager
def narrow_attention() -> Iterator[None]:
    """Under autocast on a CPU: attention of a few tokens in float32, which is faster there than in bfloat16."""
    usual = nn.functional.scaled_dot_product_attention

    def wide(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return usual(query.float(), key.float(), value.float(), **options).to(query.dtype)

    if place().type == "cpu":
        nn.functional.scaled_dot_product_attention = wide
    try:
        yield
    finally:
        nn.functional.scaled_dot_product_attention = usual


def latents(folder: Path) -> Tensor:
    """(P * K, 36, 64) float16 of the training pictures, packed."""
    kept = folder / "latents.pt"
    autoencoder.pictures(folder)  # draws anew if drawings have changed
    if not is_current(kept, "targets"):
        torch.save(pack(autoencoder.latents_of(folder)), kept)
    return torch.load(kept, weights_only=True, mmap=True)


def flow_loss(painter: Painter, clean: Tensor, generator: torch.Generator, states: Tensor, pooled: Tensor, late: float) -> Tensor:
    """Flow matching: the velocity noise - clean at an even or a logit-normal time. late: the latter's mean; above 0 there is more noise
    than picture."""
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    t = torch.sigmoid(torch.randn(len(clean), generator=generator) + late)
    even = torch.rand(2, len(clean), generator=generator)
    t = torch.where(even[0] < EVEN, even[1], t).to(clean.device)
    mixed = torch.lerp(clean, noise, t[:, None, None])
    off = (painter.velocity(mixed, t, states, pooled).float() - (noise - clean)).square()
    return (off.mean((0, 2)) * importance().to(off.device)).mean()


def trained(folder: Path) -> Painter:
    torch.manual_seed(31)
    words = Words(folder, autoencoder.pictures(folder)[1])
    lessons = reader.trained(folder).requires_grad_(False)
    lessons.reader.requires_grad_(True)
    lessons.to(place())
    painter = Painter(lessons)
    clean, wanted = latents(folder), reader.truths(folder)

    def flow(generator: torch.Generator) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss, and what it was asked for: the pictures' indexes, whether anything was said, the prompts."""
        chosen = torch.randint(len(clean), (BATCH,), generator=generator)
        silent = torch.rand(BATCH, generator=generator) < EMPTY
        states, pooled = painter.reader(*words.of(chosen, silent))
        read = lessons.loss(states, pooled, wanted[chosen].to(place())) * ~silent.to(place())
        off = flow_loss(painter, clean[chosen].to(place()).float(), generator, states, pooled, LATE)
        return off + READING * read.mean(), (chosen, ~silent, states, pooled)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        with half():
            return flow(generator)[0]

    with narrow_attention():
        train("painter", painter, loss, PLAN, folder)
        eye = critic.trained(folder, clean)

        def judged(step: int, generator: torch.Generator) -> Tensor:
            with half():
                off, (chosen, said, states, pooled) = flow(generator)
                noise = torch.randn(SHOWN, *clean.shape[1:], generator=generator).to(place())
                what = eye(critic.drawn(lambda x, t: painter.velocity(x, t, states[:SHOWN], pooled[:SHOWN]), noise, generator))[1]
            missed = choice_loss(what, wanted[chosen[:SHOWN]].to(place())) * said[:SHOWN].to(place())
            return off + OBEYED * missed.mean()

        train("shown", painter, judged, SHOWING, folder)
    return painter
