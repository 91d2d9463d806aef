"""`batch --ray` on a cluster of two cores on this machine: the same files as without it, whoever is
killed; and what is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import pytest
from support.models.portrait_models import models_folder
from support.paths import ROOT, TESTS
from support.pictures.coloured_faces import ALONE, GROUP, OTHER, save
from support.programs.commands import run
from support.programs.processes import started
from support.ray_work import open_echo, open_half

from pulid_extract.shared.cluster.actor import ReadyReply
from pulid_extract.shared.cluster.dispatch import MAX_DEATHS, LostTask, dispatch
from pulid_extract.shared.cluster.flags import ClusterFlags
from pulid_extract.shared.cluster.ray_process import DeadWorkerError, RayProcess
from pulid_extract.shared.cluster.ray_workers import (
    LOCAL_ENVIRONMENT,
    join_cluster,
)
from pulid_extract.shared.errors import InputError, PackageError, WorkerError

ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # as a worker of one core has: rounding depends on it


@pytest.fixture(scope="module")
def environment():
    """Of the head, of those who join, and of this process: the loopback interface, a token, no
    cache; everything in a short-lived folder.
    """
    folder = tempfile.mkdtemp(prefix="ray-")  # short: Ray's sockets lie in it
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            **LOCAL_ENVIRONMENT,
            **ONE_THREAD,
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "TMPDIR": folder,
        }.items():
            patch.setenv(name, value)
        patch.setenv(
            "PYTHONPATH", f"{ROOT}{os.pathsep}{TESTS}{os.pathsep}{TESTS.parent / 'scripts'}"
        )
        patch.setenv("PULID_MODELS_DIR", str(models_folder()))
        yield dict(os.environ)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def address(environment):
    process = subprocess.Popen(
        [
            sys.executable,
            str(TESTS / "support" / "ray_work.py"),
            str(Path(environment["TMPDIR"]) / "head"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    try:
        yield process.stdout.readline().strip()
    finally:
        process.stdin.close()
        process.wait(timeout=60)


def finished(process: subprocess.Popen, said: tuple[str, ...] = ()) -> tuple[list[dict], str]:
    """(lines of results, standard error); standard output holds nothing else."""
    out, err = process.communicate(timeout=280)
    assert "Traceback" not in err
    assert "" not in said, err
    return [json.loads(line) for line in (*said, *out.splitlines())], err


def workers_of() -> list[int]:
    """Processes of our actors, of clusters that this test module started: their token is in the
    environment.
    """
    import psutil

    found = []
    for one in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            if (one.info["cmdline"] or [""])[0].startswith("ray::Actor") and one.environ().get(
                "TMPDIR"
            ) == os.environ["TMPDIR"]:
                found.append(one.pid)
    return found


def hashes(folder: Path) -> dict[str, str]:
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
        if not path.name.startswith(".")
    }


# ------------------------------------------------------------------------------------ both programs


@pytest.fixture
def one_thread():
    """This process computes as a worker of one core does."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_pictures_are_the_same_files_though_a_worker_is_killed(
    environment, address, generate, one_thread, micro, person, tmp_path
):
    people = tmp_path / "people"
    people.mkdir()
    (people / "ada.pulidembd").write_bytes(person.read_bytes())
    models = (
        "--models-dir",
        micro,
        "--diffusion-model",
        micro / "flux1-schnell.safetensors",
        "--device",
        "cpu",
        "--steps",
        2,
    )
    rows = ("-p", "a cat", "-W", 64, "-H", 48, "--identities", people, "--seeds", "1-12")
    plain, drawn = tmp_path / "plain", tmp_path / "ray"
    assert generate("batch", *rows, *models, "--output-dir", plain).code == 0
    drawn.mkdir()
    shutil.copy(plain / "0003_ada_3.png", drawn)  # as if made by an earlier run
    shutil.copy(plain / "0003_ada_3.png", drawn / "0004_ada_4.png")  # of other inputs

    into = ("--output-dir", drawn, "--resume", "--ray", address, "--cpus-per-worker", 1)
    command = ("-m", "pulid_generate", "batch")
    process = started(*command, *rows, *models, *into, environment=environment)
    said = tuple(process.stdout.readline() for _ in range(2))
    os.kill(workers_of()[0], signal.SIGKILL)
    lines, err = finished(process, said)
    assert process.returncode == 0, err
    assert "died (its process ended without a word: killed, out of memory, or crashed)" in err
    # whether it had rows in its hands is luck: test_dispatch.py says what becomes of them
    assert Counter(line["row"] for line in lines) == Counter(range(1, 13))
    assert {line["row"]: line["status"] for line in lines} == {
        row: "skipped" if row == 3 else "done" for row in range(1, 13)
    }
    assert hashes(drawn) == hashes(plain)
    assert len(set(hashes(drawn).values())) == 12  # or equality says nothing
    assert {line["sha256"] for line in lines} == set(hashes(drawn).values())


@pytest.mark.slow
def test_identities_are_the_same_files_though_a_worker_is_killed(
    environment, address, capfd, monkeypatch, one_thread, tmp_path
):
    photos = tmp_path / "photos"
    for name, patches in {"group": GROUP, "alone": ALONE, "other": OTHER}.items():
        save(photos / f"{name}.png", *patches)
    (photos / "broken.png").write_bytes(b"no picture")
    manifest = photos / "list.jsonl"
    pairs = [(name, dtype) for name in ("group", "alone", "other") for dtype in ("f16", "f32")]
    rows = [
        {"portrait": f"{name}.png", "dtype": dtype, "out": f"{name}_{dtype}"}
        for name, dtype in pairs
    ]
    rows += [
        {"portrait": "broken.png"},
        {
            "portraits": ["alone.png", "other.png"],
            "fuse": "mean",
            "mix_people": True,
            "out": "both",
        },
    ]
    manifest.write_text("\n".join(map(json.dumps, rows)))
    code, plain, _ = run(capfd, monkeypatch, "batch", manifest, "--out-dir", tmp_path / "plain")
    known = {line["row"]: line for line in plain}

    into = (manifest, "--out-dir", tmp_path / "ray", "--ray", address, "--cpus-per-worker", 1)
    process = started("-m", "pulid_extract", "batch", *into, environment=environment)
    first = process.stdout.readline()
    os.kill(workers_of()[0], signal.SIGKILL)
    lines, err = finished(process, (first,))
    assert process.returncode == code == 1
    assert "1 of 8 rows failed" in err
    assert Counter(line["row"] for line in lines) == Counter(range(1, 9))
    assert hashes(tmp_path / "ray") == hashes(tmp_path / "plain")
    differ = ("output", "seconds")
    for line in lines:
        assert {**line, **dict.fromkeys(differ)} == {**known[line["row"]], **dict.fromkeys(differ)}


@pytest.mark.slow
def test_a_cluster_of_its_own_ends_with_the_command_and_an_interrupt_finishes_what_is_in_hand(
    environment, tmp_path
):
    photo = save(tmp_path / "me.png", *ALONE)
    manifest = tmp_path / "list.jsonl"
    manifest.write_text(
        "".join(
            json.dumps({"portrait": str(photo), "out": f"row{number}"}) + "\n"
            for number in range(200)
        )
    )
    into = ("-m", "pulid_extract", "batch", manifest, "--ray", "--out-dir", tmp_path / "out")
    process = started(*into, environment=environment)
    first = process.stdout.readline()
    process.send_signal(signal.SIGINT)
    lines, err = finished(process, (first,))
    assert process.returncode == 130, err
    assert 1 <= len(lines) < 200
    assert {Path(line["output"]).name for line in lines} == hashes(tmp_path / "out").keys()
    assert "run it again with --resume" in err
    assert not list(Path(environment["TMPDIR"]).glob("pulid-ray-*"))
    ends = time.monotonic() + 60  # the last of them may be closing its libraries
    while workers_of() and time.monotonic() < ends:
        time.sleep(0.2)
    assert not workers_of()


@pytest.mark.slow
def test_a_servers_pictures_are_the_commands_though_a_worker_is_killed(
    environment, address, generate, one_thread, micro, person, tmp_path
):
    import httpx

    models = ("--models-dir", micro, "--diffusion-model", micro / "flux1-schnell.safetensors")
    shape = ("-W", 64, "-H", 48, "--device", "cpu")
    (tmp_path / "people").mkdir()
    shutil.copy(person, tmp_path / "people" / "ada.pulidembd")
    named = ("--pulid-id-embedding", person, "-p", "a cat", "--seed", 7, "--steps", 40)
    assert generate(*named, *models, *shape, "-o", tmp_path / "wanted.png").code == 0

    own = ("--identities", tmp_path / "people", "--output-dir", tmp_path / "studio", "--port", 0)
    ray = ("--ray", address, "--cpus-per-worker", 1)
    command = ("-m", "pulid_generate", "serve", *models, *shape, *own, *ray, "--keep")
    process = started(*command, environment=environment)
    asked = {"prompt": "a cat", "seed": 7, "steps": 40, "pulid_id_embedding": "ada"}

    def drawing(names: list[str]) -> int:
        states = [client.get(f"/v1/jobs/{name}").json() for name in names]
        return sum(told["state"] == "drawing" and told["step"] > 1 for told in states)

    with httpx.Client(base_url=process.stdout.readline().strip(), timeout=60) as client:
        names = [client.post("/v1/jobs", json=asked).json()["id"] for _ in range(3)]
        while drawing(names) < 2:  # at once
            time.sleep(0.02)
        os.kill(workers_of()[0], signal.SIGKILL)
        ends = time.monotonic() + 120
        while client.get(f"/v1/jobs/{names[2]}").json()["state"] == "queued":
            assert time.monotonic() < ends
            time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    assert "died (its process ended without a word: killed, out of memory, or crashed); job" in err
    # the first of them before the last, and what is in work is finished
    for name in names:
        folder = tmp_path / "studio" / "requests" / name
        assert json.loads((folder / "job.json").read_bytes())["state"] == "done"
        assert (folder / "0.png").read_bytes() == (tmp_path / "wanted.png").read_bytes()


# ------------------------------------------------------------------------------ Ray, without models


def shared(
    address: str, tasks: list[object], open_work=open_echo
) -> tuple[dict[int, object], list[str], list[str]]:
    """(answers, notes of workers, what was said)."""
    notes: list[str] = []
    said: list[str] = []
    with join_cluster(
        ClusterFlags(ray=address, cpus_per_worker=1),
        False,
        open_work,
        notes.append,
        lambda line: None,
    ) as pool:
        found = list(dispatch(len(tasks), tasks.__getitem__, pool, say=said.append))
    assert len(found) == len(dict(found))
    return dict(found), notes, said


def test_actors_answer_die_and_break(address, capfd):
    tasks: list[object] = [*range(6), ("dies",), *range(6), ("breaks",), *range(6), b"x" * 300_000]
    found, notes, said = shared(address, tasks)
    assert sorted(found) == list(range(len(tasks)))
    lost = {number: answer for number, answer in found.items() if isinstance(answer, LostTask)}
    assert sorted(lost) == [6, 13]
    assert "a mistake of ours" in lost[13].reason
    assert len(said) == 2 * MAX_DEATHS
    echoed = {number: answer for number, answer in found.items() if number not in lost}
    assert [answer[0] for _, answer in sorted(echoed.items())] == [
        task for task in tasks if not isinstance(task, tuple)
    ]
    assert len({process for _, process in echoed.values()}) >= 2  # more than one worker
    assert notes == ["threads 1", "works"]  # each once
    assert capfd.readouterr().out == ""  # Ray's own word on the dead ones


def test_a_worker_that_cannot_start_is_named_and_the_others_go_on(address):
    found, _, said = shared(address, list(range(8)), open_half)
    assert sorted(found) == list(range(8))
    assert said == ["worker 1 on 127.0.0.1 is left out: flux.safetensors: no such file"]


def test_where_nobody_can_work_the_reason_is_one_line(address):
    with pytest.raises(WorkerError, match=r"no worker is left; worker . on .*: damaged weights"):
        shared(address, [("unfit",)])


def test_a_process_that_dies_idle_is_noticed(address):
    flags = ClusterFlags(ray=address, cpus_per_worker=1)
    with join_cluster(flags, False, open_echo, print, print) as pool:
        process = RayProcess(open_echo, next(iter(pool.places())))
        told = process.opened(lambda: False)
        assert answered(process).process == told.process
        os.kill(told.process, signal.SIGKILL)
        # what was asked before may still be answered
        with pytest.raises(DeadWorkerError):
            list(iter(lambda: answered(process), None))


def answered(process: RayProcess) -> ReadyReply:
    """What is asked at one look is answered by a later one."""
    ends = time.monotonic() + 60
    while (told := process.check()) is None:
        assert time.monotonic() < ends
        time.sleep(0.01)
    return told


def test_an_address_that_nobody_answers(monkeypatch):
    with pytest.raises(
        WorkerError, match=r"--ray 127\.0\.0\.1:1: cannot be reached .*ray start --head"
    ):
        shared("127.0.0.1:1", [1])


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        PackageError, match=r"ray are not installed; run: pip install 'pulid-flux-toolkit\[ray\]'"
    ):
        shared("local", [1])


def test_more_cores_than_any_machine_has(address):
    flags = ClusterFlags(ray=address, cpus_per_worker=3)
    with (
        pytest.raises(
            InputError, match="--cpus-per-worker 3: no machine of the cluster has so many cores"
        ),
        join_cluster(flags, False, open_echo, print, print) as pool,
    ):
        list(dispatch(1, str, pool))
