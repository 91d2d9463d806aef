"""One file from a hub: whole, in parts, after a break, refused."""

from __future__ import annotations

import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest
from support.programs.pulled import BODY, FILE, REPO, SHA256, item, names

from pulid_extract.shared.errors import OutputError, WeightsError
from pulid_extract.shared.model_files import Source, transfer
from pulid_extract.shared.model_files.pulling import (
    plan,
)
from pulid_extract.shared.model_files.transfer import ask, part_of


def get(target: Path, source: Source | None = None, **options) -> str:
    source = source or item().source
    return transfer.transfer(ask(source), target, lambda: ask(source), pause=0, **options)


def test_a_whole_file_arrives_by_way_of_a_part(hub, tmp_path):
    target = tmp_path / "new" / FILE
    shown: list[tuple[int, int | None]] = []
    assert get(target, show=lambda done, total: shown.append((done, total))) == SHA256
    assert target.read_bytes() == BODY
    assert names(tmp_path) == [FILE]
    assert shown[0] == (0, len(BODY))
    assert shown[-1] == (len(BODY), len(BODY))
    assert ask(item().source).sha256 == SHA256  # the hub's tag of a large file


def test_a_break_is_gone_on_with_in_the_same_run(hub, tmp_path):
    hub.cut, hub.cuts = 150_000, 2
    get(tmp_path / FILE)
    assert (tmp_path / FILE).read_bytes() == BODY
    assert hub.ranges_asked() == ["", "bytes=150000-", "bytes=300000-"]


def test_a_break_is_gone_on_with_in_the_next_run(hub, tmp_path):
    hub.cut, hub.cuts = 150_000, 1
    hub.busy = 0

    def give_up() -> transfer.Remote:
        hub.busy = 100  # nothing more comes in this run
        return ask(item().source)

    with pytest.raises(
        WeightsError, match=r"broke off after 150 kB of 400 kB .*503.*; run the same command again"
    ):
        transfer.transfer(ask(item().source), tmp_path / FILE, give_up, pause=0)
    [part] = names(tmp_path)
    assert part.endswith(".part")
    hub.busy, hub.calls = 0, []
    get(tmp_path / FILE)
    assert hub.ranges_asked() == ["bytes=150000-"]
    assert (tmp_path / FILE).read_bytes() == BODY
    assert names(tmp_path) == [FILE]


def test_an_interruption_keeps_what_has_arrived(hub, tmp_path):
    def interrupt(done: int, total: int | None) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(tmp_path / FILE, show=interrupt)
    [outcome] = plan([item()], tmp_path)
    assert (outcome.status, "of it have been fetched before" in outcome.why) == ("missing", True)
    hub.calls = []
    assert get(tmp_path / FILE) == SHA256
    assert hub.ranges_asked()[0].startswith("bytes=")


def test_a_server_without_ranges_sends_it_all_again(hub, tmp_path):
    hub.cut, hub.cuts, hub.ranges = 150_000, 1, False
    assert get(tmp_path / FILE) == SHA256
    assert (tmp_path / FILE).read_bytes() == BODY


def test_a_part_of_another_version_is_not_gone_on_with(hub, tmp_path):
    target = tmp_path / FILE
    old = part_of(target, replace(ask(item().source), tag="another"))
    old.write_bytes(b"x" * 1000)
    (tmp_path / "other.safetensors.00000000.part").write_bytes(b"y")  # another file's: stays
    get(target)
    assert hub.ranges_asked() == [""]
    assert names(tmp_path) == ["other.safetensors.00000000.part", FILE]


@pytest.mark.parametrize(("extra", "asked"), [(b"", []), (b"too much", [""])])
def test_a_part_as_long_as_the_file_or_longer(hub, tmp_path, extra, asked):
    part_of(tmp_path / FILE, ask(item().source)).write_bytes(BODY + extra)
    assert get(tmp_path / FILE) == SHA256
    assert hub.ranges_asked() == asked


@pytest.mark.parametrize("told_by", ["table", "hub", "damaged part"])
def test_a_wrong_hash_leaves_nothing(hub, tmp_path, told_by):
    options = {"sha256": "0" * 64} if told_by == "table" else {}
    if told_by == "hub":
        hub.forged[FILE] = "1" * 64
    if told_by == "damaged part":
        part_of(tmp_path / FILE, ask(item().source)).write_bytes(b"z" * 1000)
    with pytest.raises(WeightsError, match=r"SHA-256 is .*, expected .*; what came was deleted"):
        get(tmp_path / FILE, **options)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("token", "seen"), [("", "no token is set"), ("wrong", "your token has no access")]
)
def test_a_gate_is_explained(hub, monkeypatch, token, seen):
    hub.gated[REPO] = "right"
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(
        WeightsError,
        match=rf"{REPO}: is gated, and {seen}.*https://huggingface.co/{REPO}.*'hf auth login'",
    ):
        ask(item().source)
    monkeypatch.setenv("HF_TOKEN", "right")
    assert ask(item().source).size == len(BODY)


def test_the_token_goes_to_the_hub_and_not_to_its_storage(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret-token")
    get(tmp_path / FILE)
    sent = {(method, token) for method, _, _, token in hub.calls}
    assert sent == {("HEAD", "Bearer secret-token"), ("GET", "")}


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            Source(repo=REPO, files=("gone.safetensors",)),
            r"holds no gone\.safetensors any more \(404\)",
        ),
        (Source(repo="no/such", files=("x",)), "no such repository"),
    ],
)
def test_what_is_not_there_is_said(hub, source, message):
    with pytest.raises(WeightsError, match=message):
        ask(source)


def test_plain_addresses(hub, tmp_path):
    hub.cut, hub.cuts = 150_000, 1
    source = Source(url=f"{hub.address}/release/net.pth", sha256=SHA256)
    assert get(tmp_path / "net.pth", source, sha256=source.sha256) == SHA256
    with pytest.raises(WeightsError, match="answers 404"):
        ask(Source(url=f"{hub.address}/none.pth"))
    with pytest.raises(WeightsError, match="cannot be reached"):
        ask(Source(url="http://127.0.0.1:9/x.pth"))


def _hold(path, ready, done):
    import fcntl

    with open(path, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ready.set()
        done.wait(30)


def test_two_processes_do_not_append_to_one_part(hub, tmp_path):
    part = part_of(tmp_path / FILE, ask(item().source))
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(part, ready, done))
    other.start()
    assert ready.wait(10)
    with pytest.raises(WeightsError, match="another process is fetching it"):
        get(tmp_path / FILE)
    done.set()
    other.join()
    assert get(tmp_path / FILE) == SHA256


def test_a_folder_that_cannot_be_written(hub, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be written"):
        get(tmp_path / "file" / FILE)
