"""Write Flux, PuLID, autoencoder, CLIP and T5 files in the public layouts with seeded weights, at
any width.

The pictures that sd-cli drew for tests/golden were drawn from such files, so the values must never
change:

    PYTHONPATH=scripts python -m seeded.checkpoints m --seed 11 --vae-ch 128
        --embedding me.pulidembd --embedding-seed 5          # 1.1 GB

(sd-cli itself wants --vae-ch 128 and 16 PuLID heads.) Prints one line per file; these are noise,
not models of anything.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from pulid_extract.shared.embedding_file import TOKENS, encode_embedding
from pulid_extract.shared.writing import write_atomically
from seeded import public_layouts
from seeded.tensors import seeded, seeded_weights

PARTS = ("flux", "pulid", "ae", "clip_l", "t5")
TOKEN_SCALE = 1.2  # of the seeded identity: about that of a real one
CLIP_WIDTH = 768


def write_checkpoints(
    folder: Path,
    *,
    seed: int = 0,
    hidden: int = 256,
    depth: int = public_layouts.DOUBLE_BLOCKS,
    single: int = public_layouts.SINGLE_BLOCKS,
    guidance: bool = False,
    vae_channels: int = 32,
    t5_dim: int = 128,
    t5_layers: int = 2,
    encoder: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    only: tuple[str, ...] = PARTS,
) -> list[Path]:
    """Write the files named in `only` into `folder`; the same arguments give the same tensors.
    Returns their paths.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pulid = public_layouts.pulid_ca(hidden, public_layouts.pulid_layers(depth, single))
    if encoder:
        pulid |= public_layouts.pulid_encoder()
    table = {
        "flux": (
            "flux",
            public_layouts.flux(hidden, depth, single, t5_dim, CLIP_WIDTH, guidance),
            dtype,
        ),
        "pulid": ("pulid_flux_v0.9.1", pulid, torch.bfloat16),
        "ae": ("ae", public_layouts.autoencoder(vae_channels), torch.float32),
        "clip_l": ("clip_l", public_layouts.clip_l(CLIP_WIDTH), torch.float16),
        "t5": ("t5xxl", public_layouts.t5(t5_dim, t5_layers), torch.float16),
    }
    paths = []
    for part in only:
        name, layout, part_dtype = table[part]
        paths.append(folder / f"{name}.safetensors")
        save_file(seeded_weights(layout, seed, part_dtype), paths[-1])
    return paths


def seeded_tokens(seed: int, tokens: int = 32, width: int = 2048) -> np.ndarray:
    """(tokens, width) float16: an identity of nobody."""
    return (seeded(f"{seed}/{TOKENS}", (tokens, width)) * TOKEN_SCALE).astype(np.float16)


def write_embedding(path: Path, seed: int = 5) -> Path:
    """Write the seeded .pulidembd that the sd-cli pictures were drawn with (seed 5)."""
    write_atomically(path, encode_embedding(seeded_tokens(seed)))
    return path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "out",
        nargs="?",
        type=Path,
        help="folder for the checkpoints; may be left out with --embedding",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--hidden", type=int, default=256, help="Flux's width, a multiple of 128")
    parser.add_argument("--depth", type=int, default=public_layouts.DOUBLE_BLOCKS)
    parser.add_argument("--single", type=int, default=public_layouts.SINGLE_BLOCKS)
    parser.add_argument(
        "--guidance", action="store_true", help="a dev-style Flux, with guidance_in"
    )
    parser.add_argument(
        "--vae-ch", type=int, default=32, help="autoencoder channels, a multiple of 32"
    )
    parser.add_argument("--t5-dim", type=int, default=128)
    parser.add_argument("--t5-layers", type=int, default=2)
    parser.add_argument(
        "--dtype", default="bfloat16", choices=("bfloat16", "float16", "float32"), help="of Flux"
    )
    parser.add_argument(
        "--encoder", action="store_true", help="also the full-size IDFormer in the PuLID file"
    )
    parser.add_argument(
        "--only", default=",".join(PARTS), help=f"comma-separated, of {', '.join(PARTS)}"
    )
    parser.add_argument(
        "--embedding", type=Path, metavar="FILE", help="also write a seeded .pulidembd"
    )
    parser.add_argument("--embedding-seed", type=int, default=5)
    arguments = parser.parse_args()
    only = tuple(arguments.only.split(","))
    if unknown := set(only) - set(PARTS):
        parser.error(
            f"--only: unknown {', '.join(sorted(unknown))}; expected some of {', '.join(PARTS)}"
        )
    if arguments.out is None and arguments.embedding is None:
        parser.error("give OUT, or --embedding FILE, or both")

    paths = []
    if arguments.out is not None:
        paths = write_checkpoints(
            arguments.out,
            seed=arguments.seed,
            hidden=arguments.hidden,
            depth=arguments.depth,
            single=arguments.single,
            guidance=arguments.guidance,
            vae_channels=arguments.vae_ch,
            t5_dim=arguments.t5_dim,
            t5_layers=arguments.t5_layers,
            encoder=arguments.encoder,
            dtype=getattr(torch, arguments.dtype),
            only=only,
        )
    if arguments.embedding is not None:
        paths.append(write_embedding(arguments.embedding, arguments.embedding_seed))
    for path in paths:
        print(f"{path.stat().st_size:>12,}  {path}")


if __name__ == "__main__":
    sys.exit(main())
