"""Fetching kits of model files: what is there already, what fails and what is refused, never a
second file for one role, and the command.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import save
from support.models.portrait_models import antelopev2_zip
from support.paths import ROOT
from support.programs.pulled import BODY, FILE, REPO, SHA256, item, names

from pulid_extract.files.antelopev2_zip import unpack_antelopev2
from pulid_extract.files.kits import KITS
from pulid_extract.shared.errors import OutputError, WeightsError
from pulid_extract.shared.model_files import PULID, Source, find
from pulid_extract.shared.model_files.pulling import (
    closing_lines,
    plan,
    pull,
    raise_failures,
)


def test_a_kit_is_fetched_once_and_recognised_afterwards(hub, tmp_path):
    models = tmp_path / "models"
    lines: list[str] = []
    [outcome] = pull(plan([item()], models), models, lines.append)
    assert (outcome.status, outcome.sha256) == ("fetched", SHA256)
    assert any("Apache-2.0" in line for line in lines)
    assert find(PULID, None, models).path == models / FILE
    hub.calls = []
    [outcome] = pull(plan([item()], models), models, lines.append)
    assert outcome.status == "present"
    assert hub.calls == []
    assert closing_lines([outcome], models, False) == [
        f"all there; the other commands find it with: export PULID_MODELS_DIR={models}"
    ]


def test_a_role_that_is_filled_is_left_alone_unless_forced(hub, tmp_path):
    (tmp_path / "mine.safetensors").write_bytes(BODY)
    [outcome] = pull(plan([item()], tmp_path), tmp_path, print)
    assert (outcome.status, outcome.why) == (
        "skipped",
        f"{tmp_path / 'mine.safetensors'} is already the PuLID weights",
    )
    assert hub.calls == []
    [own] = plan([item(own=True)], tmp_path)
    assert own.status == "failed"
    assert "two would make every command ask which" in own.why
    [forced] = pull(plan([item(own=True)], tmp_path, force=True), tmp_path, print)
    assert (forced.status, "choose with --pulid-weights" in forced.why) == ("fetched", True)
    [both] = plan([item()], tmp_path)
    assert (both.status, "--pulid-weights" in both.why) == ("present", True)


def test_a_damaged_file_is_said_and_replaced_only_when_forced(hub, tmp_path):
    for bad, options, why in (
        (BODY[:-5], {}, "truncated"),
        (BODY[:-4] + b"abcd", {"source": replace(item().source, sha256=SHA256)}, "SHA-256"),
    ):
        (tmp_path / FILE).write_bytes(bad)
        [outcome] = plan([item(**options)], tmp_path)
        assert outcome.status == "failed"
        assert why in outcome.why
        [outcome] = pull(plan([item(**options)], tmp_path, force=True), tmp_path, print)
        assert outcome.status == "fetched"
        assert (tmp_path / FILE).read_bytes() == BODY


def test_one_that_fails_does_not_stop_the_others(hub, tmp_path):
    gone = item(source=Source(repo=REPO, files=("gone.safetensors",), licence="MIT"), role=None)
    gate = item(
        source=Source(repo="some/gate", files=("x.safetensors",), licence="MIT"),
        role=None,
        gated=True,
    )
    hub.gated["some/gate"] = "token"
    outcomes = list(pull(plan([gone, gate, item()], tmp_path), tmp_path, print))
    assert [outcome.status for outcome in outcomes] == ["failed", "failed", "fetched"]
    with pytest.raises(
        WeightsError, match=r"2 files could not be fetched: gone\.safetensors, x\.safetensors"
    ):
        raise_failures(outcomes)
    with pytest.raises(WeightsError, match=r"x\.safetensors: some/gate: is gated"):
        raise_failures(outcomes[1:])
    raise_failures(outcomes[2:])


def test_another_model_under_the_files_name_fails(hub, tmp_path):
    other = save({"id_adapter.latents": np.ones(2, np.float32)})
    (tmp_path / FILE).write_bytes(other)
    [outcome] = plan([item()], tmp_path)
    assert (outcome.status, "is there, but is a SDXL PuLID file" in outcome.why) == ("failed", True)
    hub.files[f"{REPO}/{FILE}"] = other
    [outcome] = pull(plan([item()], tmp_path / "new"), tmp_path / "new", print)
    assert (outcome.status, "is a SDXL PuLID file" in outcome.why) == ("failed", True)
    assert names(tmp_path / "new") == []


@pytest.mark.parametrize("name", ["net.onnx", "spiece.model"])
def test_a_page_in_place_of_a_file_without_a_header_fails(hub, tmp_path, name):
    hub.files[f"{REPO}/{name}"] = b"\n<html>log in</html>"
    [outcome] = pull(
        plan([item(source=replace(item().source, files=(name,)), role=None)], tmp_path),
        tmp_path,
        print,
    )
    assert (outcome.status, "is an HTML page" in outcome.why) == ("failed", True)
    assert names(tmp_path) == []


def test_a_page_in_place_of_a_file_fails(hub, tmp_path):
    hub.files[f"{REPO}/{FILE}"] = b"<!DOCTYPE html><html>log in</html>"
    [outcome] = pull(plan([item()], tmp_path), tmp_path, print)
    assert (outcome.status, "HTML page" in outcome.why) == ("failed", True)
    assert names(tmp_path) == []


def test_a_full_disk_is_said_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)
    )
    with pytest.raises(OutputError, match=r"400 kB are to be fetched, 1\.00 kB are free"):
        list(pull(plan([item()], tmp_path), tmp_path, print))
    assert hub.asked("GET") == []
    [dry] = plan([item()], tmp_path)
    assert "free where" in closing_lines([dry], tmp_path, True)[-1]


def test_offline_makes_no_call_and_says_so(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(
        WeightsError,
        match=r"HF_HUB_OFFLINE is set: no network call was made; missing: pulid\.safetensors",
    ):
        list(pull(plan([item()], tmp_path), tmp_path, print))
    assert hub.calls == []
    (tmp_path / FILE).write_bytes(BODY)
    assert [outcome.status for outcome in pull(plan([item()], tmp_path), tmp_path, print)] == [
        "present"
    ]


def test_a_models_folder_that_cannot_be_is_one_line(hub, tmp_path):
    (tmp_path / "models").write_bytes(b"a file")
    outcomes = plan([item()], tmp_path / "models")
    with pytest.raises(OutputError, match="cannot be made"):
        list(pull(outcomes, tmp_path / "models", print))
    with pytest.raises(OutputError, match="cannot be made"):
        unpack_antelopev2(antelopev2_zip(tmp_path / "a.zip", ""), tmp_path / "models")
    assert (tmp_path / "models").read_bytes() == b"a file"


# -------------------------------------------------------------------------------------- the command


def extract(*arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pulid_extract", *map(str, arguments)]
    env = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=env)


def test_the_command_fetches_from_the_endpoint_it_is_told(hub, tmp_path):
    """In processes of its own, as a person runs it: HF_ENDPOINT and HF_HUB_OFFLINE are read when
    the library is imported.
    """
    hub.files["guozinan/PuLID/pulid_flux_v0.9.1.safetensors"] = BODY
    hub.cut, hub.cuts = 150_000, 1
    online = {"HF_ENDPOINT": hub.address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    done = extract("pull", "pulid", "--models-dir", tmp_path / "models", "--json", **online)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["status"], told["sha256"], told["licence"]) == ("fetched", SHA256, "Apache-2.0")
    assert "Apache-2.0" in done.stderr
    assert names(tmp_path / "models") == ["pulid_flux_v0.9.1.safetensors"]
    hub.calls = []
    done = extract(
        "pull", "eva-clip", "--models-dir", tmp_path / "models", **{**online, "HF_HUB_OFFLINE": "1"}
    )
    assert (done.returncode, done.stderr.count("\n"), hub.calls) == (1, 1, [])
    assert "HF_HUB_OFFLINE is set" in done.stderr


def test_the_archive_needs_no_network(tmp_path):
    arguments = [
        "--models-dir",
        tmp_path / "models",
        "--antelopev2-zip",
        antelopev2_zip(tmp_path / "a.zip", "antelopev2/"),
    ]
    done = extract("pull", "antelopev2", *arguments, HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["fetched", "fetched"]
    again = extract("pull", "antelopev2", *arguments, HF_HUB_OFFLINE="1")
    assert "is not used" in again.stderr
    assert extract("pull", "pulid", *arguments).returncode == 2
    assert extract("pull", "parsenet").returncode == 2


def test_the_table(tmp_path):
    paths = [item.path_in(tmp_path) for items in KITS.values() for item in items]
    assert len(set(paths)) == len(paths) == 6
    assert not any("parsenet" in path.name for path in paths)
    for entry in (entry for items in KITS.values() for entry in items):
        assert len(entry.source.files) == (0 if entry.source.url else 1)
        assert entry.source.licence
        assert entry.size > 10**6
    assert "non-commercial" in KITS["antelopev2"][0].terms
