"""Workers on a Ray cluster: joining or starting one, places for workers, one actor for each.
Imports no torch, and Ray only when it is joined.

A local cluster listens on the loopback interface only, keeps its logs in a temporary folder and
ends with the command. What Ray prints goes nowhere: standard output belongs to the results. Knows
nothing of pictures or rows; dispatch.py decides which worker gets what.

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
from typing import Any, Literal

from pulid_extract.shared import telemetry
from pulid_extract.shared.cluster.actor import Actor, BrokenReply, OpenWork, Place, UnfitReply
from pulid_extract.shared.cluster.dispatch import CALLS_PER_WORKER, Worker, WorkerEvent
from pulid_extract.shared.cluster.flags import LOCAL, ClusterFlags
from pulid_extract.shared.errors import InputError, WorkerError, require_packages

# of a local cluster's shared memory: pictures on their way
OBJECT_STORE_BYTES = 256 << 20
# seconds between two looks at the cluster's machines
NODE_REFRESH = 5.0
# characters: Ray's sockets lie below it, and a socket's name has room for 107
MAX_FOLDER_NAME = 32
# the environment of a cluster that is this command's own
LOCAL_ENVIRONMENT = {
    # in spite of its name: bind to the loopback interface
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # not 15: these workers are what the command is for
    "RAY_worker_niceness": "0",
    # nobody else on this machine may give it work
    "RAY_AUTH_MODE": "token",
}

Log = Callable[[str], None]


# ------------------------------------------------------------------------------------------ cluster


@contextlib.contextmanager
def join_cluster(
    flags: ClusterFlags, on_cpu: bool, open_work: OpenWork, note: Log, log: Log
) -> Iterator[RayWorkers]:
    """The workers of the cluster that the flags mean; they end with the context. on_cpu: leave GPUs
    alone.

    open_work: is called in each worker. note: gets what workers note, each line once; log: what
    happens. Raises WorkerError.
    """
    require_packages(("ray",), "ray")
    telemetry.switch_off()
    address = flags.ray or LOCAL
    with contextlib.ExitStack() as stack:
        results: Any = _BytesOnly(sys.stdout)
        stack.enter_context(contextlib.redirect_stdout(results))
        options: dict[str, Any] = {}
        if address == LOCAL:
            os.environ.update(LOCAL_ENVIRONMENT)
            # Ray remembers the first one of a process
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            is_long = len(tempfile.gettempdir()) > MAX_FOLDER_NAME
            folder = tempfile.mkdtemp(prefix="pulid-ray-", dir="/tmp" if is_long else None)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            options["include_dashboard"] = False
            options["object_store_memory"] = OBJECT_STORE_BYTES
            options["_temp_dir"] = folder
        elif ":" in address:
            _check_reached(address)
        import ray

        stack.callback(ray.shutdown)
        try:
            start_ray(address, **options)
        # of a dozen kinds: no cluster, another version of Ray or Python, a token that is missing
        except Exception as error:
            raise WorkerError(
                f"--ray {address}: no cluster could be joined ({line_of(error)})"
            ) from None
        yield RayWorkers(open_work, on_cpu, flags.cpus_per_worker, note, log)


def start_ray(address: str, **options: Any) -> None:
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
    """Standard output for results, which are bytes. Texts are Ray's, such as what it says of a
    worker that died, and are dropped.
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


def line_of(error: BaseException) -> str:
    """What an error of Ray's says: of a traceback the end, of half a page about dead processes what
    it comes to.
    """
    text = str(error)
    if "Worker unexpectedly exits" in text:
        return "its process ended without a word: killed, out of memory, or crashed"
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    if "Traceback" in text:
        return lines[-1][:400]
    return " ".join(lines)[:400]


# ------------------------------------------------------------------------------------------ workers


def find_places(
    nodes: Sequence[dict[str, Any]], on_cpu: bool, cpus_per_worker: int | None
) -> list[Place]:
    """Where workers may be: one place for each GPU; without any, or `on_cpu`, one for so many
    cores, or for a whole machine. nodes: of `ray.nodes()`.
    """
    alive = [node for node in nodes if node["Alive"]]
    has_gpus = any(node["Resources"].get("GPU") for node in alive)
    use_gpus = has_gpus and not on_cpu and cpus_per_worker is None
    places = []
    for node in alive:
        cores = int(node["Resources"].get("CPU", 0))
        count = cores // (cpus_per_worker or max(cores, 1))
        if use_gpus:
            count = int(node["Resources"].get("GPU", 0))
        cpus = cpus_per_worker or max(1, cores // max(count, 1))
        host = str(node["NodeManagerAddress"])
        for index in range(count):
            places.append(Place(node["NodeID"], host, index, cpus, use_gpus, count))
    return places


def start_actor(open_work: OpenWork, place: Place, calls: int) -> Any:
    """Ray's handle of a process that begins to start there. calls: that it answers at a time. It
    ends with the handle.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    actor: Any = ray.remote(Actor)
    return actor.options(
        num_cpus=0 if place.gpu else place.cpus,
        num_gpus=1 if place.gpu else 0,
        max_concurrency=calls,
        max_restarts=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(place.node, soft=False),
    ).remote(open_work, place)


class RayWorkers:
    """Actors on the cluster; see `dispatch.WorkerPool`."""

    def __init__(
        self, open_work: OpenWork, on_cpu: bool, cpus_per_worker: int | None, note: Log, log: Log
    ):
        import ray

        self.open_work, self.on_cpu, self.cpus_per_worker = open_work, on_cpu, cpus_per_worker
        self.note, self.log = note, log
        self._ray = ray
        # Ray's reference of a call -> its worker and its tasks; None: the worker's start
        self._pending: dict[Any, tuple[Worker, tuple[int, ...] | None]] = {}
        self._noted: set[str] = set()
        self._places: list[Place] = []
        self._refreshed = -math.inf

    def places(self) -> list[Place]:
        """See `dispatch.WorkerPool`. Raises InputError for --cpus-per-worker that no machine
        has.
        """
        if time.monotonic() - self._refreshed > NODE_REFRESH:
            self._places = find_places(self._ray.nodes(), self.on_cpu, self.cpus_per_worker)
            self._refreshed = time.monotonic()
        if not self._places and self.cpus_per_worker is not None:
            raise InputError(
                f"--cpus-per-worker {self.cpus_per_worker}: no machine of the cluster has so many "
                "cores"
            )
        return self._places

    def start(self, worker: Worker) -> None:
        """See `dispatch.WorkerPool`."""
        worker.handle = start_actor(self.open_work, worker.place, CALLS_PER_WORKER)
        self._pending[worker.handle.opened.remote()] = worker, None

    def give(self, worker: Worker, tasks: Sequence[tuple[int, Any]]) -> None:
        """See `dispatch.WorkerPool`."""
        numbers = tuple(number for number, _ in tasks)
        self._pending[worker.handle.work.remote(list(tasks))] = worker, numbers

    def events(self, seconds: float) -> list[WorkerEvent]:
        """See `dispatch.WorkerPool`."""
        if not self._pending:
            return []
        ready, waiting = self._ray.wait(list(self._pending), timeout=seconds)
        if ready and waiting:
            ready += self._ray.wait(waiting, num_returns=len(waiting), timeout=0)[0]
        events = []
        for reference in ready:
            # not that of a worker which an earlier one of these has shown to be dead
            if reference in self._pending:
                events.append(self._event(reference))
        return events

    def _event(self, reference: Any) -> WorkerEvent:
        worker, tasks = self._pending.pop(reference)
        try:
            reply = self._ray.get(reference)
        # RayActorError and its kin: whatever it is, nothing more will come of it
        except Exception as error:
            return self._ended(worker, "died", line_of(error))
        if isinstance(reply, UnfitReply):
            return self._ended(worker, "unfit", reply.reason)
        if isinstance(reply, BrokenReply):
            return self._ended(worker, "died", reply.reason)
        for line in reply.notes:
            if line not in self._noted:
                self._noted.add(line)
                self.note(line)
        if tasks is not None:
            return WorkerEvent("done", worker, tasks, reply.answers)
        worker.tasks_per_call = reply.tasks_per_call
        self.log(f"{worker.place}: ready (process {reply.process})")
        return WorkerEvent("ready", worker)

    def _ended(self, worker: Worker, kind: Literal["unfit", "died"], text: str) -> WorkerEvent:
        for reference, (other, _) in list(self._pending.items()):
            if other is worker:
                del self._pending[reference]
        with contextlib.suppress(Exception):
            self._ray.kill(worker.handle)  # it may be alive and out of reach
        return WorkerEvent(kind, worker, text=text)
