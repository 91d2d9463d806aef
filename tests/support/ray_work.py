"""Work for Ray's actors that needs no model; they import it by name. And a head for a cluster of
two cores, for tests to join.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from pulid_extract.shared.cluster import flags
from pulid_extract.shared.cluster.actor import Place, UnfitWorkerError
from pulid_extract.shared.cluster.ray_workers import start_ray
from pulid_extract.shared.errors import WeightsError


class Echo:
    """Answers a task with itself; ("dies",), ("breaks",) and ("unfit",) do what they say. Notes
    something when it starts, and something each time it works.
    """

    tasks_per_call = 1

    def __init__(self, place: Place):
        self.notes = [f"threads {place.cpus}"]

    def work(self, tasks: list[tuple[int, object]]) -> list[tuple[int, object]]:
        for _, task in tasks:
            if task == ("dies",):
                os.kill(os.getpid(), signal.SIGKILL)
            if task == ("breaks",):
                raise ValueError("a mistake of ours")
            if task == ("unfit",):
                raise UnfitWorkerError("damaged weights")
            if isinstance(task, float):
                time.sleep(task)
        self.notes.append("works")
        return [(number, (task, os.getpid())) for number, task in tasks]


def open_echo(place: Place) -> Echo:
    return Echo(place)


def open_half(place: Place) -> Echo:
    """On one of two places files are missing; the other one is not ready, and so cannot have done
    everything, before that is known.
    """
    failed = Path(tempfile.gettempdir(), "half-failed")
    if place.index == 0:
        failed.touch()
        raise WeightsError("flux.safetensors: no such file")
    ends = time.monotonic() + 60
    while not failed.exists() and time.monotonic() < ends:
        time.sleep(0.05)
    time.sleep(1)  # for the word of it to arrive
    return Echo(place)


def main() -> None:
    """A cluster until standard input is closed; prints its address."""
    import ray

    start_ray(
        flags.LOCAL,
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=100 << 20,
        _temp_dir=sys.argv[1],
    )
    print(ray.get_runtime_context().gcs_address, flush=True)
    sys.stdin.read()
    ray.shutdown()


if __name__ == "__main__":
    main()
