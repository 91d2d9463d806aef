"""Builders of the files people have: all-in-one checkpoints, diffusers pipelines, fp8 and GGUF
copies; each made of the micro models.

diffusers and transformers write their folders themselves. Knows nothing of how they are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import load_file, save_file
from support.models.vocabularies import vocabulary
from torch import Tensor

ALL_IN_ONE = {
    "flux1-schnell": "model.diffusion_model.",
    "clip_l": "text_encoders.clip_l.transformer.",
    "t5xxl_fp16": "text_encoders.t5xxl.transformer.",
    "ae": "vae.",
}
T5_BLOCK = {  # Hugging Face's -> llama.cpp's, the other way round than the reader's table
    "layer.0.SelfAttention.q": "attn_q",
    "layer.0.SelfAttention.k": "attn_k",
    "layer.0.SelfAttention.v": "attn_v",
    "layer.0.SelfAttention.o": "attn_o",
    "layer.0.SelfAttention.relative_attention_bias": "attn_rel_b",
    "layer.0.layer_norm": "attn_norm",
    "layer.1.DenseReluDense.wi_0": "ffn_gate",
    "layer.1.DenseReluDense.wi_1": "ffn_up",
    "layer.1.DenseReluDense.wo": "ffn_down",
    "layer.1.layer_norm": "ffn_norm",
}


def all_in_one(
    micro: Path, target: Path, without: str = "", change=lambda name, tensor: tensor
) -> Path:
    """A ComfyUI checkpoint: transformer, both text encoders and the autoencoder, with the extras
    that such files have.
    """
    state = {"text_encoders.clip_l.logit_scale": torch.ones(())}
    state["text_encoders.clip_l.transformer.text_projection.weight"] = torch.ones(64, 64)
    for name, prefix in ALL_IN_ONE.items():
        if name != without:
            state |= {
                prefix + key: change(prefix + key, value)
                for key, value in load_file(micro / f"{name}.safetensors").items()
            }
    save_file(state, target)
    return target


def pipeline_folder(micro: Path, target: Path) -> Path:
    """A diffusers pipeline, the transformer and T5 in several shards, with T5's tokenizer."""
    from support.models.stock_models import stock_autoencoder, stock_clip, stock_flux, stock_t5

    from pulid_extract.shared.model_files import read_header
    from pulid_generate.models.autoencoder import load_vae
    from pulid_generate.models.clip import ClipText
    from pulid_generate.models.flux import load_flux
    from pulid_generate.models.t5 import T5Text

    def header(name: str):
        return read_header(micro / f"{name}.safetensors")

    stock_flux(load_flux(header("flux1-schnell"), None)).save_pretrained(
        target / "transformer", max_shard_size="5MB"
    )
    stock_autoencoder(load_vae(header("ae"), torch.float32)).save_pretrained(target / "vae")
    clip = stock_clip(ClipText.load(header("clip_l"), torch.float16).model)
    clip.save_pretrained(target / "text_encoder")
    t5 = T5Text.load(header("t5xxl_fp16"), torch.float16).model
    stock_t5(t5).save_pretrained(target / "text_encoder_2", max_shard_size="5MB")
    (target / "tokenizer_2").mkdir()
    (target / "tokenizer_2" / "tokenizer.json").write_bytes((micro / "tokenizer.json").read_bytes())
    (target / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert len(list((target / "transformer").glob("*.safetensors"))) > 1
    return target


def cached_repository(folder: Path, cache: Path, name: str) -> Path:
    """The snapshot of a repository in a Hugging Face cache, holding what `folder` holds."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    snapshot.symlink_to(folder, target_is_directory=True)
    return snapshot


def scaled_fp8(
    state: Mapping[str, Tensor],
    per_row: bool = False,
    scale_name: str = "scale_weight",
    dtype=torch.float8_e4m3fn,
):
    """A copy of a model's tensors with every matrix in scaled fp8, the rest as it was."""
    stored: dict[str, Tensor] = {}
    limit = torch.finfo(dtype).max
    for name, value in state.items():
        if value.ndim != 2 or not name.endswith(".weight"):
            stored[name] = value
            continue
        wide = value.float()
        scale = (wide.abs().amax(dim=1, keepdim=True) if per_row else wide.abs().max()).clamp(
            min=1e-12
        ) / limit
        stored[name] = (wide / scale).to(dtype)
        stored[name.removesuffix("weight") + scale_name] = scale
    return stored


def widened(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same numbers in float32, by the rule alone: fp8 times its scale."""
    out = {}
    for name, value in stored.items():
        if name.endswith(
            ("scale_weight", "weight_scale", "input_scale", "comfy_quant", "scaled_fp8")
        ):
            continue
        scale = stored.get(
            name.removesuffix("weight") + "scale_weight", stored.get(name + "_scale")
        )
        out[name] = value.float() if scale is None else value.float() * scale
    return out


def write_gguf(
    target: Path,
    tensors: Mapping[str, tuple[np.ndarray, Q]],
    architecture: str = "",
    fields=lambda writer: None,
) -> Path:
    """tensors: name -> (float32 numbers, the type to store them in)."""
    writer = gguf.GGUFWriter(target, arch=architecture)
    fields(writer)
    for name, (numbers, kind) in tensors.items():
        writer.add_tensor(name, gguf.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def t5_gguf(
    micro: Path,
    target: Path,
    kind: Q = Q.Q8_0,
    tokenizer: bool = True,
    architecture: str = "t5encoder",
) -> Path:
    """city96's form of T5: llama.cpp's names, matrices and embedding quantised, the vocabulary in
    the metadata.
    """
    state = load_file(micro / "t5xxl_fp16.safetensors")
    del state["encoder.embed_tokens.weight"]
    tensors = {}
    for name, tensor in state.items():
        own = {
            "shared.weight": "token_embd.weight",
            "encoder.final_layer_norm.weight": "enc.output_norm.weight",
        }.get(name)
        if own is None:
            _, _, block, rest = name.split(".", 3)
            own = f"enc.blk.{block}.{T5_BLOCK[rest.removesuffix('.weight')]}.weight"
        packed = tensor.ndim == 2 and tensor.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
        tensors[own] = (tensor.float().numpy(), kind if packed else Q.F32)
    return write_gguf(
        target, tensors, architecture, add_vocabulary if tokenizer else lambda writer: None
    )


def add_vocabulary(writer: gguf.GGUFWriter) -> None:
    """tokenizer.ggml.*, as llama.cpp's converter writes it (convert_hf_to_gguf.py,
    T5Model.set_vocab), padded to 32,128 rows.
    """
    from sentencepiece import sentencepiece_model_pb2

    proto: Any = sentencepiece_model_pb2
    model = proto.ModelProto()
    model.ParseFromString((vocabulary("tokenizer_2") / "spiece.model").read_bytes())
    tokens = [piece.piece.encode() for piece in model.pieces]
    scores = [piece.score for piece in model.pieces]
    kinds = [piece.type for piece in model.pieces]
    extras = [f"<extra_id_{number}>".encode() for number in reversed(range(100))]
    pads = [f"[PAD{number}]".encode() for number in range(len(tokens) + len(extras), 32128)]
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens + extras + pads)
    writer.add_token_scores(scores + [-1000.0] * 100 + [-10000.0] * len(pads))
    writer.add_token_types(
        kinds + [gguf.TokenType.USER_DEFINED] * 100 + [gguf.TokenType.UNUSED] * len(pads)
    )
    writer.add_add_space_prefix(model.normalizer_spec.add_dummy_prefix)
    writer.add_remove_extra_whitespaces(model.normalizer_spec.remove_extra_whitespaces)
    writer.add_precompiled_charsmap(model.normalizer_spec.precompiled_charsmap)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    writer.add_pad_token_id(0)
