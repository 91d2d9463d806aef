"""The table `batch` of the benchmarks: one process that draws many rows against as many single
commands, on the micro models.

    PYTHONPATH=scripts python -m bench batch

The models are small, so loading and importing weigh more here than with real files, and a picture
less: the table says how much of a batch's time is neither denoising nor decoding once models are
loaded, and whether memory grows with the rows. Knows nothing of the models' insides.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from seeded.checkpoints import write_embedding
from seeded.micro_models import parts

ROWS = int(os.environ.get("BENCH_ROWS", "20"))  # that single commands draw as well
MANY = 10 * ROWS  # for memory
SIDE, STEPS = int(os.environ.get("BENCH_SIDE", "256")), 4
WANTED = ("flux1-", "pulid_flux", "ae.", "clip_l", "t5xxl", "tokenizer")

# A child that draws a grid through the command and says how its time was spent: the stages are
# timed from outside, by name.
TIMED = """
import json, sys, time
from pulid_generate import cli
from pulid_generate.batch.running import ResultLog
from pulid_generate.pipeline.engine import Engine
busy, memory, ends = [], [], []
def timed(function):
    def run(*arguments, **options):
        start = time.perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            busy.append((start, time.perf_counter()))
    return run
Engine._latents = timed(Engine._latents)
Engine._decode = timed(Engine._decode)
report = ResultLog.report
def reported(self, line):
    status = open("/proc/self/status").read()
    memory.append(int(status.partition("VmRSS:")[2].split()[0]))
    ends.append(time.perf_counter())
    report(self, line)
ResultLog.report = reported
sys.argv = ["pulid-generate", *sys.argv[1:]]
try:
    cli.main()
except SystemExit as stop:
    assert not stop.code, stop.code
first, last, used = ends[0], ends[-1], 0.0
reached = first
for start, end in sorted(busy):  # they overlap: what counts is when neither runs
    used += max(0.0, min(end, last) - max(start, reached))
    reached = max(reached, end)
print(json.dumps({"wall": last - first, "used": used, "memory": memory}), file=sys.stderr)
"""


def batch() -> str:
    """The table, as Markdown."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models = folder / "models"
        models.mkdir()
        for part in parts():
            if part.name.startswith(WANTED):
                part.write(models / part.name, 0)
        person = write_embedding(folder / "me.pulidembd")
        common = (
            *(
                "--models-dir",
                models,
                "--t5-tokenizer",
                models / "tokenizer.json",
                "--pulid-id-embedding",
                person,
            ),
            *(
                "-p",
                "a photo of a cat",
                "-W",
                SIDE,
                "-H",
                SIDE,
                "--steps",
                STEPS,
                "--device",
                "cpu",
                "--quiet",
            ),
        )
        print(f"batch: {ROWS} single commands", file=sys.stderr)
        alone = sum(
            _seconds("-m", "pulid_generate", *common, "-s", seed, "-o", folder / "x.png")[0]
            for seed in range(ROWS)
        )
        print(f"batch: {ROWS} rows", file=sys.stderr)
        rows = ("--seeds", f"0-{ROWS - 1}", "--no-cache", "--output-dir", folder / "out")
        together, _ = _seconds("-m", "pulid_generate", "batch", *common, *rows)
        print(f"batch: {MANY} rows", file=sys.stderr)
        many = ("--seeds", f"0-{MANY - 1}", "--no-cache", "--output-dir", folder / "many")
        _, told = _seconds("-c", TIMED, "batch", *common, *many)
    found = json.loads(told.splitlines()[-1])
    memory = [kib / 1024 for kib in found["memory"]]
    outside = max(0.0, 1 - found["used"] / found["wall"])
    lines = [
        ("", "pictures a minute"),
        ("---", "---"),
        (f"{ROWS} single commands", f"{60 * ROWS / alone:.1f}"),
        (
            f"one batch of {ROWS} rows, loading included",
            f"{60 * ROWS / together:.1f} ({alone / together:.1f}x)",
        ),
        (f"after loading, {MANY} rows", f"{60 * (MANY - 1) / found['wall']:.1f}"),
        ("time of these outside denoise and decode (goal: at most 3 %)", f"{outside:.1%}"),
        (
            f"resident memory after row {MANY // 10}, {MANY // 2} and {MANY}, MB",
            ", ".join(f"{memory[index - 1]:.0f}" for index in (MANY // 10, MANY // 2, MANY)),
        ),
    ]
    title = f"**Many rows, micro models, {SIDE}x{SIDE}, {STEPS} steps, on a CPU**"
    return "\n".join([title, "", *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def _seconds(*arguments: object) -> tuple[float, str]:
    """Wall time of a Python process, and its standard error."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - start, done.stderr
