"""OpenAI's shape: /v1/images/generations, /v1/images/edits, /v1/models. Our own fields stand beside
theirs (extra_body of their Python package).

Source: OpenAI's API reference, images. Without a seed each request draws another picture, as there.
"""

from __future__ import annotations

import base64
import io
import re
import time
from typing import Any

from fastapi import APIRouter, Request
from PIL import Image, ImageChops

from pulid_extract.shared.picture_file import pillow_reads
from pulid_generate.errors import InputError, RequestError
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
from pulid_generate.server.work.jobs import JobRecord

router = APIRouter()
OWN = ("n", "size", "response_format", "image", "mask", "model", "stream")
# which change nothing here
IGNORED = (
    *("user", "quality", "style", "background", "moderation", "output_compression"),
    *("partial_images", "input_fidelity"),
)
SIZE = re.compile(r"(\d{1,5})x(\d{1,5})")
# pixels of a mask with transparency
MAX_MASK = 64_000_000


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """The one model that is served."""
    name = server_of(request).judge.pipeline.files.flux.name
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "local"}]}


@router.post("/v1/images/generations")
async def generate(request: Request) -> dict[str, Any]:
    """Pictures of a prompt; the answer comes when they are drawn."""
    return await _draw(request, await read_body(request), edit=False)


@router.post("/v1/images/edits")
async def edit(request: Request) -> dict[str, Any]:
    """A picture drawn over: `image`, and `mask`, whose transparent (or else white) part is
    redrawn.
    """
    return await _draw(request, await read_body(request, one_file=("image", "mask")), edit=True)


async def _draw(request: Request, body: Body, *, edit: bool) -> dict[str, Any]:
    server = server_of(request)
    form = body.fields.get("response_format") or "b64_json"
    if form not in ("b64_json", "url"):
        raise RequestError(f"response_format {str(form)[:20]!r}: expected b64_json or url")
    job, idle = await beside(_submit, server, body, visitor_of(request), edit)
    await finished(request, job)
    data = []
    for index, picture in enumerate(await pictures_of(job)):
        told: dict[str, Any] = {"seed": job.pictures[index].seed}
        if form == "url":
            told["url"] = f"{request.base_url}v1/jobs/{job.id}/pictures/{index}"
        else:
            told["b64_json"] = base64.b64encode(picture).decode()
        data.append(told)
    answer = {"created": int(time.time()), "output_format": job.output_format, "data": data}
    if idle:
        answer["ignored"] = idle
    return answer


def _submit(
    server: Server, body: Body, visitor: str | None, edit: bool
) -> tuple[JobRecord, list[str]]:
    server.queue.check_room()
    options, own, idle = read_names(body.fields, OWN, IGNORED)
    if own.get("stream") not in (None, False, "false"):
        raise RequestError("stream: pictures come whole; watch a job of /v1/jobs for its steps")
    if own.get("n") is not None:
        options.setdefault("batch_count", own["n"])
    if own.get("size") not in (None, "auto"):
        match = SIZE.fullmatch(str(own["size"]))
        if match is None:
            raise RequestError(f"size {str(own['size'])[:20]!r}: expected WIDTHxHEIGHT, or auto")
        options |= {"width": int(match[1]), "height": int(match[2])}
    options.setdefault("seed", -1)
    if edit:
        _take_image(body, own, options)
    elif own.get("image") is not None:
        raise RequestError("image: is for /v1/images/edits; send it there, or as init_img")
    elif own.get("mask") is not None:
        options["mask"] = own["mask"]
    job = server.submission.job(options, body, visitor, own)
    server.queue.add(job)
    return job, idle


def _take_image(body: Body, own: dict[str, Any], options: dict[str, Any]) -> None:
    """The picture to start from and its mask, as files of the request."""
    parts: dict[str, list[str]] = {"image": [], "mask": []}
    for name in body.files:
        for part, names in parts.items():
            if name.rstrip("0123456789") == part:
                names.append(name)
    for part, names in parts.items():
        if own.get(part) is not None:
            value = own[part]
            if isinstance(value, list):
                raise RequestError(f"{part}: expected one picture")
            names.append(body.take_file(value, part))
        if len(names) > 1:
            raise RequestError(f"{part}: {len(names)} pictures; expected one")
    if not parts["image"]:
        raise RequestError("image: the picture to edit is missing")
    options["init_img"] = parts["image"][0]
    if parts["mask"]:
        name = parts["mask"][0]
        body.files[name] = white_where_transparent(body.files[name])
        options["mask"] = name


def white_where_transparent(data: bytes) -> bytes:
    """A mask of OpenAI's kind (what is transparent is redrawn) as one of ours (white is); one
    without transparency is ours already.
    """
    try:
        formats = ("PNG", "WEBP")
        with pillow_reads("mask"), Image.open(io.BytesIO(data), formats=formats) as image:
            if image.mode not in ("RGBA", "LA", "PA") or image.width * image.height > MAX_MASK:
                return data
            alpha = image.convert("RGBA").getchannel("A")
    # whatever it is, its reader says so by name
    except InputError:
        return data
    if alpha.getextrema() == (255, 255):
        return data
    stored = io.BytesIO()
    ImageChops.invert(alpha).save(stored, "PNG")
    return stored.getvalue()
