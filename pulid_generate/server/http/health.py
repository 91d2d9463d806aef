"""Whether the server lives, whether it takes jobs, and how it does."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from pulid_generate.server.http.state import beside, server_of
from pulid_generate.server.settings import disk_problem

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, Any]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """200 while jobs are taken and there is room for what they draw; 503 with `reasons` once the
    server is stopping, its queue or its disk is full, or before anybody is there who draws.
    """
    server = server_of(request)
    queue, devices = server.queue, server.devices
    told: dict[str, Any] = {"waiting": len(queue), "limit": queue.limit}
    told |= {"stopping": queue.is_closed, "devices": devices.ready}
    reasons = []
    if queue.is_closed:
        reasons.append("the server is stopping")
    if len(queue) >= queue.limit:
        reasons.append("the queue is full")
    if not devices.ready:
        reasons.append("nobody is there who draws")
    if problem := await beside(disk_problem, server.settings.folder):
        reasons.append(problem)
    is_ready = not reasons
    return JSONResponse({"ready": is_ready, "reasons": reasons} | told, 200 if is_ready else 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    server = server_of(request)
    devices = server.devices
    text = await beside(server.metrics.text, devices.ready, devices.loaded, devices.memory())
    return Response(text, media_type=CONTENT_TYPE_LATEST)
