"""How flags go together: what is wrong with the usage, which flags have no effect, and which files
are read. Knows the flags' names, and nothing of what they lead to. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

from pulid_extract.shared.cli import console
from pulid_extract.shared.file_names import path_of
from pulid_generate.assembly.detail import idle_keys
from pulid_generate.assembly.people import identity_files, people_of
from pulid_generate.assembly.requests import hires_upscaler
from pulid_generate.flags.commands.names import flag_name
from pulid_generate.flags.commands.tables import Flags
from pulid_generate.lora.choice import parse_lora_flag
from pulid_generate.request.passes.hires import UPSCALERS, upscaler_named
from pulid_generate.request.step_cache import idle_options
from pulid_generate.sampling.names import DEFAULT_ETA

if TYPE_CHECKING:
    import typer

    from pulid_generate.pipeline.pipeline import Pipeline

# Fields of Flags
SOMEBODY = ("pulid_id_embedding", "identity")
# Those that mean nothing without another: field -> fields of which one must be there
NEEDS = {
    "pulid_id_weight": SOMEBODY,
    "id_start_step": SOMEBODY,
    "id_end_step": SOMEBODY,
    "id_weight_schedule": SOMEBODY,
    "id_weight_double": SOMEBODY,
    "id_weight_single": SOMEBODY,
    "strength": ("init_img",),
    "mask": ("init_img",),
    "mask_blur": ("mask",),
    "mask_grow": ("mask",),
    "taesd_preview_only": ("tae",),
    "ad_prompt": ("ad_model",),
    "ad_negative_prompt": ("ad_model",),
    "extra_ad_args": ("ad_model",),
    "hires_scale": ("hires",),
    "hires_width": ("hires",),
    "hires_height": ("hires",),
    "hires_upscaler": ("hires",),
    "hires_upscalers_dir": ("hires",),
    "hires_upscale_tile_size": ("hires",),
    "hires_steps": ("hires",),
    "hires_denoising_strength": ("hires",),
    "hires_sigmas": ("hires",),
    "upscale_repeats": ("upscale_model",),
    "upscale_tile_size": ("upscale_model",),
    "ref_image_args": ("ref_image",),
    "control_net": ("control_image",),
    "control_image": ("control_net",),
    "control_strength": ("control_net",),
    "control_mode": ("control_net",),
    "control_start": ("control_net",),
    "control_end": ("control_net",),
    "canny": ("control_image",),
    "increase_ref_index": ("ref_image",),
    "disable_auto_resize_ref_image": ("ref_image",),
}
# Those that a picture which is there leaves no room for, where only its faces are redrawn
NOT_FOR_FACES = (
    *("init_img", "mask", "mask_blur", "mask_grow", "batch_count", "output_begin_idx"),
    *("ref_image", "control_net", "control_image"),
)
# .. and those that are about a picture as a whole
IDLE_FOR_FACES = (
    "cfg_start_step",
    "id_start_step",
    "id_end_step",
    "id_weight_schedule",
    "identity_fusion",
)
# of PuLID's own app: app_flux.py, ToTheBeginning/PuLID 1aa2fc7
MOST_USUAL_WEIGHT = 3
# Those that name one file, or "-" for standard input, as each --identity does
READERS = ("pulid_id_embedding", "prompt_file", "negative_prompt_file", "init_img", "mask")


def given_flags(context: typer.Context, flags: Flags) -> frozenset[str]:
    """The fields of the command's flags that stood on its command line."""
    names = (item.name for item in fields(flags))
    return frozenset(name for name in names if console.was_given(context, name))


def usage_error(flags: Flags, given: Collection[str]) -> str | None:
    """What is wrong with the usage, whatever the values: a missing flag, or one that means nothing
    without another.

    given: fields that stood on the command line, or in the manifest's row. Raises RequestError for
    a person who cannot be read.
    """
    if flags.prompt is None and flags.prompt_file is None:
        return "Missing option '--prompt' / '-p'."
    for text, file in (("prompt", "prompt_file"), ("negative_prompt", "negative_prompt_file")):
        if text in given and file in given:
            both = f"{flag_name(text)} and {flag_name(file)}"
            return f"{both} both give the text; leave one of them out."
    if flags.preview == "tae" and flags.tae is None:
        return "--preview tae needs '--tae'."
    if wrong := _lacking(flags, given):
        return wrong
    readers = standard_input_readers(flags)
    if len(readers) > 1:
        return f"{' and '.join(readers)} all want standard input; it can be read once."
    return None


def faces_usage_error(flags: Flags, given: Collection[str]) -> str | None:
    """The same where only the faces of a picture that is there are redrawn."""
    for name in NOT_FOR_FACES:
        if name in given:
            return f"{flag_name(name)} is about a picture that is drawn anew; leave it out."
    if flags.prompt is not None and flags.prompt_file is not None:
        return "--prompt and --prompt-file both give the text; leave one of them out."
    # how much of a face is redrawn
    return _lacking(flags, set(given) - {"strength"})


def _lacking(flags: Flags, given: Collection[str]) -> str | None:
    for name, needed in NEEDS.items():
        if name in given and not any(getattr(flags, other) for other in needed):
            return f"{flag_name(name)} needs '{flag_name(needed[0])}'."
    return None


def standard_input_readers(flags: Flags) -> list[str]:
    """The flags that name standard input. Raises RequestError."""
    readers = [flag_name(name) for name in READERS if getattr(flags, name) == "-"]
    people = identity_files(flags).count("-") - (flags.pulid_id_embedding == "-")
    readers += ["--control-image"] * (flags.control_image or []).count("-")
    readers += ["--ref-image"] * (flags.ref_image or []).count("-")
    return readers + ["--identity"] * people


def shared_input_error(flags: Flags) -> str | None:
    """What is wrong if a flag that holds for every row names standard input. Raises
    RequestError.
    """
    if standard_input_readers(flags):
        return "Standard input can be read once, not for every picture; name a file."
    return None


def input_files(flags: Flags, pipeline: Pipeline) -> Iterator[Path]:
    """Every file that is read and must not be replaced by a picture."""
    yield from (found.path for _, found in pipeline.files.by_role())
    named = [flags.init_img, flags.mask, flags.prompt_file, flags.negative_prompt_file]
    named.append(flags.upscale_model)
    if flags.hires and (model := hires_upscaler(flags)[1]) is not None:
        named.append(str(model))
    named += identity_files(flags)
    named += [spec.mask for spec in people_of(flags)]
    named += flags.ref_image or ()
    named += flags.control_image or ()
    named += flags.control_net or ()
    named += [str(parse_lora_flag(text).path) for text in flags.lora or ()]
    yield from (path_of(name) for name in named if name not in (None, "-"))


def idle_flags(flags: Flags, given: Collection[str], dev: bool) -> Iterator[str]:
    """A line for every flag that was given and has no effect here; commands are copied from one
    model to another.

    given: as of `usage_error`. dev: whether this Flux has a guidance input.
    """
    people = len(people_of(flags))
    idle: dict[str, str] = {}
    if not dev:
        idle["guidance"] = "this Flux (schnell) has no guidance input"
    if flags.cfg_scale == 1:
        no_cfg = ("negative_prompt", "negative_prompt_file", "cfg_start_step")
        idle |= dict.fromkeys(no_cfg, "--cfg-scale is 1")
        idle["ad_negative_prompt"] = "--cfg-scale is 1"
    if flags.cfg_scale == 1 or not people:
        idle["negative_id"] = "there is no negative branch with an identity"
    if people < 2:
        idle["identity_fusion"] = "there is one embedding"
    if not flags.skip_layers.strip(" []"):
        idle["slg_scale"] = "--skip-layers names no block"
    if not flags.slg_scale:
        no_slg = ("skip_layers", "skip_layer_start", "skip_layer_end")
        idle |= dict.fromkeys(no_slg, "--slg-scale is 0")
    if flags.cache_mode is None:
        no_cache = ("cache_option", "scm_mask", "scm_policy")
        idle |= dict.fromkeys(no_cache, "--cache-mode is not given")
    elif flags.cache_mode == "easycache":
        idle |= dict.fromkeys(("scm_mask", "scm_policy"), "easycache reuses no blocks")
    elif not flags.scm_mask:
        idle["scm_policy"] = "--scm-mask is not given"
    if flags.cache_mode is not None:
        idle["batch_size"] = "with --cache-mode each picture is drawn alone"
    if flags.hires_width or flags.hires_height:
        idle["hires_scale"] = "--hires-width and --hires-height give the size"
    if upscaler_named(flags.hires_upscaler) in UPSCALERS:
        no_model = ("hires_upscalers_dir", "hires_upscale_tile_size")
        idle |= dict.fromkeys(no_model, f"--hires-upscaler {flags.hires_upscaler} is no model")
    if flags.hires_sigmas is not None:
        by_steps = ("hires_steps", "hires_denoising_strength")
        idle |= dict.fromkeys(by_steps, "--hires-sigmas gives the steps")
    if flags.sampling_method not in DEFAULT_ETA:
        idle["eta"] = f"{flags.sampling_method} adds no noise"
    if flags.prompt_weights:
        idle["t5_max_length"] = "--prompt-weights takes pieces of 256 tokens"
    if flags.batch_count == 1 and "%" not in flags.output:
        idle["output_begin_idx"] = "one picture with a plain name is written"
    if flags.preview == "none":
        no_preview = ("preview_path", "preview_interval", "preview_noisy")
        idle |= dict.fromkeys(no_preview, "--preview is none")
    if not flags.vae_tiling:
        no_tiles = ("vae_tile_size", "vae_tile_overlap")
        idle |= dict.fromkeys(no_tiles, "--vae-tiling is not given")
    yield from idle_keys(flags)
    if flags.cache_mode is not None:
        told = flags.cache_option, flags.scm_mask, flags.scm_policy
        yield from idle_options(flags.cache_mode, *told)
    for name, reason in idle.items():
        if name in given:
            yield f"{flag_name(name)} has no effect: {reason}"


def idle_faces_flags(flags: Flags, given: Collection[str], dev: bool) -> Iterator[str]:
    """The same where only the faces of a picture that is there are redrawn."""
    yield from idle_flags(flags, set(given) - set(IDLE_FOR_FACES), dev)
    for name in IDLE_FOR_FACES:
        if name in given:
            yield f"{flag_name(name)} has no effect on the faces of a picture"
    if not people_of(flags):
        yield "nobody is named: every face is redrawn from the prompt alone"


def doubtful_flags(flags: Flags) -> Iterator[str]:
    """A line for every value that can be drawn, and that hardly anybody means."""
    weight = flags.pulid_id_weight
    if weight < 0:
        yield (
            f"--pulid-id-weight {weight:g} draws away from the person; 0.7 to 1.2 are usual, "
            "0 draws as without one"
        )
    if weight > MOST_USUAL_WEIGHT:
        percent = f"; {weight:g} % is {weight / 100:g}" if weight >= 10 else ""
        yield (
            f"--pulid-id-weight {weight:g} spoils the picture; 0.7 to 1.2 are usual, PuLID's own "
            f"app ends at {MOST_USUAL_WEIGHT}{percent}"
        )
    tile = flags.vae_tile_size
    sides = [int(side) for side in re.findall(r"\d+", tile)]
    if flags.vae_tiling and sides and min(sides) * 8 >= max(flags.width, flags.height) > 256:
        yield (
            f"--vae-tile-size {tile} is {min(sides) * 8} pixels, as large as the picture: it "
            "counts latents of 8 pixels, newer builds of sd-cli are said to count pixels"
        )
    for text in flags.control_strength or ():
        if re.fullmatch(r"[+-]?0*\.?0*", text) and "0" in text:
            yield f"--control-strength {text} adds nothing, and its ControlNet still takes its time"
    if flags.prompt is not None and not flags.prompt.strip() and flags.prompt_file is None:
        yield "--prompt is empty: nothing says what to draw; is a variable of the shell not set?"
