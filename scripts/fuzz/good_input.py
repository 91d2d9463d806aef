"""Good input for the readers: small files, records and rows, as they are when nobody means harm."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np


def safetensors(tensors: dict[str, tuple[str, list[int]]], metadata: Any = None) -> bytes:
    header: dict[str, Any] = {} if metadata is None else {"__metadata__": metadata}
    end = 0
    for name, (kind, shape) in tensors.items():
        size = int(np.prod(shape)) * {"F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}[kind]
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


FLUX = {
    "img_in.weight": ("F16", [128, 64]),
    "txt_in.weight": ("F16", [128, 8]),
    "vector_in.in_layer.weight": ("F16", [128, 4]),
    "guidance_in.in_layer.weight": ("F8_E4M3", [128, 2]),
    "guidance_in.in_layer.weight_scale": ("F32", [1]),
    "double_blocks.0.img_attn.qkv.weight": ("BF16", [384, 2]),
    "double_blocks.1.img_attn.qkv.weight": ("BF16", [384, 2]),
    "single_blocks.0.linear1.weight": ("F32", [2, 2]),
}
LORA = {
    "transformer.transformer_blocks.0.attn.to_q.lora_A.weight": ("F32", [2, 4]),
    "transformer.transformer_blocks.0.attn.to_q.lora_B.weight": ("F32", [4, 2]),
    "lora_unet_single_blocks_0_linear2.lora_down.weight": ("F16", [1, 4]),
    "lora_unet_single_blocks_0_linear2.lora_up.weight": ("F16", [4, 1]),
    "lora_unet_single_blocks_0_linear2.alpha": ("F32", []),
}
PEFT = {
    "lora_adapter_metadata": json.dumps(
        {"transformer.lora_alpha": 6, "transformer.alpha_pattern": {"^to_q.*": 2, "to_k": 3.5}}
    )
}


def gguf_file(folder: Path, tensors: dict[str, tuple[int, ...]], architecture: str = "") -> bytes:
    import gguf

    path = folder / "good.gguf"
    writer = gguf.GGUFWriter(path, architecture or "flux")
    writer.add_string("general.name", "one")
    writer.add_array("tokenizer.ggml.tokens", ["<pad>", "</s>", "<unk>", "a"])
    writer.add_array("tokenizer.ggml.scores", [0.0, 0.0, 0.0, -1.0])
    writer.add_array("tokenizer.ggml.token_type", [3, 3, 2, 1])
    writer.add_string("tokenizer.ggml.model", "t5")
    writer.add_precompiled_charsmap(bytes(16))
    for name, shape in tensors.items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def pickle(folder: Path) -> bytes:
    import torch

    torch.save({"pulid_ca.0.to_q.weight": torch.ones(2, 2)}, folder / "good.pt")
    return (folder / "good.pt").read_bytes()


def vocabulary(folder: Path) -> bytes:
    from seeded.unigram import write_unigram

    write_unigram(folder / "tokenizer.json", ("a", "photo", "of"), deaf_to="[,]+")
    told = json.loads((folder / "tokenizer.json").read_bytes())
    # the bytes for everything else make it ten times as large
    told["model"]["vocab"] = told["model"]["vocab"][:20]
    return json.dumps(told).encode()


def encoded(mode: str, form: str, **options: Any) -> bytes:
    from PIL import Image

    stored = io.BytesIO()
    Image.new(mode, (32, 16)).save(stored, form, **options)
    return stored.getvalue()


SCORE = {
    **dict.fromkeys(("stranger", "truth", "copy_paste", "prompt_score", "error", "prompt_judge")),
    "picture": "a.png",
    "status": "ok",
    "likeness": 0.5,
    "cosines": [0.5],
    "faces": 1,
    "box": [1, 2, 3, 4],
    "pose": {"yaw": 1.0, "pitch": 2.0, "roll": 3.0},
    "recognizers": [{"name": "a.onnx", "sha256": "ab", "own": True, "likeness": 0.5}],
}
QUALITY = {
    **dict.fromkeys(("value", "face_size", "sharpness", "outside"), 0.5),
    **dict.fromkeys(("yaw", "pitch", "roll", "covered", "glasses", "hat", "score"), None),
    "faces": 1,
    "warnings": {"pose": "turn"},
}
CACHED = {
    "portraits": [
        {
            "sha256": "ab",
            "face": "largest",
            "box": [1, 2, 3, 4],
            "landmarks": [[1, 2]] * 5,
            "score": 0.9,
            "faces": 1,
            "quality": QUALITY,
            "line": "quality 1.0",
        }
    ],
    "cosines": [[1.0]],
    "tokens": [2, 8],
    "uncond": False,
    "device": "cpu",
}
DRAWN_ROWS = (
    b'{"prompt": "a cat", "seed": 7, "pulid_id_weight": 0.5, "output": "a.png"}\n'
    b'{"prompt": "b", "identity": ["me.pulidembd,weight=1,box=0,0,16,16"], "lora": ["a:1"]}'
)
PORTRAIT_ROWS = (
    b'{"portrait": "me.jpg", "face_index": 0, "box": [[1, 2, 3, 4]], "output": "me.pulidembd"}\n'
    b'{"portrait": ["a.jpg", "b.jpg"], "fuse": "mean"}'
)
