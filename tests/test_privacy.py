"""What docs/privacy.md promises of both programs: every command runs in a fresh home without a
network, and what it wrote there and asked for is listed.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from support.paths import ROOT

from docs import cli_reference
from pulid_extract.shared import telemetry

WATCHED = ROOT / "tests" / "support" / "programs" / "watched.py"
MODELS = ("--models-dir", str(ROOT / "scripts" / "micro_world" / "models"))
EXTRACT = (*MODELS, "--aligner", "antelopev2", "--parser", "none")
DRAW = (*MODELS, "-W", "32", "-H", "32", "--steps", "1", "--t5-max-length", "32", "-p", "a person")


@cache
def without_network() -> tuple[str, ...]:
    """How a process is started in a network namespace of its own; empty where that is forbidden."""
    for way in (("unshare", "--net"), ("unshare", "--map-root-user", "--net")):
        try:
            if subprocess.run([*way, "true"], capture_output=True).returncode == 0:
                return way
        except FileNotFoundError:
            break
    return ()


def watched(folder: Path, *commands: list[str]) -> dict:
    """The report of programs/watched.py, with what lies in the home afterwards as "written"."""
    home = folder / "home"
    home.mkdir()
    environment = {}
    for name, value in os.environ.items():
        if not name.startswith(("HF_", "PULID_", "XDG_", "ORT_", "RAY_", "DO_NOT_TRACK")):
            environment[name] = value
    environment |= {"HOME": str(home), "OMP_NUM_THREADS": "1"}
    report = folder / "report.json"
    done = subprocess.run(
        [*without_network(), sys.executable, WATCHED, report, json.dumps(commands)],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    found["written"] = sorted({str(path.relative_to(home)) for path in home.rglob("*")})
    found["commands"] = set()
    for words in commands:
        plain = len(words) < 2 or words[1].startswith("-")
        found["commands"].add(words[0] if plain else " ".join(words[:2]))
    return found | {"stderr": done.stderr}


def only_ours(written: list[str]) -> bool:
    """Nothing in a fresh home but our own cache folder."""
    return all(path == ".cache" or path.startswith(".cache/pulid-flux-toolkit") for path in written)


@pytest.fixture(scope="module")
def portraits(tmp_path_factory) -> Path:
    """A folder with one portrait of the small world."""
    from micro_world.measuring.preservation import write_portraits

    folder = tmp_path_factory.mktemp("portraits")
    write_portraits(folder, 1)
    return folder


@pytest.fixture(scope="module")
def extracted(portraits, tmp_path_factory) -> dict:
    """The report of every command of pulid-extract, and "identity", what it made."""
    folder = tmp_path_factory.mktemp("extract")
    portrait = str(portraits / "00.png")
    tasks = folder / "tasks.jsonl"
    tasks.write_text("")
    found = watched(
        folder,
        ["pulid-extract", "--portrait", portrait, "--out", "me.pulidembd", *EXTRACT],
        ["pulid-extract", "batch", str(portraits), "--out-dir", "people", *EXTRACT],
        ["pulid-extract", "faces", portrait, *MODELS],
        ["pulid-extract", "score", "--reference", portrait, portrait, *MODELS],
        ["pulid-extract", "cache", "list"],
        ["pulid-extract", "doctor", *MODELS],
        ["pulid-extract", "pull", *MODELS, "--dry-run"],
        # without a task; those of the server are extractions as above
        ["pulid-extract", "worker", *MODELS],
        ["pulid-extract", "--help"],
    )
    return found | {"identity": folder / "me.pulidembd"}


def test_extraction_asks_nobody_and_writes_only_its_cache(extracted):
    assert extracted["codes"][:5] == [0, 0, 0, 0, 0], extracted["stderr"]
    assert extracted["commands"] == {*cli_reference.flags("pulid-extract")}
    assert extracted["asked"] == []
    assert only_ours(extracted["written"]), extracted["written"]
    # a fresh home is seen: the cache was written
    assert extracted["written"]
    assert {"onnxruntime", "insightface", "huggingface_hub"} <= {*extracted["imported"]}
    assert {*map(tuple, extracted["imported"].values())} == {("1", "1", "0")}


@pytest.mark.slow  # six commands that draw, and a server
def test_generation_asks_nobody_and_writes_only_its_cache(extracted, portraits, tmp_path):
    portrait = str(portraits / "00.png")
    me = ("--pulid-id-embedding", str(extracted["identity"]))
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"output": "row.png"}\n')
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a person\n")
    found = watched(
        tmp_path,
        ["pulid-generate", *DRAW, *me, "-o", "out.png"],
        ["pulid-generate", "batch", str(rows), "--output-dir", "out", *DRAW, *me],
        ["pulid-generate", "sweep", "--over", "seed=1,2", *DRAW, *me, "-o", "sweep.png"],
        ["pulid-generate", "verify", *DRAW, *me, "-o", "verify.png"],
        ["pulid-generate", "detail", portrait, *DRAW, *me, "-o", "detail.png"],
        [
            *("pulid-generate", "validate", "--prompts", str(prompts), "--seeds", "1"),
            *("--reference", portrait, *DRAW[:-2], *me),
        ],
        ["pulid-generate", "inspect", f"{MODELS[1]}/ae.safetensors"],
        ["pulid-generate", "doctor", *MODELS],
        ["pulid-generate", "pull", "schnell-q4", *MODELS, "--dry-run"],
        ["pulid-generate", "serve", *DRAW[:-2], "--output-dir", "served", "--port", "0"],
    )
    assert found["codes"][:7] == [0] * 7, found["stderr"]
    assert found["codes"][-1] == 0, found["stderr"]
    # which runs the others
    missing = {*cli_reference.flags("pulid-generate")} - found["commands"]
    assert missing == {"pulid-generate demo"}
    assert found["asked"] == []
    assert only_ours(found["written"]), found["written"]
    assert {*map(tuple, found["imported"].values())} <= {("1", "1", "0")}


def test_the_watch_sees_what_is_asked_and_written(tmp_path):
    """A download of a model that is missing, which is the one call that is allowed."""
    found = watched(tmp_path, ["pulid-extract", "pull", "--models-dir", "models"])
    assert found["codes"] == [1]
    assert any("huggingface.co" in address for address in found["asked"])
    assert not any("agent" in name for name in found["written"])


def test_libraries_that_report_are_imported_in_one_place():
    """onnxruntime reads its variable when it is imported: `onnx_runtime.load` has set it."""
    importers = []
    for package in ("pulid_extract", "pulid_generate", "scripts"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = []
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [str(node.module)]
                if any(name.split(".")[0] == "onnxruntime" for name in names):
                    importers.append(path.relative_to(ROOT).as_posix())
    assert importers == ["pulid_extract/networks/onnx_runtime.py"]


@pytest.mark.parametrize(
    "line",
    [
        "import pulid_extract; pulid_extract.PulidError",
        "import pulid_generate; pulid_generate.PulidError",
        "from pulid_extract.networks import onnx_runtime; onnx_runtime.load()",
    ],
)
def test_a_library_use_reports_nothing(line, monkeypatch, tmp_path):
    environment = {name: text for name, text in os.environ.items() if name not in telemetry.OFF}
    # whoever asked for it does not get it either: the page promises it without exception
    environment |= {"ORT_DISABLE_TELEMETRY": "0", "HOME": str(tmp_path)}
    code = f"{line}; import os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout == "1\n", done.stderr
    assert not list(tmp_path.rglob("Microsoft"))
