"""Flux, T5 and CLIP of the small world, trained together: a prompt in, somebody in that scene out. PuLID's reference does not touch them again.

The classes are those of diffusers and transformers that the loaders build, so what is trained is what runs. Shapes: B batch, L = 36 image
tokens of 64, T = 32 text tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from micro_world import autoencoder
from micro_world.prompts import T5_LENGTH, write_tokenizer
from micro_world.training import Plan, half, place, train

WIDTH, DOUBLE, SINGLE = 256, 3, 5
CLIP_WIDTH, CLIP_LAYERS, CLIP_LENGTH = 64, 2, 77
T5_WIDTH, T5_LAYERS = 128, 3
CELLS = 6  # image tokens on a side
EMPTY = 0.1  # share of pictures that are learnt without a word, for true CFG
BATCH = 48
PLAN = Plan(2000, rate=1.5e-3, warmup=200, decay=0.01)


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


def build_t5(rows: int) -> Any:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=rows,
        d_model=T5_WIDTH,
        d_ff=2 * T5_WIDTH,
        num_layers=T5_LAYERS,
        num_heads=T5_WIDTH // 64,
        d_kv=64,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
        dropout_rate=0.0,
    )
    return T5EncoderModel(config)


def build_clip(rows: int) -> Any:
    """rows: of the embedding; while training only the ids that occur, in their order, so that the end token stays the largest."""
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=rows,
        hidden_size=CLIP_WIDTH,
        intermediate_size=4 * CLIP_WIDTH,
        num_hidden_layers=CLIP_LAYERS,
        num_attention_heads=CLIP_WIDTH // 64,
        max_position_embeddings=CLIP_LENGTH,
        hidden_act="quick_gelu",
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    )
    return CLIPTextModel(config)


class Painter(nn.Module):
    """velocity(noisy picture, time, prompt)."""

    def __init__(self, t5_rows: int, clip_ids: Sequence[int]):
        super().__init__()
        self.flux, self.t5, self.clip = build_flux(), build_t5(t5_rows), build_clip(len(clip_ids))
        self.clip_ids = list(clip_ids)
        rows = torch.zeros(max(clip_ids) + 1, dtype=torch.long)
        rows[self.clip_ids] = torch.arange(len(clip_ids))
        self.register_buffer("rows", rows, persistent=False)

    def read(self, t5_ids: Tensor, clip_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) and (B, 77) ids -> states (B, T, 128), pooled (B, 64)."""
        return self.t5(input_ids=t5_ids).last_hidden_state, self.clip(self.rows[clip_ids]).pooler_output

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


class Words:
    """Every prompt of the training pictures as ids: t5 (P * K, 32), clip (P * K, 77); and those of no words at all."""

    def __init__(self, folder: Path, prompts: np.ndarray):
        from pulid_generate.vocabularies import clip_tokenizer, read_t5_tokenizer

        self.t5_rows = write_tokenizer(folder / "tokenizer.json")
        kept = folder / "words.npz"
        if not kept.exists():
            t5, clip = read_t5_tokenizer(folder / "tokenizer.json"), clip_tokenizer()
            texts = ["", *prompts.reshape(-1).tolist()]
            ids = [encoding.ids for encoding in t5.encode_batch(texts)]
            longest = max(map(len, ids))
            if longest > T5_LENGTH:
                raise ValueError(f"a prompt has {longest} tokens, more than {T5_LENGTH}")
            padded = np.zeros((len(ids), T5_LENGTH), np.int16)
            for row, one in zip(padded, ids, strict=True):
                row[: len(one)] = one
            pooled = clip(texts, padding="max_length", max_length=CLIP_LENGTH, truncation=True)["input_ids"]
            np.savez(kept, t5=padded, clip=np.asarray(pooled, np.int32))
        with np.load(kept) as found:
            self.t5, self.clip = (torch.from_numpy(found[name].astype(np.int64)) for name in ("t5", "clip"))
        self.clip_ids = sorted(set(self.clip.unique().tolist()))

    def of(self, places: Tensor, silent: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 32), (B, 77) of pictures by number; nothing at all where `silent`."""
        rows = torch.where(silent, 0, places + 1)
        return self.t5[rows].to(place()), self.clip[rows].to(place())


def latents(folder: Path) -> Tensor:
    """(P * K, 36, 64) float16 of the training pictures, packed."""
    kept = folder / "latents.pt"
    if not kept.exists():
        torch.save(pack(autoencoder.latents_of(folder)), kept)
    return torch.load(kept, weights_only=True, mmap=True)


def flow_loss(painter: Painter, clean: Tensor, generator: torch.Generator, states: Tensor, pooled: Tensor) -> Tensor:
    """Flow matching: the velocity noise - clean at a logit-normal time."""
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    t = torch.sigmoid(torch.randn(len(clean), generator=generator)).to(clean.device)
    mixed = torch.lerp(clean, noise, t[:, None, None])
    return (painter.velocity(mixed, t, states, pooled).float() - (noise - clean)).square().mean()


def trained(folder: Path) -> Painter:
    torch.manual_seed(31)
    words = Words(folder, autoencoder.pictures(folder)[1])
    painter = Painter(words.t5_rows, words.clip_ids)
    clean = latents(folder)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(clean), (BATCH,), generator=generator)
        silent = torch.rand(BATCH, generator=generator) < EMPTY
        with half():
            states, pooled = painter.read(*words.of(chosen, silent))
            return flow_loss(painter, clean[chosen].to(place()).float(), generator, states, pooled)

    with narrow_attention():
        train("painter", painter, loss, PLAN, folder)
    return painter
