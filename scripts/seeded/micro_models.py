"""Write a whole set of small models under the public files' names and layouts, so that both stages
run without a download.

    PYTHONPATH=scripts python -m seeded.micro_models micro [--seed 0] [--dev]

They go through the same loaders as the real files, for every size is read from the tensors. Most
are seeded noise, so what they draw is a texture; the networks that look for a face are fitted to
one real face (see astronaut.py). The same seed gives the same bytes on the same machine. Prints the
table of what was written on standard output, progress on standard error.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from seeded import micro_antelopev2, micro_bisenet, micro_retinaface, public_layouts
from seeded.tensors import seeded_weights
from seeded.unigram import write_unigram

FLUX_WIDTH = 128  # one head
PUBLISHED = (public_layouts.DOUBLE_BLOCKS, public_layouts.SINGLE_BLOCKS)
PULID_HEADS = 2
TOKEN_WIDTH = 2048  # as published: the .pulidembd keeps its 131 KB
IDENTITY_WIDTH = 128  # IDFormer's own, two heads
EVA_WIDTH, EVA_POOLED = 128, 64
ARCFACE_WIDTH = 512
CLIP_WIDTH, CLIP_LAYERS = 64, 2
T5_WIDTH, T5_LAYERS, T5_ROWS = 64, 2, 32128
VAE_CHANNELS = 32

# Gains of layouts.py that are changed here: with those of the published width the 32 identity
# tokens come out nearly equal, and the picture is all black and white.
MICRO_GAINS = {"pulid_encoder.latents": 64.0, "decoder.conv_out.weight": 0.6}

WORDS = (
    "a",
    "an",
    "the",
    "of",
    "in",
    "on",
    "at",
    "with",
    "and",
    "photo",
    "portrait",
    "picture",
    "painting",
    "woman",
    "man",
    "person",
)


@dataclass(frozen=True)
class Part:
    """One file or folder of the set. what: where its numbers come from, for the table."""

    name: str
    what: str
    write: Callable[[Path, int], object]


def parts(dev: bool = False, blocks: tuple[int, int] = PUBLISHED) -> tuple[Part, ...]:
    """The set, in the order it is written.

    dev: a Flux with guidance_in instead of schnell. blocks: how many double and single blocks it
    has, and PuLID layers for them.
    """
    return (
        Part(
            f"flux1-{'dev' if dev else 'schnell'}.safetensors",
            "random",
            lambda path, seed: _flux(path, seed, dev, blocks),
        ),
        Part(
            "pulid_flux_v0.9.1.safetensors",
            "random",
            lambda path, seed: _pulid(path, seed, blocks),
        ),
        Part("EVA02_CLIP_L_336_psz14_s6B.pt", "random", _eva),
        Part("ae.safetensors", "random", _autoencoder),
        Part("clip_l.safetensors", "random", _clip),
        Part("t5xxl_fp16.safetensors", "random", _t5),
        Part(
            "tokenizer.json",
            "letters and bytes, for the T5 file beside it",
            lambda path, _: write_tokenizer(path),
        ),
        Part(
            "antelopev2",
            "detector: matched filter of one face; recogniser: random",
            micro_antelopev2.write_pack,
        ),
        Part(
            "detection_Resnet50_Final.pth",
            "wired by hand, heads fitted to one face",
            micro_retinaface.write_detector,
        ),
        Part(
            "parsing_bisenet.pth",
            "wired by hand, labels fitted to one face",
            micro_bisenet.write_parser,
        ),
    )


def write_micro_models(
    folder: Path,
    seed: int = 0,
    dev: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Write the whole set into `folder`. Files already there under these names are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts(dev):
        start = time.perf_counter()
        part.write(folder / part.name, seed)
        report(f"{part.name}: {time.perf_counter() - start:.1f} s")


def _seeded(
    layout: public_layouts.Layout, seed: int, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    changed = {
        name: (layout[name][0], gain) for name, gain in MICRO_GAINS.items() if name in layout
    }
    return seeded_weights(layout | changed, seed, dtype)


def _flux(path: Path, seed: int, dev: bool, blocks: tuple[int, int]) -> None:
    layout = public_layouts.flux(
        FLUX_WIDTH, *blocks, context=T5_WIDTH, vector=CLIP_WIDTH, guidance=dev
    )
    save_file(_seeded(layout, seed, torch.bfloat16), path)


def _pulid(path: Path, seed: int, blocks: tuple[int, int]) -> None:
    layers = public_layouts.pulid_layers(*blocks)
    layout = public_layouts.pulid_ca(FLUX_WIDTH, layers, PULID_HEADS, TOKEN_WIDTH)
    layout |= public_layouts.pulid_encoder(
        IDENTITY_WIDTH, out_dim=TOKEN_WIDTH, vit=EVA_WIDTH, cond=ARCFACE_WIDTH + EVA_POOLED
    )
    save_file(_seeded(layout, seed, torch.bfloat16), path)


def _eva(path: Path, seed: int) -> None:
    torch.save(_seeded(public_layouts.eva_clip(EVA_WIDTH, EVA_POOLED), seed, torch.float16), path)


def _autoencoder(path: Path, seed: int) -> None:
    state = _seeded(public_layouts.autoencoder(VAE_CHANNELS), seed, torch.float32)
    for name, weight in state.items():  # even kernels blur: the decoder paints blots, not grit
        if name.startswith("decoder.") and weight.ndim == 4:
            state[name] = weight.mean((2, 3), keepdim=True).expand_as(weight).contiguous()
    save_file(state, path)


def _clip(path: Path, seed: int) -> None:
    save_file(_seeded(public_layouts.clip_l(CLIP_WIDTH, CLIP_LAYERS), seed, torch.float16), path)


def _t5(path: Path, seed: int) -> None:
    state = _seeded(public_layouts.t5(T5_WIDTH, T5_LAYERS, T5_ROWS), seed, torch.float16)
    # the published file stores it twice
    state["encoder.embed_tokens.weight"] = state["shared.weight"].clone()
    save_file(state, path)


def write_tokenizer(path: Path) -> None:
    write_unigram(path, WORDS)


def _table(folder: Path, dev: bool) -> str:
    lines, total = [], 0
    for part in parts(dev):
        path = folder / part.name
        size = sum(
            file.stat().st_size for file in (path.glob("*.onnx") if path.is_dir() else [path])
        )
        total += size
        lines.append(f"{size:>12,}  {part.name:<31} {part.what}")
    return "\n".join([*lines, f"{total:>12,}  in all, in {folder}"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--dev",
        action="store_true",
        help="a dev-style Flux, with guidance_in, as flux1-dev.safetensors",
    )
    arguments = parser.parse_args()
    write_micro_models(
        arguments.folder,
        arguments.seed,
        arguments.dev,
        lambda line: print(line, file=sys.stderr, flush=True),
    )
    print(_table(arguments.folder, arguments.dev))


if __name__ == "__main__":
    main()
