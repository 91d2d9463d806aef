"""The table `http` of the benchmarks: what a request over HTTP costs beside the picture, on the
small world, in processor time: machines are shared, and waiting for one's turn says nothing. Knows
nothing of the models' insides.

    PYTHONPATH=scripts python -m bench http
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import socket
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

PICTURES = int(os.environ.get("BENCH_HTTP", "8"))
SIDE, STEPS, T5_LENGTH = 96, 8, 32
PROMPT = "a portrait of a person, smiling, in a red shirt, on a blue background"
SMALL_WORLD = {
    "models_dir": str(Path(__file__).parent.parent / "micro_world" / "models"),
    "width": SIDE,
    "height": SIDE,
    "steps": STEPS,
    "t5_max_length": T5_LENGTH,
}


def overhead() -> str:
    """Markdown."""
    rows = ""
    threads = torch.get_num_threads()
    # more would compute outside the device's thread
    torch.set_num_threads(1)
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            serving(Path(folder), SMALL_WORLD) as (port, device),
        ):
            for name, ask in WAYS.items():
                turns = []
                # models load, and the prompt is encoded, with the first
                for seed in range(-1, PICTURES):
                    turn = _turn(ask, port, device, seed + 100)
                    if seed >= 0:
                        turns.append(turn)
                drawing = statistics.median(drawn for drawn, _ in turns)
                beside = statistics.median(else_ for _, else_ in turns)
                share = statistics.median(else_ / drawn for drawn, else_ in turns)
                rows += f"| {name} | {drawing * 1000:.0f} | {beside * 1000:.1f} | {share:.1%} |\n"
    finally:
        torch.set_num_threads(threads)
    return (
        f"**A picture over HTTP, {SIDE}x{SIDE}, {STEPS} steps, medians of {PICTURES}, processor "
        "time (goal: under 3 %)**\n\n| asked for by | the device's thread, ms | the server's other "
        f"threads, ms | that is |\n|---|---|---|---|\n{rows}"
    )


def _turn(
    ask: Callable[[int, int], None], port: int, device: int, seed: int
) -> tuple[float, float]:
    """(seconds of the device's thread, of all else but the client, which is this thread)."""
    before = time.process_time(), time.thread_time(), time.clock_gettime(device)
    ask(port, seed)
    after = time.process_time(), time.thread_time(), time.clock_gettime(device)
    whole, client, drawn = (late - early for early, late in zip(before, after, strict=True))
    return drawn, whole - client - drawn


def _by_events(port: int, seed: int) -> None:
    """Asked for, watched with its previews, and fetched."""
    line = http.client.HTTPConnection("127.0.0.1", port)
    name = _post(line, "/v1/jobs", seed)["id"]
    line.request("GET", f"/v1/jobs/{name}/events")
    # ends with the job
    last = line.getresponse().read().decode().rstrip().rpartition("data: ")[2]
    line.request("GET", json.loads(last)["pictures"][0]["url"])
    _check(line.getresponse().read())
    line.close()


def _by_openai(port: int, seed: int) -> None:
    """One request, whose answer has the picture."""
    line = http.client.HTTPConnection("127.0.0.1", port)
    answer = _post(line, "/v1/images/generations", seed)
    _check(base64.b64decode(answer["data"][0]["b64_json"]))
    line.close()


WAYS = {
    "OpenAI's route": _by_openai,
    "`/v1/jobs`, with its events and previews": _by_events,
}


def _post(line: http.client.HTTPConnection, path: str, seed: int) -> dict[str, Any]:
    headers = {"Content-Type": "application/json"}
    line.request("POST", path, json.dumps({"prompt": PROMPT, "seed": seed}), headers)
    told: dict[str, Any] = json.loads(line.getresponse().read())
    return told


def _check(data: bytes) -> None:
    if not data.startswith(b"\x89PNG"):
        raise RuntimeError(f"no picture: {data[:100]!r}")


@contextlib.contextmanager
def serving(folder: Path, own: dict[str, Any]) -> Iterator[tuple[int, int]]:
    """A server with these flags: its port, and the clock of the thread that draws. folder: for its
    files.
    """
    import uvicorn

    from pulid_generate.assembly.progress import Progress
    from pulid_generate.flags.commands.tables import ServeFlags
    from pulid_generate.server.http.app import make_app
    from pulid_generate.server.http.running import open_server
    from pulid_generate.server.settings import read_settings
    from pulid_generate.server.work.devices import OneDevice

    flags = ServeFlags(output_dir=str(folder / "studio"), quiet=True, **own)
    given = frozenset({"width", "height", "steps"})
    server = open_server(flags, given, read_settings(flags), Progress(quiet=True))
    assert isinstance(server.devices, OneDevice)
    device = server.devices.thread
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(make_app(server), lifespan="off", log_level="critical")
    runner = uvicorn.Server(config)
    thread = threading.Thread(target=runner.run, args=([listening],), daemon=True)
    device.start()
    thread.start()
    while not runner.started:
        time.sleep(0.01)
    try:
        assert device.ident is not None
        yield listening.getsockname()[1], time.pthread_getcpuclockid(device.ident)
    finally:
        device.is_stopping = True
        server.queue.close()
        runner.should_exit = True
        thread.join(10)
        device.join(60)
