"""The settings of a picture, from its metadata: fields of a request that draws it again here, and
in words what cannot come back. Imports no torch.

Metadata says what had an effect, not what was typed: a schedule by its times, a person by the hash
of the file. What was typed is looked for until it comes to the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from pulid_generate.errors import PulidError
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.request.generation import MAX_STEPS
from pulid_generate.request.job import Job
from pulid_generate.request.passes.detail import ANTELOPEV2, own_prompt_of
from pulid_generate.sampling.names import SCHEDULES
from pulid_generate.server.intake.compared import (
    Restored,
    compare_models,
    take_loras,
    take_people,
)

# as the metadata rounds times
DIGITS = 6
# facts that are called like their fields, and are left out where they are the usual ones
PLAIN = (
    *("rng", "sampling_method", "eta", "prompt_weights", "guidance", "negative_prompt"),
    *("cfg_scale", "cfg_start_step"),
)
# numbers of steps that are tried where the metadata has only those that were left
MOST_TRIED = 60

# fields -> the picture that they come to, without people and pictures to start from; raises
# PulidError
Fit = Callable[[Mapping[str, Any]], Job]


def restore(
    facts: Mapping[str, Any],
    here: Mapping[str, Any],
    defaults: BatchFlags,
    fit: Fit,
    names: Mapping[str, str],
    loras: Path | None,
) -> Restored:
    """facts: as `parse_description` reads them. here: those of this server's models. defaults: the
    server's; fields that agree with them are left out. names: SHA-256 of a .pulidembd -> the name
    of who is here. loras: their folder.

    Raises KeyError, TypeError or ValueError for metadata that was altered.
    """
    restored = Restored()
    fields = restored.fields
    for name in PLAIN:
        fields[name] = facts.get(name, getattr(BatchFlags, name))
    fields["t5_max_length"] = max(facts["t5_tokens"])
    _take_tiles(facts, fields)
    _take_skipping(facts, fields)
    _take_cache(facts, fields)
    _take_detail(facts, fields)
    take_loras(facts, restored, loras)
    for name in list(fields):
        if fields[name] is None or fields[name] == getattr(defaults, name):
            del fields[name]
    for name in ("prompt", "width", "height", "steps", "seed"):
        fields[name] = facts[name]
    _take_times(facts, fields, fit)
    if "picture" in facts:
        _take_faces(facts, fields)
    _take_hires(facts, fields, fit)
    take_people(facts, restored, defaults, names)
    for name, words in (
        ("init_image", "the picture that it started from is not in it: choose it again"),
        ("picture", "the picture whose faces were redrawn is not in it: choose it again"),
        ("references", "its reference pictures are not in it: choose them again"),
        ("controls", "the pictures of its ControlNets are not in it: choose them again"),
    ):
        if name in facts:
            restored.missing.append(words)
    if "references_sha256" in facts.get("detail", {}):
        restored.missing.append(
            "the pictures that tell faces apart are not in it: choose them again"
        )
    compare_models(facts, restored, here)
    return restored


def _take_tiles(facts: Mapping[str, Any], fields: dict[str, Any]) -> None:
    tiles = facts.get("vae_tiling", False)
    fields["vae_tiling"] = bool(tiles)
    if isinstance(tiles, Mapping):
        fields |= {"vae_tile_size": tiles["size"], "vae_tile_overlap": tiles["overlap"]}


def _take_skipping(facts: Mapping[str, Any], fields: dict[str, Any]) -> None:
    told = facts.get("skip_layers")
    fields["slg_scale"] = told["scale"] if told else 0.0
    if not told:
        return
    # half a step before the first and after the last, in shares of the times; see SkipGuidance
    first, last, times = min(told["steps"]), max(told["steps"]), facts["steps"] + 1
    fields["skip_layers"] = ",".join(map(str, told["layers"]))
    fields["skip_layer_start"] = round((first + 0.5) / times, DIGITS)
    fields["skip_layer_end"] = round(min((last + 2.5) / times, 1.0), DIGITS)


def _take_cache(facts: Mapping[str, Any], fields: dict[str, Any]) -> None:
    told = dict(facts.get("step_cache", {}))
    fields["cache_mode"] = told.pop("mode", None)
    fields["scm_mask"] = ",".join(told.pop("mask", ""))
    fields["scm_policy"] = told.pop("policy", BatchFlags.scm_policy)
    fields["cache_option"] = _pairs(told)


def _take_detail(facts: Mapping[str, Any], fields: dict[str, Any]) -> None:
    told = dict(facts.get("detail", {}))
    told.pop("references_sha256", None)
    fields["ad_model"] = ANTELOPEV2 if told.pop("detector", None) else None
    fields["ad_prompt"] = told.pop("prompt", "")
    fields["ad_negative_prompt"] = told.pop("negative_prompt", "")
    fields["extra_ad_args"] = _pairs(told)


def _pairs(told: Mapping[str, Any]) -> str:
    return ",".join(f"{name}={value}" for name, value in told.items())


# ------------------------------------------------------------------------------------------- steps


def _take_times(facts: Mapping[str, Any], fields: dict[str, Any], fit: Fit) -> None:
    """Scheduler, shift, and of a picture that started from another the steps and the strength."""
    wanted, kept = list(facts["sigmas"]), facts["steps"]
    has_start = "init_image" in facts or "picture" in facts
    for more, steps in _ways(wanted, _counts(kept, has_start)):
        if _times(fields | more | {"steps": steps}, fit)[-len(wanted) :] == wanted:
            fields |= more | {"steps": steps}
            if has_start:
                fields["strength"] = _strength(kept, steps)
            return
    fields["sigmas"] = ",".join(map(str, wanted))
    if has_start:
        fields["strength"] = 1.0


def _take_faces(facts: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Of faces that were redrawn in a picture that was there: prompt, size and strength are the
    first face's.
    """
    told = dict(facts["detail"])
    del fields["width"], fields["height"]
    fields["strength"] = told.pop("denoising_strength")
    for name in ("detector", "references_sha256"):
        told.pop(name, None)
    for name in ("prompt", "negative_prompt"):
        template = told.pop(name, "")
        if name in fields:
            fields[name] = own_prompt_of(template, fields[name])
    fields.pop("ad_model", None)
    fields["extra_ad_args"] = _pairs(told)


def _counts(kept: int, has_start: bool) -> range:
    """How many steps may have been asked for, where so many are left. Raises ValueError."""
    if not 1 <= kept <= MAX_STEPS:
        raise ValueError(f"{kept} steps")
    if not has_start or kept > MOST_TRIED:
        return range(kept, kept + 1)
    return range(kept, max(4 * kept, MOST_TRIED) + 1)


def _ways(times: Sequence[float], counts: range) -> Iterator[tuple[dict[str, Any], int]]:
    """(fields, steps): the usual schedule first; then what may have been asked for."""
    for steps in counts:
        yield {}, steps
    for steps in counts:
        for more in _shifts(times, steps):
            yield more, steps
        for name, shift in product(SCHEDULES, ("auto", "none")):
            yield {"scheduler": name} | ({} if shift == "auto" else {"flow_shift": shift}), steps


def _shifts(times: Sequence[float], steps: int) -> Iterator[dict[str, Any]]:
    """BFL's schedule with a shift that was given as a number mu: t = e^mu / (e^mu + 1/u - 1) of the
    even times u, here solved for mu.
    """
    kept = len(times) - 1
    even = 1 - (steps - kept + 1) / steps
    if 0 < even < 1 and 0 < times[1] < 1:
        mu = math.log(times[1] * (1 / even - 1) / (1 - times[1]))
        for digits in range(1, 5):
            yield {"flow_shift": f"{mu:.{digits}f}"}


def _times(fields: Mapping[str, Any], fit: Fit) -> list[float]:
    try:
        return _rounded(fit(fields).times)
    except PulidError:
        return []


def _rounded(times: Any) -> list[float]:
    return [round(time, DIGITS) for time in times]


def _strength(kept: int, steps: int) -> float:
    """Which of so many steps leaves so many, the usual one if it does; see `cut_schedule`."""
    for strength in (BatchFlags.strength, *(number / 20 for number in range(21)), kept / steps):
        left = min(int(np.float32(steps) * np.float32(strength)), steps - 1) + 1
        if left == kept:
            return float(strength)
    return (kept - 0.5) / steps


def _take_hires(facts: Mapping[str, Any], fields: dict[str, Any], fit: Fit) -> None:
    told = facts.get("hires")
    if told is None:
        return
    fields |= {
        "hires": True,
        "hires_width": told["width"],
        "hires_height": told["height"],
        "hires_upscaler": told["upscaler"],
    }
    if "upscaler_tile" in told:
        fields["hires_upscale_tile_size"] = told["upscaler_tile"]
    if "denoising_strength" in told:
        fields["hires_denoising_strength"] = told["denoising_strength"]
        for steps in range(min(told["steps"], MOST_TRIED) + 1):
            try:
                larger = fit(fields | {"hires_steps": steps}).larger
            except PulidError:
                continue
            if larger is not None and _rounded(larger.times) == told["sigmas"]:
                fields["hires_steps"] = steps
                return
        del fields["hires_denoising_strength"]
    fields["hires_sigmas"] = ",".join(map(str, told["sigmas"]))
