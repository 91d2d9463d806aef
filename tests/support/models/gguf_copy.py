"""GGUF copies of Flux files, and the one that sd-cli converted."""

from __future__ import annotations

import gguf
from gguf import GGMLQuantizationType as Q
from safetensors.torch import load_file
from support.paths import TESTS

SAMPLE = TESTS / "sdcli" / "flux-tiny-q4_K.gguf"  # written by sd-cli -M convert --type q4_K


def write_gguf(
    source, target, kind: Q, rest: Q = Q.BF16, prefix: str = "", architecture: str = "flux"
):
    """A GGUF copy of a BFL safetensors file, block matrices as `kind`, everything else as
    `rest`.
    """
    writer = gguf.GGUFWriter(target, arch=architecture)
    for name, tensor in load_file(source).items():
        block_matrix = tensor.ndim == 2 and name.startswith(("double_blocks", "single_blocks"))
        as_kind = kind if block_matrix else rest
        writer.add_tensor(
            prefix + name, gguf.quantize(tensor.float().numpy(), as_kind), raw_dtype=as_kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
