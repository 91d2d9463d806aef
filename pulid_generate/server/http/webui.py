"""AUTOMATIC1111's shape, as stable-diffusion.cpp's server and Forge have it: /sdapi/v1.

Source: leejet/stable-diffusion.cpp 97d29908 examples/server/routes_sdapi.cpp; Forge for
distilled_cfg_scale.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request
from PIL import ImageChops

from pulid_extract.shared.picture_file import decode_picture
from pulid_generate.errors import RequestError
from pulid_generate.pictures.description import SAMPLER_NAMES
from pulid_generate.pictures.picture import read_parameters
from pulid_generate.request.conditions.start_picture import FORMATS
from pulid_generate.sampling.names import METHODS, SCHEDULES
from pulid_generate.server.http.state import (
    Server,
    beside,
    finished,
    pictures_of,
    server_of,
    visitor_of,
)
from pulid_generate.server.intake.fields import read_names
from pulid_generate.server.intake.uploads import Body, read_body
from pulid_generate.server.work.jobs import DETAIL_IMG, JobRecord

router = APIRouter(prefix="/sdapi/v1")
# theirs -> ours
RENAMED = {
    "sampler_name": "sampling_method",
    "sampler_index": "sampling_method",
    "distilled_cfg_scale": "guidance",
    "denoising_strength": "strength",
}
# of the second pass, which enable_hr asks for; a later name wins
HIRES = {
    "hr_scale": "hires_scale",
    "hr_resize_x": "hires_width",
    "hr_resize_y": "hires_height",
    "hr_upscaler": "hires_upscaler",
    "hr_steps": "hires_steps",
    "hr_second_pass_steps": "hires_steps",
}
OWN = (
    *RENAMED,
    *HIRES,
    *("batch_size", "n_iter", "init_images", "inpainting_mask_invert", "lora", "extra_images"),
    *("enable_hr", "scheduler", "mask"),
)
# which change nothing here
IGNORED = (
    *("clip_skip", "styles", "send_images", "save_images", "do_not_save_samples"),
    *("do_not_save_grid", "restore_faces", "tiling", "override_settings", "script_name"),
    *("override_settings_restore_afterwards", "script_args", "alwayson_scripts", "subseed"),
    *("subseed_strength", "seed_resize_from_h", "seed_resize_from_w", "s_churn", "s_tmax"),
    *("s_tmin", "s_noise", "s_min_uncond", "disable_extra_networks", "comments", "firstpass_image"),
    *("firstphase_width", "firstphase_height", "hr_sampler_name", "hr_scheduler", "hr_prompt"),
    *("hr_negative_prompt", "hr_checkpoint_name", "hr_additional_modules", "resize_mode"),
    *("mask_blur", "mask_blur_x", "mask_blur_y", "inpainting_fill", "inpaint_full_res"),
    *("inpaint_full_res_padding", "initial_noise_multiplier", "include_init_images"),
    *("latent_mask", "image_cfg_scale", "refiner_checkpoint", "refiner_switch_at", "force_task_id"),
    *("infotext", "eta_noise_seed_delta", "model"),
)
METHOD_OF = {theirs.lower(): ours for ours, theirs in SAMPLER_NAMES.items()}


@router.post("/txt2img")
async def txt2img(request: Request) -> dict[str, Any]:
    """Pictures of a prompt."""
    return await _draw(request, needs_picture=False)


@router.post("/img2img")
async def img2img(request: Request) -> dict[str, Any]:
    """Pictures drawn over `init_images[0]`, where `mask` is white."""
    return await _draw(request, needs_picture=True)


async def _draw(request: Request, *, needs_picture: bool) -> dict[str, Any]:
    server = server_of(request)
    body = await read_body(request)
    sent = {key: value for key, value in body.fields.items() if key not in ("init_images", "mask")}
    job, idle = await beside(_submit, server, body, visitor_of(request), needs_picture)
    server.interruptible.add(job.id)
    try:
        await finished(request, job)
    finally:
        server.interruptible.discard(job.id)
    files = await pictures_of(job)
    texts = [read_parameters(data) for data in files]
    info = {
        "prompt": job.asked.get("prompt"),
        "seed": job.pictures[0].seed,
        "all_seeds": [picture.seed for picture in job.pictures],
        "all_prompts": [job.asked.get("prompt")] * len(files),
        "infotexts": texts,
        "ignored": idle,
    }
    images = [base64.b64encode(data).decode() for data in files]
    return {"images": images, "parameters": sent, "info": json.dumps(info)}


def _submit(
    server: Server, body: Body, visitor: str | None, needs_picture: bool
) -> tuple[JobRecord, list[str]]:
    server.queue.check_room()
    options, own, idle = read_names(body.fields, OWN, IGNORED)
    for theirs, ours in RENAMED.items():
        if own.get(theirs) not in (None, ""):
            options.setdefault(ours, own[theirs])
    if "sampling_method" in options:
        options["sampling_method"] = _method(options["sampling_method"])
    if own.get("scheduler") not in (None, "", "automatic", "Automatic"):
        options["scheduler"] = str(own["scheduler"]).lower()
    if own.get("enable_hr"):
        options |= _hires(own)
    else:
        idle += [name for name in HIRES if name in own]
    if own.get("extra_images"):
        options["ref_image"] = own["extra_images"]
    count = _count(own, "batch_size") * _count(own, "n_iter")
    options.setdefault("batch_count", count)
    options.setdefault("seed", -1)
    if own.get("lora"):
        options["lora"] = _loras(own["lora"])
    if needs_picture:
        _take_pictures(body, own, options)
    else:
        idle += _leave_pictures(own, options)
    job = server.submission.job(options, body, visitor, own)
    server.queue.add(job)
    return job, idle


def _take_pictures(body: Body, own: dict[str, Any], options: dict[str, Any]) -> None:
    pictures = own.get("init_images")
    if not isinstance(pictures, list) or len(pictures) != 1:
        raise RequestError("init_images: expected a list of one picture in base64")
    options["init_img"] = body.take_file(pictures[0], "init_images")
    if own.get("mask") is None:
        return
    name = body.take_file(own["mask"], "mask")
    if own.get("inpainting_mask_invert"):
        body.files[name] = _inverted(body.files[name])
    options["mask"] = name


def _leave_pictures(own: dict[str, Any], options: dict[str, Any]) -> list[str]:
    """Of a txt2img, the fields that belong to img2img, which change nothing; a mask is of
    `init_img`, our own field.
    """
    if own.get("mask") is not None:
        options["mask"] = own["mask"]
    if "init_img" in options or own.get(DETAIL_IMG) is not None:
        return []
    options.pop("strength", None)
    return [name for name in ("init_images", "inpainting_mask_invert") if own.get(name)]


def _hires(own: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a second pass; 0 and nothing are the usual value."""
    options: dict[str, Any] = {"hires": True}
    if own.get("denoising_strength") is not None:
        options["hires_denoising_strength"] = own["denoising_strength"]
    for theirs, ours in HIRES.items():
        if own.get(theirs):
            options[ours] = own[theirs]
    # clients send the scale beside a size, which then counts
    if "hires_width" in options or "hires_height" in options:
        options.pop("hires_scale", None)
    return options


def _inverted(data: bytes) -> bytes:
    inverted = ImageChops.invert(decode_picture(data, "mask", FORMATS, "black").convert("L"))
    stored = io.BytesIO()
    inverted.save(stored, "PNG")
    return stored.getvalue()


def _method(name: object) -> str:
    text = str(name).strip().lower()
    return METHOD_OF.get(text, text)


def _count(own: dict[str, Any], name: str) -> int:
    value = own.get(name)
    if value is None:
        return 1
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 1000:
        raise RequestError(f"{name} {str(value)[:20]!r}: expected a whole number from 1")
    return value


def _loras(given: object) -> list[str]:
    loras = []
    for one in given if isinstance(given, list) else [given]:
        if isinstance(one, str):
            loras.append(one)
        elif isinstance(one, dict) and isinstance(one.get("path"), str):
            loras.append(f"{one['path']}:{one.get('multiplier', 1)}")
        else:
            raise RequestError("lora: expected a list of {path, multiplier}")
    return loras


# ----------------------------------------------------------------------------------- what there is


@router.get("/samplers")
async def samplers() -> list[dict[str, Any]]:
    return [{"name": name, "aliases": [name], "options": {}} for name in METHODS]


@router.get("/schedulers")
async def schedulers() -> list[dict[str, Any]]:
    return [{"name": name, "label": name} for name in SCHEDULES]


@router.get("/sd-models")
async def sd_models(request: Request) -> list[dict[str, Any]]:
    name = server_of(request).judge.pipeline.files.flux.name
    told = {"title": name, "model_name": name, "filename": name}
    return [told | {"hash": None, "sha256": None, "config": None}]


@router.get("/loras")
async def loras(request: Request) -> list[dict[str, Any]]:
    folder = server_of(request).judge.lora_folder
    files = sorted(folder.glob("*.safetensors")) if folder is not None else []
    return [{"name": path.stem, "alias": path.stem, "path": path.stem} for path in files]


@router.get("/upscalers")
async def upscalers(request: Request) -> list[dict[str, Any]]:
    told = {"model_name": None, "model_path": None, "scale": 2}
    return [{"name": name} | told for name in server_of(request).judge.upscalers()]


@router.get("/options")
async def get_options(request: Request) -> dict[str, Any]:
    name = server_of(request).judge.pipeline.files.flux.name
    return {"sd_model_checkpoint": name, "samples_format": "png"}


@router.post("/options")
async def set_options(request: Request) -> dict[str, Any]:
    """The one model cannot be changed; a client that names it is content."""
    body = await read_body(request)
    name = server_of(request).judge.pipeline.files.flux.name
    wanted = body.fields.pop("sd_model_checkpoint", name)
    if wanted not in (name, "", None):
        raise RequestError(f"sd_model_checkpoint {str(wanted)[:80]!r}: this server has {name}")
    return {"ignored": list(body.fields)}


@router.get("/progress")
async def progress(request: Request) -> dict[str, Any]:
    """Of the picture that is longest in work, whosever it is: numbers only."""
    queue = server_of(request).queue
    working = list(queue.working)
    done, total = working[0].step if working else (0, 0)
    share = done / total if total else 0.0
    state = {
        "job_count": len(queue) + len(working),
        "sampling_step": done,
        "sampling_steps": total,
        "interrupted": bool(working and working[0].is_cancelled),
    }
    return {"progress": share, "eta_relative": 0.0, "state": state, "current_image": None}


@router.post("/interrupt")
async def interrupt(request: Request) -> dict[str, Any]:
    """Cancel the pictures in work that these routes asked for."""
    server = server_of(request)
    for job in list(server.queue.working):
        if job.id in server.interruptible:
            server.queue.cancel(job)
    return {}
