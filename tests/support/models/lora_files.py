"""LoRA files in the spellings of their trainers, for a small Flux."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from support.models.stock_models import new_flux
from torch import nn

from pulid_generate.files.model import Model
from pulid_generate.lora.changes import Product
from pulid_generate.lora.files import read_lora, resolve
from pulid_generate.lora.hooks import attach_loras, linear_shapes

RANK = 3


LAYER = "transformer.transformer_blocks.0.attn.to_q"


def flux(width: int = 256, guidance: bool = True, seed: int = 0, device: str = "cpu"):
    """A Flux of 2 double and 2 single blocks."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = new_flux(width=width, double=2, single=2, context=64, guidance=guidance)
    return model.eval().requires_grad_(False)


def velocity(model, dtype=torch.float32):
    draw = torch.Generator().manual_seed(5)
    with torch.inference_mode():
        return model(
            hidden_states=torch.randn(1, 6, 64, generator=draw).to(dtype),
            encoder_hidden_states=torch.randn(1, 4, 64, generator=draw).to(dtype),
            pooled_projections=torch.randn(1, 32, generator=draw).to(dtype),
            timestep=torch.tensor([0.5]),
            guidance=torch.tensor([3.5]),
            img_ids=torch.zeros(6, 3),
            txt_ids=torch.zeros(4, 3),
            return_dict=False,
        )[0].float()


def pair(rows: int, columns: int, seed: int, rank: int = RANK) -> tuple[torch.Tensor, torch.Tensor]:
    """(down, up), strong enough to be seen in the output."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(rank, columns, generator=draw) * 0.05, torch.randn(
        rows, rank, generator=draw
    ) * 0.2


# The same LoRA for a double block's fused image q, k, v, for its projection and MLP, for a single
# block's linear1 and linear2, and for the two last layers, in every spelling. A spelling: (name of
# a BFL layer -> tensor prefix), names of down, up, alpha; or diffusers' layers.
FUSED = {
    "double_blocks.1.img_attn.qkv": [f"transformer_blocks.1.attn.to_{x}" for x in "qkv"],
    "double_blocks.1.txt_attn.qkv": [f"transformer_blocks.1.attn.add_{x}_proj" for x in "qkv"],
    "double_blocks.0.img_attn.proj": ["transformer_blocks.0.attn.to_out.0"],
    "double_blocks.0.txt_mlp.2": ["transformer_blocks.0.ff_context.net.2"],
    "double_blocks.0.img_mod.lin": ["transformer_blocks.0.norm1.linear"],
    "single_blocks.1.linear1": [
        *(f"single_transformer_blocks.1.attn.to_{x}" for x in "qkv"),
        "single_transformer_blocks.1.proj_mlp",
    ],
    "single_blocks.0.linear2": ["single_transformer_blocks.0.proj_out"],
    "single_blocks.0.modulation.lin": ["single_transformer_blocks.0.norm.linear"],
    "guidance_in.in_layer": ["time_text_embed.guidance_embedder.linear_1"],
    "final_layer.linear": ["proj_out"],
    "final_layer.adaLN_modulation.1": ["norm_out.linear"],
}


KOHYA = ("lora_down.weight", "lora_up.weight")


PEFT = ("lora_A.weight", "lora_B.weight")


BFL_SPELLINGS = {
    "kohya": (lambda name: f"lora_unet_{name.replace('.', '_')}", KOHYA),
    "comfy": (lambda name: f"diffusion_model.{name}", KOHYA),
    "comfy, peft's leaves": (lambda name: f"diffusion_model.{name}", PEFT),
    "fal": (lambda name: f"base_model.model.{name}", PEFT),
    "bare": (lambda name: name, PEFT),
}


def swap(rows: torch.Tensor) -> torch.Tensor:
    return torch.cat(rows.chunk(2)[::-1])


def bfl_lora(shapes, spell, leaves, alpha: float | None):
    """(tensors of a file in BFL's names, deltas of the layers)."""
    tensors, deltas = {}, {}
    for seed, (name, layers) in enumerate(FUSED.items()):
        rows = [shapes[layer][0] for layer in layers]
        down, up = pair(sum(rows), shapes[layers[0]][1], seed)
        tensors[f"{spell(name)}.{leaves[0]}"], tensors[f"{spell(name)}.{leaves[1]}"] = down, up
        if alpha is not None:
            tensors[f"{spell(name)}.alpha"] = torch.tensor(alpha)
        scale = 1 if alpha is None else alpha / RANK
        whole = scale * (swap(up) if name.startswith("final_layer.adaLN") else up) @ down
        deltas.update(zip(layers, whole.split(rows), strict=True))
    return tensors, deltas


def write(path: Path, tensors, metadata=None) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path


def plain_lora(layer: str = LAYER, size: tuple[int, int] = (256, 256), leaves=PEFT):
    down, up = pair(*size, 0)
    return {f"{layer}.{leaves[0]}": down, f"{layer}.{leaves[1]}": up}


def products_of(path: Path, model, kind: Model = Model.FLUX) -> dict[str, Product]:
    return resolve(read_lora(path), kind, linear_shapes(model))


def hooks_of(model) -> int:
    return sum(
        len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()
    )


def merged(model: nn.Module, deltas: dict[str, torch.Tensor]) -> nn.Module:
    """A copy of the model with deltas added to its weights, by hand."""
    copy = flux()
    state = model.state_dict()
    copy.load_state_dict(
        {name: state[name] + deltas.get(name.removesuffix(".weight"), 0) for name in state}
    )
    return copy


def drawn_with(model: nn.Module, path: Path, weight: float = 1.0) -> torch.Tensor:
    """The velocity with one LoRA of a file."""
    with attached(model, [(products_of(path, model), weight)]):
        return velocity(model)


def attached(model: nn.Module, loras: Any, dtype: torch.dtype = torch.float32) -> Any:
    """`attach_loras` on the CPU."""
    return attach_loras(model, loras, dtype, "cpu")
