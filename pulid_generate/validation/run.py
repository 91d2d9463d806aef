"""`pulid-generate validate`: draw every prompt and seed with the identity and without, have the
faces compared, write the report.

The pictures are rows of a batch: models load once, one that fails does not stop the rest, --resume
goes on.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer

from pulid_extract.shared.cli import console
from pulid_extract.shared.embedding_file import read_embedding
from pulid_extract.shared.writing import (
    check_not_input,
    check_writable,
    make_folder,
    write_atomically,
)
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
from pulid_generate.pictures.scorer import Recognizer, Score, Scorer
from pulid_generate.pictures.sheet import write_sheet
from pulid_generate.pictures.sheet_grid import Heading, SheetGrid, Thumbnail
from pulid_generate.pictures.three_way import mean_change
from pulid_generate.rows.grid import parse_seeds, read_prompts
from pulid_generate.rows.row import Row
from pulid_generate.validation.page import as_page
from pulid_generate.validation.prompts import TRIALS, Trial, own_trials
from pulid_generate.validation.report import (
    PERSON,
    RUNS,
    STRANGER,
    WITHOUT,
    Report,
    Shot,
    mean,
    number,
)
from pulid_generate.version import __version__

SHORT = 12  # digits of a SHA-256 for people
SIDE, QUALITY = 320, 80  # of the page's small pictures, pixels and JPEG
# of a picture's metadata: not what all share
OF_EACH = ("prompt", "seed", "identity", "t5_tokens", "sigmas", "pulid_generate")
STATUS = {"failed": "unreadable"}  # of a score, where a picture's own word is another


def run(context: typer.Context, flags: ValidateFlags) -> None:
    """The command."""
    given = given_flags(context, flags)
    if wrong := _usage_error(flags, given):
        context.fail(wrong)
    progress = Progress(flags.verbose, flags.quiet)
    scorer = opening.scorer_of(flags, flags.models_dir, progress.log)
    folder = Path(flags.output_dir).expanduser()
    shots = _plan(flags)
    assert flags.pulid_id_embedding is not None  # _usage_error has seen to it
    identity = {
        "sha256": read_embedding(flags.pulid_id_embedding).sha256,
        "weight": flags.pulid_id_weight,
    }
    if flags.stranger_embedding is not None:
        identity["stranger_sha256"] = read_embedding(flags.stranger_embedding).sha256
        if identity["stranger_sha256"] == identity["sha256"]:
            raise InputError(
                f"--stranger-embedding {flags.stranger_embedding}: is the person; a control wants somebody else"
            )
    _check_outputs(
        folder,
        shots,
        [*scorer.references, *scorer.strangers, *([flags.prompts] if flags.prompts else [])],
    )
    judge, own = scorer.check()
    shots = _draw(flags, given, shots, progress)
    shots = _compare(shots, folder, replace(scorer, log=lambda line: None), progress)
    report = Report(
        tool=f"pulid-generate {__version__}",
        identity=identity,
        references=[
            _known(path, cosine=score.cosine, stranger=score.stranger)
            for path, score in zip(scorer.references, own, strict=True)
        ],
        strangers=[_known(path) for path in scorer.strangers],
        recognizer=_facts(judge),
        settings=_settings(shots, folder),
        shots=shots,
        minimum=flags.min_similarity,
    )
    paths = _write(report, folder, scorer, progress)
    console.write_line(
        json.dumps(report.as_dict(), ensure_ascii=False) if flags.as_json else report.as_table()
    )
    for path in [] if flags.as_json else paths:
        console.write_line(str(path))
    for note in report.notes():
        progress.note(note)
    if missing := sum(shot.counted is None for shot in shots):
        raise PulidError(
            f"{missing} of {len(shots)} pictures could not be drawn or scored, the report is without them; run it again with --resume"
        )
    if report.passed is False:
        raise PulidError(
            f"similarity {report.similarity:.3f}, below --min-similarity {report.minimum:g}; look at {paths[0]}"
        )


def _usage_error(flags: ValidateFlags, given: frozenset[str]) -> str | None:
    if flags.pulid_id_embedding is None:
        return "Missing option '--pulid-id-embedding'."
    if not flags.reference:
        return "Missing option '--reference'."
    if flags.identity:
        return "validate looks at one person; give --pulid-id-embedding and no --identity."
    for name, instead in {
        **dict.fromkeys(("prompt", "prompt_file"), "--prompts FILE"),
        **dict.fromkeys(("seed", "batch_count"), "--seeds"),
        **dict.fromkeys(("output", "output_begin_idx"), "--output-dir"),
    }.items():
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
    trials: Sequence[Trial] = (
        own_trials(read_prompts(flags.prompts)) if flags.prompts is not None else TRIALS
    )
    runs = [run for run in RUNS if run != STRANGER or flags.stranger_embedding is not None]
    return [
        Shot(trial, seed, run, f"pictures/{trial.name}_{seed}_{run}.png")
        for trial in trials
        for seed in parse_seeds(flags.seeds)
        for run in runs
    ]


def _check_outputs(folder: Path, shots: Sequence[Shot], inputs: Sequence[str | Path]) -> None:
    """Raise OutputError now for what could not be written later, or would take the place of a file
    that is read.
    """
    make_folder(folder, advice="give another --output-dir")
    for name in ("report.html", "report.json", "sheet.png", *(shot.output for shot in shots)):
        check_not_input(folder / name, inputs)
    check_writable(folder / "report.html")


def _draw(
    flags: ValidateFlags, given: frozenset[str], shots: Sequence[Shot], progress: Progress
) -> list[Shot]:
    """The shots, as far as they could be drawn. Raises PulidError for what stops all of them."""
    values: dict[str, dict[str, Any]] = {
        PERSON: {},
        WITHOUT: {"pulid_id_weight": 0.0},
        STRANGER: {"pulid_id_embedding": flags.stranger_embedding},
    }
    rows = [
        Row(
            number,
            None,
            f"row {number} ({shot.trial.name}, seed {shot.seed}, {RUNS[shot.run]})",
            {"prompt": shot.trial.text, "seed": shot.seed, "output": shot.output}
            | values[shot.run],
        )
        for number, shot in enumerate(shots, 1)
    ]
    results: dict[int, PictureResult] = {}
    draw_rows(
        Rows(BatchFlags.of_command(flags, prompts=None, seeds=None), given),
        rows,
        progress,
        "validate",
        emit=lambda result: results.__setitem__(result.row, result),
    )
    return [
        replace(shot, sha256=results[number].sha256, error=results[number].error)
        for number, shot in enumerate(shots, 1)
    ]


# ---------------------------------------------------------------------------------------- comparing


def _compare(shots: Sequence[Shot], folder: Path, scorer: Scorer, progress: Progress) -> list[Shot]:
    """The shots with their scores, and how far each is from the one at weight 0. Raises
    PackageError, ScoringError.
    """
    drawn = [shot for shot in shots if shot.sha256 is not None]
    scores: dict[str, Score] = {}
    for shot, score in zip(
        drawn, scorer.scores([folder / shot.output for shot in drawn]), strict=True
    ):
        scores[shot.output] = score
        progress.step("scores", len(scores), len(drawn))
    readable = [shot for shot in drawn if scores[shot.output].status != "failed"]
    bases = {(shot.trial, shot.seed): shot for shot in readable if shot.run == WITHOUT}
    moved = {
        shot.output: mean_change(
            _pixels(folder, shot), _pixels(folder, bases[shot.trial, shot.seed])
        )
        for shot in readable
        if shot.run != WITHOUT and (shot.trial, shot.seed) in bases
    }
    return [
        _scored(shot, scores[shot.output], moved.get(shot.output))
        if shot.output in scores
        else shot
        for shot in shots
    ]


def _scored(shot: Shot, score: Score, moved: float | None) -> Shot:
    return replace(
        shot,
        status=STATUS.get(score.status, score.status),
        cosine=score.cosine,
        stranger=score.stranger,
        faces=score.faces,
        moved=moved,
        error=score.error,
    )


def _pixels(folder: Path, shot: Shot) -> Any:
    """(H, W, 3) uint8."""
    import numpy as np
    from PIL import Image

    with Image.open(folder / shot.output) as image:
        return np.asarray(image.convert("RGB"))


def _facts(judge: Recognizer) -> dict[str, Any]:
    return {"name": judge.name, "sha256": judge.sha256, "own": judge.own}


def _known(path: str | Path, **more: Any) -> dict[str, Any]:
    """What the report says of a reference or a stranger: no folder, which would say more than is
    needed. Raises InputError.
    """
    try:
        data = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    return {"name": Path(path).name, "sha256": hashlib.sha256(data).hexdigest(), **more}


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


# ------------------------------------------------------------------------------------------ writing


def _write(report: Report, folder: Path, scorer: Scorer, progress: Progress) -> list[Path]:
    """The files, which show faces or measure them: 0600. Raises OutputError."""
    known = [("reference", path) for path in scorer.references] + [
        ("stranger", path) for path in scorer.strangers
    ]
    shown = [
        (f"{who}: {Path(path).name}", small)
        for who, path in known
        if (small := _small(Path(path).expanduser())) is not None
    ]
    texts = {
        "report.html": as_page(report, lambda output: _small(folder / output), shown),
        "report.json": json.dumps(report.as_dict(), ensure_ascii=False, indent=1) + "\n",
    }
    for name, text in texts.items():
        write_atomically(folder / name, text.encode("utf-8", "replace"), mode=0o600)
    sheets = write_sheet(folder / "sheet.png", _grid(report, folder), progress.note, mode=0o600)
    return [*(folder / name for name in texts), *sheets]


def _grid(report: Report, folder: Path) -> SheetGrid:
    """Prompts down; the person and the controls across, each with its seeds."""

    def tile(shot: Shot) -> Thumbnail:
        drawn = folder / shot.output if shot.sha256 is not None else None
        return Thumbnail(drawn, f"seed {shot.seed}\n{shot.told}", shot.error or "")

    judge = f"by {report.recognizer['name']} {report.recognizer['sha256'][:SHORT]}"
    return SheetGrid(
        cells=[
            [[tile(shot) for shot in report.of(run, trial)] for run in report.runs]
            for trial in report.trials
        ],
        columns=[
            Heading(f"{RUNS[run]}: {number(mean(shot.counted for shot in report.of(run)))}")
            for run in report.runs
        ],
        rows=[Heading(f"{trial.name}\n{trial.aspect}") for trial in report.trials],
        title=f"similarity {number(report.similarity)}, {judge}",
    )


def _small(path: Path) -> bytes | None:
    """The picture as a small JPEG without metadata; None for one that is not there or that Pillow
    cannot read.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            small = ImageOps.exif_transpose(image).convert("RGB")
            small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            buffer = io.BytesIO()
            small.save(buffer, "JPEG", quality=QUALITY)
            return buffer.getvalue()
    except Exception:  # Pillow's plugins raise whatever a damaged byte leads to
        return None
