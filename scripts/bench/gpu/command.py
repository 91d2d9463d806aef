"""The part `command` of bench.gpu: the whole command on seeded files of the published sizes, from
nothing to a picture, and whether A = B as files.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from bench.full_size_files import Sizes, files, write_complete
from bench.gpu.tables import print_table

PROCESSES = 7
STEPS = 10
# what the command says with -v, and what that is the start of
STAGES = (
    ("loading CLIP", "CLIP-L"),
    ("loading T5", "T5"),
    ("loading Flux", "Flux"),
    ("loading autoencoder", "autoencoder"),
)


def measure(device: str, sizes: Sizes, folder: Path, side: int = 1024) -> list[str]:
    """Write what is missing, draw twice (the first time fills the page cache and Triton's), check;
    print the table. Returns a line for every result that is wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    write(sizes, folder)
    print(f"files: {time.monotonic() - started:.0f} s to write, in {folder}\n", flush=True)
    flags = [part for file in files(sizes) for part in (file.flag, str(folder / file.name))]
    flags += ["-p", "a portrait in the rain", "-W", str(side), "-H", str(side)]
    flags += ["--steps", str(STEPS), "--device", device]
    rows, wrong = [], []
    for name, more in RUNS.items():
        if name == "--compute int8" and device != "cpu":
            continue
        code, seconds, stages, last = _draw([*flags, *more, "-v", "-o", str(folder / "out.png")])
        if code:
            wrong.append(f"{name}: ended with {code}: {last}")
        marks = (f"{stages[what]:.1f}" if what in stages else "-" for _, what in STAGES)
        rows.append((name, *marks, f"{seconds:.1f}"))
    heads = ("run", *(f"{what} from, s" for _, what in STAGES), "in all, s")
    print_table(f"From nothing to a picture, {side}x{side}, {STEPS} steps, Q4_K", heads, rows)
    checked = _run(["verify", *flags, "--steps", "2"])
    print(checked.stdout.strip(), "\n", flush=True)
    if checked.returncode:
        wrong.append(f"verify: {checked.stderr.strip().splitlines()[-1:]}")
    return wrong


# each is drawn in a process of its own, in this order
RUNS: dict[str, tuple[str, ...]] = {
    "first": (),
    "again, files and kernels cached": (),
    "--dequantize": ("--dequantize",),
    "--compute int8": ("--compute", "int8"),
}


def write(sizes: Sizes, folder: Path) -> None:
    """Every file that is not there, several at a time."""
    # a thread each: what is forked has not the threads that OpenMP counts on
    with ProcessPoolExecutor(PROCESSES, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for done in [pool.submit(_write_one, sizes, n, folder) for n in range(len(files(sizes)))]:
            done.result()


def _write_one(sizes: Sizes, number: int, folder: Path) -> None:
    # by number: what writes a file is a function that no other process can be given
    write_complete(files(sizes)[number], folder)


def _draw(flags: list[str]) -> tuple[int, float, dict[str, float], str]:
    """Exit code, seconds, stage -> second at which it began, the last line."""
    started = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-m", "pulid_generate", *flags],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    stages: dict[str, float] = {}
    last = ""
    assert child.stderr is not None
    for line in child.stderr:
        last = line.strip() or last
        for said, what in STAGES:
            if re.search(said, line):
                stages.setdefault(what, time.monotonic() - started)
    return child.wait(), time.monotonic() - started, stages, last


def _run(arguments: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pulid_generate", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
