"""`pulid-extract score --reference PICTURE IMAGES..`: how like a person the faces of pictures are,
and whether the pictures show their prompt.

Results leave as they are found, so that a list may be as long as one likes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import typer

from pulid_extract.flags.score import ScoreFlags
from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.flags import takes_flags
from pulid_extract.shared.errors import InputError, UsageError, require_packages
from pulid_extract.shared.requirements import Clause, parse_clauses
from pulid_extract.shared.writing import check_not_input, write_atomically

# flags that do nothing without a reference, and without a prompt: field -> option
OF_FACES = {
    "stranger": "--stranger",
    "truth": "--truth",
    "recognizer": "--recognizer",
    "minimum": "--min",
    "min_mean": "--min-mean",
    "face_index": "--face-index",
    "face_order": "--face-order",
    "det_threshold": "--det-threshold",
    "antelopev2": "--antelopev2",
}
OF_PROMPTS = {"prompt_judge": "--prompt-judge", "eva_clip": "--eva-clip"}


@takes_flags(ScoreFlags)
def score(context: typer.Context, flags: ScoreFlags) -> None:
    """Say how like a person the faces of pictures are, and whether the pictures show a prompt: as a
    table, as JSON or as a contact sheet.

    Likeness is the ArcFace cosine to --reference. Of several faces in a picture the most alike
    counts, unless --face-order or --face-index says which. --truth says whether the face is a copy
    of the reference, --prompt whether the picture shows what it was to show. Needs antelopev2, and
    EVA-CLIP for prompts; with --prompt alone no reference is needed.
    """
    if wrong := _usage_error(context, flags):
        context.fail(wrong)
    required = _required(flags)
    from pulid_extract.extraction.opening import PACKAGES, PROMPT_PACKAGES

    require_packages(PACKAGES, "extract")
    if _asks_prompt(flags):
        require_packages(PROMPT_PACKAGES, "extract")
    from pulid_extract.extraction.judging import known_faces, open_judges, read_prompts
    from pulid_extract.faces import score_report
    from pulid_extract.faces.scorer import ScoredPicture
    from pulid_extract.faces.scoring import Tally
    from pulid_extract.pictures.sources import expand
    from pulid_extract.shared.cli.standard_output import ResultLines, quiet

    paths = expand(flags.images, console.log)
    prompts = read_prompts(flags, len(paths))
    if flags.sheet is not None:
        _check_sheet(flags, paths)
    tally = Tally(limit=flags.minimum)
    on_sheet: list[ScoredPicture] = []
    with ResultLines() as lines, quiet():
        scorer, judges, files = open_judges(flags, prompts)
        if flags.sheet is not None:
            check_not_input(flags.sheet, files)
        known = known_faces(flags, scorer)
        columns = score_report.Columns(judges, bool(known.strangers), bool(known.truths))
        if not flags.as_json:
            for line in score_report.table_head(columns, len(known.references)):
                lines.write(line)
        for picture in replace(scorer, known=known).scores(paths, prompts):
            tally.add(picture.score)
            if flags.as_json:
                lines.write(score_report.json_line(picture, judges))
            else:
                lines.write(columns.row(picture.score))
            if flags.sheet is not None:
                on_sheet.append(picture)
        # of one picture all is said
        if tally.count > 1:
            for line in [tally.line(), *score_report.agreements(tally, judges)]:
                console.log(line)
        if flags.sheet is not None:
            sheet = score_report.contact_sheet(known.references, on_sheet, judges)
            write_atomically(flags.sheet, sheet, mode=0o600)
    if tally.fooled:
        console.log(
            f"warning: the stranger is as like as the reference in {tally.fooled} of "
            f"{tally.scored} pictures: these likenesses do not show that person"
        )
    problems = score_report.shortcomings(tally, flags.minimum, flags.min_mean, required)
    if problems:
        raise InputError("; ".join(problems))


def _usage_error(context: typer.Context, flags: ScoreFlags) -> str | None:
    given = [*flags.images, *_portraits(flags)]
    if given.count("-") > 1:
        return "standard input holds one picture; - stands for it once."
    if flags.prompt is not None and flags.prompts is not None:
        return "--prompt is for all pictures, --prompts for each; give one of them."
    if flags.prompt is not None and not flags.prompt.strip():
        return "--prompt is empty; give what the pictures are to show."
    if not flags.reference and not _asks_prompt(flags):
        return "Missing option '--reference', or '--prompt'."
    # what stands in pulid.toml is for other calls, too
    if not _asks_prompt(flags):
        for name, option in OF_PROMPTS.items():
            if console.was_given(context, name):
                return f"{option} judges --prompt or --prompts; give one of them."
    if not flags.reference:
        for name, option in OF_FACES.items():
            if console.was_given(context, name):
                return f"{option} is about faces; give --reference too."
    return None


def _required(flags: ScoreFlags) -> list[Clause]:
    """Of --require. Raises UsageError for what is none, and for what nothing could meet."""
    from pulid_extract.faces.scoring import MEASURES

    given = {
        "--reference": bool(flags.reference),
        "--stranger": bool(flags.stranger),
        "--truth": bool(flags.truth),
        "--prompt or --prompts": _asks_prompt(flags),
    }
    required = parse_clauses(flags.require or (), MEASURES)
    for clause in required:
        needs = MEASURES[clause.name]
        if not given[needs]:
            raise UsageError(f"--require {clause}: has no value without {needs}")
    return required


def _asks_prompt(flags: ScoreFlags) -> bool:
    return flags.prompt is not None or flags.prompts is not None


def _portraits(flags: ScoreFlags) -> list[str]:
    """Who pictures are compared with."""
    return [*(flags.reference or []), *(flags.stranger or []), *(flags.truth or [])]


def _check_sheet(flags: ScoreFlags, paths: Sequence[str]) -> None:
    """Raise InputError or OutputError for a contact sheet that could not be made or written."""
    from pulid_extract.faces.score_report import MAX_ON_A_SHEET
    from pulid_extract.flags.outputs import check_outputs

    assert flags.sheet is not None
    if len(paths) > MAX_ON_A_SHEET:
        raise InputError(
            f"--sheet: {len(paths)} pictures, a sheet holds {MAX_ON_A_SHEET}; "
            "give fewer, or leave --sheet out"
        )
    inputs = [*paths, *_portraits(flags), *(flags.recognizer or [])]
    inputs += [path for path in (flags.prompts, flags.prompt_judge) if path is not None]
    check_outputs({"--sheet": flags.sheet}, [path for path in inputs if path != "-"])
