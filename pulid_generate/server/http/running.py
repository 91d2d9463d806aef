"""`pulid-generate serve`: opens the models' files, takes up what an earlier server left, and
answers until it is told to stop.

SIGTERM and Ctrl-C: no further job is taken, the picture in work is finished, what waits stays in
the journal.
"""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Sequence
from typing import Any

import typer
import uvicorn

from pulid_extract.shared.cli import console
from pulid_extract.shared.cluster.flags import usage_error
from pulid_extract.shared.errors import WorkerError
from pulid_extract.shared.locking import locked_folder
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.usage import given_flags, shared_input_error
from pulid_generate.errors import OutputError
from pulid_generate.flags.commands.names import flag_name
from pulid_generate.flags.commands.tables import BatchFlags, ServeFlags
from pulid_generate.rows.row import BY_ROW
from pulid_generate.server.http.app import make_app
from pulid_generate.server.http.cluster import on_cluster
from pulid_generate.server.http.protocol import TimedH11Protocol
from pulid_generate.server.http.state import Server
from pulid_generate.server.intake.extraction import ExtractWorker
from pulid_generate.server.intake.submission import Submission
from pulid_generate.server.intake.validation import Validations
from pulid_generate.server.intake.visitors import Visitors
from pulid_generate.server.settings import STOP_SECONDS, Settings, disk_problem, read_settings
from pulid_generate.server.work.device import DeviceThread
from pulid_generate.server.work.devices import OneDevice
from pulid_generate.server.work.drawing import LocalDrawer, StepReports
from pulid_generate.server.work.judging import Judge
from pulid_generate.server.work.metrics import Metrics
from pulid_generate.server.work.queue import JobQueue

# Flags of a generation's file, and of what is printed of it
NOT_HERE = (
    *("output", "output_begin_idx", "as_json"),
    *("preview", "preview_path", "preview_interval", "preview_noisy"),
)
# that validations have to put away what is drawn, when the server ends
VALIDATION_SECONDS = 5.0
# requests that are answered at once
MAX_CONNECTIONS = 512


def run(context: typer.Context, flags: ServeFlags) -> None:
    """The command. Raises PulidError."""
    given = given_flags(context, flags)
    for name in NOT_HERE:
        if name in given:
            context.fail(f"{flag_name(name)} is not for serve: pictures are fetched over HTTP.")
    if wrong := shared_input_error(flags) or usage_error(flags, flags.device):
        context.fail(wrong)
    progress = Progress(flags.verbose, flags.quiet)
    settings = read_settings(flags)
    # two servers would draw each other's waiting jobs, and delete each other's finished ones
    with locked_folder(settings.folder) as is_ours:
        if not is_ours:
            raise OutputError(
                f"--output-dir {settings.folder}: another server uses it; stop that, or name "
                "another folder"
            )
        _run(flags, given, settings, progress)


def _run(flags: ServeFlags, given: frozenset[str], settings: Settings, progress: Progress) -> None:
    server = open_server(flags, given, settings, progress)
    listening = _listen(settings)
    with on_cluster(flags, server, progress):
        resume(server, progress)
        host, port = listening.getsockname()[:2]
        address = f"[{host}]" if ":" in host else host
        console.write_line(f"http://{address}:{port}")
        serve(server, [listening])


def resume(server: Server, progress: Progress) -> None:
    """Take up what an earlier server left."""
    folder = server.settings.folder
    # validations wait for jobs
    for name, taken in (("jobs", server.queue), ("validations", server.validations)):
        waiting, lost = taken.resume(folder)
        if waiting:
            progress.note(f"{waiting} {name} of an earlier server wait again")
        if lost:
            progress.note(f"{lost} {name} of an earlier server cannot be read, and are lost")


def open_server(
    flags: ServeFlags, given: frozenset[str], settings: Settings, progress: Progress
) -> Server:
    """All parts of a server, nothing running yet. Raises PulidError."""
    reports = StepReports(progress)
    judge = Judge(_common(flags), given & frozenset(BY_ROW), reports)
    visitors = Visitors(settings.folder)
    worker = ExtractWorker(settings.extract_flags)
    queue = JobQueue(settings.max_queue)
    if missing := worker.missing():
        progress.note(missing)
    if problem := disk_problem(settings.folder):
        progress.note(problem)
    submission = Submission(settings, judge, visitors, worker)
    validations = Validations(submission, queue, flags.models_dir)
    metrics = Metrics(queue)
    drawer = LocalDrawer(judge.pipeline, judge.lock, reports)
    device = DeviceThread(judge, drawer, queue, metrics, settings.idle_seconds)
    server = Server(
        settings=settings,
        judge=judge,
        queue=queue,
        visitors=visitors,
        worker=worker,
        submission=submission,
        validations=validations,
        metrics=metrics,
        devices=OneDevice(device),
    )
    device.tidy = server.tidy
    return server


def serve(server: Server, sockets: Sequence[socket.socket]) -> None:
    """Answer on these sockets until the process is told to stop. Raises WorkerError if nobody is
    left who draws.
    """
    config = uvicorn.Config(
        make_app(server),
        http=TimedH11Protocol,
        ws="none",
        # addresses hold names and numbers of jobs; nothing is logged of a request
        access_log=False,
        log_level="warning",
        server_header=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_graceful_shutdown=round(STOP_SECONDS),
        lifespan="off",
    )
    # uvicorn raises the signal once more when it has ended; what follows here is still to be done
    before = {}
    for number in (signal.SIGTERM, signal.SIGINT):
        before[number] = signal.signal(number, lambda number, frame: None)
    runner = _Runner(config, server)
    try:
        server.devices.start(runner.end)
        runner.run(sockets=list(sockets))
    finally:
        server.queue.close()
        server.devices.stop()
        server.devices.join(STOP_SECONDS)
        server.validations.stop(VALIDATION_SECONDS)
        server.worker.stop()
        if not server.settings.keep:
            server.queue.forget_all_finished(server.validations.jobs_in_work())
            server.validations.forget_all_finished()
            server.visitors.delete_identities()
        server.visitors.delete_empty()
        for number, handler in before.items():
            signal.signal(number, handler)
    if server.devices.problem is not None:
        raise WorkerError(server.devices.problem)


class _Runner(uvicorn.Server):
    """Closes the queue as soon as the signal comes, so that who waits is answered in time."""

    def __init__(self, config: uvicorn.Config, server: Server):
        super().__init__(config)
        self.server = server

    def end(self) -> None:
        """As if the signal had come."""
        self.server.devices.stop()
        self.server.queue.close()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.server.devices.stop()
        # not in the signal's own frame, which may have interrupted one that holds the lock
        threading.Thread(target=self.server.queue.close, daemon=True).start()
        super().handle_exit(sig, frame)


def _common(flags: ServeFlags) -> BatchFlags:
    """What holds for every request that does not say otherwise. A preview that pulid.toml asks for
    is of commands: here it would show one visitor's picture to another.
    """
    return BatchFlags.of_command(
        flags,
        identities=None,
        output_dir=".",
        output=BatchFlags.output,
        preview=BatchFlags.preview,
        no_cache=True,
    )


def _listen(settings: Settings) -> socket.socket:
    """Raises OutputError."""
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listening = socket.socket(family, kind, proto)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(256)
    except OSError as error:
        raise OutputError(
            f"--host {settings.host} --port {settings.port}: cannot listen there "
            f"({error.strerror or error}); give another --port"
        ) from None
    return listening
