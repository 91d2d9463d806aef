"""Every flag of sd-cli and what becomes of it here: a table, from which docs/sd-cli.md is made.

A flag is implemented (our own option, in this folder), noted (accepted; it has nothing to change,
and a line on standard error says so) or refused (one line says why and what to do instead). Knows
nothing of how a command line is read. Imports no torch.

Source: stable-diffusion.cpp 97d29908, `sd-cli --help` and examples/common/common.cpp (which flags
take a value, and how it is written).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

SdStatus = Literal["implemented", "noted", "refused"]


@dataclass(frozen=True)
class SdFlag:
    """One flag of sd-cli."""

    name: str
    status: SdStatus
    # implemented: how it differs from sd-cli, "" if it does not; noted: why it changes nothing;
    # refused: the reason and the next step
    text: str = ""
    aliases: tuple[str, ...] = ()
    # sd-cli's, as its help writes it
    default: str | None = None
    # whether a value follows
    value: bool = True
    # the only values that can be taken, if there are some; others are refused, and `otherwise`
    # says why
    accepts: tuple[str, ...] = ()
    otherwise: str = ""
    # words that are taken as the value if one of them follows: of flags that newer versions changed
    optional: tuple[str, ...] = ()
    # of a flag that 97d29908 lacks: since when sd-cli has it; of one that it lost: until when
    since: str = ""
    until: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)


# -- one function for each status, so that a line of the table reads as a sentence


def _same(
    name: str, *aliases: str, default: str | None = None, value: bool = True, text: str = ""
) -> SdFlag:
    return SdFlag(name, "implemented", text, aliases, default, value)


def _note(
    name: str, text: str, *aliases: str, default: str | None = None, value: bool = True, **more: Any
) -> SdFlag:
    return SdFlag(name, "noted", text, aliases, default, value, **more)


def _no(
    name: str, text: str, *aliases: str, default: str | None = None, value: bool = True, **more: Any
) -> SdFlag:
    return SdFlag(name, "refused", text, aliases, default, value, **more)


METADATA = "it belongs to --mode metadata; the text is in the PNG's chunk `parameters`"
IMATRIX = "importance matrices serve quantisation; make the GGUF with sd-cli, it can be used here"
OTHER_FAMILY = "it belongs to another model family, Flux has no such part; leave it out"
VIDEO = "video and audio are not supported, one picture is drawn; leave it out"
PHOTOMAKER = (
    "PhotoMaker is SDXL's; make a .pulidembd with pulid-extract and give it as --pulid-id-embedding"
)
HIRES_MODELS = "it belongs to models that enlarge, which --hires does not read"
WITH_PHOTOMAKER = "it only serves --photo-maker"
SECOND_MODEL = "it only serves the second (high noise) model of Wan"
WEIGHT_TYPE = (
    "weights keep the type of their file; give a file of the wanted type, such as "
    "flux1-dev-Q8_0.gguf"
)
IP_ADAPTER = "IP-Adapter is not supported; a person comes from --pulid-id-embedding"
ETA_DEFAULTS = (
    "0 for ddim_trailing, tcd, res_multistep and res_2s; 1 for euler_a, er_sde, dpm++2s_a, "
    "dpm++2m_sde and dpm++2m_sde_bt"
)
SEAMLESS = "seamless pictures are not supported; leave it out"
CONVOLUTION = "PyTorch chooses its convolutions itself"
ATTENTION = "PyTorch chooses the fastest attention itself"
SAMPLER_NOISE = "the fresh noise of ancestral samplers is drawn as --rng says"
STREAMING = "blocks are streamed whenever --offload-to-cpu or --max-vram ask for it"
NORMAL = "the memory plan is made in any case, before anything loads"

GROUPS: dict[str, tuple[SdFlag, ...]] = {
    "Program and output": (
        _same("--output", "-o", default="./output.png", text="default output.png, the same file"),
        _same(
            "--output-begin-idx",
            default="0 if specified %d in output path, 1 otherwise",
            text="default 0 in both cases",
        ),
        _note(
            "--mode",
            "drawing is all this command does",
            "-M",
            default="img_gen",
            accepts=("img_gen",),
            otherwise="no such mode; the detail pass alone is `pulid-generate detail`",
        ),
        _same("--verbose", "-v", value=False),
        _note("--color", "the log has no colours", value=False),
        _same("--help", "-h", value=False),
        _same("--list-devices", value=False, text="torch's devices, under sd-cli's names"),
        _no("--image", METADATA),
        _note("--metadata-format", METADATA, default="text"),
        _note("--metadata-raw", METADATA, value=False),
        _note("--metadata-brief", METADATA, value=False),
        _note("--metadata-all", METADATA, value=False),
        _same("--disable-image-metadata", value=False),
        _same("--preview", default="is none", text="vae needs room for it beside Flux"),
        _same("--preview-path", default="./preview.png"),
        _same("--preview-interval", default="is 1, meaning updating at every step", text="steps"),
        _same("--preview-noisy", value=False),
        _same("--taesd-preview-only", value=False),
        _no("--imat-out", IMATRIX),
        _no("--imat-in", IMATRIX),
        _note("--convert-name", "it belongs to --mode convert", value=False),
    ),
    "Model files": (
        _same("--model", "-m"),
        _same("--diffusion-model"),
        _same("--clip_l"),
        _same("--t5xxl"),
        _same("--vae"),
        _same("--pulid-weights"),
        _same("--lora-model-dir"),
        _note(
            "--lora-apply-mode",
            "LoRA runs beside the weights, quantised or not, and can be taken off again",
        ),
        _note(
            "--vae-format",
            "Flux's latents are the only ones",
            default="auto",
            accepts=("auto", "flux"),
            otherwise="of another family",
        ),
        _note(
            "--embd-dir",
            "textual inversions change the tokens of Stable Diffusion's encoders, Flux "
            "reads none of them",
        ),
        _no("--clip_g", OTHER_FAMILY),
        _no("--clip_vision", OTHER_FAMILY),
        _no("--llm", OTHER_FAMILY),
        _no("--llm_vision", OTHER_FAMILY),
        _no("--qwen2vl", OTHER_FAMILY),
        _no("--qwen2vl_vision", OTHER_FAMILY),
        _no("--high-noise-diffusion-model", OTHER_FAMILY),
        _no("--uncond-diffusion-model", OTHER_FAMILY),
        _no("--embeddings-connectors", OTHER_FAMILY),
        _no("--motion-module", OTHER_FAMILY),
        _no("--model-args", OTHER_FAMILY),
        _no("--audio-vae", VIDEO),
        _same("--tae", text="taef1 with diffusers' names"),
        _same("--taesd"),
        _same(
            "--control-net",
            text="of Flux (sd-cli has none for it); several, each with --control-mode, "
            "--control-start and --control-end",
        ),
        _no("--ip-adapter", IP_ADAPTER),
        _no("--photo-maker", PHOTOMAKER),
        _same(
            "--upscale-model",
            text="any network that spandrel reads, .safetensors or .pth; sd-cli: ESRGAN alone",
        ),
        _no("--type", WEIGHT_TYPE),
        _no("--tensor-type-rules", WEIGHT_TYPE),
        _note(
            "--prediction",
            "every Flux predicts a flow",
            accepts=("flux_flow",),
            otherwise="Flux does not predict that",
        ),
        _note("--force-sdxl-vae-conv-scale", "it belongs to SDXL's autoencoder", value=False),
    ),
    "Devices and memory": (
        _same("--backend", text="one device per module; CPU, CUDA (also ROCm) and Metal"),
        _same("--params-backend", text="cpu and disk are one: weights are mapped from their file"),
        _same("--offload-to-cpu", value=False),
        _same("--clip-on-cpu", value=False),
        _same("--vae-on-cpu", value=False),
        _same("--max-vram", text="also what the memory plan counts with"),
        _same(
            "--threads", "-t", default="-1", text="default: one thread per core, as torch has it"
        ),
        _same(
            "--vae-tiling",
            value=False,
            text="also chosen by the memory plan, when the whole picture would not fit",
        ),
        _same("--vae-tile-size", default="32x32"),
        _same("--vae-tile-overlap", default="0.5"),
        _no(
            "--vae-relative-tile-size", "only sizes in latents are understood; use --vae-tile-size"
        ),
        _note("--extra-tiling-args", "it belongs to a video autoencoder", default="4"),
        _note("--temporal-tiling", "it belongs to a video autoencoder", value=False),
        _note("--control-net-cpu", "a ControlNet runs where Flux does", value=False),
        _note("--split-mode", "no model is split over several devices"),
        _no("--rpc-servers", "devices of other machines are not supported; leave it out"),
        _note("--stream-layers", STREAMING, value=False, until="97d29908"),
        _note(
            "--eager-load", "each model is loaded for its own stage and freed after it", value=False
        ),
        _note("--auto-fit", NORMAL, value=False, optional=("on", "off")),
        _note("--mmap", "weights are memory-mapped in any case", value=False),
        _note("--fa", ATTENTION, value=False),
        _note("--diffusion-fa", ATTENTION, value=False),
        _note("--diffusion-conv-direct", CONVOLUTION, value=False),
        _note("--vae-conv-direct", CONVOLUTION, value=False),
    ),
    "Picture": (
        _same("--prompt", "-p"),
        _same("--prompt-file"),
        _same("--negative-prompt", "-n", default='""', text="read when --cfg-scale is not 1"),
        _same("--negative-prompt-file"),
        _same("--width", "-W", default="512", text="multiples of 16; sd-cli rounds up"),
        _same("--height", "-H", default="512", text="multiples of 16; sd-cli rounds up"),
        _same("--steps", default="20", text="default 20 for dev, 4 for schnell"),
        _same("--seed", "-s", default="42, use random seed for < 0"),
        _same("--batch-count", "-b"),
        _same(
            "--cfg-scale",
            default="7.0",
            text="default 1: Flux is distilled, and 7 draws every step twice and burns the picture",
        ),
        _same("--guidance", default="3.5"),
        _same("--sampling-method", default="euler", text="those of flow matching"),
        _same(
            "--scheduler",
            default="model-specific",
            text="the default is BFL's schedule; `sdcpp` repeats sd-cli's",
        ),
        _same("--sigmas"),
        _same(
            "--flow-shift", default="auto", text="changes the schedule; sd-cli ignores it for Flux"
        ),
        _same("--rng", default="cuda", text="cuda and cpu; std_default belongs to one C++ library"),
        _note("--sampler-rng", SAMPLER_NOISE),
        _same(
            "--eta",
            default=ETA_DEFAULTS,
            text="the default is the method's own",
        ),
        _note(
            "--clip-skip",
            "Flux reads CLIP's pooled vector, which comes after the last layer",
            default="-1",
        ),
        _note(
            "--img-cfg-scale",
            "it belongs to models that read a second picture",
            default="same as --cfg-scale",
        ),
        _note(
            "--timestep-shift",
            "0 means no shift",
            default="0",
            accepts=("0",),
            otherwise="it belongs to NitroFusion's models of SDXL",
        ),
        _no("--extra-sample-args", "no sampler here takes extra arguments; leave it out"),
        _same("--slg-scale", default="0"),
        _same(
            "--skip-layers",
            default="[7,8,9]",
            text="double blocks by number; PuLID's layers keep their blocks, in sd-cli they shift",
        ),
        _same("--skip-layer-start", default="0.01"),
        _same("--skip-layer-end", default="0.2"),
        _no("--circular", SEAMLESS, value=False),
        _no("--circularx", SEAMLESS, value=False),
        _no("--circulary", SEAMLESS, value=False),
        _same(
            "--cache-mode",
            text="easycache computes what sd-cli does; dbcache, taylorseer and cache-dit are "
            "cache-dit's own, of blocks (sd-cli's three are one rule for whole forwards); ucache "
            "is for UNets, spectrum knows nothing of an identity's window: both are refused",
        ),
        _same(
            "--cache-option",
            text="all of them count (in sd-cli: threshold, start, end, and Fn and Bn as factors on "
            "the threshold); max, continuous, order and interval are ours",
        ),
        _same("--scm-mask", text="decides; sd-cli reads it and computes the same without it"),
        _same("--scm-policy", text="decides, as --scm-mask does"),
    ),
    "Identity": (
        _same("--pulid-id-embedding"),
        _same("--pulid-id-weight"),
        _no("--pm-id-images-dir", PHOTOMAKER),
        _no("--pm-id-embed-path", PHOTOMAKER),
        _note("--pm-style-strength", WITH_PHOTOMAKER),
    ),
    "From a picture": (
        _same("--init-img", "-i"),
        _same("--mask"),
        _same("--strength", default="0.75"),
        _no("--end-img", VIDEO),
        _same(
            "--ref-image",
            "-r",
            text="for Kontext; people are added to the picture's tokens alone (in sd-cli to the "
            "reference's as well), resizing is Lanczos; without -W and -H at most a megapixel",
        ),
        _same(
            "--ref-image-args", text="resize=nearest is sd-cli's resizing; presets belong to others"
        ),
        _same("--increase-ref-index", value=False),
        _same("--disable-auto-resize-ref-image", value=False),
        _same("--control-image"),
        _same("--canny", value=False),
        _same("--control-strength", default="0.9", text="0.9 as well; given once for each file"),
        _no("--ip-adapter-image", IP_ADAPTER),
        _note("--ip-adapter-strength", "it only serves --ip-adapter", default="1.0"),
    ),
    "Larger, and repaired": (
        _same(
            "--hires",
            text="the identity and the regions are in the second pass as well",
            value=False,
        ),
        _same(
            "--hires-upscaler",
            text="no model files; resizing in pixels is Pillow's",
            default="Latent",
        ),
        _note("--hires-upscalers-dir", HIRES_MODELS),
        _same("--hires-width", default="0"),
        _same("--hires-height", default="0"),
        _same("--hires-steps", default="0"),
        _same("--hires-scale", default="2.0"),
        _same("--hires-denoising-strength", default="0.7"),
        _note("--hires-upscale-tile-size", HIRES_MODELS, default="128"),
        _same("--hires-sigmas"),
        _same("--upscale-repeats", default="1"),
        _same("--upscale-tile-size", default="128"),
        _same(
            "--ad-model",
            text="the word antelopev2 or its folder, not a YOLOv8 file; faces are redrawn with "
            "their person's identity, sd-cli's without",
        ),
        _same("--ad-prompt"),
        _same("--ad-negative-prompt"),
        _same(
            "--extra-ad-args",
            text="merging and inverting masks are refused: each face has a person; input_size and "
            "nms belong to YOLOv8",
        ),
    ),
    "Other families": (
        _note(
            "--video-frames",
            "one picture is drawn",
            default="1",
            accepts=("1",),
            otherwise="video is not supported",
        ),
        _note("--fps", "one picture is drawn", default="24"),
        _no("--control-video", VIDEO),
        _no("--ref-video", VIDEO),
        _no("--ref-video-audio", VIDEO),
        _no("--ref-audio", VIDEO),
        _note("--vace-strength", "it belongs to a video model"),
        _note("--moe-boundary", SECOND_MODEL, default="0.875"),
        _note("--qwen-image-layers", "it belongs to Qwen-Image", default="3"),
        _note("--high-noise-steps", SECOND_MODEL, default="-1 = auto"),
        _note("--high-noise-cfg-scale", SECOND_MODEL, default="7.0"),
        _note("--high-noise-img-cfg-scale", SECOND_MODEL, default="same as --cfg-scale"),
        _note("--high-noise-guidance", SECOND_MODEL, default="3.5"),
        _note("--high-noise-slg-scale", SECOND_MODEL, default="0"),
        _note("--high-noise-skip-layers", SECOND_MODEL, default="[7,8,9]"),
        _note("--high-noise-skip-layer-start", SECOND_MODEL, default="0.01"),
        _note("--high-noise-skip-layer-end", SECOND_MODEL, default="0.2"),
        _note(
            "--high-noise-eta",
            SECOND_MODEL,
            default="0 for ddim_trailing, tcd, res_multistep and res_2s; 1 for euler_a, er_sde, "
            "dpm++2s_a, dpm++2m_sde and dpm++2m_sde_bt",
        ),
        _note("--high-noise-sampling-method", SECOND_MODEL, default="euler"),
    ),
}

# what the changes after 97d29908 are called
LATER, PULL_1964 = "after 97d29908", "leejet/stable-diffusion.cpp pull request 1964"
OVERFLOW = "it keeps 16-bit products from overflowing; here they are added in float32"
GROUPS["Newer builds"] = (
    _note("--linear-scale", OVERFLOW, since=PULL_1964),
    _note("--attn-scale", OVERFLOW, since=PULL_1964),
    _note("--sage-attn", ATTENTION, value=False, since=LATER),
    _note("--disable-prefetch", STREAMING, value=False, since=LATER),
    _note(
        "--disable-segmented-compute",
        "a block is computed whole; to save memory use --max-vram",
        value=False,
        since=LATER,
    ),
    _note("--log-level", "--verbose says more, --quiet less", since=LATER),
    _no("--tokenizer", "T5's vocabulary has its own flag; give it as --t5-tokenizer", since=LATER),
)

SD_FLAGS: tuple[SdFlag, ...] = tuple(itertools.chain.from_iterable(GROUPS.values()))
BY_NAME: Mapping[str, SdFlag] = {name: flag for flag in SD_FLAGS for name in flag.names}
