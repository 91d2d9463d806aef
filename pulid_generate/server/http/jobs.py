"""/v1/jobs: every option of a generation, a place in the queue, events while it is drawn, pictures.

Source of the events' form: WHATWG HTML, server-sent events.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from pulid_extract.shared.file_names import path_of
from pulid_generate.errors import RequestError
from pulid_generate.pictures.description import parse_description
from pulid_generate.pictures.picture import read_parameters
from pulid_generate.request.generation import MAX_SEED
from pulid_generate.request.step_cache import OPTIONS as CACHES
from pulid_generate.sampling.names import METHODS, SCHEDULES
from pulid_generate.server import settings as limits
from pulid_generate.server.http.state import (
    Server,
    beside,
    job_of,
    pictures_of,
    server_of,
    visitor_of,
)
from pulid_generate.server.intake.compared import Restored, hashes_of
from pulid_generate.server.intake.fields import read_names, schema
from pulid_generate.server.intake.restoring import restore
from pulid_generate.server.intake.uploads import Body, decode_file, read_body
from pulid_generate.server.work.jobs import FORMATS, JobRecord
from pulid_generate.version import __version__

router = APIRouter()
# seconds after which a line without meaning keeps the connection open
KEEP_ALIVE = 15.0
BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": schema()}},
    }
}


def submit(server: Server, body: Body, visitor: str | None) -> tuple[JobRecord, list[str]]:
    """A job in the queue, and the names of fields that change nothing. Raises PulidError."""
    server.queue.check_room()
    options, own, idle = read_names(body.fields)
    job = server.submission.job(options, body, visitor, own)
    server.queue.add(job)
    return job, idle


@router.post("/v1/jobs", status_code=202, openapi_extra=BODY)
async def post_job(request: Request) -> JSONResponse:
    """Let pictures be drawn. The answer comes at once, the job waits for its turn."""
    server = server_of(request)
    body = await read_body(request)
    job, idle = await beside(submit, server, body, visitor_of(request))
    return JSONResponse(job.as_dict(server.queue.place(job)) | {"ignored": idle}, 202)


@router.get("/v1/jobs")
async def list_jobs(request: Request) -> dict[str, Any]:
    """All jobs of this session, the newest first."""
    server, visitor = server_of(request), visitor_of(request)
    jobs = server.queue.of_visitor(visitor) if visitor else []
    told = []
    for job in jobs[: limits.MAX_GALLERY]:
        told.append(job.as_dict(server.queue.place(job)) | {"prompt": job.asked.get("prompt")})
    return {"jobs": told}


@router.get("/v1/jobs/{name}")
async def get_job(request: Request, name: str) -> dict[str, Any]:
    """How far it is, and what came of it."""
    job = job_of(request, name)
    return job.as_dict(server_of(request).queue.place(job)) | {"asked": job.asked}


@router.delete("/v1/jobs/{name}")
async def delete_job(request: Request, name: str) -> dict[str, Any]:
    """Cancel it: at once if it waits, before the next step if it is in work. A finished one is
    deleted with its pictures.
    """
    job, server = job_of(request, name), server_of(request)
    if job.is_finished:
        await beside(server.queue.delete, job)
        return {"id": job.id, "state": "deleted"}
    server.queue.cancel(job)
    return job.as_dict(server.queue.place(job)) | {"cancelling": not job.is_finished}


@router.get("/v1/jobs/{name}/events")
async def get_events(request: Request, name: str) -> StreamingResponse:
    """Server-sent events, one for each change: the job, and a small preview where there is one. The
    stream ends with the job.
    """
    job, server = job_of(request, name), server_of(request)
    return StreamingResponse(_events(server, job), media_type="text/event-stream")


async def _events(server: Server, job: JobRecord) -> AsyncIterator[str]:
    seen, shown = -1, None
    while True:
        seen, before = job.changes.count, seen
        if seen == before:
            yield ": waiting\n\n"
        else:
            told = job.as_dict(server.queue.place(job))
            preview = job.preview
            if preview is not None and preview is not shown:
                told["preview"] = f"data:image/png;base64,{base64.b64encode(preview).decode()}"
                shown = preview
            yield f"event: {job.state}\ndata: {json.dumps(told)}\n\n"
        if job.is_finished or (server.queue.is_closed and job.state == "queued"):
            return
        await job.changes.after(seen, KEEP_ALIVE)


@router.get("/v1/jobs/{name}/pictures/{index}")
async def get_picture(request: Request, name: str, index: int) -> Response:
    """One picture's file, as it was drawn."""
    job = job_of(request, name)
    if not 0 <= index < len(job.pictures):
        return JSONResponse({"detail": f"picture {index}: not drawn, or not yet"}, 404)
    [data] = await pictures_of(job, index)
    name = f"{job.pictures[index].seed}.{job.output_format}"
    return Response(
        data,
        media_type=f"image/{job.output_format}",
        headers={"Content-Disposition": f'inline; filename="{name}"'},
    )


@router.post("/v1/parameters")
async def read_settings_of(request: Request) -> dict[str, Any]:
    """What made a picture, from its metadata: send it as `image`, base64. `fields` are those of a
    request that draws it again here, `missing` says what cannot come back.
    """
    body = await read_body(request, one_file=("image",))
    data = next(iter(body.files.values()), None)
    if data is None:
        data = decode_file(body.fields.get("image"), "image")
    server, visitor = server_of(request), visitor_of(request)
    text = await beside(read_parameters, data)
    facts = parse_description(text)
    restored = await beside(_restored, server, visitor, facts)
    return {"parameters": text, "settings": facts} | vars(restored)


def _restored(server: Server, visitor: str | None, facts: dict[str, Any]) -> Restored:
    judge = server.judge
    hashes = hashes_of(server.submission.people(visitor).files())
    names = {sha256: name for name, sha256 in hashes.items()}
    try:
        return restore(facts, judge.facts(), judge.flags, judge.fitted, names, judge.lora_folder)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise RequestError("this picture's metadata was altered and cannot be read") from None


@router.get("/v1/capabilities")
async def get_capabilities(request: Request) -> dict[str, Any]:
    """What this server can do, and how much of it."""
    server, visitor = server_of(request), visitor_of(request)
    judge, settings = server.judge, server.settings
    files = judge.pipeline.files
    defaults = {
        name: getattr(judge.flags, name)
        for name in schema()["properties"]
        if hasattr(judge.flags, name)
    }
    return {
        "version": __version__,
        "model": files.flux.name,
        "dev": judge.pipeline.dev,
        "pulid": files.pulid.name if files.pulid else None,
        "devices": server.devices.ready,
        "portraits": server.worker.missing() is None,
        "portraits_missing": server.worker.missing(),
        "identities": list(server.submission.people(visitor).files()),
        "fields": schema()["properties"],
        "defaults": {key: value for key, value in defaults.items() if key not in SECRET},
        "sampling_methods": list(METHODS),
        "schedulers": list(SCHEDULES),
        "output_formats": list(FORMATS),
        # for fields whose words are no enum
        "choices": {
            "sampling_method": list(METHODS),
            "scheduler": list(SCHEDULES),
            "hires_upscaler": judge.upscalers(),
            "cache_mode": list(CACHES),
            "scm_policy": ["dynamic", "static"],
        },
        # in the order in which fields of several count
        "control_nets": [
            {"name": path_of(name).name, "modes": list(file.modes)}
            for name, file in zip(judge.flags.control_net or (), judge.controls, strict=True)
        ],
        "kontext": judge.pipeline.fitting.kontext,
        "limits": {
            "queue": settings.max_queue,
            "pictures": settings.max_pictures,
            "megapixels": settings.max_megapixels,
            "steps": settings.max_steps,
            "bytes": limits.MAX_BODY,
            "files": limits.MAX_FILES,
            "prompt": limits.MAX_PROMPT,
            "seed": MAX_SEED,
        },
    }


# Defaults of the server that name files on its disk
SECRET = ("pulid_id_embedding", "identity", "init_img", "mask", "lora")
