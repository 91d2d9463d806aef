"""Workers on a Ray cluster: joining or starting one, where workers may be, one actor for each.
Imports no torch, and Ray only when it is joined.

A local cluster listens on the loopback interface only, keeps its logs in a temporary folder and
ends with the command. What Ray prints goes nowhere: standard output belongs to the results. Knows
nothing of pictures or rows; `workers` decides who gets what.

Source: docs.ray.io, ray 2.60 (ray.init, actors, fault tolerance).
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pulid_extract.shared.cluster.actor import Actor, Broken, Open, Place, Unfit
from pulid_extract.shared.cluster.flags import LOCAL, ClusterFlags
from pulid_extract.shared.cluster.sharing import Event, Worker
from pulid_extract.shared.errors import InputError, WorkerError, require_packages

STORE = 256 << 20  # bytes of a local cluster's shared memory: pictures on their way
LOOK = 5.0  # seconds between two looks at which machines there are
LONGEST_FOLDER = 32  # characters: Ray's sockets lie below it, and a socket's name has room for 107
ALONE = {
    # in spite of its name: bind to the loopback interface
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # not 15: these workers are what the command is for
    "RAY_AUTH_MODE": "token",  # nobody else on this machine may give it work
}


# ------------------------------------------------------------------------------------------ cluster


Log = Callable[[str], None]


@contextlib.contextmanager
def joined(
    flags: ClusterFlags, on_cpu: bool, open_work: Open, note: Log, log: Log
) -> Iterator[Crew]:
    """The crew of the cluster that the flags mean; its workers end with the context. on_cpu: leave
    GPUs alone.

    open_work: is called in each worker. note: gets what workers note when they start, each line
    once; log: what happens. Raises WorkerError.
    """
    require_packages(("ray",), "ray")
    address = flags.ray or LOCAL
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(_BytesOnly(sys.stdout)))  # type: ignore[type-var]
        options: dict[str, Any] = {}
        if address == LOCAL:
            os.environ.update(ALONE)
            # Ray remembers the first one of a process
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            folder = tempfile.mkdtemp(
                prefix="pulid-ray-",
                dir="/tmp" if len(tempfile.gettempdir()) > LONGEST_FOLDER else None,
            )
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            options = {
                "include_dashboard": False,
                "object_store_memory": STORE,
                "_temp_dir": folder,
            }
        elif ":" in address:
            _check_reached(address)
        import ray

        stack.callback(ray.shutdown)
        try:
            start(address, **options)
        # of a dozen kinds: no cluster, another version of Ray or Python, a token that is missing
        except Exception as error:
            raise WorkerError(
                f"--ray {address}: no cluster could be joined ({_line(error)})"
            ) from None
        yield Crew(open_work, on_cpu, flags.cpus_per_worker, note, log)


def start(address: str, **options: Any) -> None:
    """`ray.init`, silent; on a busy machine a local cluster may need a second try, since Ray waits
    half a minute for its parts.
    """
    import ray

    options |= {"address": address, "log_to_driver": False, "logging_level": "critical"}
    try:
        ray.init(**options)
    except Exception as error:
        if address != LOCAL or "timed out" not in str(error):
            raise
        ray.shutdown()
        ray.init(**options)


class _BytesOnly:
    """Standard output for results, which are bytes. Texts are Ray's, such as its word on a worker
    that died.
    """

    def __init__(self, stream: Any):
        self._stream = stream

    def write(self, text: str) -> int:
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _check_reached(address: str) -> None:
    """Ray itself would try for minutes. Raises WorkerError."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WorkerError(
            f"--ray {address}: cannot be reached ({reason}); start a cluster with: ray start --head"
        ) from None


def _line(error: BaseException) -> str:
    """What an error of Ray's says: of a traceback the end, of half a page about dead processes what
    it comes to.
    """
    text = str(error)
    if "Worker unexpectedly exits" in text:
        return "its process ended without a word: killed, out of memory, or crashed"
    lines = [line.strip() for line in text.splitlines() if line.strip()] or [type(error).__name__]
    return (lines[-1] if "Traceback" in text else " ".join(lines))[:400]


def find_places(
    nodes: Sequence[dict[str, Any]], on_cpu: bool, cpus_per_worker: int | None
) -> list[Place]:
    """Where workers may be. nodes: of `ray.nodes()`. One for each GPU; without any, or on_cpu, one
    for so many cores, or for a whole node.
    """
    alive = [node for node in nodes if node["Alive"]]
    gpu = (
        not on_cpu
        and cpus_per_worker is None
        and any(node["Resources"].get("GPU") for node in alive)
    )
    places = []
    for node in alive:
        cores, host = int(node["Resources"].get("CPU", 0)), str(node["NodeManagerAddress"])
        count = (
            int(node["Resources"].get("GPU", 0))
            if gpu
            else cores // (cpus_per_worker or max(cores, 1))
        )
        cpus = cpus_per_worker or max(1, cores // max(count, 1))
        places += [Place(node["NodeID"], host, index, cpus, gpu, count) for index in range(count)]
    return places


class Crew:
    """Actors on the cluster; see `workers.Crew`."""

    def __init__(
        self, open_work: Open, on_cpu: bool, cpus_per_worker: int | None, note: Log, log: Log
    ):
        import ray

        self.open_work, self.on_cpu, self.cpus_per_worker, self.note, self.log = (
            open_work,
            on_cpu,
            cpus_per_worker,
            note,
            log,
        )
        self._ray = ray
        self._actor = ray.remote(Actor)
        self._pending: dict[
            Any, tuple[Worker, tuple[int, ...] | None]
        ] = {}  # reference -> whose, and which tasks; None: its start
        self._noted: set[str] = set()
        self._places: list[Place] = []
        self._looked = -math.inf

    def places(self) -> list[Place]:
        if time.monotonic() - self._looked > LOOK:
            self._places = find_places(self._ray.nodes(), self.on_cpu, self.cpus_per_worker)
            self._looked = time.monotonic()
        if not self._places and self.cpus_per_worker is not None:
            raise InputError(
                f"--cpus-per-worker {self.cpus_per_worker}: no machine of the cluster has so many cores"
            )
        return self._places

    def start(self, worker: Worker) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place: Place = worker.place
        worker.handle = self._actor.options(
            num_cpus=0 if place.gpu else place.cpus,
            num_gpus=1 if place.gpu else 0,
            max_concurrency=2,  # as `workers.IN_HAND`
            max_restarts=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
        ).remote(self.open_work, place)
        self._pending[worker.handle.opened.remote()] = worker, None

    def give(self, worker: Worker, tasks: Sequence[tuple[int, Any]]) -> None:
        self._pending[worker.handle.work.remote(list(tasks))] = (
            worker,
            tuple(number for number, _ in tasks),
        )

    def events(self, seconds: float) -> list[Event]:
        if not self._pending:
            return []
        ready, waiting = self._ray.wait(list(self._pending), timeout=seconds)
        if ready and waiting:
            ready += self._ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        return [event for reference in ready if (event := self._event(reference)) is not None]

    def _event(self, reference: Any) -> Event | None:
        if reference not in self._pending:  # of a worker that is dead
            return None
        worker, tasks = self._pending.pop(reference)
        try:
            answer = self._ray.get(reference)
        # RayActorError and its kin: whatever it is, nothing more will come of it
        except Exception as error:
            return self._gone(worker, "died", _line(error))
        if isinstance(answer, Unfit | Broken):
            return self._gone(
                worker, "unfit" if isinstance(answer, Unfit) else "died", answer.reason
            )
        if tasks is not None:
            return Event("done", worker, tasks, done=answer)
        for line in answer.notes:
            if line not in self._noted:
                self._noted.add(line)
                self.note(line)
        worker.meal = answer.meal
        self.log(f"{worker.place}: ready (process {answer.process})")
        return Event("ready", worker)

    def _gone(self, worker: Worker, kind: Any, text: str) -> Event:
        self._pending = {
            reference: held for reference, held in self._pending.items() if held[0] is not worker
        }
        with contextlib.suppress(Exception):
            self._ray.kill(worker.handle)  # it may be alive and out of reach
        return Event(kind, worker, text=text)


# ------------------------------------------------------------------------------------ in the worker
