"""Writes the trained networks as the public files: BFL's Flux as Q8_0 GGUF, its autoencoder,
ComfyUI's text encoders, PuLID, EVA.

Names go through the loaders' own tables, the other way round, so that nothing can be named here
what the loaders would not read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import save_file
from seeded import public_layouts
from torch import Tensor

from micro_world.networks import autoencoder, painter, reader
from micro_world.networks.identity import HEADS, TOKEN_WIDTH, Identity
from pulid_generate.models.autoencoder import vae_name
from pulid_generate.models.flux import flux_targets
from pulid_generate.models.tokenizers import clip_tokenizer

BLOCKED = re.compile(
    r"((double|single)_blocks\..*(qkv|proj|mlp\.\d|linear\d|mod\.lin|modulation\.lin)"
    r"|(time|vector)_in\..*|final_layer\.adaLN.*)\.weight"
)


def write_flux(flux: Any, path: Path) -> None:
    """The blocks' matrices and those of the modulation in Q8_0, all else in float32 or float16."""
    state = flux.state_dict()
    writer = gguf.GGUFWriter(path, arch="flux")
    layout = public_layouts.flux(
        painter.WIDTH, painter.DOUBLE, painter.SINGLE, reader.T5_WIDTH, reader.CLIP_WIDTH
    )
    for name, (shape, _) in layout.items():
        targets = flux_targets(name)
        if targets is None:
            raise ValueError(f"{name}: has no place in a Flux model")
        tensor = torch.cat([state.pop(target) for target in targets])
        # diffusers: scale, shift; BFL: shift, scale
        if name.startswith("final_layer.adaLN_modulation"):
            tensor = torch.cat(tensor.chunk(2)[::-1])
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{name}: {tuple(tensor.shape)}, expected {shape}")
        _add(writer, name, tensor.float().numpy())
    if state:
        raise ValueError(f"left over: {', '.join(state)}")
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add(writer: gguf.GGUFWriter, name: str, values: np.ndarray) -> None:
    if BLOCKED.fullmatch(name):
        kind = gguf.GGMLQuantizationType.Q8_0
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, values if values.ndim == 1 else values.astype(np.float16))


def write_autoencoder(vae: Any, path: Path) -> None:
    state, levels = vae.state_dict(), len(autoencoder.CHANNELS)
    out = {}
    for name, (shape, _) in public_layouts.autoencoder(
        32, (1, 2, 4, 8), blocks=1
    ).items():  # every name there can be; of the shapes only the rank
        tensor = state.pop(str(vae_name(name, levels)), None)
        if tensor is not None:
            tensor = tensor[..., None, None] if len(shape) > tensor.ndim else tensor
            out[name] = tensor.to(torch.float16 if tensor.ndim > 1 else torch.float32).contiguous()
    if state:
        raise ValueError(f"left over: {', '.join(state)}")
    save_file(out, path)


def write_t5(model: Any, path: Path) -> None:
    state = {
        name: tensor.half().contiguous()
        for name, tensor in model.state_dict().items()
        if name != "encoder.embed_tokens.weight"
    }
    save_file(state, path)


def write_clip(model: Any, ids: list[int], path: Path) -> None:
    """In OpenAI's vocabulary; the rows of words that nobody has taught are zeros."""
    state = {}
    for name, tensor in model.state_dict().items():
        plain = name if name.startswith("text_model.") else f"text_model.{name}"
        if plain.endswith("position_ids"):
            continue
        if plain.endswith("token_embedding.weight"):
            rows = torch.zeros(clip_tokenizer().get_vocab_size(), tensor.shape[1])
            rows[ids] = tensor
            tensor = rows
        state[plain] = tensor.half().contiguous()
    save_file(state, path)


def write_pulid(identity: Identity, path: Path) -> None:
    state = {
        f"pulid_encoder.{name}": tensor for name, tensor in identity.encoder.state_dict().items()
    }
    state |= {f"pulid_ca.{name}": tensor for name, tensor in identity.layers.state_dict().items()}
    layout = public_layouts.pulid_ca(painter.WIDTH, len(identity.layers), HEADS, TOKEN_WIDTH)
    missing = set(layout) - set(state)
    if missing:
        raise ValueError(f"missing: {', '.join(sorted(missing))}")
    save_file(
        {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in state.items()}, path
    )


def write_tower(model: Any, path: Path) -> None:
    """Under timm's names."""
    tensors: dict[str, Tensor] = {
        name: tensor for name, tensor in model.state_dict().items() if "rope" not in name
    }
    save_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, path)
