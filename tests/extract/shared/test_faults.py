"""Bad luck while files are written: a full disk, another run that tidies up, a signal, links in the
cache. What was there stays, and nothing half-written does.
"""

from __future__ import annotations

import ast
import contextlib
import os
import re
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT

from pulid_extract.batch import journal
from pulid_extract.extraction.embedding_cache import CachedExtraction, EmbeddingCache, key_of
from pulid_extract.shared import writing
from pulid_extract.shared.cli import console, heartbeat
from pulid_extract.shared.cli.heartbeat import Heartbeat
from pulid_extract.shared.cli.interrupts import ending_cleanly
from pulid_extract.shared.errors import OutputError
from pulid_extract.shared.locking import locked_folder
from pulid_extract.shared.writing import check_writable, write_atomically, write_together
from pulid_generate.pipeline.text_cache import TextCache

KEY = key_of([b"a portrait"], {})
# of a file that may not grow: a disk that fills up in the middle of a write
ROOM = 1 << 16


@contextlib.contextmanager
def little_room() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ROOM, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------- full disks


def test_a_write_that_breaks_off_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")
    with little_room(), pytest.raises(OutputError, match="x: cannot be written"):
        write_atomically(path, b"x" * (ROOM + 1))
    assert names(tmp_path) == ["x"]
    assert path.read_bytes() == b"old"


def test_files_that_belong_together_are_all_new_or_all_old(tmp_path):
    page, report = tmp_path / "page", tmp_path / "report"
    link = tmp_path / "link"
    link.symlink_to(page)
    for path in (page, report):
        path.write_bytes(b"old")
    with little_room(), pytest.raises(OutputError, match="report: cannot be written"):
        write_together({link: b"new", report: b"x" * (ROOM + 1)}, 0o600)
    assert (page.read_bytes(), report.read_bytes()) == (b"old", b"old")
    assert names(tmp_path) == ["link", "page", "report"]
    write_together({link: b"new", report: b"newer"}, 0o600)
    assert (page.read_bytes(), report.read_bytes()) == (b"new", b"newer")
    assert page.stat().st_mode & 0o777 == 0o600
    assert link.is_symlink()
    assert names(tmp_path) == ["link", "page", "report"]


def test_a_journal_says_that_its_line_is_not_whole(tmp_path):
    """Written without a buffer, a line is cut short without an error."""
    book = journal.Journal(tmp_path)
    book.add("a", "key", "hash")
    with open(book.path, "ab") as file:
        file.write(b"\n" * (ROOM - 10 - file.tell()))
    with little_room(), pytest.raises(OutputError, match=r"jsonl: cannot be written"):
        book.add("b", "key", "hash")
    book = journal.Journal(tmp_path)
    book.add("c", "key", "hash")
    assert sorted(journal.Journal(tmp_path)._entries) == ["a", "c"]


def test_caches_without_room_are_done_without(tmp_path):
    told: list[str] = []
    texts = TextCache(tmp_path, warn=told.append)
    with little_room():
        texts.put("key", b"x" * (ROOM + 1))
        with pytest.raises(OutputError, match="cannot be written"):
            EmbeddingCache(tmp_path).put(KEY, CachedExtraction(b"x" * (ROOM + 1), {}))
    assert texts.get("key") == b"x" * (ROOM + 1)
    assert len(told) == 1
    assert names(tmp_path / "text") == names(tmp_path / "embeddings") == []


# a file's name, and what in it may open files to write: private temporary folders, downloads that
# are resumed, a journal that grows
WRITERS = {
    "pulid_extract/shared/writing.py": 2,
    "pulid_extract/shared/model_files/transfer.py": 1,
    "pulid_extract/batch/journal.py": 1,
    "pulid_generate/pictures/scorer.py": 1,
    "pulid_generate/pictures/face_finder.py": 1,
}


def test_everything_else_is_written_by_the_one_writer():
    found: dict[str, int] = {}
    for package in ("pulid_extract", "pulid_generate"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and _writes(node):
                    name = path.relative_to(ROOT).as_posix()
                    found[name] = found.get(name, 0) + 1
    assert found == WRITERS


def _writes(call: ast.Call) -> bool:
    """Whether a call writes a file by itself, as far as its words show."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else ""
    if isinstance(call.func, ast.Name):
        name = call.func.id
    if name in ("write_text", "write_bytes", "savez", "save_file", "mkstemp"):
        return True
    of_os = isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) == "os"
    if name != "open" or of_os:
        return name == "open" and "O_CREAT" in ast.unparse(call)
    # a path's own `open` has its mode first
    place = 1 if isinstance(call.func, ast.Name) else 0
    modes = [word.value for word in call.args[place:][:1] if isinstance(word, ast.Constant)]
    return any(set(str(mode)) & set("wax+") for mode in modes)


# ---------------------------------------------------------------------------------- other programs


def test_a_file_that_another_run_tidies_away_is_written_again(tmp_path, monkeypatch):
    path, sync = tmp_path / "x", os.fsync
    swept: list[Path] = []

    def tidied(handle: int) -> None:
        sync(handle)
        if len(swept) < times:
            [part] = tmp_path.glob(".x.*.part")
            part.unlink()
            swept.append(part)

    monkeypatch.setattr(os, "fsync", tidied)
    times = 1
    write_atomically(path, b"new", mode=0o600)
    assert (path.read_bytes(), names(tmp_path)) == (b"new", ["x"])
    times = 99
    with pytest.raises(OutputError, match="one program on this folder at a time"):
        write_atomically(path, b"newer")
    assert (path.read_bytes(), names(tmp_path)) == (b"new", ["x"])
    assert len(swept) == 1 + writing.TRIES


def test_a_trial_that_another_run_tidies_away_is_no_error(tmp_path, monkeypatch):
    real = os.close

    def tidied(handle: int) -> None:
        real(handle)
        for part in tmp_path.glob(".x.*.part"):
            part.unlink()

    monkeypatch.setattr(os, "close", tidied)
    check_writable(tmp_path / "x")


def test_one_process_at_a_time_has_a_folder(tmp_path):
    with locked_folder(tmp_path) as first:
        # a second descriptor is as another process
        with locked_folder(tmp_path) as second:
            assert (first, second) == (True, False)
        with locked_folder(tmp_path / "none") as unlockable:
            assert unlockable
    with locked_folder(tmp_path) as again:
        assert again


@pytest.mark.parametrize("target", ["a file", "nothing", "a device"])
def test_entries_of_caches_that_are_links_lead_nowhere(tmp_path, target):
    """They are replaced, and what they name is neither read without end nor written."""
    places = {"a file": tmp_path / "mine", "nothing": tmp_path / "none", "a device": "/dev/zero"}
    (tmp_path / "mine").write_bytes(b"mine")
    embeddings, texts = EmbeddingCache(tmp_path), TextCache(tmp_path)
    for folder, name in ((embeddings.folder, KEY.name), (tmp_path / "text", "key")):
        folder.mkdir()
        (folder / name).symlink_to(places[target])
    assert embeddings.get(KEY) is None
    assert texts.get("key") is None
    for link in (embeddings.folder / KEY.name, tmp_path / "text" / "key"):
        link.unlink(missing_ok=True)
        link.symlink_to(places[target])
    stored = CachedExtraction(b"data", {})
    embeddings.put(KEY, stored)
    texts.put("key", b"data")
    assert (embeddings.get(KEY), texts.get("key")) == (stored, b"data")
    assert not (embeddings.folder / KEY.name).is_symlink()
    assert (tmp_path / "mine").read_bytes() == b"mine"
    assert not (tmp_path / "none").exists()


# ----------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_what_asks_to_end_leaves_nothing_half_written(tmp_path, name):
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)

    def chunks() -> Iterator[bytes]:
        yield b"half"
        os.kill(os.getpid(), number)
        yield b"whole"

    try:
        with pytest.raises(SystemExit) as stop, ending_cleanly():
            write_atomically(tmp_path / "x", chunks())
        assert stop.value.code == 128 + number
        assert names(tmp_path) == []
        # the second one ends the process where it stands
        assert signal.getsignal(number) is signal.SIG_DFL
        with ending_cleanly():
            assert signal.getsignal(number) is not signal.SIG_DFL
        assert signal.getsignal(number) is signal.SIG_DFL
        signal.signal(number, signal.SIG_IGN)
        with ending_cleanly():
            assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


# ---------------------------------------------------------------------------------------- patience


def test_long_work_says_now_and_then_that_it_goes_on(monkeypatch):
    lines: list[str] = []
    enough = threading.Event()

    def log(line: str) -> None:
        lines.append(line)
        if len(lines) == 2:
            enough.set()

    monkeypatch.setattr(heartbeat, "PAUSE", 0.001)
    monkeypatch.setattr(console, "log", log)
    with Heartbeat("cutting out faces"):
        assert enough.wait(60)
    assert re.fullmatch(r"cutting out faces, \d+ s so far", lines[1])
    lines.clear()
    monkeypatch.setattr(heartbeat, "PAUSE", 3600)
    with Heartbeat("nothing to say"):
        pass
    assert lines == []
