"""Kinds of model files, told apart by the names in their headers; and the roles that they can fill. Tables, mostly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pulid_extract.errors import WeightsError
from pulid_extract.model_files.headers import Header


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name in messages, the test on its header, and why it cannot be used here (empty: it can)."""

    name: str
    test: Callable[[Header], bool]
    refusal: str = ""


@dataclass(frozen=True)
class Source:
    """Where a file comes from. repo and file: on the Hugging Face hub; else `url`. sha256: lower-case hex, "" where unknown."""

    repo: str = ""
    files: tuple[str, ...] = ()
    url: str = ""
    sha256: str = ""
    licence: str = ""

    @property
    def page(self) -> str:
        return self.url or f"https://huggingface.co/{self.repo} ({', '.join(self.files)})"


@dataclass(frozen=True)
class Role:
    """A part that a file plays in a stage: which kinds of file can fill it, and how to get one.

    fetch: whether a missing file is downloaded without being asked for (small and ungated files only).
    """

    name: str
    flag: str
    kinds: tuple[str, ...]
    source: Source
    fetch: bool = False


def kind_of(header: Header) -> Kind:
    """The first kind of KINDS whose test the header passes. Raises WeightsError for a file of no known kind."""
    for kind in KINDS:
        if kind.test(header):
            return kind
    names = sorted(header.names)
    seen = f"; first names in it: {', '.join(names[:3])}" if names else ""
    raise WeightsError(f"{header.path}: a {header.format} file of no known kind{seen}; see the table of files in README.md")


def _has(*wanted: str) -> Callable[[Header], bool]:
    """All of `wanted` are names in the file, after any of the prefixes that tools put in front."""
    return lambda header: any(all(prefix + name in header.names for name in wanted) for prefix in PREFIXES)


def _any_ends(*endings: str) -> Callable[[Header], bool]:
    return lambda header: any(name.endswith(endings) for name in header.names)


def _any_starts(start: str) -> Callable[[Header], bool]:
    return lambda header: any(name.startswith(start) for name in header.names)


# "model.diffusion_model." and "vae.": ComfyUI all-in-one files and sd.cpp; "module.": torch DataParallel
PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "vae.", "visual.trunk.", "visual.", "module.")

# Order matters: what must be refused is tested before what it resembles.
KINDS = (
    Kind("identity file (.pulidembd)", _has("pulid_id"), "it is no model; give it to pulid-generate as --pulid-id-embedding"),
    Kind(
        "T5 encoder in GGUF", _has("enc.blk.0.attn_q.weight"), "GGUF text encoders cannot be read yet; use t5xxl_fp16.safetensors"
    ),
    Kind(
        "PuLID file in GGUF",
        lambda header: header.format == "gguf" and _any_starts("pulid_ca.")(header),
        "PuLID's weights are read from safetensors only; use pulid_flux_v0.9.1.safetensors",
    ),
    Kind(
        "quanto-quantised Flux", _any_ends("._data", "._scale"), "quanto files are not supported; use the original bfloat16 file"
    ),
    Kind(
        "bitsandbytes nf4 file", _any_ends(".absmax", ".quant_map"), "nf4 files are not supported; use the original bfloat16 file"
    ),
    Kind("SVDQuant file", _any_ends(".qweight", ".wscales"), "SVDQuant files are not supported; use the original bfloat16 file"),
    Kind("PuLID-FLUX file", _any_starts("pulid_ca.")),
    Kind(
        "SDXL PuLID file (pulid_v1.1)",
        _any_starts("id_adapter"),
        "it belongs to SDXL; use pulid_flux_v0.9.1.safetensors from https://huggingface.co/guozinan/PuLID",
    ),
    Kind("Flux transformer", _has("img_in.weight", "double_blocks.0.img_attn.qkv.weight")),
    Kind(
        "diffusers Flux transformer",
        _has("x_embedder.weight", "context_embedder.weight"),
        "diffusers files are not supported here; use the BFL file (flux1-dev.safetensors or flux1-schnell.safetensors)",
    ),
    Kind("EVA-CLIP tower", _has("cls_token", "pos_embed", "patch_embed.proj.weight")),
    Kind("Flux autoencoder", _has("decoder.conv_in.weight", "decoder.mid.attn_1.q.weight")),
    Kind("CLIP-L text encoder", _has("text_model.embeddings.token_embedding.weight")),
    Kind("T5 encoder", _has("encoder.block.0.layer.0.SelfAttention.q.weight")),
    Kind("RetinaFace detector", _has("ClassHead.0.conv1x1.weight", "LandmarkHead.0.conv1x1.weight")),
    Kind("BiSeNet parser", _has("cp.resnet.conv1.weight", "ffm.convblk.conv.weight")),
    Kind("antelopev2 folder", lambda header: header.format == "onnx folder" and len(header.tensors) > 1),
)


# The one role that both stages have.
PULID = Role(
    "PuLID weights",
    "--pulid-weights",
    ("PuLID-FLUX file",),
    Source(repo="guozinan/PuLID", files=("pulid_flux_v0.9.1.safetensors",), licence="Apache-2.0"),
    fetch=True,
)


def check_role(header: Header, role: Role) -> None:
    """Raise WeightsError, naming what the file is, if it cannot fill the role."""
    kind = kind_of(header)
    if kind.refusal:
        raise WeightsError(f"{header.path}: is a {kind.name}: {kind.refusal}")
    if kind.name not in role.kinds:
        raise WeightsError(
            f"{header.path}: is a {kind.name}, {role.flag} wants a {' or '.join(role.kinds)}; get it from {role.source.page}"
        )
