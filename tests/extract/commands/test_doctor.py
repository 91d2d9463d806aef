"""`doctor`: libraries, devices, the machine's memory, each file and the rule that finds it; the
command that fetches what is missing.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.models.portrait_models import write_antelopev2
from support.paths import ROOT
from support.pictures.coloured_faces import ALONE, picture, png
from support.programs.commands import call

from pulid_extract.shared.errors import PackageError
from pulid_extract.shared.model_files import PULID, checkup, find
from pulid_extract.shared.model_files.checkup import (
    Check,
    as_text,
    libraries,
    look_for,
    machine,
    raise_missing,
    surroundings,
)


def named(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def test_libraries_are_those_of_the_projects_metadata(monkeypatch):
    checks = named(libraries("extract"))
    assert {"Python", "torch", "insightface", "onnxruntime"} <= set(checks)
    assert "diffusers" not in checks
    assert "diffusers" in named(libraries("generate"))
    assert {check.status for check in checks.values()} == {"ok"}
    there = importlib.metadata.version

    def version(name):
        if name == "insightface" or "headless" in name:
            raise importlib.metadata.PackageNotFoundError(name)
        return {"tokenizers": "0.9.2", "opencv-python": "4.11"}.get(name) or there(name)

    monkeypatch.setattr(importlib.metadata, "version", version)
    checks = named(libraries("extract"))
    assert (checks["insightface"].status, checks["insightface"].remedy) == (
        "missing",
        "pip install 'pulid-flux-toolkit[extract]'",
    )
    assert (checks["tokenizers"].status, checks["tokenizers"].text) == (
        "wrong",
        "0.9.2, at least 0.21 is needed",
    )
    assert checks["opencv-python"].status == "ok"  # stands in for the headless one


@pytest.mark.parametrize(
    ("newer", "older"),
    [
        ("2.15.0", "2.6"),
        ("1.0.31", "1.0.15"),
        ("2.15.0+cu132", "2.6"),
        ("13.0.0", "11"),
        ("0.10", "0.9.9"),
    ],
)
def test_versions_are_compared_as_numbers(newer, older):
    assert checkup._numbers(newer) > checkup._numbers(older)


def test_the_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(checkup, "CPUINFO", tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text("processor : 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n")
    (tmp_path / "limit").write_text("4000000000\n")
    monkeypatch.setattr(checkup, "CGROUP_LIMITS", (tmp_path / "none", tmp_path / "limit"))
    checks = named(machine())
    assert (
        "AVX2, AVX-512, VNNI (int8); no bf16 arithmetic: computes in float32"
        in checks["processor"].text
    )
    assert "this container may use 4.00 GB" in checks["main memory"].text
    (tmp_path / "cpuinfo").write_text("flags : avx512_bf16 amx_bf16\n")
    (tmp_path / "limit").write_text("max\n")
    checks = named(machine())
    assert checks["processor"].text.endswith("bf16, AMX bf16")
    assert "container" not in checks["main memory"].text
    (tmp_path / "cpuinfo").unlink()
    assert "cores" in named(machine())["processor"].text


def test_devices(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (20 * 10**9, 24 * 10**9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some Card")
    checks = named(machine("cuda"))
    assert checks["cuda:0"].text == "Some Card, 24.0 GB, 20.0 GB free"
    assert "device cuda" not in checks
    assert named(machine("cuda:1"))["device cuda:1"].status == "wrong"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "everything runs on the CPU" in named(machine())["GPU"].text
    assert named(machine("cuda"))["device cuda"].text == "not usable here; usable: cpu"
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "GPU" not in named(machine())


def test_a_role_is_found_absent_or_wrong(tmp_path, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: pytest.fail("a network call"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")  # also then it only looks
    monkeypatch.setattr("pulid_extract.shared.model_files.finding.cached", lambda source: None)

    def look(given=None):
        return look_for(PULID, lambda: find(PULID, given, tmp_path), tmp_path, given is not None)

    assert (look().check.status, look().absent, look().with_remedy("pull").remedy) == (
        "missing",
        True,
        "run: pull",
    )
    assert os.environ["HF_HUB_OFFLINE"] == "0"
    save_file({"pulid_ca.0.norm1.weight": np.ones(2, np.float32)}, tmp_path / "a.safetensors")
    assert look().check.text == (
        f"{tmp_path / 'a.safetensors'} (models folder, "
        f"{(tmp_path / 'a.safetensors').stat().st_size} bytes)"
    )
    save_file({"pulid_ca.0.norm1.weight": np.ones(2, np.float32)}, tmp_path / "b.safetensors")
    assert (
        look().absent,
        "2 files can be" in look().check.text,
        look().with_remedy("pull").remedy,
    ) == (False, True, "")
    assert look(tmp_path / "b.safetensors").check.status == "ok"
    wrong = look(tmp_path / "c.safetensors")
    assert (wrong.absent, "no such file" in wrong.check.text) == (False, True)


def test_the_hub(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert "HF_HUB_OFFLINE is set" in named(surroundings(tmp_path))["hub"].text
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert (
        named(surroundings(tmp_path, ["a/b"]))["hub"].text
        == "no token; a/b want one: run 'hf auth login'"
    )
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_secret")
    assert named(surroundings(tmp_path))["hub"].text == "a token is set"
    assert "models folder" not in named(surroundings(tmp_path))
    assert named(surroundings(None))["models folder"].status == "note"


def test_the_report_and_its_end():
    ok, note = Check("a", "one", "ok", "fine"), Check("a", "two", "note", "so so")
    raise_missing([ok, note])
    bad = [Check("b", name, "missing", "none", "run: this") for name in ("three", "four")]
    assert as_text([ok, note, *bad]).splitlines() == [
        "a",
        "  ok      one: fine",
        "  note    two: so so",
        "b",
        "  MISSING three: none",
        "          -> run: this",
        "  MISSING four: none",
        "          -> run: this",
    ]
    with pytest.raises(PackageError, match=r"^not ready: three, four; run: this$"):
        raise_missing([ok, *bad])
    with pytest.raises(PackageError, match=r"^not ready: five: too small$"):
        raise_missing([ok, Check("c", "five", "wrong", "too small")])


# -------------------------------------------------------------------------------------- the command


def doctor(*arguments: object, home: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pulid_extract", "doctor", *map(str, arguments)]
    env = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    env.pop("HF_HUB_CACHE", None)
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=env)


def test_an_extraction_is_looked_at(tmp_path):
    import torch

    models = tmp_path / "models"
    write_antelopev2(models / "antelopev2")
    save_file({"pulid_ca.0.norm1.weight": np.ones(2, np.float32)}, models / "p.safetensors")
    for name, keys in {
        "d.pth": ("ClassHead.0.conv1x1.weight", "LandmarkHead.0.conv1x1.weight"),
        "b.pth": ("cp.resnet.conv1.weight", "ffm.convblk.conv.weight"),
        "e.pt": ("visual.cls_token", "visual.pos_embed", "visual.patch_embed.proj.weight"),
    }.items():
        torch.save(dict.fromkeys(keys, torch.ones(1)), models / name)
    done = doctor("--models-dir", models, "--json", home=tmp_path)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["ready"] is True
    [onnx] = [check for check in told["checks"] if check["name"] == "ONNX networks"]
    assert onnx["text"].startswith("face detection and ArcFace run on")
    files = [check for check in told["checks"] if check["section"] == "model files"]
    assert len(files) == 5
    assert all("models folder" in check["text"] for check in files)

    (models / "e.pt").unlink()
    done = doctor("--models-dir", models, home=tmp_path)
    assert done.returncode == 1
    assert f"-> run: pulid-extract pull eva-clip --models-dir {models}" in done.stdout
    assert done.stderr.splitlines() == [
        "pulid-extract: error: not ready: EVA02-CLIP-L-14-336 image tower; "
        f"run: pulid-extract pull eva-clip --models-dir {models}"
    ]


def test_flags_that_make_files_needless_and_what_the_small_world_has(capfd, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pulid.toml").write_text(
        f'[models]\nmodels-dir = "{ROOT / "scripts/micro_world/models"}"\n'
    )
    code, out, err = call(capfd, monkeypatch, "doctor", "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert code == 1
    missing = checks["RetinaFace detector"]
    assert missing["status"] == "missing"
    # what was not fetched because doctor only looks is not said to be the user's setting
    assert "HF_HUB_OFFLINE" not in missing["text"]
    assert checks[str(tmp_path / "pulid.toml")]["text"] == "models-dir"
    code, out, err = call(
        capfd, monkeypatch, "doctor", "--json", "--aligner", "antelopev2", "--parser", "none"
    )
    assert (code, json.loads(out)["ready"]) == (0, True), err
    assert "not read with these flags" in out


def test_all_that_is_missing_is_one_message_with_one_command(capfd, monkeypatch, tmp_path):
    (tmp_path / "me.png").write_bytes(png(picture(*ALONE)))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    base = ("--portrait", "me.png", "-o", "x", "--models-dir", "models")
    code, _, err = call(capfd, monkeypatch, *base)
    assert (code, err.count("\n")) == (1, 1)
    assert "5 model files are missing in models: " in err
    for flag in ("--antelopev2", "--retinaface", "--bisenet", "--eva-clip", "--pulid-weights"):
        assert f"({flag})" in err
    assert "run: pulid-extract pull --models-dir models; or name each with its flag" in err
    code, _, err = call(capfd, monkeypatch, *base, "--aligner", "antelopev2", "--parser", "none")
    assert "3 model files" in err
    assert "run: pulid-extract pull antelopev2 eva-clip pulid --models-dir models" in err
