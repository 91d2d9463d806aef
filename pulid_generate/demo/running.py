"""The demo's order: extract everybody, draw everybody and nobody, score, prove the injection, lay
out. Each step is a command of the two programs, shown as it would be typed. Imports no torch.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from pulid_extract.shared.cli import console
from pulid_generate.demo.layout import grid, rightly_picked
from pulid_generate.demo.scenes import PEOPLE, PROMPTS, SEED, write_portraits, write_rows
from pulid_generate.demo.world import DRAW, EXTRACT, JUDGE, models_folder
from pulid_generate.errors import PulidError, require_packages
from pulid_generate.pictures.sheet import write_sheet

# of both stages: without them the demo would end in its middle
LIBRARIES = ("cv2", "insightface", "onnxruntime", "sentencepiece")
# program -> its package, which Python runs as well
PROGRAMS = {"pulid-extract": "pulid_extract", "pulid-generate": "pulid_generate"}
WHAT_NEXT = """\
These people are drawings and the networks that draw them are small: they know portraits of 96
pixels and prompts such as the sheet's, of about twenty words at most. For photographs, fetch the
real files, 15 GB with Flux in 4 bits, and leave out the flags of the small world (--aligner,
--parser, --t5-max-length, --dtype, the sizes):

  pulid-extract pull --models-dir models
  pulid-generate pull schnell-q4 --models-dir models
  pulid-extract --portrait me.jpg --models-dir models --out me.pulidembd
  pulid-generate --pulid-id-embedding me.pulidembd --models-dir models -p "a man in the rain"

antelopev2 is for non-commercial research, FLUX.1 dev for non-commercial use; README.md says where
each file is from."""


def run_demo(folder: Path, models_dir: str | None) -> None:
    """Everything goes into `folder`; its sheet's path and the verdict go to standard output.

    Raises PulidError: packages or models are missing, or a command failed, which has said why.
    """
    require_packages(LIBRARIES, "extract,generate")
    # as seen from here, so that the commands shown are short
    models = Path(os.path.relpath(models_folder(models_dir)))
    portraits = write_portraits(folder / "portraits")
    identities = folder / "identities"
    called(
        *("pulid-extract", "batch", folder / "portraits", "--out-dir", identities),
        *("--models-dir", models, *EXTRACT),
    )
    names = write_rows(folder / "rows.jsonl", identities.name)
    called(
        *("pulid-generate", "batch", folder / "rows.jsonl"),
        *("--output-dir", folder / "pictures", "--models-dir", models, *DRAW),
    )
    pictures = [folder / "pictures" / name for name in names]
    cosines = scored(models, list(portraits.values()), pictures)
    table = called(
        *("pulid-generate", "verify", "--models-dir", models),
        *("--pulid-id-embedding", identities / f"{PEOPLE[0]}.pulidembd"),
        *("-p", PROMPTS[0], "--seed", SEED, "-o", folder / "out.png", *DRAW),
    )
    console.write_line(table.rstrip("\n"))
    right, count = rightly_picked(cosines, len(PEOPLE)), len(PEOPLE) * len(PROMPTS)
    console.write_line(
        f"the right one of {len(PEOPLE)} people is the most alike in {right} of {count} pictures"
    )
    verdict = table.splitlines()[-1]
    [sheet] = write_sheet(folder / "sheet.png", grid(portraits, pictures, cosines, verdict))
    console.write_line(str(sheet))
    for line in ("", *WHAT_NEXT.splitlines()):
        console.log(line)


def called(program: str, *arguments: object) -> str:
    """Standard output of a command, whose line is shown and who speaks to the terminal itself.
    Raises PulidError if it fails.
    """
    words = [str(argument) for argument in arguments]
    line = shlex.join([program, *words])
    console.log(f"$ {line}")
    done = subprocess.run(
        # the demo shows the same whatever pulid.toml says
        [sys.executable, "-m", PROGRAMS[program], *words, "--no-config"],
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise PulidError(f"demo: exit code {done.returncode} of {line}")
    return done.stdout


def scored(models: Path, references: Sequence[Path], pictures: Sequence[Path]) -> list[list[float]]:
    """For each picture the cosine to each reference; -1 where no face is found. Raises
    PulidError.
    """
    given = [argument for path in references for argument in ("--reference", path)]
    lines = called(
        # the mean over everybody's pictures means nothing here
        *("pulid-extract", "score", "--json", "--quiet", "--models-dir", models),
        *("--recognizer", models / JUDGE, *given, *pictures),
    )
    found = []
    for line in lines.splitlines():
        cosines = json.loads(line)["cosines"]
        found.append(cosines or [-1.0] * len(references))
    return found
