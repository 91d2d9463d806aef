"""Every flag of sd-cli and what becomes of it here: a table, from which docs/sd-cli.md is made.

Knows nothing of how a command line is read. Imports no torch.

Source: stable-diffusion.cpp 97d29908, `sd-cli --help` and examples/common/common.cpp (which flags
take a value, and how it is written).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from pulid_generate.flags.sdcli.flag import SdFlag, note, refuse, same

METADATA = "it belongs to --mode metadata; the text is in the PNG's chunk `parameters`"
IMATRIX = "importance matrices serve quantisation; make the GGUF with sd-cli, it can be used here"
OTHER_FAMILY = "it belongs to another model family, Flux has no such part; leave it out"
VIDEO = "video and audio are not supported, one picture is drawn; leave it out"
PHOTOMAKER = (
    "PhotoMaker is SDXL's; make a .pulidembd with pulid-extract and give it as --pulid-id-embedding"
)
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
        same("--output", "-o", default="./output.png", text="default output.png, the same file"),
        same(
            "--output-begin-idx",
            default="0 if specified %d in output path, 1 otherwise",
            text="default 0 in both cases",
        ),
        note(
            "--mode",
            "drawing is all this command does",
            "-M",
            default="img_gen",
            accepts=("img_gen",),
            otherwise="no such mode; the detail pass alone is `pulid-generate detail`",
        ),
        same("--verbose", "-v", value=False),
        note("--color", "the log has no colours", value=False),
        same("--help", "-h", value=False),
        same("--list-devices", value=False, text="torch's devices, under sd-cli's names"),
        refuse("--image", METADATA),
        note("--metadata-format", METADATA, default="text"),
        note("--metadata-raw", METADATA, value=False),
        note("--metadata-brief", METADATA, value=False),
        note("--metadata-all", METADATA, value=False),
        same("--disable-image-metadata", value=False),
        same("--preview", default="is none", text="vae needs room for it beside Flux"),
        same("--preview-path", default="./preview.png"),
        same("--preview-interval", default="is 1, meaning updating at every step", text="steps"),
        same("--preview-noisy", value=False),
        same("--taesd-preview-only", value=False),
        refuse("--imat-out", IMATRIX),
        refuse("--imat-in", IMATRIX),
        note("--convert-name", "it belongs to --mode convert", value=False),
    ),
    "Model files": (
        same("--model", "-m"),
        same("--diffusion-model"),
        same("--clip_l"),
        same("--t5xxl"),
        same("--vae"),
        same("--pulid-weights"),
        same("--lora-model-dir"),
        note(
            "--lora-apply-mode",
            "LoRA runs beside the weights, quantised or not, and can be taken off again",
        ),
        note(
            "--vae-format",
            "Flux's latents are the only ones",
            default="auto",
            accepts=("auto", "flux"),
            otherwise="of another family",
        ),
        note(
            "--embd-dir",
            "textual inversions change the tokens of Stable Diffusion's encoders, Flux "
            "reads none of them",
        ),
        refuse("--clip_g", OTHER_FAMILY),
        refuse("--clip_vision", OTHER_FAMILY),
        refuse("--llm", OTHER_FAMILY),
        refuse("--llm_vision", OTHER_FAMILY),
        refuse("--qwen2vl", OTHER_FAMILY),
        refuse("--qwen2vl_vision", OTHER_FAMILY),
        refuse("--high-noise-diffusion-model", OTHER_FAMILY),
        refuse("--uncond-diffusion-model", OTHER_FAMILY),
        refuse("--embeddings-connectors", OTHER_FAMILY),
        refuse("--motion-module", OTHER_FAMILY),
        refuse("--model-args", OTHER_FAMILY),
        refuse("--audio-vae", VIDEO),
        same("--tae", text="taef1, whole with diffusers' names, or its decoder's own file"),
        same("--taesd"),
        same(
            "--control-net",
            text="of Flux (sd-cli has none for it); several, each with --control-mode, "
            "--control-start and --control-end",
        ),
        refuse("--ip-adapter", IP_ADAPTER),
        refuse("--photo-maker", PHOTOMAKER),
        same(
            "--upscale-model",
            text="any network that spandrel reads, .safetensors or .pth; sd-cli: ESRGAN alone",
        ),
        refuse("--type", WEIGHT_TYPE),
        refuse("--tensor-type-rules", WEIGHT_TYPE),
        note(
            "--prediction",
            "every Flux predicts a flow",
            accepts=("flux_flow",),
            otherwise="Flux does not predict that",
        ),
        note("--force-sdxl-vae-conv-scale", "it belongs to SDXL's autoencoder", value=False),
    ),
    "Devices and memory": (
        same("--backend", text="one device per module; CPU, CUDA (also ROCm) and Metal"),
        same("--params-backend", text="cpu and disk are one: weights are mapped from their file"),
        same("--offload-to-cpu", value=False),
        same("--clip-on-cpu", value=False),
        same("--vae-on-cpu", value=False),
        same("--max-vram", text="also what the memory plan counts with"),
        same("--threads", "-t", default="-1", text="default: one thread per core, as torch has it"),
        same(
            "--vae-tiling",
            value=False,
            text="also chosen by the memory plan, when the whole picture would not fit",
        ),
        same("--vae-tile-size", default="32x32"),
        same("--vae-tile-overlap", default="0.5"),
        refuse(
            "--vae-relative-tile-size", "only sizes in latents are understood; use --vae-tile-size"
        ),
        note("--extra-tiling-args", "it belongs to a video autoencoder", default="4"),
        note("--temporal-tiling", "it belongs to a video autoencoder", value=False),
        note("--control-net-cpu", "a ControlNet runs where Flux does", value=False),
        note("--split-mode", "no model is split over several devices"),
        refuse("--rpc-servers", "devices of other machines are not supported; leave it out"),
        note("--stream-layers", STREAMING, value=False, until="97d29908"),
        note(
            "--eager-load", "each model is loaded for its own stage and freed after it", value=False
        ),
        note("--auto-fit", NORMAL, value=False, optional=("on", "off")),
        note("--mmap", "weights are memory-mapped in any case", value=False),
        note("--fa", ATTENTION, value=False),
        note("--diffusion-fa", ATTENTION, value=False),
        note("--diffusion-conv-direct", CONVOLUTION, value=False),
        note("--vae-conv-direct", CONVOLUTION, value=False),
    ),
    "Picture": (
        same("--prompt", "-p"),
        same("--prompt-file"),
        same("--negative-prompt", "-n", default='""', text="read when --cfg-scale is not 1"),
        same("--negative-prompt-file"),
        same("--width", "-W", default="512", text="multiples of 16; sd-cli rounds up"),
        same("--height", "-H", default="512", text="multiples of 16; sd-cli rounds up"),
        same("--steps", default="20", text="default 20 for dev, 4 for schnell"),
        same("--seed", "-s", default="42, use random seed for < 0"),
        same("--batch-count", "-b"),
        same(
            "--cfg-scale",
            default="7.0",
            text="default 1: Flux is distilled, and 7 draws every step twice and burns the picture",
        ),
        same("--guidance", default="3.5"),
        same("--sampling-method", default="euler", text="those of flow matching"),
        same(
            "--scheduler",
            default="model-specific",
            text="the default is BFL's schedule; `sdcpp` repeats sd-cli's",
        ),
        same("--sigmas"),
        same(
            "--flow-shift", default="auto", text="changes the schedule; sd-cli ignores it for Flux"
        ),
        same("--rng", default="cuda", text="cuda and cpu; std_default belongs to one C++ library"),
        note("--sampler-rng", SAMPLER_NOISE),
        same(
            "--eta",
            default=ETA_DEFAULTS,
            text="the default is the method's own",
        ),
        note(
            "--clip-skip",
            "Flux reads CLIP's pooled vector, which comes after the last layer",
            default="-1",
        ),
        note(
            "--img-cfg-scale",
            "it belongs to models that read a second picture",
            default="same as --cfg-scale",
        ),
        note(
            "--timestep-shift",
            "0 means no shift",
            default="0",
            accepts=("0",),
            otherwise="it belongs to NitroFusion's models of SDXL",
        ),
        refuse("--extra-sample-args", "no sampler here takes extra arguments; leave it out"),
        same("--slg-scale", default="0"),
        same(
            "--skip-layers",
            default="[7,8,9]",
            text="double blocks by number; PuLID's layers keep their blocks, in sd-cli they shift",
        ),
        same("--skip-layer-start", default="0.01"),
        same("--skip-layer-end", default="0.2"),
        refuse("--circular", SEAMLESS, value=False),
        refuse("--circularx", SEAMLESS, value=False),
        refuse("--circulary", SEAMLESS, value=False),
        same(
            "--cache-mode",
            text="easycache computes what sd-cli does; dbcache, taylorseer and cache-dit are "
            "cache-dit's own, of blocks (sd-cli's three are one rule for whole forwards); ucache "
            "is for UNets, spectrum knows nothing of an identity's window: both are refused",
        ),
        same(
            "--cache-option",
            text="all of them count (in sd-cli: threshold, start, end, and Fn and Bn as factors on "
            "the threshold); max, continuous, order and interval are ours",
        ),
        same("--scm-mask", text="decides; sd-cli reads it and computes the same without it"),
        same("--scm-policy", text="decides, as --scm-mask does"),
    ),
    "Identity": (
        same("--pulid-id-embedding"),
        same("--pulid-id-weight"),
        refuse("--pm-id-images-dir", PHOTOMAKER),
        refuse("--pm-id-embed-path", PHOTOMAKER),
        note("--pm-style-strength", WITH_PHOTOMAKER),
    ),
    "From a picture": (
        same("--init-img", "-i"),
        same("--mask"),
        same("--strength", default="0.75"),
        refuse("--end-img", VIDEO),
        same(
            "--ref-image",
            "-r",
            text="for Kontext; people are added to the picture's tokens alone (in sd-cli to the "
            "reference's as well), resizing is Lanczos; without -W and -H at most a megapixel",
        ),
        same(
            "--ref-image-args", text="resize=nearest is sd-cli's resizing; presets belong to others"
        ),
        same("--increase-ref-index", value=False),
        same("--disable-auto-resize-ref-image", value=False),
        same("--control-image"),
        same("--canny", value=False),
        same("--control-strength", default="0.9", text="0.9 as well; given once for each file"),
        refuse("--ip-adapter-image", IP_ADAPTER),
        note("--ip-adapter-strength", "it only serves --ip-adapter", default="1.0"),
    ),
    "Larger, and repaired": (
        same(
            "--hires",
            text="the identity and the regions are in the second pass as well; not with --mask",
            value=False,
        ),
        same(
            "--hires-upscaler",
            text="models by their names in --hires-upscalers-dir; Lanczos is Pillow's",
            default="Latent",
        ),
        same("--hires-upscalers-dir"),
        same("--hires-width", default="0"),
        same("--hires-height", default="0"),
        same("--hires-steps", default="0"),
        same("--hires-scale", default="2.0"),
        same("--hires-denoising-strength", default="0.7"),
        same("--hires-upscale-tile-size", default="128"),
        same("--hires-sigmas"),
        same("--upscale-repeats", default="1"),
        same("--upscale-tile-size", default="128"),
        same(
            "--ad-model",
            text="the word antelopev2 or its folder, not a YOLOv8 file; faces are redrawn with "
            "their person's identity, sd-cli's without",
        ),
        same("--ad-prompt"),
        same("--ad-negative-prompt"),
        same(
            "--extra-ad-args",
            text="merging and inverting masks are refused: each face has a person; input_size and "
            "nms belong to YOLOv8",
        ),
    ),
    "Other families": (
        note(
            "--video-frames",
            "one picture is drawn",
            default="1",
            accepts=("1",),
            otherwise="video is not supported",
        ),
        note("--fps", "one picture is drawn", default="24"),
        refuse("--control-video", VIDEO),
        refuse("--ref-video", VIDEO),
        refuse("--ref-video-audio", VIDEO),
        refuse("--ref-audio", VIDEO),
        note("--vace-strength", "it belongs to a video model"),
        note("--moe-boundary", SECOND_MODEL, default="0.875"),
        note("--qwen-image-layers", "it belongs to Qwen-Image", default="3"),
        note("--high-noise-steps", SECOND_MODEL, default="-1 = auto"),
        note("--high-noise-cfg-scale", SECOND_MODEL, default="7.0"),
        note("--high-noise-img-cfg-scale", SECOND_MODEL, default="same as --cfg-scale"),
        note("--high-noise-guidance", SECOND_MODEL, default="3.5"),
        note("--high-noise-slg-scale", SECOND_MODEL, default="0"),
        note("--high-noise-skip-layers", SECOND_MODEL, default="[7,8,9]"),
        note("--high-noise-skip-layer-start", SECOND_MODEL, default="0.01"),
        note("--high-noise-skip-layer-end", SECOND_MODEL, default="0.2"),
        note(
            "--high-noise-eta",
            SECOND_MODEL,
            default=ETA_DEFAULTS,
        ),
        note("--high-noise-sampling-method", SECOND_MODEL, default="euler"),
    ),
}

# what the changes after 97d29908 are called
LATER, PULL_1964 = "after 97d29908", "leejet/stable-diffusion.cpp pull request 1964"
OVERFLOW = "it keeps 16-bit products from overflowing; here they are added in float32"
GROUPS["Newer builds"] = (
    note("--linear-scale", OVERFLOW, since=PULL_1964),
    note("--attn-scale", OVERFLOW, since=PULL_1964),
    note("--sage-attn", ATTENTION, value=False, since=LATER),
    note("--disable-prefetch", STREAMING, value=False, since=LATER),
    note(
        "--disable-segmented-compute",
        "a block is computed whole; to save memory use --max-vram",
        value=False,
        since=LATER,
    ),
    note("--log-level", "--verbose says more, --quiet less", since=LATER),
    refuse(
        "--tokenizer", "T5's vocabulary has its own flag; give it as --t5-tokenizer", since=LATER
    ),
)

SD_FLAGS: tuple[SdFlag, ...] = tuple(itertools.chain.from_iterable(GROUPS.values()))
BY_NAME: Mapping[str, SdFlag] = {name: flag for flag in SD_FLAGS for name in flag.names}
