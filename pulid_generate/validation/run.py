"""`pulid-generate validate`: draw every prompt and seed with the identity and without, have the
faces compared, write the report.

The pictures are rows of a batch: models load once, one that fails does not stop the rest, --resume
continues where it was stopped.
"""

from __future__ import annotations

import itertools
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from pulid_extract.shared.cli import console
from pulid_extract.shared.embedding_file import read_embedding
from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.writing import check_not_input, check_writable, make_folder
from pulid_generate.assembly import opening
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.usage import given_flags, shared_input_error
from pulid_generate.batch.command import draw_rows
from pulid_generate.batch.judging import Rows
from pulid_generate.batch.lines import PictureResult
from pulid_generate.errors import InputError, PulidError, UsageError
from pulid_generate.flags.commands.names import flag_name
from pulid_generate.flags.commands.tables import BatchFlags, ValidateFlags
from pulid_generate.rows.grid import parse_seeds, read_prompts
from pulid_generate.rows.row import Row
from pulid_generate.validation.comparing import compared_report, open_judges
from pulid_generate.validation.formats import as_dict, as_table
from pulid_generate.validation.measures import JUDGE_OF_PROMPTS, parse_requirements
from pulid_generate.validation.notes import notes_of
from pulid_generate.validation.prompts import (
    SMALL_WORLD,
    SMALL_WORLD_TRIALS,
    TRIALS,
    Trial,
    own_trials,
)
from pulid_generate.validation.report import (
    RUNS,
    STRANGER,
    WITHOUT,
    Memory,
    Report,
    Requirement,
    Shot,
    ValidatedIdentity,
    number,
)
from pulid_generate.validation.writing import JSON, PAGE, SHEET, check_whose, write_report

# Fields of one picture -> what validate has instead
INSTEAD = {
    "prompt": "--prompts FILE",
    "prompt_file": "--prompts FILE",
    "seed": "--seeds",
    "batch_count": "--seeds",
    "output": "--output-dir",
    "output_begin_idx": "--output-dir",
}


def run(context: typer.Context, flags: ValidateFlags) -> None:
    """The command."""
    given = given_flags(context, flags)
    if wrong := _usage_error(flags, given):
        context.fail(wrong)
    progress = Progress(flags.verbose, flags.quiet)
    requirements = _requirements(flags)
    scorer = replace(
        opening.scorer_of(flags, flags.models_dir, progress.log),
        truths=flags.truth or (),
        prompt_judge=flags.prompt_judge,
        eva_clip=flags.eva_clip,
    )
    folder = path_of(flags.output_dir)
    shots = _plan(flags)
    identity = _identity(flags)
    inputs = [*scorer.references, *scorer.strangers, *scorer.truths]
    if flags.prompts not in (None, SMALL_WORLD):
        inputs.append(flags.prompts)
    _check_outputs(folder, shots, inputs)
    check_whose(folder / JSON, identity)

    must_judge = any(one.measure.needs == JUDGE_OF_PROMPTS for one in requirements)
    opened = open_judges(scorer, must_judge, progress.log)
    scorer, judges, _, _ = opened
    for note in judges.notes_on(read_embedding(flags.pulid_id_embedding or "")):
        progress.note(note)
    shots, memory = _draw(flags, given, shots, progress)
    report = compared_report(
        shots,
        folder,
        opened,
        progress,
        command=command_line(),
        identity=identity,
        memory=memory,
        requirements=requirements,
    )
    paths = write_report(report, folder, scorer, progress.note)
    if flags.as_json:
        console.write_line(json.dumps(as_dict(report), ensure_ascii=False))
    else:
        console.write_line(as_table(report))
        for path in paths:
            console.write_line(str(path))
    for note in notes_of(report):
        progress.note(note)
    _check_verdict(report, paths[0])


def command_line() -> str:
    """As it would be typed."""
    return shlex.join(["pulid-generate", *sys.argv[1:]])


def _requirements(flags: ValidateFlags) -> list[Requirement]:
    """Raises UsageError for what is none, and for what nothing could meet."""
    requirements = parse_requirements(flags.require or ())
    if flags.min_similarity is not None:
        requirements += parse_requirements([f"mean_likeness>={flags.min_similarity}"])
    given = {"--truth": flags.truth, "--stranger": flags.stranger}
    for requirement in requirements:
        needs = requirement.measure.needs
        if needs in given and not given[needs]:
            raise UsageError(f"--require {requirement}: has no value without {needs}")
    return requirements


def _check_verdict(report: Report, page: Path) -> None:
    """Raise PulidError for pictures that are missing, and for what is required and is not so."""
    missing = sum(shot.counted is None for shot in report.shots)
    if missing:
        raise PulidError(
            f"{missing} of {len(report.shots)} pictures could not be drawn or scored, the report "
            "is without them; run it again with --resume"
        )
    if report.passed is False:
        broken = []
        for requirement in report.requirements:
            if not requirement.is_met(report):
                value = number(requirement.measure.of(report), requirement.measure.digits)
                broken.append(f"{requirement.measure.name} is {value}, required {requirement}")
        raise PulidError(f"{'; '.join(broken)}; look at {page}")


def _usage_error(flags: ValidateFlags, given: frozenset[str]) -> str | None:
    if flags.pulid_id_embedding is None:
        return "Missing option '--pulid-id-embedding'."
    if not flags.reference:
        return "Missing option '--reference'."
    if flags.identity:
        return "validate looks at one person; give --pulid-id-embedding and no --identity."
    for name, instead in INSTEAD.items():
        if name in given:
            return f"{flag_name(name)} is for one picture; give {instead}."
    if flags.pulid_id_weight == 0:
        return "validate compares with weight 0 by itself; give another --pulid-id-weight."
    return shared_input_error(flags)


# ------------------------------------------------------------------------------------------ drawing


def _plan(flags: ValidateFlags) -> list[Shot]:
    """Every picture: prompts outermost, then seeds, then the person and the controls. Raises
    InputError, RequestError.
    """
    trials: Sequence[Trial] = TRIALS
    if flags.prompts == SMALL_WORLD:
        trials = SMALL_WORLD_TRIALS
    elif flags.prompts is not None:
        trials = own_trials(read_prompts(flags.prompts))
    seeds = parse_seeds(flags.seeds)
    runs = [run for run in RUNS if run != STRANGER or flags.stranger_embedding is not None]
    shots = []
    for trial, seed, run in itertools.product(trials, seeds, runs):
        shots.append(Shot(trial, seed, run, f"pictures/{trial.name}_{seed}_{run}.png"))
    return shots


def _identity(flags: ValidateFlags) -> ValidatedIdentity:
    """Raises IdentityError; InputError for a stranger who is the person."""
    # _usage_error has seen to it
    assert flags.pulid_id_embedding is not None
    person = read_embedding(flags.pulid_id_embedding).sha256
    stranger = None
    if flags.stranger_embedding is not None:
        stranger = read_embedding(flags.stranger_embedding).sha256
        if stranger == person:
            raise InputError(
                f"--stranger-embedding {flags.stranger_embedding}: is the person; a control wants "
                "somebody else"
            )
    return ValidatedIdentity(
        Path(flags.pulid_id_embedding).name, person, flags.pulid_id_weight, stranger
    )


def _check_outputs(folder: Path, shots: Sequence[Shot], inputs: Sequence[str | Path]) -> None:
    """Raise OutputError now for what could not be written later, or would take the place of a file
    that is read.
    """
    make_folder(folder, advice="give another --output-dir")
    for name in (PAGE, JSON, SHEET, *(shot.output for shot in shots)):
        check_not_input(folder / name, inputs)
    check_writable(folder / PAGE)


def _draw(
    flags: ValidateFlags, given: frozenset[str], shots: Sequence[Shot], progress: Progress
) -> tuple[list[Shot], Memory | None]:
    """The shots, as far as they could be drawn, and the memory that it took. Raises PulidError for
    what stops all of them.
    """
    batch = Rows(BatchFlags.of_command(flags, prompts=None, seeds=None), given)
    rows = [_row(shot, number, flags) for number, shot in enumerate(shots, 1)]
    results: dict[int, PictureResult] = {}

    def keep(result: PictureResult) -> None:
        results[result.row] = result

    draw_rows(batch, rows, progress, "validate", emit=keep)
    drawn = []
    for row, shot in enumerate(shots, 1):
        result = results[row]
        # one that was there already took no time now
        seconds = result.seconds if result.status == "done" else None
        drawn.append(replace(shot, sha256=result.sha256, error=result.error, seconds=seconds))
    anything = any(result.status == "done" for result in results.values())
    return drawn, _memory() if anything else None


def _memory() -> Memory:
    """The most that this process has taken so far."""
    import psutil
    import torch

    if torch.cuda.is_available() and (taken := torch.cuda.max_memory_allocated()):
        return Memory(taken, "cuda")
    try:
        import resource
    except ImportError:  # Windows
        return Memory(psutil.Process().memory_info().peak_wset, "cpu")
    unit = 1 if sys.platform == "darwin" else 1024
    return Memory(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, "cpu")


def _row(shot: Shot, number: int, flags: ValidateFlags) -> Row:
    """The row that draws a shot."""
    values: dict[str, Any] = {
        "prompt": shot.trial.text,
        "seed": shot.seed,
        "output": shot.output,
    }
    if shot.run == WITHOUT:
        values["pulid_id_weight"] = 0.0
    if shot.run == STRANGER:
        values["pulid_id_embedding"] = flags.stranger_embedding
    where = f"row {number} ({shot.trial.name}, seed {shot.seed}, {RUNS[shot.run]})"
    return Row(number, None, where, values)
