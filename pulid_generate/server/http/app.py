"""The application: its routes, what becomes of errors, and the layer that every request passes."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from pulid_generate.errors import PulidError
from pulid_generate.server.failures import failure, failure_of
from pulid_generate.server.http import (
    health,
    jobs,
    likeness,
    openai,
    people,
    reference,
    studio,
    validations,
    webui,
)
from pulid_generate.server.http.safety import Safety
from pulid_generate.server.http.state import Server, server_of
from pulid_generate.version import __version__


def make_app(server: Server) -> Any:
    """The application of one server, for an ASGI runner."""
    # their pages for people load scripts from elsewhere; `reference` is ours
    app = FastAPI(title="pulid-generate", version=__version__, docs_url=None, redoc_url=None)
    app.state.server = server
    for part in (jobs, likeness, validations, openai, webui, people, studio, reference, health):
        app.include_router(part.router)
    # it would log what it cannot read
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    app.add_exception_handler(PulidError, _told)
    app.add_exception_handler(Exception, _told_mistake)
    app.add_exception_handler(HTTPException, _told_status)
    app.add_exception_handler(RequestValidationError, _told_form)
    return Safety(app, server.settings, server.visitors)


async def _told_mistake(request: Request, error: Exception) -> Any:
    return failure(500, f"the server made a mistake ({type(error).__name__}); see its log")


async def _told(request: Request, error: Any) -> Any:
    return failure_of(error, server_of(request).judge.without_folders(str(error)))


async def _told_status(request: Request, error: Any) -> Any:
    return failure(error.status_code, str(error.detail), headers=error.headers)


async def _told_form(request: Request, error: Any) -> Any:
    return failure(400, "the address or its parameters are not as expected; see /openapi.json")
