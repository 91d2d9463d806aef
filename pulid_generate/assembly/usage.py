"""TODO"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pulid_generate.flags.commands import BatchFlags, Flags
from pulid_generate.flags.names import flag_name
from pulid_generate.lora.choice import parse_lora_flag
from pulid_generate.request.people import parse_person

if TYPE_CHECKING:
    from pulid_generate.pipeline.pipeline import Pipeline

# whether a flag (by its field's name) stood on the command line or in the manifest's row
Given = Callable[[str], bool]


# Flags that mean nothing without another: field -> (the fields of which one must be there, how to
# say it)
IDENTITY = ("pulid_id_embedding", "identity")


NEEDS = {
    **dict.fromkeys(
        (
            "pulid_id_weight",
            "id_start_step",
            "id_end_step",
            "id_weight_schedule",
            "id_weight_double",
            "id_weight_single",
        ),
        IDENTITY,
    ),
    "strength": ("init_img",),
    "mask": ("init_img",),
}


# flags that take "-"
READERS = ("pulid_id_embedding", "prompt_file", "negative_prompt_file", "init_img", "mask")


def usage_error(flags: Flags, given: Given) -> str | None:
    """What is wrong with the usage, whatever the values: a missing flag, or one that means nothing
    without another.
    """
    if flags.prompt is None and flags.prompt_file is None:
        return "Missing option '--prompt' / '-p'."
    for text, file in (("prompt", "prompt_file"), ("negative_prompt", "negative_prompt_file")):
        if given(text) and given(file):
            return f"{flag_name(text)} and {flag_name(file)} both give the text; leave one of them out."
    for name, needed in NEEDS.items():
        if given(name) and not any(getattr(flags, other) for other in needed):
            return f"{flag_name(name)} needs '{flag_name(needed[0])}'."
    readers = [flag_name(name) for name in READERS if getattr(flags, name) == "-"]
    readers += ["--identity"] * sum(text.split(",")[0] == "-" for text in flags.identity or ())
    if len(readers) > 1:
        return f"{' and '.join(readers)} all want standard input; it can be read once."
    return None


def input_files(flags: Flags, pipeline: Pipeline) -> Iterator[Path]:
    """Every file that is read and must not be replaced by a picture."""
    yield from (found.path for _, found in pipeline.files.by_role())
    named = [
        flags.pulid_id_embedding,
        flags.init_img,
        flags.mask,
        flags.prompt_file,
        flags.negative_prompt_file,
    ]
    for text in flags.identity or ():
        spec = parse_person(text)
        named += [spec.file, spec.mask]
    named += [str(parse_lora_flag(text).path) for text in flags.lora or ()]
    yield from (Path(name).expanduser() for name in named if name not in (None, "-"))


def idle_flags(flags: Flags, given: Given, dev: bool) -> Iterator[str]:
    """A line for every flag that was given and has no effect here; commands are copied from one
    model to another.
    """
    from pulid_generate.sampling.names import DEFAULT_ETA

    no_cfg = "" if flags.cfg_scale != 1 else "--cfg-scale is 1"
    someone = flags.pulid_id_embedding or flags.identity
    no_slg = "" if flags.slg_scale else "--slg-scale is 0"
    no_tiles = "" if flags.vae_tiling else "--vae-tiling is not given"
    several = len(flags.identity or ()) + (flags.pulid_id_embedding is not None) > 1
    reasons = {
        "guidance": "" if dev else "this Flux (schnell) has no guidance input",
        "negative_prompt": no_cfg,
        "negative_prompt_file": no_cfg,
        "cfg_start_step": no_cfg,
        "negative_id": ""
        if flags.cfg_scale != 1 and someone
        else "there is no negative branch with an identity",
        "identity_fusion": "" if several else "there is one embedding",
        "slg_scale": "" if flags.skip_layers.strip(" []") else "--skip-layers names no block",
        "skip_layers": no_slg,
        "skip_layer_start": no_slg,
        "skip_layer_end": no_slg,
        "eta": ""
        if flags.sampling_method in DEFAULT_ETA
        else f"{flags.sampling_method} adds no noise",
        "t5_max_length": "--prompt-weights takes pieces of 256 tokens"
        if flags.prompt_weights
        else "",
        "output_begin_idx": ""
        if flags.batch_count > 1 or "%" in flags.output
        else "one picture with a plain name is written",
        "vae_tile_size": no_tiles,
        "vae_tile_overlap": no_tiles,
    }
    for name, reason in reasons.items():
        if reason and given(name):
            yield f"{flag_name(name)} has no effect: {reason}"


def wants_standard_input(flags: Flags) -> str | None:
    """What is wrong if a flag that holds for every row names standard input."""
    if any(getattr(flags, name) == "-" for name in READERS) or any(
        text.split(",")[0] == "-" for text in flags.identity or ()
    ):
        return "Standard input can be read once, not for every row; name a file."
    return None


def people_of(flags: BatchFlags) -> list[str]:
    """The files of those in the picture."""
    return [
        *([flags.pulid_id_embedding] if flags.pulid_id_embedding is not None else []),
        *(parse_person(text).file for text in flags.identity or ()),
    ]
