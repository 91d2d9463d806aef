"""`serve --ray`: workers of a cluster in the place of this process's models. Imports Ray only when
it is asked for.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from functools import partial

from pulid_extract.shared.cluster.actor import OpenWork, Place, ReadyReply
from pulid_extract.shared.cluster.ray_process import RayProcess
from pulid_extract.shared.cluster.ray_workers import join_cluster
from pulid_generate.assembly.progress import Progress
from pulid_generate.flags.commands.tables import ServeFlags
from pulid_generate.server.http.state import Server
from pulid_generate.server.work.device import DeviceThread
from pulid_generate.server.work.devices import ClusterDevices
from pulid_generate.server.work.judging import Judge
from pulid_generate.server.work.ray_worker import WorkerSetup, open_picture_worker
from pulid_generate.server.work.worker_drawer import Process, WorkerDrawer


@contextlib.contextmanager
def on_cluster(flags: ServeFlags, server: Server, progress: Progress) -> Iterator[None]:
    """With --ray the workers of a cluster draw. Raises WorkerError."""
    if flags.ray is None:
        yield
        return
    opener = opener_of(server.judge)
    on_cpu = flags.device == "cpu"
    with join_cluster(flags, on_cpu, opener, progress.note, progress.log) as pool:
        start = partial(RayProcess, opener)
        server.devices = cluster_devices(server, pool.places, start, progress)
        yield


def opener_of(judge: Judge) -> OpenWork:
    """What each worker calls."""
    from pulid_generate.batch.ray_worker import facts_of

    setup = WorkerSetup(judge.flags, os.getcwd(), judge.has_pulid, facts_of(judge.pipeline))
    return partial(open_picture_worker, setup)


def cluster_devices(
    server: Server,
    places: Callable[[], Collection[Place]],
    start: Callable[[Place], Process],
    progress: Progress,
) -> ClusterDevices:
    """A thread for each place. start: begins to start a process there."""
    noted: set[str] = set()

    def on_ready(place: Place, reply: ReadyReply) -> None:
        for line in reply.notes:
            if line not in noted:
                noted.add(line)
                progress.note(line)
        progress.log(f"{place}: ready (process {reply.process})")

    def thread(place: Place) -> DeviceThread:
        drawer = WorkerDrawer(
            name=str(place),
            start=partial(start, place),
            is_stopping=lambda: server.queue.is_closed,
            on_ready=partial(on_ready, place),
            note=progress.note,
        )
        idle_seconds = server.settings.idle_seconds
        return DeviceThread(server.judge, drawer, server.queue, server.metrics, idle_seconds)

    return ClusterDevices(places, thread, server.tidy, progress.note)
