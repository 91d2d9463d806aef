"""A Hugging Face hub of this machine for the tests of downloads: HEAD with a redirect to storage,
ranges, gates, and breaks on demand.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass
class Hub:
    """files: "repo/file" or a plain path -> bytes. gated: repositories that refuse whoever sends no
    such token.

    cut: bytes after which each answer with a body breaks off, while `cuts` lasts. ranges: whether
    Range is honoured. calls: (method, path, Range, Authorization) of everything that was asked.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    gated: dict[str, str] = field(default_factory=dict)
    cut: int = 0
    cuts: int = 0
    ranges: bool = True
    busy: int = 0
    # a SHA-256 that is told instead of the true one
    forged: dict[str, str] = field(default_factory=dict)
    calls: list[tuple[str, str, str, str]] = field(default_factory=list)
    address: str = ""

    @property
    def storage(self) -> str:
        return self.address.replace("127.0.0.1", "localhost")  # another host, as the real one's

    def asked(self, method: str) -> list[str]:
        return [path for called, path, _, _ in self.calls if called == method]

    def ranges_asked(self) -> list[str]:
        return [start for method, _, start, _ in self.calls if method == "GET"]


@contextlib.contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            token = self.headers.get("Authorization", "")
            hub.calls.append((self.command, self.path, self.headers.get("Range", ""), token))
            if "/resolve/main/" in self.path:
                return self.resolve(token)
            body = hub.files.get(self.path.split("?")[0].removeprefix("/storage").lstrip("/"))
            if body is None:
                return self.say(404)
            if hub.busy and self.command == "GET":
                hub.busy -= 1
                return self.say(503)
            return self.send(body)

        def resolve(self, token: str) -> None:
            repo, _, file = self.path.lstrip("/").partition("/resolve/main/")
            if repo in hub.gated and token != f"Bearer {hub.gated[repo]}":
                return self.say(403 if token else 401, {"X-Error-Code": "GatedRepo"})
            body = hub.files.get(f"{repo}/{file}")
            if body is None:
                known = any(name.startswith(f"{repo}/") for name in hub.files)
                return self.say(
                    404 if known else 401,
                    {"X-Error-Code": "EntryNotFound" if known else "RepoNotFound"},
                )
            sha256 = hub.forged.get(file, hashlib.sha256(body).hexdigest())
            described = {
                "X-Repo-Commit": "0" * 40,
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(body)),
            }
            return self.say(
                302, {**described, "Location": f"{hub.storage}/storage/{repo}/{file}?signed=secret"}
            )

        def send(self, body: bytes) -> None:
            start = int(self.headers.get("Range", "bytes=0-")[6:-1]) if hub.ranges else 0
            if start and start >= len(body):
                return self.say(416)
            rest = body[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(rest)))
            self.send_header("ETag", '"v1"')
            self.end_headers()
            if self.command == "HEAD":
                return
            if hub.cut and hub.cuts:
                hub.cuts -= 1
                self.wfile.write(rest[: hub.cut])
                self.wfile.flush()
                self.close_connection = True
                self.connection.close()
                return
            self.wfile.write(rest)

        def say(self, status: int, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *arguments: object) -> None:  # connections that were cut on purpose
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hub.address = f"http://127.0.0.1:{server.server_port}"
        yield hub
        server.shutdown()
