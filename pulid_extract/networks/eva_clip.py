"""EVA02-CLIP's image tower from its file: grey face -> one pooled vector and five hidden states.

Any width, depth, patch and picture size, read from the tensors. Knows nothing of faces or of PuLID.

Sources: ToTheBeginning/PuLID 1aa2fc7, eva_clip/eva_vit_model.py (taps, rope); QuanSun/EVA-CLIP (the
original file); open_clip (`visual.trunk.*`).
Shapes: B batch, S picture side, L = 1 + (S / patch)^2 tokens with the class token first, W width.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch.nn import functional

from pulid_extract.networks.checkpoint import (
    count_of,
    load_strictly,
    read_tensors,
    size_of,
    without_init,
)
from pulid_extract.networks.eva_tower import HEAD_WIDTH, EvaTower
from pulid_extract.shared.cpu_linear import use_cpu_linear
from pulid_extract.shared.errors import WeightsError

WHAT = "an EVA02-CLIP image tower"
# the reference keeps x *before* blocks 4, 8, 12, 16 and 20
TAPS = (3, 7, 11, 15, 19)
# OPENAI_DATASET_MEAN and _STD, eva_clip/constants.py
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)

# Layouts by the prefix before `pos_embed`: open_clip, original, timm.
PREFIXES = ("visual.trunk.", "visual.", "")
# Original name -> timm's. Ends of names, so that they hold for every block.
RENAMES = {
    "attn.q_bias": "attn.q_proj.bias",
    "attn.v_bias": "attn.v_proj.bias",
    "attn.inner_attn_ln.weight": "attn.norm.weight",
    "attn.inner_attn_ln.bias": "attn.norm.bias",
    "mlp.ffn_ln.weight": "mlp.norm.weight",
    "mlp.ffn_ln.bias": "mlp.norm.bias",
    "mlp.w1.weight": "mlp.fc1_g.weight",
    "mlp.w1.bias": "mlp.fc1_g.bias",
    "mlp.w2.weight": "mlp.fc1_x.weight",
    "mlp.w2.bias": "mlp.fc1_x.bias",
    "mlp.w3.weight": "mlp.fc2.weight",
    "mlp.w3.bias": "mlp.fc2.bias",
}
BLOCK = re.compile(r"blocks\.\d+\.")
# Dropped on purpose: rope tables follow from the sizes. The public file has none, other savings of
# the tower do.
ROPE = re.compile(r"(blocks\.\d+\.attn\.)?rope\.(freqs_cos|freqs_sin|bands|pos_embed)")


def load_eva_clip(path: Path, dtype: torch.dtype = torch.float32) -> EvaTower:
    """The tower with the file's weights, on the CPU, in eval mode.

    Reads the original `.pt`, timm's and open_clip's files; the text tower, if there is one, is not
    read. Raises WeightsError, naming the tensors, if they are not exactly those of a tower deep
    enough for PuLID.
    """
    stored = read_tensors(path, lambda name: not name.startswith(("text.", "logit_")))
    tensors = tower_tensors(stored, path)

    def size(name: str, axis: int = 0) -> int:
        return size_of(tensors, name, axis, path, WHAT)

    width, positions = size("pos_embed", 2), size("pos_embed", 1)
    patch, depth = size("patch_embed.proj.weight", 3), count_of(tensors, "blocks.")
    # but for the class token
    side = round((positions - 1) ** 0.5)
    if depth <= TAPS[-1]:
        raise WeightsError(
            f"{path}: the tower has {depth} blocks, PuLID reads the output of block {TAPS[-1]}: at "
            f"least {TAPS[-1] + 1}"
        )
    if width % HEAD_WIDTH or side * side != positions - 1:
        raise WeightsError(f"{path}: does not fit {WHAT}: width {width}, {positions} positions")

    hidden, pooled = size("blocks.0.mlp.fc1_g.weight"), size("head.weight")
    with without_init():
        model = EvaTower(side * patch, patch, width, depth, hidden, pooled).to(dtype)
    load_strictly(model, tensors, path, WHAT)
    return use_cpu_linear(model)


def tower_tensors(tensors: dict[str, torch.Tensor], path: Path) -> dict[str, torch.Tensor]:
    """The tower's tensors under timm's names, from any of the three layouts. Raises WeightsError if
    there is no tower.
    """
    prefix = next((prefix for prefix in PREFIXES if prefix + "pos_embed" in tensors), None)
    if prefix is None:
        raise WeightsError(f"{path}: does not fit {WHAT}: missing pos_embed")
    renamed = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix(prefix)
        if not name.startswith(prefix) or ROPE.fullmatch(plain):
            continue
        block = BLOCK.match(plain)
        start = block[0] if block else ""
        ending = plain[len(start) :]
        renamed[start + RENAMES.get(ending, ending)] = tensor
    return renamed


def image_size(tower: EvaTower) -> int:
    """The side of the square picture the tower takes (336 for the public file)."""
    return tower.patch_embed.img_size[0]


def preprocess(face: torch.Tensor, side: int) -> torch.Tensor:
    """Resize and normalise a face for the tower.

    face: (B, 3, H, W) float32 RGB in [0, 1]. Returns (B, 3, side, side) float32. As the reference:
    bicubic may leave [0, 1] at edges and is not clamped, and it is antialiased, as torchvision's
    resize is by default.
    """
    size = (side, side)
    small = functional.interpolate(face, size, mode="bicubic", align_corners=False, antialias=True)
    mean, std = small.new_tensor(MEAN), small.new_tensor(STD)
    return (small - mean[:, None, None]) / std[:, None, None]


@torch.no_grad()
def encode_face(tower: EvaTower, pixels: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """pixels: (B, 3, S, S) from `preprocess`. Returns the pooled vector (B, P), not normalised, and
    five (B, L, W).
    """
    normed, hidden_states = tower(pixels, TAPS)
    return tower.pool(normed), hidden_states
