"""The flags that describe a generation: one table, shared by every sub-command that draws.

Names, aliases and meanings follow sd-cli (stable-diffusion.cpp 97d29908); where a default differs, the help says so. Imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_type_hints

import typer

from pulid_extract.model_files import MODELS_DIR_VARIABLE
from pulid_generate import __version__

DTYPES = {"auto": "auto"} | {
    name: full for full, short in (("float32", "f32"), ("bfloat16", "bf16"), ("float16", "f16")) for name in (full, short)
}


def _sigmas(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 1.0,0.75,0.5,0.25,0") from None
    return text


def _flow_shift(text: str) -> str:
    if text not in ("auto", "none"):
        try:
            float(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not auto, none or a number") from None
    return text


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pulid-generate {__version__}")
        raise typer.Exit


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Every flag of one generation, as typed. Fields are the table; nothing else lists them."""

    diffusion_model: Annotated[
        str | None, typer.Option("--diffusion-model", metavar="FILE", help="Flux.1 dev or schnell: BFL safetensors, or GGUF.")
    ] = None
    vae: Annotated[str | None, typer.Option("--vae", metavar="FILE", help="ae.safetensors.")] = None
    clip_l: Annotated[str | None, typer.Option("--clip_l", metavar="FILE", help="clip_l.safetensors.")] = None
    t5xxl: Annotated[str | None, typer.Option("--t5xxl", metavar="FILE", help="t5xxl_fp16.safetensors or another t5xxl_*.")] = (
        None
    )
    t5_tokenizer: Annotated[
        str | None,
        typer.Option(
            "--t5-tokenizer",
            metavar="PATH",
            help="Folder, tokenizer.json or spiece.model. Default: beside the T5 file, else the models folder, the Hugging Face cache, the hub.",
        ),
    ] = None
    pulid_weights: Annotated[
        str | None, typer.Option("--pulid-weights", metavar="FILE", help="pulid_flux_v0.9.1.safetensors.")
    ] = None
    models_dir: Annotated[
        str | None,
        typer.Option(
            "--models-dir",
            metavar="FOLDER",
            envvar=MODELS_DIR_VARIABLE,
            help="Folder of model files, told apart by their headers. Asked after the flags above, before the Hugging Face cache.",
        ),
    ] = None

    pulid_id_embedding: Annotated[
        str | None,
        typer.Option("--pulid-id-embedding", metavar="FILE|-", help="The person: a .pulidembd; - reads standard input."),
    ] = None
    pulid_id_weight: Annotated[
        float, typer.Option("--pulid-id-weight", metavar="W", help="Strength of the identity; 0 draws as without one.")
    ] = 1.0
    id_start_step: Annotated[
        int,
        typer.Option(
            "--id-start-step",
            metavar="N",
            help="First step that sees the identity, from 0. Later: less likeness, more freedom (the reference's app: 4 for photographs, "
            "0 or 1 for stylised pictures).",
        ),
    ] = 0
    negative_id: Annotated[
        Literal["uncond", "same", "none"],
        typer.Option(
            "--negative-id",
            help="Identity of the negative branch of true CFG: the file's unconditional one (the reference), the same one (sd-cli), none.",
        ),
    ] = "uncond"

    prompt: Annotated[str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="What to draw.")] = None
    negative_prompt: Annotated[
        str, typer.Option("--negative-prompt", "-n", metavar="TEXT", help="What to avoid; used when --cfg-scale is not 1.")
    ] = ""
    width: Annotated[
        int, typer.Option("--width", "-W", metavar="PIXELS", help="Multiple of 16 (sd-cli rounds, the app: 896).")
    ] = 512
    height: Annotated[int, typer.Option("--height", "-H", metavar="PIXELS", help="Multiple of 16 (the app: 1152).")] = 512
    steps: Annotated[
        int | None,
        typer.Option("--steps", metavar="N", help="Denoising steps. Default: 20 for dev (sd-cli's for all), 4 for schnell."),
    ] = None
    seed: Annotated[int, typer.Option("--seed", "-s", metavar="N", help="Seed of the noise; negative takes a random one.")] = 42
    batch_count: Annotated[
        int,
        typer.Option("--batch-count", "-b", metavar="N", help="Pictures, with seeds seed, seed+1, ..; named _0, _1 or by %03d."),
    ] = 1
    rng: Annotated[
        Literal["cuda", "cpu"],
        typer.Option("--rng", help="Noise: sd-cli's Philox (cuda) or torch's CPU generator (the reference)."),
    ] = "cuda"
    guidance: Annotated[
        float, typer.Option("--guidance", metavar="G", help="Distilled guidance of dev (the reference's app: 4).")
    ] = 3.5
    cfg_scale: Annotated[
        float,
        typer.Option(
            "--cfg-scale",
            "--true-cfg",
            metavar="S",
            help="True CFG with the negative prompt; 1 is off (sd-cli's 7.0 ruins Flux).",
        ),
    ] = 1.0
    cfg_start_step: Annotated[
        int, typer.Option("--cfg-start-step", metavar="N", help="First step with true CFG, from 0 (the reference: 1).")
    ] = 0
    sampling_method: Annotated[Literal["euler"], typer.Option("--sampling-method", help="Sampler.")] = "euler"
    flow_shift: Annotated[
        str,
        typer.Option(
            "--flow-shift",
            metavar="auto|none|MU",
            callback=_flow_shift,
            help="Schedule shift t = e^MU / (e^MU + 1/t - 1). auto: by size for dev, none for schnell (the reference shifts both; sd-cli "
            "ignores this for Flux and shifts both by four times the tokens).",
        ),
    ] = "auto"
    sigmas: Annotated[
        str | None,
        typer.Option(
            "--sigmas",
            metavar="S,S,..,0",
            callback=_sigmas,
            help="The whole schedule by hand, steps + 1 numbers.",
        ),
    ] = None
    t5_max_length: Annotated[
        int,
        typer.Option(
            "--t5-max-length",
            metavar="N",
            help="T5 tokens (the reference: 128); a longer prompt takes 512 and says so (sd-cli encodes it in pieces of 256).",
        ),
    ] = 256

    device: Annotated[str, typer.Option("--device", metavar="auto|cuda|cuda:N|mps|cpu", help="Where Flux runs.")] = "auto"
    dtype: Annotated[
        Literal[tuple(DTYPES)],  # type: ignore[valid-type]
        typer.Option(
            "--dtype",
            help="Arithmetic. auto: bfloat16 on cuda and mps (the reference), float32 on a CPU (16-bit weights kept if need be).",
        ),
    ] = "auto"
    dequantize: Annotated[
        bool,
        typer.Option(
            "--dequantize", help="Widen a GGUF's weights once, when they load: faster, and the memory of a 16-bit file."
        ),
    ] = False
    clip_on_cpu: Annotated[bool, typer.Option("--clip-on-cpu", help="Run CLIP and T5 on the CPU.")] = False
    vae_on_cpu: Annotated[bool, typer.Option("--vae-on-cpu", help="Run the autoencoder on the CPU.")] = False
    offload_to_cpu: Annotated[
        bool,
        typer.Option("--offload-to-cpu", help="Keep weights in main memory, each layer on the device only while it runs."),
    ] = False
    vae_tiling: Annotated[
        bool,
        typer.Option("--vae-tiling", help="Decode in overlapping tiles of 256 pixels: less memory, slightly other pixels."),
    ] = False

    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE|-", help="The PNG to write; - writes standard output.")
    ] = "output.png"
    disable_image_metadata: Annotated[
        bool, typer.Option("--disable-image-metadata", help="Leave out the PNG's `parameters` chunk.")
    ] = False
    show_version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON for each picture instead of its path.")] = False


def takes_flags(function: Callable[[typer.Context, Flags], None]) -> Callable[..., None]:
    """A command with every field of Flags as an option, for a function that takes them as one object."""
    hints = get_type_hints(Flags, include_extras=True)
    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for field in fields(Flags):
        parameters.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=hints[field.name])
        )

    def command(context: typer.Context, **values: Any) -> None:
        function(context, Flags(**values))

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
