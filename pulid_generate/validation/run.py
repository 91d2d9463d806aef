"""`pulid-generate validate`: draw every prompt and seed with the identity and without, have the
faces compared, write the report.

The pictures are rows of a batch: models load once, one that fails does not stop the rest, --resume
continues where it was stopped.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pulid_extract.shared.cli import console
from pulid_extract.shared.embedding_file import read_embedding
from pulid_extract.shared.writing import check_not_input, check_writable, make_folder
from pulid_generate.assembly import opening
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.usage import given_flags, shared_input_error
from pulid_generate.batch.command import draw_rows
from pulid_generate.batch.judging import Rows
from pulid_generate.batch.lines import PictureResult
from pulid_generate.errors import InputError, PulidError
from pulid_generate.flags.commands import BatchFlags, ValidateFlags
from pulid_generate.flags.names import flag_name
from pulid_generate.pictures.description import parse_description
from pulid_generate.pictures.picture import read_parameters
from pulid_generate.pictures.scorer import Score, Scorer
from pulid_generate.pictures.three_way import mean_change
from pulid_generate.rows.grid import parse_seeds, read_prompts
from pulid_generate.rows.row import Row
from pulid_generate.validation.formats import as_dict, as_table
from pulid_generate.validation.notes import notes_of
from pulid_generate.validation.prompts import TRIALS, Trial, own_trials
from pulid_generate.validation.report import (
    PERSON,
    RUNS,
    STRANGER,
    WITHOUT,
    KnownPicture,
    Report,
    Shot,
    ValidatedIdentity,
)
from pulid_generate.validation.writing import JSON, PAGE, SHEET, write_report
from pulid_generate.version import __version__

if TYPE_CHECKING:
    import numpy as np

# Fields of one picture -> what validate has instead
INSTEAD = {
    "prompt": "--prompts FILE",
    "prompt_file": "--prompts FILE",
    "seed": "--seeds",
    "batch_count": "--seeds",
    "output": "--output-dir",
    "output_begin_idx": "--output-dir",
}
# of a picture's metadata: not what all share
OF_EACH = ("prompt", "seed", "identity", "t5_tokens", "sigmas", "pulid_generate")


def run(context: typer.Context, flags: ValidateFlags) -> None:
    """The command."""
    given = given_flags(context, flags)
    if wrong := _usage_error(flags, given):
        context.fail(wrong)
    progress = Progress(flags.verbose, flags.quiet)
    scorer = opening.scorer_of(flags, flags.models_dir, progress.log)
    folder = Path(flags.output_dir).expanduser()
    shots = _plan(flags)
    identity = _identity(flags)
    inputs = [*scorer.references, *scorer.strangers]
    if flags.prompts is not None:
        inputs.append(flags.prompts)
    _check_outputs(folder, shots, inputs)

    recognizer, own_scores = scorer.check()
    if note := recognizer.note_on(read_embedding(flags.pulid_id_embedding or "")):
        progress.note(note)
    shots = _draw(flags, given, shots, progress)
    # what the program says of all of them together is not about one
    shots = _compare(shots, folder, replace(scorer, log=lambda line: None), progress)
    references = []
    for path, score in zip(scorer.references, own_scores, strict=True):
        references.append(_known(path, score))
    report = Report(
        tool=f"pulid-generate {__version__}",
        identity=identity,
        references=references,
        strangers=[_known(path) for path in scorer.strangers],
        recognizer=recognizer,
        settings=_settings(shots, folder),
        shots=shots,
        minimum=flags.min_similarity,
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


def _check_verdict(report: Report, page: Path) -> None:
    """Raise PulidError for pictures that are missing, and for a similarity below the minimum."""
    missing = sum(shot.counted is None for shot in report.shots)
    if missing:
        raise PulidError(
            f"{missing} of {len(report.shots)} pictures could not be drawn or scored, the report "
            "is without them; run it again with --resume"
        )
    if report.passed is False:
        raise PulidError(
            f"similarity {report.similarity:.3f}, below --min-similarity {report.minimum:g}; "
            f"look at {page}"
        )


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
    if flags.prompts is not None:
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
    return ValidatedIdentity(person, flags.pulid_id_weight, stranger)


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
) -> list[Shot]:
    """The shots, as far as they could be drawn. Raises PulidError for what stops all of them."""
    batch = Rows(BatchFlags.of_command(flags, prompts=None, seeds=None), given)
    rows = [_row(shot, number, flags) for number, shot in enumerate(shots, 1)]
    results: dict[int, PictureResult] = {}

    def keep(result: PictureResult) -> None:
        results[result.row] = result

    draw_rows(batch, rows, progress, "validate", emit=keep)
    drawn = []
    for number, shot in enumerate(shots, 1):
        result = results[number]
        drawn.append(replace(shot, sha256=result.sha256, error=result.error))
    return drawn


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


# ---------------------------------------------------------------------------------------- comparing


def _compare(shots: Sequence[Shot], folder: Path, scorer: Scorer, progress: Progress) -> list[Shot]:
    """The shots with their scores, and how far each is from the one at weight 0. Raises
    PackageError, ScoringError.
    """
    drawn = [shot for shot in shots if shot.sha256 is not None]
    pictures = [folder / shot.output for shot in drawn]
    scores: dict[str, Score] = {}
    for shot, score in zip(drawn, scorer.scores(pictures), strict=True):
        scores[shot.output] = score
        progress.step("scores", len(scores), len(drawn))

    bases: dict[tuple[Trial, int], Shot] = {}
    for shot in drawn:
        if shot.run == WITHOUT and scores[shot.output].status != "failed":
            bases[shot.trial, shot.seed] = shot
    compared = []
    for shot in shots:
        if shot.output not in scores:
            compared.append(shot)
            continue
        score, base = scores[shot.output], bases.get((shot.trial, shot.seed))
        moved = None
        if shot.run != WITHOUT and score.status != "failed" and base is not None:
            moved = mean_change(_pixels(folder, shot), _pixels(folder, base))
        compared.append(_with_score(shot, score, moved))
    return compared


def _with_score(shot: Shot, score: Score, moved: float | None) -> Shot:
    return replace(
        shot,
        # a picture that is "failed" was not drawn
        status="unreadable" if score.status == "failed" else score.status,
        cosine=score.cosine,
        stranger=score.stranger,
        faces=score.faces,
        moved=moved,
        error=score.error,
    )


def _pixels(folder: Path, shot: Shot) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    import numpy as np
    from PIL import Image

    with Image.open(folder / shot.output) as image:
        return np.asarray(image.convert("RGB"))


def _known(path: str | Path, score: Score | None = None) -> KnownPicture:
    """What the report says of a reference or a stranger: no folder, which would say more than is
    needed. score: of a reference, with the others. Raises InputError.
    """
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    name, sha256 = Path(path).name, hashlib.sha256(data).hexdigest()
    if score is None:
        return KnownPicture(name, sha256)
    return KnownPicture(name, sha256, score.cosine, score.stranger)


def _settings(shots: Sequence[Shot], folder: Path) -> dict[str, Any]:
    """What the pictures share, from the metadata of the person's first; nothing if they carry
    none.
    """
    for shot in shots:
        if shot.run == PERSON and shot.sha256 is not None:
            try:
                facts = parse_description(read_parameters((folder / shot.output).read_bytes()))
            except (PulidError, OSError):
                return {}
            return {name: value for name, value in facts.items() if name not in OF_EACH}
    return {}
