"""Seeded files of the published sizes and layouts: a 12-billion-parameter Flux and T5-XXL as Q4_K
GGUF, PuLID, CLIP-L, the autoencoder.

Every file is written beside its name and renamed, and skipped when it is there. Knows nothing of
what they are used for.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import save_file
from seeded import public_layouts
from seeded.checkpoints import write_embedding
from seeded.micro_models import write_tokenizer
from seeded.q4_k import BLOCK, SIZE, random_q4_k
from seeded.tensors import seeded_weight, seeded_weights

SEED = 21


@dataclass(frozen=True)
class Sizes:
    """What the files measure; the defaults are the published ones. t5_feed_forward:
    google/t5-v1_1-xxl's d_ff.
    """

    width: int = 3072
    double: int = public_layouts.DOUBLE_BLOCKS
    single: int = public_layouts.SINGLE_BLOCKS
    pulid_heads: int = 16
    clip_layers: int = 12
    t5_width: int = 4096
    t5_layers: int = 24
    t5_feed_forward: int = 10240
    vae_channels: int = 128
    encoder: bool = True


# a few megabytes, for a look at whether it works at all
SMALL = Sizes(
    width=256,
    double=2,
    single=4,
    pulid_heads=2,
    clip_layers=1,
    t5_width=256,
    t5_layers=1,
    t5_feed_forward=512,
    vae_channels=32,
    encoder=False,
)


@dataclass(frozen=True)
class File:
    """One file: its role for the command's flags, its name, its size in bytes about, and how it is
    written.
    """

    flag: str
    name: str
    nbytes: int
    write: Callable[[Path], object]


def files(sizes: Sizes) -> list[File]:
    """Everything that a generation needs, Flux first."""
    flux = public_layouts.flux(sizes.width, sizes.double, sizes.single, sizes.t5_width, 768)
    t5 = t5_layout(sizes)
    pulid = public_layouts.pulid_ca(
        sizes.width, public_layouts.pulid_layers(sizes.double, sizes.single), sizes.pulid_heads
    )
    pulid |= public_layouts.pulid_encoder() if sizes.encoder else {}
    clip, vae = (
        public_layouts.clip_l(layers=sizes.clip_layers),
        public_layouts.autoencoder(sizes.vae_channels),
    )
    return [
        File(
            "--diffusion-model",
            "flux1-schnell-Q4_K.gguf",
            _gguf_bytes(flux),
            lambda path: write_gguf(path, flux, "flux"),
        ),
        File(
            "--t5xxl",
            "t5-v1_1-xxl-encoder-Q4_K.gguf",
            _gguf_bytes(t5),
            lambda path: write_gguf(path, t5, "t5encoder"),
        ),
        File("--t5-tokenizer", "tokenizer.json", 20_000, write_tokenizer),
        _plain("--pulid-weights", "pulid_flux_v0.9.1.safetensors", pulid, torch.bfloat16),
        _plain("--clip_l", "clip_l.safetensors", clip, torch.float16),
        _plain("--vae", "ae.safetensors", vae, torch.float32),
        File("--pulid-id-embedding", "nobody.pulidembd", 131_328, write_embedding),
    ]


def t5_layout(sizes: Sizes) -> public_layouts.Layout:
    """T5's encoder under llama.cpp's names (gguf-py constants.py, MODEL_ARCH.T5ENCODER)."""
    width, inner = sizes.t5_width, sizes.t5_width
    out: public_layouts.Layout = {"token_embd.weight": ((32128, width), float(width**0.5))}
    for block in range(sizes.t5_layers):
        prefix = f"enc.blk.{block}"
        # T5 does not scale its logits: q stays small
        for name, gain in (("q", 0.05), ("k", 1.0), ("v", 1.0)):
            out[f"{prefix}.attn_{name}.weight"] = ((inner, width), gain)
        out[f"{prefix}.attn_o.weight"] = ((width, inner), 1.0)
        if block == 0:
            out[f"{prefix}.attn_rel_b.weight"] = ((32, inner // public_layouts.ENCODER_HEAD), 3.0)
        for name in ("attn_norm", "ffn_norm"):
            out[f"{prefix}.{name}.weight"] = ((width,), "scale")
        for name in ("ffn_gate", "ffn_up"):
            out[f"{prefix}.{name}.weight"] = ((sizes.t5_feed_forward, width), 1.0)
        out[f"{prefix}.ffn_down.weight"] = ((width, sizes.t5_feed_forward), 1.0)
    out["enc.output_norm.weight"] = ((width,), "scale")
    return out


def write_complete(file: File, folder: Path) -> bool:
    """Write a file unless it is there; False if it was. An interrupted one leaves nothing that
    looks complete.
    """
    path, part = folder / file.name, folder / f"{file.name}.part"
    if path.exists():
        return False
    try:
        # writers that look at the suffix get the right one
        file.write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return True


def write_gguf(path: Path, layout: public_layouts.Layout, architecture: str) -> None:
    """Matrices whose rows are whole blocks as random Q4_K, everything else as seeded float32; one
    tensor in memory at a time.
    """
    writer = gguf.GGUFWriter(path, arch=architecture)
    writer.add_quantization_version(2)
    for name, (shape, _) in layout.items():
        if _is_packed(name, shape):
            packed = (shape[0], shape[1] // BLOCK * SIZE)
            writer.add_tensor_info(
                name, packed, np.dtype(np.uint8), packed[0] * packed[1], raw_dtype=Kind.Q4_K
            )
        else:
            writer.add_tensor_info(name, shape, np.dtype(np.float32), 4 * int(np.prod(shape)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    try:
        for name, (shape, kind) in layout.items():
            if _is_packed(name, shape):
                generator = np.random.default_rng([SEED, zlib.crc32(name.encode())])
                rows, columns = shape
                deviation = float(kind) / columns**0.5
                writer.write_tensor_data(random_q4_k(rows, columns, deviation, generator))
            else:
                writer.write_tensor_data(
                    seeded_weight(f"{SEED}/{name}", shape, kind, torch.float32).numpy()
                )
    finally:
        writer.close()


def _is_packed(name: str, shape: tuple[int, ...]) -> bool:
    """As in the public files: block matrices, and all of T5's but its position bias."""
    blocks = name.startswith(("double_blocks", "single_blocks", "enc.blk", "token_embd"))
    return blocks and len(shape) == 2 and shape[1] % BLOCK == 0


def _gguf_bytes(layout: public_layouts.Layout) -> int:
    counts = ((_is_packed(name, shape), int(np.prod(shape))) for name, (shape, _) in layout.items())
    return sum(count // BLOCK * SIZE if packed else 4 * count for packed, count in counts)


def _plain(flag: str, name: str, layout: public_layouts.Layout, dtype: torch.dtype) -> File:
    nbytes = sum(int(np.prod(shape)) for shape, _ in layout.values()) * dtype.itemsize
    return File(
        flag, name, nbytes, lambda path: save_file(seeded_weights(layout, SEED, dtype), path)
    )


def missing(sizes: Sizes, folder: Path) -> Iterator[File]:
    """The files that are still to be written."""
    yield from (file for file in files(sizes) if not (folder / file.name).exists())
