"""What is drawn, and along which steps. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from pulid_generate.sampling.names import METHODS, SCHEDULES


def number_list(text: str | None) -> str | None:
    """The text, if it is a list of numbers. Raises typer.BadParameter."""
    if text is None:
        return None
    # sd-cli takes it with brackets and without
    text = text.strip().removeprefix("[").removesuffix("]")
    try:
        for part in text.split(","):
            float(part)
    except ValueError:
        raise typer.BadParameter(
            f"{text!r} is not a list of numbers such as 1.0,0.75,0.5,0.25,0"
        ) from None
    return text


def _flow_shift(text: str) -> str:
    """The text, if it is a word or a number. Raises typer.BadParameter."""
    if text not in ("auto", "none"):
        try:
            float(text)
        except ValueError:
            raise typer.BadParameter(f"{text!r} is not auto, none or a number") from None
    return text


@dataclass(frozen=True, kw_only=True)
class PromptFlags:
    """The words, and how they are read."""

    HEADING = "Prompt"

    prompt: Annotated[
        str | None, typer.Option("--prompt", "-p", metavar="TEXT", help="What to draw, in quotes.")
    ] = None
    prompt_file: Annotated[
        str | None,
        typer.Option("--prompt-file", metavar="FILE|-", help="Read the prompt from a UTF-8 file."),
    ] = None
    negative_prompt: Annotated[
        str,
        typer.Option(
            "--negative-prompt",
            "-n",
            metavar="TEXT",
            help="What to avoid; used when --cfg-scale is not 1.",
        ),
    ] = ""
    negative_prompt_file: Annotated[
        str | None,
        typer.Option(
            "--negative-prompt-file",
            metavar="FILE|-",
            help="Read the negative prompt from a UTF-8 file.",
        ),
    ] = None
    prompt_weights: Annotated[
        bool,
        typer.Option(
            "--prompt-weights",
            help="Read (word:1.3) and [word] as weights on T5's states and encode long prompts "
            "in pieces, both as sd-cli always does. Without it the text is taken as it "
            "stands, as the reference does.",
        ),
    ] = False
    t5_max_length: Annotated[
        int,
        typer.Option(
            "--t5-max-length",
            metavar="N",
            help="T5 tokens (the reference: 128); a longer prompt takes 512 and says so (sd-cli "
            "encodes it in pieces of 256).",
        ),
    ] = 256


@dataclass(frozen=True, kw_only=True)
class SizeFlags:
    """How large, how many, and from which noise."""

    HEADING = "Size, seed, number"

    width: Annotated[
        int,
        typer.Option(
            "--width", "-W", metavar="PIXELS", help="A multiple of 16 (PuLID's own app: 896)."
        ),
    ] = 512
    height: Annotated[
        int,
        typer.Option(
            "--height", "-H", metavar="PIXELS", help="A multiple of 16 (PuLID's own app: 1152)."
        ),
    ] = 512
    seed: Annotated[
        int,
        typer.Option(
            "--seed",
            "-s",
            metavar="N",
            help="The same seed draws the same picture again; negative takes a random one.",
        ),
    ] = 42
    batch_count: Annotated[
        int,
        typer.Option(
            "--batch-count",
            "-b",
            metavar="N",
            help="How many pictures, with seeds seed, seed+1, ..; named _0, _1 or by %03d.",
        ),
    ] = 1
    rng: Annotated[
        Literal["cuda", "cpu"],
        typer.Option(
            "--rng", help="Noise: sd-cli's Philox (cuda) or torch's CPU generator (the reference)."
        ),
    ] = "cuda"


@dataclass(frozen=True, kw_only=True)
class GuidanceFlags:
    """How strictly the prompt is followed."""

    HEADING = "Guidance"

    guidance: Annotated[
        float,
        typer.Option(
            "--guidance", metavar="G", help="Distilled guidance of dev (the reference's app: 4)."
        ),
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
        int,
        typer.Option(
            "--cfg-start-step",
            metavar="N",
            help="First step with true CFG, from 0 (the reference: 1).",
        ),
    ] = 0
    slg_scale: Annotated[
        float,
        typer.Option(
            "--slg-scale",
            metavar="S",
            help="Skip-layer guidance; 0 is off, one more forward per step in its window.",
        ),
    ] = 0.0
    skip_layers: Annotated[
        str,
        typer.Option(
            "--skip-layers", metavar="N,N,..", help="Blocks that skip-layer guidance leaves out."
        ),
    ] = "7,8,9"
    skip_layer_start: Annotated[
        float,
        typer.Option(
            "--skip-layer-start",
            metavar="SHARE",
            help="Skip-layer guidance begins after this share of the steps.",
        ),
    ] = 0.01
    skip_layer_end: Annotated[
        float,
        typer.Option(
            "--skip-layer-end",
            metavar="SHARE",
            help="Skip-layer guidance ends before this share of the steps.",
        ),
    ] = 0.2


@dataclass(frozen=True, kw_only=True)
class ScheduleFlags:
    """The method and the times of the steps."""

    HEADING = "Sampler and schedule"

    steps: Annotated[
        int | None,
        typer.Option(
            "--steps",
            metavar="N",
            help="Denoising steps. Default: 20 for Flux dev, 4 for schnell.",
        ),
    ] = None
    sampling_method: Annotated[
        str,
        typer.Option("--sampling-method", metavar="NAME", help=f"Sampler: {', '.join(METHODS)}."),
    ] = "euler"
    eta: Annotated[
        float | None,
        typer.Option(
            "--eta",
            metavar="N",
            help="Share of fresh noise of the ancestral methods. Default: the method's own.",
        ),
    ] = None
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler",
            metavar="NAME",
            help=f"Times of the steps: {', '.join(SCHEDULES)}. Default: flux, BFL's own (shifted "
            "by size for dev, linear for schnell); sdcpp repeats sd-cli's, which counts "
            "four times the tokens and shifts schnell as well.",
        ),
    ] = None
    flow_shift: Annotated[
        str,
        typer.Option(
            "--flow-shift",
            metavar="auto|none|MU",
            callback=_flow_shift,
            help="Schedule shift t = e^MU / (e^MU + 1/t - 1). auto: by size for dev, none for "
            "schnell (the reference shifts both; sd-cli ignores this for Flux and shifts "
            "both by four times the tokens).",
        ),
    ] = "auto"
    sigmas: Annotated[
        str | None,
        typer.Option(
            "--sigmas",
            metavar="S,S,..,0",
            callback=number_list,
            help="The whole schedule by hand, steps + 1 numbers.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class StartFlags:
    """A picture to start from."""

    HEADING = "Starting from a picture"

    init_img: Annotated[
        str | None,
        typer.Option(
            "--init-img",
            "-i",
            metavar="FILE|-",
            help="Start from this picture instead of noise alone (image to image).",
        ),
    ] = None
    strength: Annotated[
        float,
        typer.Option(
            "--strength",
            metavar="0..1",
            help="How much of --init-img is redrawn: 0 hardly anything, 1 everything.",
        ),
    ] = 0.75
    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            metavar="PNG",
            help="Redraw only where this picture is white (inpainting); needs --init-img.",
        ),
    ] = None
    mask_blur: Annotated[
        float,
        typer.Option(
            "--mask-blur",
            metavar="PIXELS",
            help="Feather --mask's edge by a Gaussian of so many pixels when the redrawn part is "
            "put back; 0 keeps it hard.",
        ),
    ] = 0.0
    mask_grow: Annotated[
        int,
        typer.Option(
            "--mask-grow",
            metavar="PIXELS",
            help="Make what --mask redraws larger on every side; smaller if negative.",
        ),
    ] = 0


@dataclass(frozen=True, kw_only=True)
class DrawingFlags(StartFlags, ScheduleFlags, GuidanceFlags, SizeFlags, PromptFlags):
    """The request: words, size, seed, guidance, schedule, starting picture."""
