"""`pulid-generate batch` in a process of its own: killed, interrupted, and resumed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time

import pytest
from PIL import Image
from support.programs.processes import started

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("own_cache")]


@pytest.fixture
def child(models, people, tmp_path):
    """Start `pulid-generate batch` on a grid of 30 rows in a process of its own."""
    running = []

    def start(*more):
        process = started(
            *("-m", "pulid_generate", "batch", "-p", "a cat"),
            *("--identities", people, "--seeds", "1-15"),
            *(*models, "-W", 64, "-H", 48, "--output-dir", tmp_path / "out", *more),
            start_new_session=True,
        )
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate()


def wait_for(folder, count, process):
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        if folder.is_dir() and len(list(folder.glob("[!.]*.png"))) >= count:
            return
        time.sleep(0.01)
    pytest.fail(f"no {count} pictures: {process.poll()}")


def check_pictures(folder):
    for path in folder.glob("[!.]*.png"):
        with Image.open(path) as image:
            image.load()  # whole
            assert "parameters" in image.text


def test_killed_and_resumed(child, tmp_path):
    """Once; tests/scripts/test_soak.py kills at random moments, again and again."""
    out = tmp_path / "out"
    process = child("--resume")
    wait_for(out, 9, process)
    process.kill()
    process.communicate()
    check_pictures(out)
    assert len(list(out.glob("[!.]*.png"))) < 30
    before = {path.name: path.read_bytes() for path in out.glob("[!.]*.png")}
    (out / ".0003_ada_3.png.abc.part").write_bytes(b"half")  # what a kill while writing leaves
    process = child("--resume")
    printed, err = process.communicate(timeout=280)
    assert process.returncode == 0, err
    found = [json.loads(line) for line in printed.splitlines()]
    assert len(found) == len({line["output"] for line in found}) == 30
    assert sum(line["status"] == "skipped" for line in found) == len(before) >= 9
    assert sorted(path.name for path in out.iterdir()) == sorted(
        os.path.basename(line["output"]) for line in found
    )
    assert all((out / name).read_bytes() == data for name, data in before.items())
    check_pictures(out)


def test_an_interrupt_finishes_the_picture_and_stops(child, tmp_path):
    process = child()
    wait_for(tmp_path / "out", 2, process)
    process.send_signal(signal.SIGINT)
    printed, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    found = [json.loads(line) for line in printed.splitlines()]
    assert 2 <= len(found) < 30
    assert sorted(os.path.basename(line["output"]) for line in found) == sorted(
        path.name for path in (tmp_path / "out").iterdir()
    )
    assert "run it again with --resume" in err
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, 0)
