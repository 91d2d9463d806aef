"""T5 and CLIP of the small world: a prompt in, states and a pooled vector out. They first learn to
say what a prompt asks for.

Public text encoders have read before they meet Flux; these have too, or Flux would have to teach
them that a red shirt is not a red background. The classes are those of transformers that the loaders
build. Shapes: B batch, T = 32 tokens.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from micro_world.dataset import is_current
from micro_world.networks import autoencoder
from micro_world.prompts import T5_LENGTH, write_tokenizer
from micro_world.scenes import CHOICES
from micro_world.training.loop import Plan, at_once, place, train

CLIP_WIDTH, CLIP_LAYERS, CLIP_LENGTH = 64, 2, 77
T5_WIDTH, T5_LAYERS = 128, 3
BATCH = 128
PLAN = Plan(1500, rate=1e-3, warmup=100, decay=0.01)


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
    """rows: of the embedding; while training only the ids that occur, in their order, so that the
    end token stays the largest.
    """
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


class Words:
    """Every prompt of the training pictures as ids: t5 (P * K, 32), clip (P * K, 77); and those of
    no words at all.
    """

    def __init__(self, folder: Path, prompts: np.ndarray):
        from pulid_generate.models.tokenizers import clip_tokenizer, read_t5_tokenizer
        from pulid_generate.models.weighted_prompts import padded_clip_ids

        self.t5_rows = write_tokenizer(folder / "tokenizer.json")
        kept = folder / "words.npz"
        if not is_current(kept, "targets"):
            t5, clip = read_t5_tokenizer(folder / "tokenizer.json"), clip_tokenizer()
            texts = ["", *prompts.reshape(-1).tolist()]
            ids = [encoding.ids for encoding in t5.encode_batch(texts)]
            longest = max(map(len, ids))
            if longest > T5_LENGTH:
                raise ValueError(f"a prompt has {longest} tokens, more than {T5_LENGTH}")
            padded = np.zeros((len(ids), T5_LENGTH), np.int16)
            for row, one in zip(padded, ids, strict=True):
                row[: len(one)] = one
            pooled = [padded_clip_ids(clip.encode(text).ids[1:-1]) for text in texts]
            np.savez(kept, t5=padded, clip=np.asarray(pooled, np.int32))
        with np.load(kept) as found:
            self.t5, self.clip = (
                torch.from_numpy(found[name].astype(np.int64)).to(place())
                for name in ("t5", "clip")
            )
        self.clip_ids = sorted(set(self.clip.unique().tolist()))

    def of(self, places: Tensor, silent: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 32), (B, 77) of pictures by number; nothing at all where `silent`."""
        rows = torch.where(silent, 0, places + 1)
        return self.t5[rows], self.clip[rows]


class Reader(nn.Module):
    """Both encoders. clip_ids: the rows of CLIP's embedding that occur at all, the only ones that
    are kept while training.
    """

    def __init__(self, words: Words):
        super().__init__()
        self.clip_ids = words.clip_ids
        self.t5, self.clip = build_t5(words.t5_rows), build_clip(len(words.clip_ids))
        rows = torch.zeros(max(words.clip_ids) + 1, dtype=torch.long)
        rows[words.clip_ids] = torch.arange(len(words.clip_ids))
        self.register_buffer("rows", rows, persistent=False)

    def forward(self, t5_ids: Tensor, clip_ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) and (B, 77) ids -> states (B, T, 128), pooled (B, 64)."""
        return self.t5(input_ids=t5_ids).last_hidden_state, self.clip(
            self.rows[clip_ids]
        ).pooler_output


class Lessons(nn.Module):
    """A reader that is asked for the seven choices of a scene: of the mean of T5's states, and of
    CLIP's vector.
    """

    def __init__(self, words: Words):
        super().__init__()
        count = sum(CHOICES.values())
        self.reader = Reader(words)
        self.by_t5, self.by_clip = nn.Linear(T5_WIDTH, count), nn.Linear(CLIP_WIDTH, count)

    def loss(self, states: Tensor, pooled: Tensor, truth: Tensor) -> Tensor:
        """states (B, T, 128), pooled (B, 64), truth (B, 7) -> (B,): cross-entropies of all choices,
        added up.
        """
        return choice_loss(self.by_t5(states.mean(1)), truth) + choice_loss(
            self.by_clip(pooled), truth
        )


def choice_loss(logits: Tensor, truth: Tensor) -> Tensor:
    """Logits of all choices side by side (B, sum of CHOICES), truth (B, 7) -> (B,): their
    cross-entropies, added up.
    """
    parts = enumerate(logits.float().split(list(CHOICES.values()), 1))
    return torch.stack(
        [
            nn.functional.cross_entropy(part, truth[:, index], reduction="none")
            for index, part in parts
        ]
    ).sum(0)


def truths(folder: Path) -> Tensor:
    """(P * K, 7): the choices of every training picture."""
    choices = autoencoder.pictures(folder)[2]
    return torch.from_numpy(choices.reshape(-1, choices.shape[-1]).astype(np.int64)).to(place())


def trained(folder: Path) -> Lessons:
    torch.manual_seed(32)
    words, wanted = Words(folder, autoencoder.pictures(folder)[1]), truths(folder)
    lessons = Lessons(words)

    def loss(step: int, generator: torch.Generator) -> Tensor:
        chosen = torch.randint(len(wanted), (at_once(BATCH),), generator=generator, device=place())
        ids = words.of(chosen, torch.zeros_like(chosen, dtype=torch.bool))
        states, pooled = lessons.reader(*ids)
        return lessons.loss(states, pooled, wanted[chosen]).mean()

    train("reader", lessons, loss, PLAN, folder)
    return lessons
