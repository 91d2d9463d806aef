"""The `parameters` text of a picture: what made it, effective inputs only. Imports no torch.

AUTOMATIC1111's text (stable-diffusion-webui modules/processing.py, create_infotext) and one JSON
line after it. What has no effect is left out, so weight 0 and no identity at all give the same
text, and so do two guidances of a model that has no guidance input.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from pulid_generate.errors import RequestError
from pulid_generate.request.generation import DEFAULT_TILE_OVERLAP, DEFAULT_TILE_SIZE
from pulid_generate.request.id_schedule import IdSchedule, format_points, step_of
from pulid_generate.request.job import Job, Subject
from pulid_generate.sampling.names import DEFAULT_ETA

SAMPLER_NAMES = {
    "euler": "Euler",
    "heun": "Heun",
    "euler_a": "Euler a",
    "dpm++2m": "DPM++ 2M",
    "dpm2": "DPM2",
    "unipc": "UniPC",
}


def describe(
    job: Job,
    *,
    t5_lengths: tuple[int, ...],
    dev: bool,
    models: dict[str, str],
    arithmetic: str,
    version: str,
    pulid: str | None = None,
) -> str:
    """The text of one picture.

    job: its request resolved. t5_lengths: tokens that T5 gave of the prompt, and of the negative
    prompt where there is one. arithmetic: the compute dtype, and what else decides the numbers.
    pulid: the PuLID file's name, told only of a picture with somebody in it.
    """
    request = job.request
    facts: dict[str, Any] = {
        "prompt": request.prompt,
        "width": request.width,
        "height": request.height,
        "steps": job.steps,
        "sigmas": [round(sigma, 6) for sigma in request.sigmas or ()],
        "seed": job.seed,
        "rng": request.rng,
        "t5_tokens": list(t5_lengths),
        "dtype": arithmetic,
        "models": models,
    }
    if request.sampling_method != "euler":
        facts["sampling_method"] = request.sampling_method
        if request.eta is not None and request.sampling_method in DEFAULT_ETA:
            facts["eta"] = request.eta
    if request.prompt_weights:
        facts["prompt_weights"] = True
    if dev:
        facts["guidance"] = request.guidance
    if request.cfg_scale != 1:
        facts |= {
            "negative_prompt": request.negative_prompt,
            "cfg_scale": request.cfg_scale,
            "cfg_start_step": request.cfg_start_step,
        }
    guided = [step for step in range(job.steps) if request.skip_guidance.active(step, job.steps)]
    if guided:
        facts["skip_layers"] = {
            "layers": list(request.skip_guidance.layers),
            "scale": request.skip_guidance.scale,
            "steps": guided,
        }
    if job.start is not None:
        facts["init_image"] = {"sha256": job.start.sha256}
        if job.request.seed != job.seed:  # of a batch, the first seed encodes it for all
            facts["init_image"]["encoded_with_seed"] = job.request.seed
        if job.start.mask_sha256:
            facts["init_image"]["mask_sha256"] = job.start.mask_sha256
    if request.vae_tiling:
        facts["vae_tiling"] = True
        if (request.vae_tile_size, request.vae_tile_overlap) != (
            DEFAULT_TILE_SIZE,
            DEFAULT_TILE_OVERLAP,
        ):
            facts["vae_tiling"] = {
                "size": request.vae_tile_size,
                "overlap": request.vae_tile_overlap,
            }
    loras = [
        {"name": lora.name, "sha256": lora.sha256, "weight": lora.weight}
        for lora in job.loras
        if lora.weight
    ]
    if loras:
        facts["loras"] = loras
    people = [_person(job, subject) for subject in job.subjects if _is_seen(job, subject)]
    if people and pulid:
        facts["models"] = {**models, "pulid": pulid}
    if len(people) == 1:
        facts["identity"] = people[0]
    elif people:
        facts["identities"] = people

    lines = [
        request.prompt + "".join(f" <lora:{lora['name']}:{lora['weight']:g}>" for lora in loras)
    ]
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
        "Model": models.get("flux"),
        "PuLID": _short(people),
        "Version": f"pulid-generate {version}",
    }
    lines.append(
        ", ".join(f"{name}: {value}" for name, value in settings.items() if value is not None)
    )
    lines.append(
        json.dumps({"pulid_generate": version, **facts}, ensure_ascii=False, sort_keys=True)
    )
    return "\n".join(lines)


def _is_seen(job: Job, subject: Subject) -> bool:
    """Whether this person's identity is added with a weight other than 0 at any step."""
    return any(any(subject.weights_at(step, job.steps)) for step in range(job.steps))


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
        facts["schedule"] = format_points(
            tuple((step_of(moment, job.steps), weight) for moment, weight in schedule.points)
        )
    if (schedule.double, schedule.single) != (1.0, 1.0):
        facts |= {"weight_double": schedule.double, "weight_single": schedule.single}
    if subject.region_sha256:
        facts["region_sha256"] = subject.region_sha256
    if job.request.cfg_scale != 1:
        facts["negative"] = job.request.negative_id
    return facts


def _short(people: Sequence[dict[str, Any]]) -> str | None:
    return (
        " + ".join(f"{person['sha256'][:10]} weight {person['weight']:g}" for person in people)
        or None
    )


def parse_description(text: str) -> dict[str, Any]:
    """The JSON line of a `parameters` text, as a dictionary. Raises RequestError if there is
    none.
    """
    try:
        facts = json.loads(text.rstrip("\n").rsplit("\n", 1)[-1])
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or "pulid_generate" not in facts:
        raise RequestError("this picture's metadata was not written by pulid-generate")
    return facts
