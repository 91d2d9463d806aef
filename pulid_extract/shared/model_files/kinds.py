"""Kinds of model files, told apart by the names in their headers. Tables, mostly."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pulid_extract.shared.errors import WeightsError
from pulid_extract.shared.model_files.headers import Header


@dataclass(frozen=True)
class Kind:
    """A kind of file."""

    # for messages
    name: str
    # whether a header is of this kind
    test: Callable[[Header], bool]
    # why it cannot be used here, "" if it can
    refusal: str = ""


def parts_of(header: Header) -> dict[str, Header]:
    """The models in a file: prefix -> a header of that model alone, its names bare. Most files hold
    one.
    """
    parts: dict[str, dict[str, tuple[str, tuple[int, ...]]]] = {}
    longest_first = tuple(sorted(filter(None, PREFIXES), key=len, reverse=True))
    for name, entry in header.tensors.items():
        prefix = ""
        # most names have none, which one call says
        if name.startswith(longest_first):
            prefix = next(prefix for prefix in longest_first if name.startswith(prefix))
        parts.setdefault(prefix, {})[name[len(prefix) :]] = entry
    headers = {}
    for prefix, tensors in parts.items():
        metadata = header.metadata
        if header.format == "diffusers folder":
            metadata = _part_of(metadata, prefix)
        shards = {name: header.place_of(prefix + name) for name in tensors}
        headers[prefix] = replace(header, tensors=tensors, metadata=metadata, shards=shards)
    return headers


def _part_of(metadata: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    return {key[len(prefix) :]: value for key, value in metadata.items() if key.startswith(prefix)}


def kinds_of(header: Header) -> dict[str, Kind]:
    """Every model in a file: prefix -> the first kind of KINDS whose test that part passes. Parts
    of no known kind are left out.
    """
    kinds = {}
    for prefix, part in parts_of(header).items():
        kind = next((kind for kind in KINDS if kind.test(part)), None)
        if kind:
            kinds[prefix] = kind
    architecture = header.metadata.get("general.architecture", "")
    if header.format == "gguf" and not kinds and architecture not in ARCHITECTURES:
        return {
            "": Kind(
                f"GGUF of architecture {architecture!r}",
                lambda header: True,
                "only Flux and T5 encoders are read, whatever their architecture is called; use "
                "such a file",
            )
        }
    return {prefix: kinds[prefix] for prefix in PREFIXES if prefix in kinds}


def kind_of(header: Header) -> Kind:
    """The kind of a file; for one that holds several models, a kind that lists them, or the one
    that is refused.

    Raises WeightsError for a file of no known kind.
    """
    kinds = list(kinds_of(header).values())
    if len(kinds) > 1:
        names = ", ".join(kind.name for kind in kinds)
        refused = next((kind for kind in kinds if kind.refusal), None)
        return refused or Kind(f"all-in-one checkpoint ({names})", lambda header: True)
    if kinds:
        return kinds[0]
    first = sorted(header.names)[:3]
    names = f"; first names in it: {', '.join(first)}" if first else ""
    raise WeightsError(
        f"{header.path}: a {header.format} file of no known kind{names}; see the table of files in "
        "README.md"
    )


def _has(*wanted: str) -> Callable[[Header], bool]:
    """All of `wanted` are names in the part."""
    return lambda header: all(name in header.tensors for name in wanted)


def _any_ends(*endings: str) -> Callable[[Header], bool]:
    return lambda header: any(name.endswith(endings) for name in header.tensors)


def _any_starts(start: str | tuple[str, ...]) -> Callable[[Header], bool]:
    return lambda header: any(name.startswith(start) for name in header.tensors)


def _any_stored(dtype: str) -> Callable[[Header], bool]:
    """A matrix is stored in `dtype` (safetensors' spelling)."""
    return lambda header: any(
        stored == dtype and len(shape) > 1 for stored, shape in header.tensors.values()
    )


def _has_size(
    axis: int, sizes: Collection[int], *names: str, rank: int = 2
) -> Callable[[Header], bool]:
    """One of `names` has one of these sizes on an axis, of so many. A torch pickle does not
    tell.
    """

    def test(header: Header) -> bool:
        for name in names:
            _, shape = header.tensors.get(name, ("", ()))
            if len(shape) == rank and shape[axis] in sizes:
                return True
        return False

    return test


def _all_of(*tests: Callable[[Header], bool]) -> Callable[[Header], bool]:
    return lambda header: all(test(header) for test in tests)


def _is_pack(*networks: str) -> Callable[[Header], bool]:
    """A folder of several ONNX files, these among them."""
    return lambda header: (
        header.format == "onnx folder"
        and len(header.tensors) > 1
        and header.names.issuperset(networks)
    )


# What stands in front of a model's own names, in the order in which a model is looked for.
PREFIXES = (
    "",
    "model.diffusion_model.",  # ComfyUI's all-in-one files and sd.cpp's GGUF; so are the next five
    "diffusion_model.",
    "text_encoders.clip_l.transformer.text_model.",
    "text_encoders.clip_l.transformer.",
    "text_encoders.t5xxl.transformer.",
    "vae.",
    "first_stage_model.",  # the autoencoder in files of the Stable Diffusion tradition
    "transformer/",  # folders of a diffusers pipeline, see headers.COMPONENTS
    "text_encoder/text_model.",
    "text_encoder/",
    "text_encoder_2/",
    "vae/",
    "text_model.",  # Hugging Face's CLIP
    "visual.trunk.",
    "visual.",
    "module.",  # torch DataParallel
)

# general.architecture of the GGUFs that are read: sd.cpp writes none; city96's Flux; llama.cpp's
# T5; .pulidembd. Others have written "pig" and more for the same tensors, so it decides nothing: it
# names what is not known by its tensors.
ARCHITECTURES = ("", "flux", "t5encoder", "t5", "pulid")

# the first layer of a tiny autoencoder's decoder, as diffusers names it, and in the file of the
# decoder alone (madebyollin/taesd taesd.py); a block and the last layer there, and in the encoder's
_TINY, _TINY_ALONE = "decoder.layers.0.weight", "1.weight"
_TINY_DECODER = (_TINY_ALONE, "3.conv.0.weight", "19.weight")
_TINY_ENCODER = ("0.weight", "1.conv.0.weight", "14.weight")
OTHER_MODEL = (
    "this toolkit draws with FLUX.1 alone; use FLUX.1 dev, schnell, Krea-dev or Kontext-dev"
)
ORIGINAL = "use the original bfloat16 file, an fp8 one or a GGUF"

# what Flux reads its latents with, in BFL's spelling and in diffusers'
FLUX_INPUT = ("img_in.weight", "x_embedder.weight")
FLUX_CONTEXT = ("txt_in.", "context_embedder.")
CLIP_TABLE = "embeddings.token_embedding.weight"
T5_TABLES = ("shared.weight", "encoder.embed_tokens.weight", "token_embd.weight")
# of its five networks the two that are used: detector, recogniser
ANTELOPEV2_NETWORKS = ("scrfd_10g_bnkps.onnx", "glintr100.onnx")
OTHER_PACK = "face pack other than antelopev2"

# Order matters: what must be refused is tested before what it resembles.
KINDS = (
    Kind(
        "identity file (.pulidembd)",
        _has("pulid_id"),
        "it is not a model; give it to pulid-generate as --pulid-id-embedding",
    ),
    Kind(
        "PuLID file in GGUF",
        lambda header: header.format == "gguf" and _any_starts("pulid_ca.")(header),
        "PuLID's weights are read from safetensors only; use pulid_flux_v0.9.1.safetensors",
    ),
    Kind(
        "quanto-quantised file",
        _any_ends("._data", "._scale"),
        f"quanto's format cannot be read; {ORIGINAL}",
    ),
    Kind(
        "bitsandbytes nf4 file",
        _any_ends(".absmax", ".quant_map"),
        f"4-bit bitsandbytes files cannot be read; {ORIGINAL}",
    ),
    Kind(
        "bitsandbytes int8 file",
        _any_ends(".SCB"),
        f"8-bit bitsandbytes files cannot be read; {ORIGINAL}",
    ),
    Kind(
        "SVDQuant file",
        _any_ends(".qweight", ".wscales"),
        f"nunchaku's SVDQuant files cannot be read; {ORIGINAL}",
    ),
    Kind(
        "nvfp4 file",
        _any_ends(".weight_scale_2"),
        f"NVIDIA's 4-bit floats cannot be read; {ORIGINAL}",
    ),
    Kind("int8 file", _any_stored("I8"), f"matrices of 8-bit integers cannot be read; {ORIGINAL}"),
    Kind("PuLID-FLUX file", _any_starts("pulid_ca.")),
    Kind(
        "SDXL PuLID file (pulid_v1.1)",
        _any_starts("id_adapter"),
        "it belongs to SDXL; use pulid_flux_v0.9.1.safetensors from "
        "https://huggingface.co/guozinan/PuLID",
    ),
    Kind("FLUX.2 checkpoint", _any_starts("double_stream_modulation_img."), OTHER_MODEL),
    Kind("Chroma checkpoint", _any_starts("distilled_guidance_layer."), OTHER_MODEL),
    Kind("Stable Diffusion 3 checkpoint", _any_starts("joint_blocks.0."), OTHER_MODEL),
    Kind(
        "Stable Diffusion 3 checkpoint",
        _has("pos_embed.proj.weight", "context_embedder.weight"),
        OTHER_MODEL,
    ),
    Kind(
        "Stable Diffusion checkpoint (SDXL or older)",
        _has("input_blocks.0.0.weight", "out.2.weight"),
        OTHER_MODEL,
    ),
    Kind(
        "Stable Diffusion checkpoint (SDXL or older)",
        _has("down_blocks.0.resnets.0.conv1.weight", "conv_out.weight"),
        OTHER_MODEL,
    ),
    Kind(
        "Flux Fill transformer",
        _all_of(_any_starts(FLUX_CONTEXT), _has_size(1, (384,), *FLUX_INPUT)),
        "use FLUX.1 dev or schnell with -i PICTURE --mask PICTURE",
    ),
    Kind(
        "Flux Canny or Depth transformer",
        _all_of(_any_starts(FLUX_CONTEXT), _has_size(1, (128,), *FLUX_INPUT)),
        "use FLUX.1 dev or schnell, which draw from the prompt",
    ),
    Kind(
        "Flux Redux adapter",
        _has("redux_up.weight", "redux_down.weight"),
        "prompts are read as text only; say it in the prompt, or start from a picture with -i",
    ),
    Kind("Flux transformer", _has("img_in.weight", "double_blocks.0.img_attn.qkv.weight")),
    Kind("diffusers Flux transformer", _has("x_embedder.weight", "context_embedder.weight")),
    Kind(
        "vision transformer other than EVA02-CLIP",
        _all_of(_has("cls_token", "pos_embed"), _any_ends("blocks.0.attn.qkv.weight")),
        "use EVA02_CLIP_L_336_psz14_s6B.pt",
    ),
    Kind("EVA-CLIP tower", _has("cls_token", "pos_embed", "patch_embed.proj.weight")),
    Kind("Flux tiny autoencoder", _has_size(1, (16,), _TINY, rank=4)),
    Kind(
        "Flux tiny autoencoder",
        _all_of(_has(*_TINY_DECODER), _has_size(1, (16,), _TINY_ALONE, rank=4)),
    ),
    Kind("tiny autoencoder of another model", _has(_TINY), "use taef1, Flux's"),
    Kind("tiny autoencoder of another model", _has(*_TINY_DECODER), "use taef1, Flux's"),
    Kind(
        "tiny autoencoder's encoder",
        _has(*_TINY_ENCODER),
        "it decodes nothing; use the decoder's file, taef1_decoder.safetensors",
    ),
    Kind("FLUX.2 autoencoder", _has("decoder.conv_in.weight", "bn.running_mean"), OTHER_MODEL),
    Kind(
        "Stable Diffusion autoencoder",
        _has("decoder.conv_in.weight", "quant_conv.weight"),
        "use Flux's ae.safetensors",
    ),
    Kind("Flux autoencoder", _has("decoder.conv_in.weight", "decoder.mid.attn_1.q.weight")),
    Kind(
        "diffusers Flux autoencoder",
        _has("decoder.conv_in.weight", "decoder.mid_block.attentions.0.to_q.weight"),
    ),
    Kind(
        "CLIP-G text encoder",
        _has_size(1, (1280,), CLIP_TABLE),
        "it belongs to SDXL and Stable Diffusion 3; Flux reads clip_l.safetensors",
    ),
    Kind(
        "CLIP-H text encoder",
        _has_size(1, (1024,), CLIP_TABLE),
        "it belongs to other models; Flux reads clip_l.safetensors",
    ),
    Kind(
        "CLIP-L text encoder",
        _has(CLIP_TABLE, "embeddings.position_embedding.weight"),
    ),
    Kind(
        "UMT5 text encoder",
        _any_ends(
            "encoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight",
            "enc.blk.1.attn_rel_b.weight",
        ),
        "it belongs to Wan and others; Flux reads t5xxl_fp16.safetensors or another T5 v1.1",
    ),
    Kind(
        "mT5 text encoder",
        # of 250,112 words, T5 has 32,128
        lambda header: any(
            name in T5_TABLES and len(shape) == 2 and shape[0] > 100_000
            for name, (_, shape) in header.tensors.items()
        ),
        "it has another vocabulary; Flux reads t5xxl_fp16.safetensors or another T5 v1.1",
    ),
    Kind("T5 encoder", _has("encoder.block.0.layer.0.SelfAttention.q.weight")),
    Kind("T5 encoder in GGUF", _has("enc.blk.0.attn_q.weight")),
    Kind(
        "RetinaFace detector", _has("ClassHead.0.conv1x1.weight", "LandmarkHead.0.conv1x1.weight")
    ),
    Kind("BiSeNet parser", _has("cp.resnet.conv1.weight", "ffm.convblk.conv.weight")),
    Kind("antelopev2 folder", _is_pack(*ANTELOPEV2_NETWORKS)),
    Kind(OTHER_PACK, _is_pack()),
)
