"""Workers behind the queue (`serve --ray`), in threads of this process: the worker and all that
talks to it are the real ones, only Ray is not. tests/extract/shared/test_ray.py has it with Ray.
"""

from __future__ import annotations

import concurrent.futures
import threading
import time
from functools import partial
from types import SimpleNamespace
from typing import ClassVar

import pytest
from support.served import WAIT, micro_serve_flags, serving, wait_for

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

from pulid_extract.shared.cluster.actor import (
    Actor,
    BrokenReply,
    Place,
    UnfitReply,
    UnfitWorkerError,
)
from pulid_extract.shared.cluster.ray_process import LOOK, DeadWorkerError, Done, Heard
from pulid_generate.assembly.progress import Progress
from pulid_generate.server.http.cluster import cluster_devices, opener_of
from pulid_generate.server.work.device import DeviceThread
from pulid_generate.server.work.devices import OneDevice
from pulid_generate.server.work.drawing import Cancelled
from pulid_generate.server.work.queue import JobQueue
from pulid_generate.server.work.ray_worker import DrawReply, Look, Stage
from pulid_generate.server.work.worker_drawer import WorkerDrawer

PROMPT = "a photo of a cat"


class ThreadProcess:
    """As `RayProcess`, in this process. dies: tasks of which it dies, counted by all processes."""

    # as `deaths`, while there is no task
    dies_idle: ClassVar[list[bool]] = []

    def __init__(self, open_work, deaths, place):
        self.deaths = deaths
        self.pool = concurrent.futures.ThreadPoolExecutor(3)
        self.actor = Actor(open_work, place)
        self.task = self.question = None

    def opened(self, is_stopping):
        return self.checked(self.actor.opened())

    def begin(self, task):
        self.task = self.pool.submit(self.actor.work, [(0, task)])

    def ask(self, message):
        self.question = self.pool.submit(self.actor.hear, message)

    def tell(self, message):
        self.pool.submit(self.actor.hear, message)

    def event(self):
        if self.deaths and self.deaths.pop():
            raise DeadWorkerError("killed")
        pending = {one for one in (self.task, self.question) if one is not None}
        ended, _ = concurrent.futures.wait(pending, LOOK, concurrent.futures.FIRST_COMPLETED)
        if self.task in ended:
            reply = self.checked(self.task.result())
            [(_, answer)] = reply.answers
            self.task = None
            return Done(answer, reply.notes)
        if ended:
            question, self.question = self.question, None
            return Heard(self.checked(question.result()))
        return None

    def checked(self, reply):
        if isinstance(reply, UnfitReply):
            raise UnfitWorkerError(reply.reason)
        if isinstance(reply, BrokenReply):
            raise DeadWorkerError(reply.reason)
        return reply

    def check(self):
        if self.dies_idle and self.dies_idle.pop():
            raise DeadWorkerError("killed")
        return self.checked(self.actor.opened())

    def kill(self):
        self.pool.shutdown(wait=False)


def places(count: int) -> list[Place]:
    return [Place("node", "127.0.0.1", index, 1, False, count) for index in range(count)]


@pytest.fixture(scope="module")
def deaths():
    """True for each look of a worker's that ends with its death."""
    return []


@pytest.fixture(scope="module")
def served(micro, tmp_path_factory, kept, deaths):
    folder = tmp_path_factory.mktemp("workers")
    (folder / "people").mkdir()
    (folder / "people" / "me.pulidembd").write_bytes(kept.me.read_bytes())
    flags = micro_serve_flags(micro, folder, identities=str(folder / "people"))

    def devices(server):
        start = partial(ThreadProcess, opener_of(server.judge), deaths)
        return cluster_devices(server, lambda: places(2), start, Progress(quiet=True))

    with serving(flags, devices) as running:
        yield running


@pytest.fixture
def client(served):
    with served.client() as client:
        yield client


def posted(client, **fields) -> str:
    told = client.post("/v1/jobs", json={"prompt": PROMPT} | fields)
    assert told.status_code == 202, told.text
    return told.json()["id"]


def until(condition) -> None:
    ends = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_workers_draw_the_commands_file_with_its_settings(client, draw, kept):
    wanted = draw(*kept.pulid, "--pulid-id-embedding", kept.me, "--seed", 7).data
    name = posted(client, seed=7, pulid_id_embedding="me")
    told = wait_for(client, name)
    assert client.get(told["pictures"][0]["url"]).content == wanted


def test_two_jobs_are_drawn_at_once_with_previews_and_end_when_they_are_cancelled(client, served):
    queue = served.server.queue
    names = [posted(client, steps=100, seed=seed) for seed in (1, 2)]
    until(lambda: len(queue.working) == 2)
    assert [client.get(f"/v1/jobs/{name}").json()["state"] for name in names] == ["drawing"] * 2
    assert "pulid_jobs_working 2.0" in client.get("/metrics").text
    events = []
    with client.stream("GET", f"/v1/jobs/{names[0]}/events") as stream:
        for line in stream.iter_lines():
            events.append(line)
            if '"preview": "data:image/png' in line:
                client.delete(f"/v1/jobs/{names[0]}")
    assert events[-2].startswith("data:")
    client.delete(f"/v1/jobs/{names[1]}")
    for name in names:
        told = wait_for(client, name)
        assert (told["state"], told["pictures"]) == ("cancelled", [])
        assert told["step"] < 100
    assert queue.working == []


def test_a_worker_that_dies_loses_no_job(client, served, deaths, draw, capfdbinary):
    deaths.append(True)
    told = wait_for(client, posted(client, seed=7))
    # before the command's is drawn, whose output is taken
    said = capfdbinary.readouterr().err.decode()
    assert client.get(told["pictures"][0]["url"]).content == draw("--seed", 7).data
    assert "died (killed); job" in said
    assert "will be done again" in said
    # a job that kills whoever draws it is given up, and the others go on
    deaths += [True, True]
    name = posted(client, seed=7)
    told = wait_for(client, name)
    assert told["state"] == "failed"
    assert told["error"] == "workers died 2 times with it; see the server's log"
    assert f"job {name} has failed" in capfdbinary.readouterr().err.decode()
    assert wait_for(client, posted(client))["state"] == "done"


def test_workers_say_how_much_memory_they_have_and_let_models_go(client, served):
    wait_for(client, posted(client))
    told = client.get("/metrics").text
    assert 'pulid_memory_bytes{device="worker 1 on 127.0.0.1: cpu"}' in told
    assert "pulid_devices_ready 2.0" in told
    assert client.get("/ready").json()["devices"] == 2
    threads = served.server.devices.threads
    loaded = [thread.drawer for thread in threads if thread.drawer.is_loaded]
    assert loaded
    process = loaded[0]._process
    loaded[0].release()
    until(lambda: not process.actor._work._drawer.is_loaded)
    assert wait_for(client, posted(client))["state"] == "done"


def test_a_server_whose_workers_cannot_work_says_why_and_ends(micro, tmp_path):
    ended = threading.Event()

    def broken(place):
        raise UnfitWorkerError("flux is not the one that the command was given")

    def devices(server):
        def start(place):
            return ThreadProcess(broken, [], place)

        return cluster_devices(server, lambda: places(2), start, Progress(quiet=True))

    with serving(micro_serve_flags(micro, tmp_path), devices, ended.set) as running:
        assert ended.wait(WAIT)
        assert running.server.devices.problem == (
            "no worker is left; worker 1 on 127.0.0.1: flux is not the one that the command was "
            "given"
        )
        with running.client() as client:
            assert client.get("/ready").status_code == 503


def test_a_server_of_one_device_ends_if_that_breaks(capsys):
    class Broken:
        def open(self):
            raise ValueError("a secret")

        def close(self):
            pass

    ended = []
    device = OneDevice(DeviceThread(None, Broken(), JobQueue(1), None, 0))
    device.start(lambda: ended.append(device.problem))
    device.join(WAIT)
    assert ended == ["the server made a mistake (ValueError)"]
    assert "secret" not in capsys.readouterr().err


def test_a_worker_that_dies_idle_is_noticed_before_its_next_job(
    client, served, monkeypatch, capsys
):
    wait_for(client, posted(client))
    threads = served.server.devices.threads
    until(lambda: served.server.devices.ready == 2)
    before = {thread: thread.drawer._process for thread in threads}
    opened = [threading.Event(), threading.Event()]
    start = WorkerDrawer.open

    def slowly(drawer):
        opened[0].set()
        assert opened[1].wait(WAIT)
        start(drawer)

    monkeypatch.setattr(WorkerDrawer, "open", slowly)
    ThreadProcess.dies_idle.append(True)
    assert opened[0].wait(WAIT)
    assert client.get("/ready").json()["devices"] == 1
    opened[1].set()
    until(lambda: served.server.devices.ready == 2)
    assert sum(thread.drawer._process is not before[thread] for thread in threads) == 1
    assert wait_for(client, posted(client))["state"] == "done"
    assert "died while it had nothing to do; it is started anew" in capsys.readouterr().err


def test_a_worker_that_died_while_nothing_was_drawn_is_started_anew():
    class Dead:
        def tell(self, message):
            raise DeadWorkerError("gone")

        def kill(self):
            pass

    drawer = WorkerDrawer("worker", Dead, lambda: False, lambda reply: None, print)
    drawer._process, drawer.is_loaded = Dead(), True
    drawer.release()
    assert (drawer._process, drawer.is_loaded) == (None, False)


def test_what_a_worker_notes_while_it_draws_is_told():
    class Noting(SimpleNamespace):
        def event(self):
            return Done(DrawReply(b"png"), ("no kernels here",))

    silent = Noting(begin=lambda task: None, ask=lambda message: None)
    notes = []
    drawer = WorkerDrawer("worker", None, lambda: False, lambda reply: None, notes.append)
    drawer._process = silent
    judged = SimpleNamespace(
        jobs=[SimpleNamespace(steps=1)], drawing=None, form="PNG", metadata=True, picture=None
    )
    watch = SimpleNamespace(step=lambda *steps: None, is_watched=False, is_cancelled=False)
    assert drawer.draw(judged, 0, watch) == b"png"
    assert notes == ["no kernels here"]


def test_a_cluster_without_a_place_is_an_error(micro, tmp_path):
    from pulid_extract.shared.errors import WorkerError

    def devices(server):
        return cluster_devices(server, list, ThreadProcess, Progress(quiet=True))

    with (
        pytest.raises(WorkerError, match="no place for a worker"),
        serving(micro_serve_flags(micro, tmp_path), devices),
    ):
        pass


def test_a_word_that_comes_late_ends_no_other_picture():
    stage = Stage()
    stage.begin(1)
    stage.step(0, 4, 0)
    stage.cancel(1)
    with pytest.raises(Cancelled):
        stage.step(1, 4)
    stage.end()
    stage.begin(2)
    stage.cancel(1)
    stage.step(1, 4)
    stage.show(b"png")
    stage.step(2, 4)
    news = stage.news(Look(2, 0, True))
    assert (news.number, news.step, news.steps, news.preview) == (2, (2, 4), 2, b"png")
    # each preview once
    assert stage.news(Look(2, 0, True)).preview is None
