"""Records of jobs and validations on the disk: read as they were written, and garbage is none."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

from pulid_generate.errors import OutputError
from pulid_generate.server.intake.portraits import known_portraits, save_identity
from pulid_generate.server.intake.validation import Validations
from pulid_generate.server.intake.validation_records import (
    ShotResult,
    TrialRun,
    ValidationRecord,
    read_validation,
    write_validation,
)
from pulid_generate.server.work import jobs
from pulid_generate.server.work.jobs import JobRecord, PictureRecord, read_record, write_record
from pulid_generate.server.work.queue import JobQueue
from pulid_generate.validation.prompts import Trial
from pulid_generate.validation.report import ValidatedIdentity


@pytest.fixture
def job(tmp_path):
    job = JobRecord("name", tmp_path / "-" / "name", None, {"prompt": "a cat"}, state="done")
    job.pictures.append(PictureRecord("0.png", "ab", 3, 0.5))
    write_record(job)
    return job


def test_a_record_is_read_as_it_was_written(job):
    read = read_record(job.folder)
    assert read is not None
    assert (read.asked, read.pictures, read.created) == (job.asked, job.pictures, job.created)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\xff\0",
        b"[" * 100_000,
        b"[]",
        b'{"created": 1e999}',
        {"created": "yesterday"},
        {"created": True},
        {"asked": ["prompt"]},
        {"count": "9" * 5000},
        {"pictures": "0.png"},
        {"pictures": [{"name": ["0.png"], "sha256": "", "seed": 1, "seconds": 1}]},
        {"state": {}},
        {"folder": "/etc"},
    ],
    ids=range(13),
)
def test_garbage_is_no_job(text, job):
    record = job.folder / "job.json"
    if isinstance(text, dict):
        text = json.dumps(json.loads(record.read_bytes()) | text).encode()
    record.write_bytes(text)
    queue = JobQueue(4)
    assert queue.resume(job.folder.parent.parent) == (0, 1)
    assert queue.get("name") is None


@pytest.fixture
def drawing(tmp_path):
    """A queue with one job, which is in work."""
    queue = JobQueue(4)
    queue.add(JobRecord("name", tmp_path / "-" / "name", "visitor", {"prompt": "a secret"}))
    return queue, queue.take(0)


def test_of_a_job_that_is_deleted_while_it_is_drawn_nothing_comes_back(drawing):
    queue, job = drawing
    queue.delete(job)
    queue.finish(job, "cancelled")
    assert not job.folder.exists()
    assert queue.working == []


def test_a_cancelled_job_does_not_go_back_into_the_queue(drawing):
    queue, job = drawing
    queue.cancel(job)
    queue.put_back(job)
    assert (len(queue), queue.working, job.state) == (0, [], "cancelled")
    # nor into that of the next server
    assert JobQueue(4).resume(job.folder.parent.parent) == (0, 0)


@pytest.fixture
def disk(monkeypatch):
    """What records are written to; with `is_full` it has no room."""
    disk, write = SimpleNamespace(is_full=False), jobs.write_atomically

    def written(path, data, mode=None):
        if disk.is_full:
            raise OutputError(f"{path}: cannot be written (No space left on device)")
        write(path, data, mode)

    monkeypatch.setattr(jobs, "write_atomically", written)
    return disk


def test_a_job_that_finds_no_room_leaves_nothing_and_names_no_folder(tmp_path, disk):
    job = JobRecord("name", tmp_path / "-" / "name", None, {"prompt": "a cat"})
    job.files.mkdir(parents=True)
    queue, disk.is_full = JobQueue(4), True
    with pytest.raises(OutputError) as caught:
        queue.add(job)
    assert str(caught.value) == "job.json: cannot be written (No space left on device)"
    assert not job.folder.exists()
    assert len(queue) == 0
    disk.is_full = False
    queue.add(job)
    assert len(queue) == 1


@pytest.mark.parametrize(("state", "again"), [("cancelled", 0), ("failed", 1)])
def test_what_was_cancelled_on_a_full_disk_is_not_drawn_by_the_next_server(
    drawing, disk, state, again
):
    """What failed, for want of room maybe, is tried once more."""
    queue, job = drawing
    disk.is_full = True
    queue.finish(job, state)
    disk.is_full = False
    assert JobQueue(4).resume(job.folder.parent.parent)[0] == again


def test_a_saved_identity_has_the_vectors_of_its_own_portraits_or_none(tmp_path):
    path = tmp_path / "me.pulidembd"
    save_identity(path, b"first", [[1.0]])
    assert known_portraits("me.pulidembd", tmp_path, None) == {"vectors": [[1.0]]}
    save_identity(path, b"second", None)
    assert path.read_bytes() == b"second"
    assert known_portraits("me.pulidembd", tmp_path, None) is None


@pytest.fixture
def validation(tmp_path):
    run = TrialRun("job", Trial("front", "pose", "a cat"), "person", [1], [ShotResult("ab", 0.5)])
    record = ValidationRecord(
        id="name",
        folder=tmp_path / "requests" / "validation-name",
        visitor=None,
        identity=ValidatedIdentity("me.pulidembd", "cd", 0.8),
        photographs={"reference": ["me.png"], "truth": [], "stranger": []},
        runs=[run, TrialRun("other", run.trial, "weight_0", [1])],
    )
    write_validation(record)
    return record


def test_a_validation_is_read_as_it_was_written(validation):
    assert read_validation(validation.folder) == validation


@pytest.mark.parametrize(
    "text",
    [
        b"[]",
        {"runs": [{}]},
        {"state": "idle"},
        {"photographs": {"reference": ["../me.png"], "truth": [], "stranger": []}},
        {"photographs": {}},
        {"identity": {"name": "me"}},
        {"measures": 1},
    ],
    ids=range(7),
)
def test_garbage_is_no_validation_and_is_counted(text, validation):
    record = validation.folder / "validation.json"
    if isinstance(text, dict):
        text = json.dumps(json.loads(record.read_bytes()) | text).encode()
    record.write_bytes(text)
    validations = Validations(None, JobQueue(4), None)
    assert validations.resume(validation.folder.parent.parent) == (0, 1)
    assert not validation.folder.exists()
