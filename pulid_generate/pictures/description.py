"""The `parameters` text of a picture: what made it, effective inputs only. Imports no torch.

AUTOMATIC1111's text (stable-diffusion-webui modules/processing.py, create_infotext) and one JSON
line after it. What has no effect is left out, so weight 0 and no identity at all give the same
text, and so do two guidances of a model that has no guidance input.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from pulid_extract.shared.json_text import read_object
from pulid_generate.errors import RequestError
from pulid_generate.request.generation import (
    DEFAULT_TILE_OVERLAP,
    DEFAULT_TILE_SIZE,
)
from pulid_generate.request.job import Job, Subject
from pulid_generate.request.people.id_schedule import IdSchedule, format_points, step_of
from pulid_generate.request.prompts.tokens import LoraUse
from pulid_generate.sampling.names import DEFAULT_ETA

# as AUTOMATIC1111 calls them; the others by their own names
SAMPLER_NAMES = {
    "euler": "Euler",
    "heun": "Heun",
    "euler_a": "Euler a",
    "dpm++2m": "DPM++ 2M",
    "dpm2": "DPM2",
    "unipc": "UniPC",
}

NOTHING: Mapping[str, Any] = MappingProxyType({})


def describe(
    job: Job,
    *,
    dev: bool,
    models: dict[str, str],
    arithmetic: str,
    version: str,
    pulid: str | None = None,
    more: Mapping[str, Any] = NOTHING,
) -> str:
    """The text of one picture.

    models: role -> file name. arithmetic: the compute dtype, and what else decides the numbers.
    pulid: the PuLID file's name, told only of a picture with somebody in it.
    more: further facts.
    """
    request = job.request
    loras = [_lora(use) for use in job.loras if use.weight]
    people = [_person(job, subject) for subject in job.people_seen]
    if people and pulid:
        models = {**models, "pulid": pulid}
    facts: dict[str, Any] = {
        "pulid_generate": version,
        "prompt": request.prompt,
        "width": request.width,
        "height": request.height,
        "steps": job.steps,
        "sigmas": [round(sigma, 6) for sigma in job.times],
        "seed": job.seed,
        "rng": request.rng,
        "t5_tokens": list(job.t5_tokens),
        "dtype": arithmetic,
        "models": models,
        **_sampling(job, dev),
        **_start(job),
        **_references(job),
        **_controls(job),
        **_tiling(job),
        **more,
    }
    if job.larger is not None:
        facts["hires"] = _hires(job, job.larger)
    if request.detail is not None:
        facts["detail"] = detail_facts(job)
    if loras:
        facts["loras"] = loras
    if len(people) == 1:
        facts["identity"] = people[0]
    elif people:
        facts["identities"] = people

    tags = [f" <lora:{lora['name']}:{lora['weight']:g}>" for lora in loras]
    lines = [request.prompt + "".join(tags)]
    if request.cfg_scale != 1:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    settings = {
        "Steps": job.steps,
        "Sampler": SAMPLER_NAMES.get(request.sampling_method, request.sampling_method),
        "CFG scale": request.cfg_scale,
        "Distilled CFG Scale": request.guidance if dev else None,
        "Seed": job.seed,
        "RNG": request.rng,
        "Size": f"{request.width}x{request.height}",
        **_hires_settings(job),
        "Model": models.get("flux"),
        "PuLID": _short(people) or None,
        "Version": f"pulid-generate {version}",
    }
    known = [f"{name}: {value}" for name, value in settings.items() if value is not None]
    lines.append(", ".join(known))
    lines.append(json.dumps(facts, ensure_ascii=False, sort_keys=True))
    return "\n".join(lines)


def _sampling(job: Job, dev: bool) -> dict[str, Any]:
    """The sampler and every kind of guidance, as far as they differ from doing nothing."""
    request = job.request
    facts: dict[str, Any] = {}
    if request.sampling_method != "euler":
        facts["sampling_method"] = request.sampling_method
        if request.eta is not None and request.sampling_method in DEFAULT_ETA:
            facts["eta"] = request.eta
    if request.prompt_weights:
        facts["prompt_weights"] = True
    if dev:
        facts["guidance"] = request.guidance
    if request.cfg_scale != 1:
        facts["negative_prompt"] = request.negative_prompt
        facts["cfg_scale"] = request.cfg_scale
        facts["cfg_start_step"] = request.cfg_start_step
    skip = request.skip_guidance
    guided = [step for step in range(job.steps) if skip.active(step, job.steps)]
    if guided:
        facts["skip_layers"] = {"layers": list(skip.layers), "scale": skip.scale, "steps": guided}
    if request.step_cache is not None:
        facts["step_cache"] = request.step_cache.facts()
    return facts


def _start(job: Job) -> dict[str, Any]:
    """The picture to start from."""
    if job.start is None:
        return {}
    facts: dict[str, Any] = {"sha256": job.start.sha256}
    # of several pictures, the first seed encodes it for all
    if job.request.seed != job.seed:
        facts["encoded_with_seed"] = job.request.seed
    if job.start.mask_sha256:
        facts["mask_sha256"] = job.start.mask_sha256
        if job.start.mask_blur:
            facts["mask_blur"] = job.start.mask_blur
    return {"init_image": facts}


def _references(job: Job) -> dict[str, Any]:
    """What Kontext reads beside the picture."""
    told = []
    for reference in job.conditions.references:
        height, width = reference.pixels.shape[:2]
        facts = {"sha256": reference.sha256, "size": f"{width}x{height}"}
        told.append(facts | {"place": list(reference.place)})
    return {"references": told} if told else {}


def _controls(job: Job) -> dict[str, Any]:
    """ControlNets, and what they read."""
    told = []
    for use in job.conditions.controls:
        facts = {
            "name": use.path.name,
            "sha256": use.net_sha256,
            "picture_sha256": use.sha256,
            "strength": use.strength,
        }
        if use.mode is not None:
            facts["mode"] = use.mode
        if (use.start, use.end) != (0, 1):
            facts |= {"start": use.start, "end": use.end}
        told.append(facts)
    return {"controls": told} if told else {}


def _tiling(job: Job) -> dict[str, Any]:
    """Tiles of the autoencoder; their size if it is not the usual one, which a memory plan takes as
    well.
    """
    if job.tiling is None:
        return {}
    request = job.request
    tiles = request.vae_tile_size, request.vae_tile_overlap
    if not request.vae_tiling or tiles == (DEFAULT_TILE_SIZE, DEFAULT_TILE_OVERLAP):
        return {"vae_tiling": True}
    return {"vae_tiling": {"size": tiles[0], "overlap": tiles[1]}}


def detail_facts(job: Job) -> dict[str, Any]:
    """The second pass over the faces, and what somebody is recognised by in it. job: of a request
    with such a pass.
    """
    request = job.request
    assert request.detail is not None
    facts = request.detail.facts(*request.final_size)
    references: list[str] = []
    for subject in job.people_seen:
        references += subject.reference_hashes
    if references:
        facts["references_sha256"] = references
    return facts


def _hires(job: Job, larger: Job) -> dict[str, Any]:
    """The second, larger pass."""
    assert job.request.hires is not None
    facts = job.request.hires.facts(job.request.width, job.request.height)
    facts["steps"] = larger.steps
    facts["sigmas"] = [round(sigma, 6) for sigma in larger.times]
    return facts | _tiling(larger)


def _hires_settings(job: Job) -> dict[str, Any]:
    """As AUTOMATIC1111 writes it; None where there is nothing to say."""
    hires = job.request.hires
    if hires is None or job.larger is None:
        return {}
    width, height = job.request.final_size
    return {
        "Denoising strength": hires.denoising_strength if hires.sigmas is None else None,
        "Hires resize": f"{width}x{height}",
        "Hires steps": job.larger.steps,
        "Hires upscaler": hires.upscaler,
    }


def _lora(use: LoraUse) -> dict[str, Any]:
    return {"name": use.name, "sha256": use.sha256, "weight": use.weight}


def _person(job: Job, subject: Subject) -> dict[str, Any]:
    """What decides this person's part in the picture; defaults that change nothing are left out."""
    schedule, usual = subject.schedule, IdSchedule()
    facts: dict[str, Any] = {
        "sha256": subject.embedding.sha256,
        "weight": subject.weight,
        "start_step": step_of(schedule.start, job.steps),
    }
    if schedule.end is not None and step_of(schedule.end, job.steps) < job.steps:
        facts["end_step"] = step_of(schedule.end, job.steps)
    if schedule.points != usual.points:
        points = [(step_of(moment, job.steps), weight) for moment, weight in schedule.points]
        facts["schedule"] = format_points(tuple(points))
    if (schedule.double, schedule.single) != (1.0, 1.0):
        facts["weight_double"] = schedule.double
        facts["weight_single"] = schedule.single
    if subject.region_sha256:
        facts["region_sha256"] = subject.region_sha256
    if subject.box is not None:
        facts["box"] = list(subject.box)
    if job.request.cfg_scale != 1:
        facts["negative"] = job.request.negative_id
    return facts


def _short(people: Sequence[dict[str, Any]]) -> str:
    """For people who read the text."""
    return " + ".join(f"{one['sha256'][:10]} weight {one['weight']:g}" for one in people)


def parse_description(text: str) -> dict[str, Any]:
    """The JSON line of a `parameters` text, as a dictionary. Raises RequestError if there is no
    such line.
    """
    try:
        facts = read_object(text.rstrip("\n").rsplit("\n", 1)[-1])
    except ValueError:
        facts = {}
    if "pulid_generate" not in facts:
        raise RequestError("this picture's metadata was not written by pulid-generate")
    return facts
