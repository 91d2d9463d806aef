"""sd-cli and this toolkit on the same files, one after the other: processor seconds of a step.

    PYTHONPATH=scripts python -m bench --sd-cli PATH

Files of the published widths with one double and four single blocks are written to build/beside (4
GB, kept for the next time). Each program draws with few and with more steps in turn; the difference
of their processor seconds, of all cores, is what steps take, without what loading takes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.full_size_files import Sizes, files, write_complete

FEW, MORE = 1, 4
SIDE = 256
TURNS = 2
FOLDER = Path("build/beside")
# flags that only one of the two knows, or needs
OURS = ("--device", "cpu")
THEIRS = ("--cfg-scale", "1.0", "--sampling-method", "euler")
NOT_THEIRS = ("--t5-tokenizer", "--pulid-weights", "--pulid-id-embedding")


def beside(sdcli: str, sizes: Sizes | None = None, folder: Path = FOLDER) -> str:
    """The table, as Markdown. sdcli: the program."""
    sizes = sizes or Sizes(double=1, single=4)
    folder.mkdir(parents=True, exist_ok=True)
    ours: list[str] = [sys.executable, "-m", "pulid_generate", *OURS]
    theirs = [sdcli, *THEIRS]
    for file in files(sizes):
        write_complete(file, folder)
        if file.flag.startswith("--pulid"):
            continue
        ours += [file.flag, str(folder / file.name)]
        if file.flag not in NOT_THEIRS:
            theirs += [file.flag, str(folder / file.name)]
    programs = {
        "sd-cli": theirs,
        "ours, by default": ours,
        "ours, float32": [*ours, "--dtype", "float32"],
    }
    seconds = dict.fromkeys(programs, float("inf"))
    for _ in range(TURNS):
        for name, command in programs.items():
            few, more = (_busy(command, steps, folder) for steps in (FEW, MORE))
            seconds[name] = min(seconds[name], (more - few) / (MORE - FEW))
    lines = [
        f"**A step beside sd-cli, {sizes.double} + {sizes.single} blocks of width {sizes.width}, "
        f"{SIDE}x{SIDE}, Q4_K**",
        "",
        "| program | processor seconds a step | sd-cli's over it |",
        "|---|---|---|",
    ]
    for name, taken in seconds.items():
        lines.append(f"| {name} | {taken:.2f} | {seconds['sd-cli'] / max(taken, 1e-9):.1f}x |")
    return "\n".join(lines) + "\n"


def _busy(command: Sequence[str], steps: int, folder: Path) -> float:
    """Processor seconds of one drawing."""
    drawing = ["-p", "a portrait", "-W", str(SIDE), "-H", str(SIDE), "--steps", str(steps)]
    child = subprocess.Popen(
        [*command, *drawing, "--seed", "1", "-o", str(folder / "out.png")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert child.stderr is not None
    said = child.stderr.read().decode(errors="replace").strip().splitlines()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        last = said[-1] if said else "it said nothing"
        sys.exit(f"bench: {Path(command[0]).name} ended with {child.returncode}: {last}")
    return usage.ru_utime + usage.ru_stime
