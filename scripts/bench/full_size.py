"""Draw one picture with models of the published sizes on this machine's CPU, and measure time and
memory.

    PYTHONPATH=scripts python -m bench.full_size [--dir build/full-size] [--keep] [--compute int8]

Writes seeded files (11 GB: see full_size_files.py), runs the real pulid-generate command in a child
process, two steps at 256x256 with PuLID, and prints a Markdown table for docs/performance.md on
standard output; progress on standard error. Interrupted, it goes on with the file it was writing.
Files it wrote are deleted after a successful run unless --keep is given. Linux only: memory is read
from /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.full_size_files import File, Sizes, files, missing, write_complete

GOAL = 1.25  # peak resident memory over the size of the Flux file
STEPS, SIDE = 2, 256
SPARE = 1 << 30  # bytes of disk to leave free
STAGES = ("CLIP-L", "T5", "Flux", "autoencoder")
INTERVAL = 0.1  # seconds between two looks at /proc
PICTURE, TIMES = "picture.png", "times.json"


@dataclass
class Stage:
    """What was seen of one stage: seconds, and the most resident bytes, all in all and of each kind
    at that moment.
    """

    name: str
    started: float
    seconds: float = 0.0
    resident: int = 0
    anonymous: int = 0
    mapped: int = 0


@dataclass
class Watch:
    """A running child: the stages its log has named, and its last lines."""

    stages: list[Stage] = field(default_factory=lambda: [Stage("start", time.monotonic())])
    lines: list[str] = field(default_factory=list)

    def read(self, stream) -> None:
        """Follow the child's standard error to its end."""
        for line in stream:
            sys.stderr.write(line)
            self.lines.append(line.rstrip())
            for name in STAGES:
                if f"loading {name}" in line:
                    self.stages.append(Stage(name, time.monotonic()))

    def look(self, pid: int) -> None:
        """Note what the child holds now."""
        stage, status = self.stages[-1], {}
        try:
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in ("RssAnon", "RssFile", "RssShmem"):
                    status[name] = int(value.split()[0]) * 1024
        except (OSError, ValueError):  # it has ended
            return
        stage.seconds = time.monotonic() - stage.started
        if sum(status.values()) > stage.resident:
            stage.resident, stage.anonymous, stage.mapped = (
                sum(status.values()),
                status.get("RssAnon", 0),
                status.get("RssFile", 0),
            )


@dataclass(frozen=True)
class Drawn:
    """One run of the command. peak: resident bytes, mapped files included. busy: seconds of
    processor time, of all cores.
    """

    code: int
    watch: Watch
    peak: int
    seconds: float
    busy: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dir",
        type=Path,
        default=Path("build/full-size"),
        help="folder for the files; must not hold others of the same names",
    )
    parser.add_argument("--keep", action="store_true", help="keep the files, for another run")
    parser.add_argument(
        "--compute", choices=("float", "int8"), default="float", help="as pulid-generate's"
    )
    arguments = parser.parse_args()
    sys.exit(check(Sizes(), arguments.dir, keep=arguments.keep, compute=arguments.compute))


def check(sizes: Sizes, folder: Path, *, keep: bool = False, compute: str = "float") -> int:
    """Write, draw, print, clean up. Returns the exit code: 0 if the picture was drawn within the
    goal.
    """
    if not Path("/proc/self/status").exists():
        sys.exit(
            "full_size: memory is read from /proc, which this system does not have; run it on Linux"
        )
    folder.mkdir(parents=True, exist_ok=True)
    prepare(sizes, folder)
    drawn = draw(files(sizes), folder, compute)
    if drawn.code:
        last = drawn.watch.lines[-1] if drawn.watch.lines else "it said nothing"
        sys.exit(f"full_size: pulid-generate failed with code {drawn.code}: {last}")
    flux = (folder / files(sizes)[0].name).stat().st_size
    print(table(drawn, flux, json.loads((folder / TIMES).read_text()), compute))
    if not keep:
        for name in (*(file.name for file in files(sizes)), PICTURE, TIMES):
            (folder / name).unlink(missing_ok=True)
        if not any(folder.iterdir()):
            folder.rmdir()
    return int(drawn.peak > GOAL * flux)


def prepare(sizes: Sizes, folder: Path) -> None:
    """Write what is missing, after a look at the disk; how long each file took stands in TIMES."""
    needed, free = (
        sum(file.nbytes for file in missing(sizes, folder)),
        shutil.disk_usage(folder).free,
    )
    if needed and needed + SPARE > free:
        sys.exit(
            f"full_size: {folder}: {free / 1e9:.1f} GB free, {(needed + SPARE) / 1e9:.1f} GB "
            "needed; "
            "free some, or name another folder with --dir"
        )
    times = json.loads((folder / TIMES).read_text()) if (folder / TIMES).exists() else {}
    for file in files(sizes):
        start = time.monotonic()
        if write_complete(file, folder):
            times[file.name] = round(time.monotonic() - start, 1)
            print(
                f"{file.name}: {(folder / file.name).stat().st_size:,} bytes, {times[file.name]} s",
                file=sys.stderr,
            )
        (folder / TIMES).write_text(json.dumps(times))


def draw(parts: list[File], folder: Path, compute: str) -> Drawn:
    """Run the command and watch it."""
    command = [sys.executable, "-m", "pulid_generate"]
    for part in parts:
        command += [part.flag, str(folder / part.name)]
    command += [
        "-p",
        "a portrait in the rain",
        "-W",
        str(SIDE),
        "-H",
        str(SIDE),
        "--steps",
        str(STEPS),
        "--device",
        "cpu",
    ]
    command += ["--compute", compute, "-v", "-o", str(folder / PICTURE)]
    print(" ".join(command), file=sys.stderr)
    watch, start = Watch(), time.monotonic()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    child = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment
    )
    reader = threading.Thread(target=watch.read, args=(child.stderr,))
    reader.start()
    try:
        while True:
            pid, status, usage = os.wait4(child.pid, os.WNOHANG)
            if pid:
                break
            watch.look(child.pid)
            time.sleep(INTERVAL)
    except KeyboardInterrupt:
        child.terminate()
        raise
    child.returncode = os.waitstatus_to_exitcode(status)
    reader.join()
    seconds, busy = time.monotonic() - start, usage.ru_utime + usage.ru_stime
    return Drawn(child.returncode, watch, usage.ru_maxrss * 1024, seconds, busy)


def table(drawn: Drawn, flux: int, times: dict[str, float], compute: str) -> str:
    """Markdown."""
    lines = [
        f"**The real size: {SIDE}x{SIDE}, {STEPS} steps, PuLID, Flux as Q4_K of "
        f"{flux / 1e9:.2f} GB, T5-XXL as Q4_K, --compute {compute}**",
        "",
        "| stage | seconds | peak resident, GB | anonymous, GB | mapped files, GB |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {s.name} | {s.seconds:.1f} | {s.resident / 1e9:.2f} | {s.anonymous / 1e9:.2f} | "
        f"{s.mapped / 1e9:.2f} |"
        for s in drawn.watch.stages
    ]
    ratio = drawn.peak / flux
    lines.append(
        f"| whole run | {drawn.seconds:.1f} | {drawn.peak / 1e9:.2f}: {ratio:.2f}x the Flux "
        f"file (goal: {GOAL}x) | | |"
    )
    lines += [
        "",
        f"Processor time of all cores: {drawn.busy:.0f} s. Writing the files took "
        f"{sum(times.values()):.0f} s.",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
