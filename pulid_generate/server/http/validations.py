"""/v1/validations: does an identity hold? The command's report, drawn through the queue."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from pulid_generate.server.failures import not_found
from pulid_generate.server.http.state import Server, beside, server_of, visitor_of
from pulid_generate.server.intake.fields import read_names
from pulid_generate.server.intake.uploads import Body, read_body
from pulid_generate.server.intake.validation import report_files
from pulid_generate.server.intake.validation_fields import FIELDS
from pulid_generate.server.intake.validation_records import ValidationRecord
from pulid_generate.validation.page import POLICY

router = APIRouter()
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": {
                        name: {"type": "string", "description": text}
                        for name, text in FIELDS.items()
                    },
                }
            }
        },
    }
}


@router.post("/v1/validations", status_code=202, openapi_extra=BODY)
async def post_validation(request: Request) -> JSONResponse:
    """Try an identity (pulid_id_embedding) with prompts and seeds, with and without it, against
    photographs; other fields are options of every picture. The pictures wait in the queue.
    """
    server = server_of(request)
    body = await read_body(request)
    record = await beside(_start, server, body, visitor_of(request))
    return JSONResponse(record.as_dict(), 202)


def _start(server: Server, body: Body, visitor: str | None) -> ValidationRecord:
    server.queue.check_room()
    options, own, _ = read_names(body.fields, FIELDS)
    return server.validations.start(options, own, body, visitor)


@router.get("/v1/validations")
async def list_validations(request: Request) -> dict[str, Any]:
    """All of this session, the newest first."""
    visitor = visitor_of(request)
    found = server_of(request).validations.of_visitor(visitor) if visitor else []
    return {"validations": [record.as_dict() for record in found]}


@router.get("/v1/validations/{name}")
async def get_validation(request: Request, name: str) -> dict[str, Any]:
    """How far it is, and its measures."""
    return _record(request, name).as_dict()


@router.get("/v1/validations/{name}/report")
async def get_report(request: Request, name: str) -> Response:
    """The page."""
    page, _ = report_files(_finished(request, name))
    return Response(
        page.read_bytes(),
        media_type="text/html; charset=utf-8",
        headers={"Content-Security-Policy": POLICY},
    )


@router.get("/v1/validations/{name}/report.json")
async def get_report_json(request: Request, name: str) -> Response:
    """The same for programs; docs/validation.md has the fields."""
    _, told = report_files(_finished(request, name))
    return Response(told.read_bytes(), media_type="application/json")


@router.delete("/v1/validations/{name}")
async def delete_validation(request: Request, name: str) -> dict[str, Any]:
    """End it; its pictures and its report go."""
    record = _record(request, name)
    server_of(request).validations.forget(record)
    return {"id": record.id, "state": "deleted"}


def _record(request: Request, name: str) -> ValidationRecord:
    record = server_of(request).validations.get(name)
    if record is None or record.visitor not in (None, visitor_of(request)):
        raise not_found(f"validation {name[:40]}")
    return record


def _finished(request: Request, name: str) -> ValidationRecord:
    record = _record(request, name)
    if record.state != "done":
        raise not_found(f"the report of validation {name[:40]}")
    return record
