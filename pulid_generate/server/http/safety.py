"""What every request must pass before anything is read of it: the name it is addressed to, the page
it comes from, a key, and its size. Imports no torch.

Sources: WHATWG Fetch (Origin), RFC 9110 (Host, 413, 408), RFC 6750 (Bearer), RFC 7617 (Basic).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.responses import Response

from pulid_extract.shared.cli import console
from pulid_generate.server.failures import RefusedError, failure_of, mistake_of
from pulid_generate.server.intake.visitors import COOKIE, Visitors
from pulid_generate.server.settings import BODY_SECONDS, MAX_BODY, Settings

Message = MutableMapping[str, Any]
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

# answered without a key: the page that asks for one, and whether the server lives
OPEN = ("/", "/health", "/ready", "/v1/session")
OPEN_FOLDERS = ("/page/",)
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
    "style-src 'self'; script-src 'self'; frame-ancestors 'none'; form-action 'self'; "
    "base-uri 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
ALLOWED_METHODS = "GET, POST, DELETE, OPTIONS"


class Safety:
    """A layer around the application."""

    def __init__(self, app: Any, settings: Settings, visitors: Visitors):
        self.app, self.settings, self.visitors = app, settings, visitors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        send = self._with_headers(send, origin)
        try:
            self._check_host(headers)
            self._check_origin(headers)
            if scope["method"] == "OPTIONS":
                response = Response(status_code=204, headers={"Allow": ALLOWED_METHODS})
                await response(scope, receive, send)
                return
            self._check_key(scope["path"], headers)
            _check_length(headers)
        except RefusedError as error:
            await failure_of(error)(scope, receive, send)
            return
        try:
            await self.app(scope, _Limited(receive), send)
        except ClientDisconnect:
            return
        # a bug, which has been answered; the runner would log all that its message says
        except Exception as error:
            console.complain(f"bug: {mistake_of(error)}; a request has failed")

    # ---------------------------------------------------------------------------------- the checks

    def _check_host(self, headers: Headers) -> None:
        """A page elsewhere can give its own name our address (DNS rebinding); a plain address
        cannot lie.
        """
        name = _host_of(headers.get("host", ""))
        if name in self.settings.hosts or _is_address(name):
            return
        raise RefusedError(
            421, f"this server is not called {name[:80]!r}; start it with --allow-host if it is"
        )

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or origin.lower() in self.settings.origins:
            return
        if origin.lower() in (
            f"{scheme}://{headers.get('host', '')}" for scheme in ("http", "https")
        ):
            return
        raise RefusedError(
            403,
            f"pages of {origin[:80]!r} may not send requests here; start the server with "
            "--allow-origin if they may",
        )

    def _check_key(self, path: str, headers: Headers) -> None:
        if not self.settings.keys or path in OPEN or path.startswith(OPEN_FOLDERS):
            return
        token = cookie_parser(headers.get("cookie", "")).get(COOKIE)
        if self.visitors.has_key(token) or has_key(_shown_key(headers), self.settings):
            return
        raise RefusedError(
            401,
            "a key is needed: send the header 'Authorization: Bearer KEY'",
            {"WWW-Authenticate": "Bearer"},
        )

    def _with_headers(self, send: Send, origin: str | None) -> Send:
        async def wrapped(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if origin is not None and origin.lower() in self.settings.origins:
                    headers["Access-Control-Allow-Origin"] = origin
                    headers["Access-Control-Allow-Methods"] = ALLOWED_METHODS
                    headers["Access-Control-Allow-Headers"] = "Authorization, Content-Type"
                    headers["Cross-Origin-Resource-Policy"] = "cross-origin"
                    headers.add_vary_header("Origin")
            await send(message)

        return wrapped


class _Limited:
    """What comes of a body, as long as it is not too large or too slow."""

    def __init__(self, receive: Receive):
        self.receive = receive
        self.size = 0
        self.is_whole = False
        self.until = asyncio.get_running_loop().time() + BODY_SECONDS

    async def __call__(self) -> Message:
        if self.is_whole:
            # the end of the connection, whenever that is
            return await self.receive()
        left = self.until - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self.receive(), max(left, 0.001))
        except TimeoutError:
            raise RefusedError(
                408, f"the request did not come whole in {BODY_SECONDS:.0f} seconds"
            ) from None
        self.size += len(message.get("body", b""))
        if self.size > MAX_BODY:
            raise _too_large()
        self.is_whole = not message.get("more_body", False)
        return message


def has_key(key: str | None, settings: Settings) -> bool:
    """Whether this is one of the keys."""
    if key is None:
        return False
    digest = hashlib.sha256(key.encode(errors="replace")).digest()
    found = False
    # all of them, so that the time tells nothing
    for known in settings.keys:
        found |= hmac.compare_digest(digest, known)
    return found


def _shown_key(headers: Headers) -> str | None:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() == "basic":
        try:
            pair = base64.b64decode(value, validate=True).decode()
        except (binascii.Error, ValueError):
            return None
        return pair.partition(":")[2]
    return None


def _check_length(headers: Headers) -> None:
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length[:20]) > MAX_BODY:
        raise _too_large()


def _too_large() -> RefusedError:
    return RefusedError(413, f"the request is larger than {MAX_BODY >> 20} MiB; send less")


def _host_of(header: str) -> str:
    """A Host header without its port, in lower case."""
    host = header.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0].removeprefix("[")
    return host.partition(":")[0]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
