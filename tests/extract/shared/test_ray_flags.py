"""What `--ray` may be given with, and where workers may be: without a cluster."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from support.paths import ROOT

from pulid_extract.shared.cluster.flags import with_address
from pulid_extract.shared.cluster.ray_workers import find_places


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["--ray"], ["--ray", "local"]),
        (["--ray", "rows.jsonl"], ["--ray", "local", "rows.jsonl"]),
        (["rows.jsonl", "--ray", "--resume"], ["rows.jsonl", "--ray", "local", "--resume"]),
        (["--ray", "auto", "rows.jsonl"], ["--ray", "auto", "rows.jsonl"]),
        (["--ray", "10.0.0.1:6379"], ["--ray", "10.0.0.1:6379"]),
        (["--ray", "ray://head:10001"], ["--ray", "ray://head:10001"]),
        (["--ray=head:6379", "x"], ["--ray=head:6379", "x"]),
        (["--", "--ray"], ["--", "--ray"]),
    ],
)
def test_an_address_may_be_left_out(given, read):
    assert with_address(given) == read


@pytest.mark.parametrize(
    ("program", "arguments", "message"),
    [
        (
            "pulid_generate",
            ["rows.jsonl", "--cpus-per-worker", "2"],
            "--cpus-per-worker means nothing without --ray",
        ),
        ("pulid_generate", ["rows.jsonl", "--ray=nonsense"], "--ray nonsense: expected an address"),
        ("pulid_generate", ["-", "--ray"], "--ray needs rows that are known beforehand"),
        (
            "pulid_generate",
            ["rows.jsonl", "--ray", "--device", "cuda:1"],
            "each worker sees one GPU; write --device cuda",
        ),
        (
            "pulid_extract",
            ["photos", "--out-dir", "x", "--ray", "--cpus-per-worker", "2", "--device", "cuda"],
            "leave out one of them",
        ),
        (
            "pulid_extract",
            ["photos", "--out-dir", "x", "--cpus-per-worker", "2"],
            "means nothing without --ray",
        ),
    ],
)
def test_wrong_usage(program, arguments, message, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", program, "batch", *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert message in done.stderr


def node(host: str, alive: bool = True, **resources: float) -> dict:
    return {"NodeID": host, "Alive": alive, "NodeManagerAddress": host, "Resources": resources}


def test_where_workers_may_be():
    nodes = [node("a", CPU=16, GPU=2), node("b", CPU=8), node("c", alive=False, CPU=64, GPU=8)]
    on_gpus = find_places(nodes, False, None)
    assert [(place.host, place.index, place.cpus, place.gpu, place.peers) for place in on_gpus] == [
        ("a", 0, 8, True, 2),
        ("a", 1, 8, True, 2),
    ]
    on_cores = find_places(nodes, False, 4)
    assert [(place.host, place.cpus, place.gpu) for place in on_cores] == [("a", 4, False)] * 4 + [
        ("b", 4, False)
    ] * 2
    whole = find_places(nodes, True, None)
    assert [(place.host, place.cpus, place.peers) for place in whole] == [("a", 16, 1), ("b", 8, 1)]
    assert find_places([node("d")], True, None) == []
    assert str(on_gpus[1]) == "worker 2 on a"
