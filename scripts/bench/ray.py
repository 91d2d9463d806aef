"""The table `ray` of the benchmarks: what sharing rows out costs the process that does it, with
workers whose work is nothing.

    PYTHONPATH=scripts python -m bench ray

The process that gives the command judges rows, sends their files, receives pictures, writes them
and prints a line for each: that is the ceiling of pictures a second, whatever the number of GPUs.
Ray is on this machine, so the network is not in it.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from pulid_extract.shared.cluster.actor import Place
from pulid_extract.shared.cluster.dispatch import dispatch
from pulid_extract.shared.cluster.flags import ClusterFlags
from pulid_extract.shared.cluster.ray_workers import join_cluster
from pulid_generate.assembly.progress import Progress
from pulid_generate.batch.running import PictureWriter, ResultLog
from pulid_generate.rows.items import Item

ROWS = int(os.environ.get("BENCH_ROWS", "1000"))
IDENTITY = 32 * 2048 * 4  # bytes that go with a row: one person's tokens in float32
PICTURES = (
    (0, "nothing"),
    (450_000, "a PNG of 512x512, 0.45 MB"),
    (1_800_000, "a PNG of 1024x1024, 1.8 MB"),
)


class Idle:
    """A worker that answers at once."""

    notes: tuple[str, ...] = ()
    tasks_per_call = 1

    def __init__(self, size: int, place: Place):
        self.data = os.urandom(size)

    def work(self, tasks: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        return [(number, bytes(self.data)) for number, _ in tasks]


def ray() -> str:
    """The table, as Markdown."""
    os.environ["PYTHONPATH"] = os.pathsep.join(
        [*sys.path[:2], os.environ.get("PYTHONPATH", "")]
    )  # workers import this file by name
    lines = [("what comes back for each row", "rows a second", "ms a row")]
    for size, name in PICTURES:
        seconds = _measure(size)
        lines.append((name, f"{ROWS / seconds:.0f}", f"{1000 * seconds / ROWS:.1f}"))
    title = (
        f"**{ROWS} rows through the process that shares them out, two workers that do nothing, "
        f"{IDENTITY / 1e6:.2f} MB sent with each**"
    )
    rule = ("---", "---", "---")
    return (
        "\n".join(
            [title, "", *(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))]
        )
        + "\n"
    )


def _measure(size: int) -> float:
    """Seconds from the first answer to the last."""
    flags = ClusterFlags(ray="local", cpus_per_worker=max(1, (os.cpu_count() or 2) // 2))
    identity = os.urandom(IDENTITY)
    with (
        tempfile.TemporaryDirectory() as name,
        contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO())),
    ):
        writer = PictureWriter(ResultLog(ROWS, Progress(quiet=True)))
        with join_cluster(flags, True, partial(Idle, size), print, lambda line: None) as pool:
            started = None
            for number, data in dispatch(
                ROWS, lambda number: identity + number.to_bytes(4, "big"), pool
            ):
                started = started or time.perf_counter()
                item = Item(
                    number,
                    number,
                    0,
                    Path(name) / f"{number}.png",
                    number,
                    (),
                    (),
                    (),
                )
                writer.drawn(item, data, "float32", 0.0)
            return time.perf_counter() - (started or 0.0)
