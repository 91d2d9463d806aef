"""A long batch that is killed again and again: with --resume every row comes out once, and every
file is whole.

    PYTHONPATH=scripts python -m bench.soak [--rows 1000] [--kills 20] [--seed 0]

Draws rows on the micro models with one thread, kills the process (SIGKILL) at random moments, while
it loads or while it draws, and starts it again with --resume. Processes are forks of this one,
which has drawn a picture and so imported the libraries: 20 starts would do it 20 times.

At the end every row must have been drawn once, and every file must decode, carry its row's metadata
and have the SHA-256 of its last line of results; nothing half-written may be left. Prints a
Markdown table; exit 1 if anything is wrong. docs/performance.md has a run.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from seeded.checkpoints import write_embedding
from seeded.micro_models import parts

from pulid_generate import cli
from pulid_generate.errors import PulidError
from pulid_generate.pictures.description import parse_description
from pulid_generate.pictures.picture import read_parameters

WANTED = ("flux1-", "pulid_flux", "ae.", "clip_l", "t5xxl", "tokenizer")
PROMPTS = ("a cat", "in the rain", "at night", "as a knight", "reading a book")
SIDE = 64
# seconds within which a process is killed that was to be killed before it has drawn anything
LOADING = 2.0
HALF = ".0001.png.soak.part"  # what a kill amid writing leaves; random moments seldom hit one


@dataclass
class Soak:
    """What happened. runs: the lines of each process. loading: kills before the process had drawn a
    picture. left: half-written files that kills left behind. problems: what must not be.
    """

    rows: int
    runs: list[list[dict[str, Any]]] = field(default_factory=list)
    loading: int = 0
    left: int = 0
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        return len(self.runs) - 1

    def table(self) -> str:
        done = sum(line["status"] == "done" for run in self.runs for line in run)
        facts = {
            "rows": self.rows,
            "kills (SIGKILL)": f"{self.kills}, "
            f"{self.loading} of them before the process had drawn anything",
            "pictures drawn and told": done,
            "drawn, but killed before it was told": self.rows - done,
            "half-written files left by kills, gone at the end": self.left,
            "wall time, all starts included": f"{self.seconds / 60:.1f} min",
            "problems": len(self.problems),
        }
        return "\n".join(
            ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())]
        )


def soak(folder: Path, models: Path, rows: int, kills: int, seed: int) -> Soak:
    """Draw the rows into folder/out, killed so many times, and check what came of it. models: a
    folder of micro models.
    """
    chance = random.Random(seed)
    write_manifest(folder, rows, chance)
    out = folder / "out"
    _import_all(folder, models)
    found, started = Soak(rows), time.monotonic()
    for moment in [*sorted(chance.randrange(1, rows) for _ in range(kills)), None]:
        run = _run(folder, models, len(found.runs), moment, chance)
        found.runs.append(run)
        if moment is not None:
            found.loading += not any(line["status"] == "done" for line in run)
            found.left += len(list(out.glob(".*.part")))
            if out.is_dir():
                (out / HALF).write_bytes(b"half")
    found.seconds = time.monotonic() - started
    found.problems = check(folder, found.runs)
    return found


def write_manifest(folder: Path, rows: int, chance: random.Random) -> None:
    """rows.jsonl: rows of several prompts, people and weights, each with a seed and a file of its
    own.
    """
    people = [
        None,
        *(
            write_embedding(folder / f"{name}.pulidembd", seed=seed).name
            for name, seed in (("ada", 5), ("bob", 6))
        ),
    ]
    lines = []
    for number in range(1, rows + 1):
        row = {"prompt": chance.choice(PROMPTS), "seed": number, "output": f"{number:04d}.png"}
        person = chance.choice(people)
        if person is not None:
            row |= {"pulid_id_embedding": person, "pulid_id_weight": chance.choice((0.5, 1.0))}
        lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n")


def _command(models: Path, *arguments: object) -> list[str]:
    files = ("--models-dir", models, "--t5-tokenizer", models / "tokenizer.json", "--device", "cpu")
    return [
        *map(
            str,
            ("pulid-generate", *arguments, *files, "--steps", 1, "-W", SIDE, "-H", SIDE, "--quiet"),
        )
    ]


def _import_all(folder: Path, models: Path) -> None:
    """Draw a picture in this process, so that what is forked has nothing to import."""
    person = folder / "ada.pulidembd"
    sys.argv = _command(
        models, "-p", "a dog", "--pulid-id-embedding", person, "-o", folder / "first.png"
    )
    with contextlib.redirect_stdout(sys.stderr):
        cli.app(standalone_mode=False)


def _run(
    folder: Path, models: Path, number: int, moment: int | None, chance: random.Random
) -> list[dict[str, Any]]:
    """Start the batch; kill it once so many pictures are there, or, if they are already, while it
    loads. The lines that it has told.
    """
    out, log = folder / "out", folder / f"run-{number:02d}.jsonl"
    command = _command(models, "batch", folder / "rows.jsonl", "--resume", "--output-dir", out)
    there, child = _count(out), _fork(command, log, log.with_suffix(".log"))
    if moment is not None:
        if there >= moment:
            time.sleep(chance.uniform(0, LOADING))
        while (
            _count(out) < moment
            and os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != (0 if moment is None else -signal.SIGKILL):
        sys.exit(f"soak: run {number} ended with {code}\n{log.with_suffix('.log').read_text()}")
    print(f"run {number}: {_count(out)} pictures", file=sys.stderr, flush=True)
    return [
        json.loads(line)
        for line in log.read_text().splitlines(keepends=True)
        if line.endswith("\n")
    ]


def _fork(command: list[str], told: Path, said: Path) -> int:
    """The process of a command line of pulid-generate, as its entry point runs it; its id."""
    child = os.fork()
    if child:
        return child
    for number, path in ((1, told), (2, said)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = command
    try:
        cli.main()
        os._exit(0)
    except SystemExit as stop:
        os._exit(stop.code if isinstance(stop.code, int) else bool(stop.code))
    except BaseException:
        traceback.print_exc()
    os._exit(70)


def _count(out: Path) -> int:
    return sum(not name.startswith(".") for name in os.listdir(out)) if out.is_dir() else 0


def check(folder: Path, runs: list[list[dict[str, Any]]]) -> list[str]:
    """What is wrong with the last run's lines, and with the files. runs: the lines of each process,
    in their order.
    """
    rows = dict(enumerate(map(json.loads, (folder / "rows.jsonl").read_text().splitlines()), 1))
    problems = []
    if sorted(line["row"] for line in runs[-1]) != list(rows):
        problems.append("the last run does not tell every row once")
    drawn = Counter(line["row"] for run in runs for line in run if line["status"] == "done")
    problems += [f"row {row}: drawn {count} times" for row, count in drawn.items() if count > 1]
    problems += [
        f"row {line['row']}: {line['error']}"
        for run in runs
        for line in run
        if line["status"] == "failed"
    ]
    names = sorted(path.name for path in (folder / "out").iterdir())
    if names != sorted(row["output"] for row in rows.values()):
        problems.append(
            f"{len(names)} files for {len(rows)} rows, such as "
            f"{sorted(set(names) - {row['output'] for row in rows.values()})[:3]}"
        )
    last = {line["row"]: line["sha256"] for run in runs for line in run}
    for number, row in rows.items():
        wrong = _wrong(folder / "out" / row["output"], row, last.get(number))
        problems += [f"row {number}: {wrong}"] if wrong else []
    return problems


def _wrong(path: Path, row: dict[str, Any], sha256: str | None) -> str | None:
    """What is wrong with a row's file."""
    try:
        data = path.read_bytes()
        pixels = Image.open(io.BytesIO(data))
        pixels.load()
        facts = parse_description(read_parameters(data))
    except (OSError, PulidError, SyntaxError) as error:
        return f"{path.name}: {error}"
    if hashlib.sha256(data).hexdigest() != sha256:
        return "the file's SHA-256 is not that of its last line"
    if pixels.size != (SIDE, SIDE) or (facts["seed"], facts["prompt"]) != (
        row["seed"],
        row["prompt"],
    ):
        return "the file is another row's picture"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)  # before anything is computed: threads do not survive a fork
    os.environ.pop("PULID_NO_CACHE", None)
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        os.environ["PULID_CACHE_DIR"] = str(Path(name) / "cache")
        models = Path(name) / "models"
        models.mkdir()
        for part in parts():
            if part.name.startswith(WANTED):
                part.write(models / part.name, 0)
        found = soak(Path(name), models, given.rows, given.kills, given.seed)
    print(found.table())
    for problem in found.problems:
        print(f"soak: {problem}", file=sys.stderr)
    sys.exit(1 if found.problems else 0)


if __name__ == "__main__":
    main()
