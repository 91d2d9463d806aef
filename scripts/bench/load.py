"""The table `load` of the benchmarks: many clients at once ask a server of the micro models for
pictures, and come again where there is no room. None may be lost, and memory shall not grow.

    PYTHONPATH=scripts python -m bench load        (BENCH_LOAD=200 requests, by 20 clients)
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from seeded.micro_models import parts

from bench.server import serving

REQUESTS, CLIENTS = int(os.environ.get("BENCH_LOAD", "200")), 20
# fewer than the clients, so that some are sent away
MAX_QUEUE = 8
SIDE = 32
MODELS = ("flux1-schnell", "ae.", "clip_l", "t5xxl", "tokenizer")


@dataclass
class Load:
    """What came of it."""

    requests: int
    # seed -> the picture's file
    pictures: dict[int, bytes] = field(default_factory=dict)
    # what was no picture
    problems: list[str] = field(default_factory=list)
    # 429s
    sent_away: int = 0
    # resident bytes after each picture
    resident: list[int] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        return self.requests - len(self.pictures)

    def resident_after(self, share: float) -> float:
        """MB, once so much of the pictures was there."""
        place = round(share * (len(self.resident) - 1))
        return self.resident[place] / 1e6


def load() -> str:
    """Markdown."""
    with tempfile.TemporaryDirectory() as folder:
        found = under_load(Path(folder), REQUESTS, CLIENTS)
    shares = (0.1, 0.25, 0.5, 0.75, 1.0)
    head = " | ".join(f"after {round(share * found.requests)}" for share in shares)
    row = " | ".join(f"{found.resident_after(share):.0f}" for share in shares)
    return (
        f"**{found.requests} requests by {CLIENTS} clients, a queue of {MAX_QUEUE}: {found.lost} "
        f"lost, {len(found.problems)} errors, {found.sent_away} times sent away and come again, "
        f"{found.seconds:.0f} s**\n\n| resident, MB | {head} |\n"
        f"|{'---|' * (len(shares) + 1)}\n| | {row} |\n"
    )


def under_load(folder: Path, requests: int, clients: int) -> Load:
    """Each client asks for its share, one picture after the other. folder: for all files."""
    models = folder / "models"
    models.mkdir()
    for part in parts():
        if part.name.startswith(MODELS):
            part.write(models / part.name, 0)
    found, lock, started = Load(requests), threading.Lock(), time.monotonic()
    own = {
        "models_dir": str(models),
        "t5_tokenizer": str(models / "tokenizer.json"),
        "device": "cpu",
        "max_queue": MAX_QUEUE,
        "width": SIDE,
        "height": SIDE,
        "steps": 1,
    }
    with serving(folder, own) as (port, _):

        def ask_for(seeds: range) -> None:
            for seed in seeds:
                picture = _picture(port, seed, found, lock)
                with lock:
                    found.resident.append(psutil.Process().memory_info().rss)
                    if picture is not None:
                        found.pictures[seed] = picture

        # models load with the first
        _picture(port, requests, found, lock)
        threads = []
        for number in range(clients):
            seeds = range(number, requests, clients)
            threads.append(threading.Thread(target=ask_for, args=(seeds,)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found.seconds = time.monotonic() - started
    return found


def _picture(port: int, seed: int, found: Load, lock: threading.Lock) -> bytes | None:
    """One picture, however often it takes to be let in."""
    while True:
        line = http.client.HTTPConnection("127.0.0.1", port)
        body = json.dumps({"prompt": "a cat", "seed": seed})
        try:
            line.request(
                "POST", "/v1/images/generations", body, {"Content-Type": "application/json"}
            )
            answer = line.getresponse()
            told = json.loads(answer.read())
        except (OSError, ValueError, http.client.HTTPException) as error:
            with lock:
                found.problems.append(f"seed {seed}: {error!r}")
            return None
        finally:
            line.close()
        if answer.status == 200:
            return base64.b64decode(told["data"][0]["b64_json"])
        with lock:
            if answer.status != 429:
                found.problems.append(f"seed {seed}: {answer.status} {told}")
                return None
            found.sent_away += 1
        time.sleep(0.3)
