"""A server of the micro models on this machine's loopback, for the time of a `with`."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from pulid_generate.assembly.progress import Progress
from pulid_generate.flags.commands.tables import ServeFlags
from pulid_generate.server.http.app import make_app
from pulid_generate.server.http.protocol import TimedH11Protocol
from pulid_generate.server.http.running import open_server, resume
from pulid_generate.server.http.state import Server
from pulid_generate.server.settings import read_settings
from pulid_generate.server.work.devices import Devices

WAIT = 120.0  # seconds for anything
PROMPT = "a photo of a cat"


@dataclass
class Served:
    """A running server."""

    server: Server
    address: str

    def client(self, **options: Any) -> httpx.Client:
        """Of nobody's session."""
        return httpx.Client(base_url=self.address, timeout=WAIT, **options)

    @contextlib.contextmanager
    def visitor(self) -> Iterator[httpx.Client]:
        """With a session of its own, as a browser has."""
        with self.client() as client:
            assert client.get("/").status_code == 200
            yield client


def micro_serve_flags(micro: Path, folder: Path, **own: Any) -> ServeFlags:
    """Flags for the micro models, with small pictures of few steps."""
    values = {
        "diffusion_model": str(micro / "flux1-schnell.safetensors"),
        "vae": str(micro / "ae.safetensors"),
        "clip_l": str(micro / "clip_l.safetensors"),
        "t5xxl": str(micro / "t5xxl_fp16.safetensors"),
        "t5_tokenizer": str(micro / "tokenizer.json"),
        "pulid_weights": str(micro / "pulid_flux_v0.9.1.safetensors"),
        "device": "cpu",
        # as tests/conftest.py has it for the commands
        "dtype": "float32",
        "width": 64,
        "height": 48,
        "steps": 2,
        "output_dir": str(folder / "studio"),
        "quiet": True,
    }
    return ServeFlags(**values | own)


@contextlib.contextmanager
def serving(
    flags: ServeFlags,
    devices: Callable[[Server], Devices] | None = None,
    on_end: Callable[[], None] = lambda: None,
) -> Iterator[Served]:
    """devices: who draws, if it is not this process. on_end: called when nobody does any more."""
    given = frozenset({"width", "height", "steps", "pulid_weights"})
    settings = read_settings(flags)
    server = open_server(flags, given, settings, Progress(quiet=True))
    resume(server, Progress(quiet=True))
    if devices is not None:
        server.devices = devices(server)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        make_app(server), http=TimedH11Protocol, ws="none", lifespan="off", log_level="critical"
    )
    runner = uvicorn.Server(config)
    thread = threading.Thread(target=runner.run, args=([listening],), daemon=True)
    server.devices.start(on_end)
    thread.start()
    try:
        until = time.monotonic() + WAIT
        while not runner.started:
            assert time.monotonic() < until
            time.sleep(0.02)
        yield Served(server, f"http://127.0.0.1:{listening.getsockname()[1]}")
    finally:
        server.devices.stop()
        server.queue.close()
        runner.should_exit = True
        runner.force_exit = True
        thread.join(10)
        server.devices.join(WAIT)
        server.validations.stop(WAIT)
        server.worker.stop()


def wait_for(client: httpx.Client, name: str) -> dict[str, Any]:
    """A job, once it has ended."""
    until = time.monotonic() + WAIT
    while time.monotonic() < until:
        told: dict[str, Any] = client.get(f"/v1/jobs/{name}").json()
        if told["state"] in ("done", "failed", "cancelled"):
            return told
        time.sleep(0.02)
    raise AssertionError(f"the job is {told['state']}")


def drawn(client: httpx.Client, **fields: Any) -> bytes:
    """The one picture of a job."""
    posted = client.post("/v1/jobs", json={"prompt": PROMPT} | fields)
    assert posted.status_code == 202, posted.text
    told = wait_for(client, posted.json()["id"])
    assert told["state"] == "done", told
    data: bytes = client.get(told["pictures"][0]["url"]).content
    return data


def of_file(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
