"""The page for the browser, and its session."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from pulid_generate.errors import RequestError
from pulid_generate.server.failures import RefusedError, not_found
from pulid_generate.server.http.safety import has_key
from pulid_generate.server.http.state import beside, server_of, visitor_of
from pulid_generate.server.intake.uploads import read_body
from pulid_generate.server.intake.visitors import COOKIE

router = APIRouter()
FIRST = "index.html"
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@cache
def page_files() -> dict[str, tuple[bytes, str]]:
    """name -> (bytes, type) of all that the page is made of."""
    found = {}
    for file in files("pulid_generate.server").joinpath("page").iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in TYPES:
            found[file.name] = (file.read_bytes(), TYPES[suffix])
    return found


@router.get("/")
async def first_page(request: Request) -> Response:
    """The studio. A browser without a session gets one."""
    if not server_of(request).settings.studio:
        raise not_found("the studio (--no-studio)")
    data, kind = page_files()[FIRST]
    response = Response(data, media_type=kind)
    if visitor_of(request) is None:
        token = server_of(request).visitors.new_token()
        response.set_cookie(COOKIE, token, httponly=True, samesite="strict", path="/")
    return response


@router.get("/page/{name}")
async def page_file(name: str) -> Response:
    """Style and scripts of the studio."""
    if name not in page_files():
        raise not_found(f"page {name[:40]}")
    data, kind = page_files()[name]
    return Response(data, media_type=kind, headers={"Cache-Control": "no-cache"})


@router.get("/v1/session")
async def get_session(request: Request) -> dict[str, Any]:
    """Whether a key is needed, and whether this session has shown one."""
    server = server_of(request)
    token = request.cookies.get(COOKIE)
    needs_key = bool(server.settings.keys) and not server.visitors.has_key(token)
    return {"session": visitor_of(request) is not None, "needs_key": needs_key}


@router.post("/v1/session")
async def show_key(request: Request) -> dict[str, Any]:
    """Show a key, once for this session: {"key": ..}."""
    server, token = server_of(request), request.cookies.get(COOKIE)
    body = await read_body(request)
    if visitor_of(request) is None or token is None:
        raise RequestError("there is no session; open the page first")
    if not has_key(str(body.fields.get("key")), server.settings):
        raise RefusedError(401, "this is not a key of this server")
    server.visitors.give_key(token)
    return {"needs_key": False}


@router.delete("/v1/session")
async def delete_session(request: Request) -> JSONResponse:
    """Delete everything of this session: jobs, pictures, identities, the session itself."""
    visitor = visitor_of(request)
    if visitor is not None:
        await beside(server_of(request).forget_visitor, visitor)
    response = JSONResponse({"deleted": visitor is not None})
    response.delete_cookie(COOKIE, path="/")
    return response
