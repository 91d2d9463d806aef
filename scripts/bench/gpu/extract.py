"""The part `extract` of bench.gpu: one extraction on a card, cold and warm by stage, beside the
CPU's; whether both give the same tokens; and several faces in one pass.

    PYTHONPATH=.:scripts python -m bench.gpu.extract --way ours --folder FOLDER --device cuda

measures one way in a process of its own, as the part does. Networks of the real size
(networks.py), or whatever files a folder has.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bench.extract import STAGES
from bench.extract import measure as measure_way
from bench.gpu.tables import print_table

# relative (Frobenius) distance of tokens from the CPU's in float32: of float32 on a card, where
# sums have another order; of bfloat16 anywhere
EXACT, FAST = 1e-3, 0.1
# faces that go through EVA-CLIP together, and turns of which the median counts
FACES, TURNS = 8, 5


@dataclass(frozen=True)
class Run:
    """What one process found."""

    # of each stage, and "total"
    cold: dict[str, float]
    warm: dict[str, float]
    # (N, C) float32
    tokens: np.ndarray
    # for each of FACES, in one pass and one by one
    together: float
    alone: float
    # relative distance of the tokens of one face among FACES from its own
    apart: float


def measure(device: str, folder: Path, portrait: Path | None = None) -> list[str]:
    """Print the tables; return a line for every result that is wrong.

    folder: of the networks. portrait: a picture with one face; else the micro set's, and its
    networks are written if they are not there.
    """
    if portrait is None:
        from bench.networks import write_networks

        write_networks(folder)
    runs = {"cpu, float32": _child("ours", folder, "cpu", portrait)}
    name = f"{device}, float32" if device != "cpu" else "cpu, float32, again"
    runs[name] = _child("ours", folder, device, portrait)
    runs[f"{device}, --fast"] = _child("fast", folder, device, portrait)
    rows, wrong = [], []
    expected = runs["cpu, float32"].tokens
    for name, run in runs.items():
        far = _distance(run.tokens, expected)
        limit = FAST if "--fast" in name else EXACT
        # NaN is no distance
        if not far <= limit:
            wrong.append(f"extract, {name}: tokens are {far:.1e} from the CPU's, at most {limit}")
        if not run.apart <= limit:
            wrong.append(
                f"extract, {name}: among {FACES} faces one has tokens {run.apart:.1e} from its own"
            )
        for kind, seconds in (("cold", run.cold), ("warm", run.warm)):
            cells = (f"{seconds[stage]:.3f}" for stage in (*STAGES, "total"))
            rows.append((name, kind, *cells, f"{far:.1e}"))
    heads = ("where", "", *(f"{stage}, s" for stage in STAGES), "in all, s", "from the CPU's")
    print_table("One extraction (goal on a GPU: 0.4 s warm)", heads, rows)
    faces = []
    for name, run in runs.items():
        cells = (f"{1000 * run.alone:.1f}", f"{1000 * run.together:.1f}", f"{run.apart:.1e}")
        faces.append((name, *cells))
    heads = ("where", "one by one, ms", "together, ms", "tokens apart")
    print_table(f"EVA-CLIP's share of each of {FACES} faces", heads, faces)
    return wrong


def measured(way: str, folder: Path, device: str, portrait: Path | None = None) -> Run:
    """One way in this process."""
    image = None
    if portrait is not None:
        from PIL import Image

        image = np.asarray(Image.open(portrait).convert("RGB"))
    seconds, tokens = measure_way(way, folder, device, image)
    assert tokens is not None
    if image is None:
        from bench.networks import photograph

        image = photograph()
    together, alone, apart = _several(way, folder, device, image)
    return Run(seconds["cold"], seconds["warm"], tokens, together, alone, apart)


def _several(way: str, folder: Path, device: str, image: np.ndarray) -> tuple[float, float, float]:
    """Seconds for each face together and alone, and what that changes of one face's tokens."""
    from pulid_extract.extraction.extractor import Extractor

    extractor = Extractor.load(models_dir=folder, device=device, fast=way == "fast")
    crop = extractor.crop(image)
    # of other faces: shades of this one
    crops = [replace(crop, grey=crop.grey * (1 - 0.05 * number)) for number in range(FACES)]
    taken: dict[int, list[float]] = {1: [], FACES: []}
    features = []
    for _ in range(TURNS):
        for at_once, times in taken.items():
            _synchronize(device)
            start = time.perf_counter()
            features = []
            for first in range(0, FACES, at_once):
                features += extractor._features(crops[first : first + at_once])
            _synchronize(device)
            times.append((time.perf_counter() - start) / FACES)
    apart = _distance(
        extractor.tokens(features[-1:]), extractor.tokens([extractor.features(crops[-1])])
    )
    return statistics.median(taken[FACES]), statistics.median(taken[1]), apart


def _synchronize(device: str) -> None:
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _child(way: str, folder: Path, device: str, portrait: Path | None) -> Run:
    command = [sys.executable, "-m", "bench.gpu.extract", "--way", way, "--device", device]
    command += ["--folder", str(folder)]
    if portrait is not None:
        command += ["--portrait", str(portrait)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    return _read(done.stdout)


def _written(run: Run) -> bytes:
    numbers = {"together": run.together, "alone": run.alone, "apart": run.apart}
    told: dict[str, Any] = {"cold": run.cold, "warm": run.warm, **numbers}
    stream = io.BytesIO()
    np.savez(stream, told=json.dumps(told), tokens=run.tokens)
    return stream.getvalue()


def _read(data: bytes) -> Run:
    with np.load(io.BytesIO(data)) as held:
        return Run(tokens=held["tokens"], **json.loads(str(held["told"])))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--way", choices=("ours", "fast"), required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--portrait", type=Path)
    arguments = parser.parse_args()
    run = measured(arguments.way, arguments.folder, arguments.device, arguments.portrait)
    sys.stdout.buffer.write(_written(run))


if __name__ == "__main__":
    main()
