"""Whether the server lives, whether it takes jobs, and how it does."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from pulid_generate.server.http.state import beside, server_of

router = APIRouter()


@router.get("/health")
async def health() -> dict[str, Any]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/ready")
async def ready(request: Request) -> JSONResponse:
    """200 while jobs are taken, 503 once the server is stopping or its queue is full, or before
    anybody is there who draws.
    """
    queue, devices = server_of(request).queue, server_of(request).devices
    told: dict[str, Any] = {"waiting": len(queue), "limit": queue.limit}
    told |= {"stopping": queue.is_closed, "devices": devices.ready}
    is_ready = not queue.is_closed and len(queue) < queue.limit and devices.ready > 0
    return JSONResponse({"ready": is_ready} | told, 200 if is_ready else 503)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """For Prometheus."""
    server = server_of(request)
    devices = server.devices
    text = await beside(server.metrics.text, devices.ready, devices.loaded, devices.memory())
    return Response(text, media_type=CONTENT_TYPE_LATEST)
