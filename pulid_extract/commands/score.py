"""`pulid-extract score --reference PICTURE IMAGES..`: how like a person the faces of pictures are.

Results leave as they are found, so that a list may be as long as one likes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pulid_extract.flags.score import ScoreFlags
from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.flags import takes_flags
from pulid_extract.shared.errors import InputError, require_packages
from pulid_extract.shared.writing import check_not_input, write_atomically

if TYPE_CHECKING:
    from pulid_extract.extraction.extractor import Extractor
    from pulid_extract.faces.recognizer import Recognizer


@takes_flags(ScoreFlags)
def score(context: typer.Context, flags: ScoreFlags) -> None:
    """Say how like a person the faces of pictures are: ArcFace cosines, as a table, as JSON or as a
    contact sheet.

    Of several faces in a picture the most alike counts, unless --face-order or --face-index says
    which. Needs antelopev2 only.
    """
    from pulid_extract.extraction.opening import PACKAGES, open_extractor

    require_packages(PACKAGES, "extract")
    from pulid_extract.faces.score_report import (
        contact_sheet,
        json_line,
        shortcomings,
        table_head,
        table_row,
    )
    from pulid_extract.faces.scorer import FaceScorer, ScoredPicture, warn_of_strangers
    from pulid_extract.faces.scoring import Tally
    from pulid_extract.pictures.sources import expand
    from pulid_extract.shared.cli.standard_output import ResultLines, quiet

    given = [*flags.images, *flags.reference, *(flags.stranger or [])]
    if given.count("-") > 1:
        context.fail("standard input holds one picture; - stands for it once.")
    paths = expand(flags.images, console.log)
    if flags.sheet is not None:
        _check_sheet(flags, paths)
    tally = Tally(limit=flags.minimum)
    on_sheet: list[ScoredPicture] = []
    with ResultLines() as lines, quiet():
        extractor = open_extractor(flags, roles=("antelopev2",))
        recognizer = _recognizer(flags, extractor)
        if flags.sheet is not None:
            check_not_input(flags.sheet, [file.path for file in extractor.files.values()])
        scorer = FaceScorer(
            extractor.detect,
            recognizer,
            flags.face_order,
            flags.face_index,
            with_tiles=flags.sheet is not None,
        )
        references = [scorer.known_face(path, "reference") for path in flags.reference]
        strangers = [scorer.known_face(path, "stranger") for path in flags.stranger or []]
        warn_of_strangers(references, strangers)
        if not flags.as_json:
            for line in table_head(recognizer, len(references)):
                lines.write(line)
        for picture in scorer.scores(
            paths,
            [reference.vector for reference in references],
            [stranger.vector for stranger in strangers],
        ):
            tally.add(picture.score)
            if flags.as_json:
                lines.write(json_line(picture, recognizer))
            else:
                lines.write(table_row(picture.score))
            if flags.sheet is not None:
                on_sheet.append(picture)
        console.log(tally.line())
        if flags.sheet is not None:
            sheet = contact_sheet(references, on_sheet, recognizer)
            write_atomically(flags.sheet, sheet, mode=0o600)
    if tally.fooled:
        console.log(
            f"warning: the stranger is as like as the reference in {tally.fooled} of "
            f"{tally.scored} pictures: these cosines do not show that person"
        )
    problems = shortcomings(tally, flags.minimum, flags.min_mean)
    if problems:
        raise InputError("; ".join(problems))


def _check_sheet(flags: ScoreFlags, paths: list[str]) -> None:
    """Raise InputError or OutputError for a contact sheet that could not be made or written."""
    from pulid_extract.faces.score_report import MAX_ON_A_SHEET
    from pulid_extract.flags.outputs import check_outputs

    assert flags.sheet is not None
    if len(paths) > MAX_ON_A_SHEET:
        raise InputError(
            f"--sheet: {len(paths)} pictures, a sheet holds {MAX_ON_A_SHEET}; "
            "give fewer, or leave --sheet out"
        )
    inputs = [*paths, *flags.reference, *(flags.stranger or [])]
    if flags.recognizer:
        inputs.append(flags.recognizer)
    check_outputs({"--sheet": flags.sheet}, [path for path in inputs if path != "-"])


def _recognizer(flags: ScoreFlags, extractor: Extractor) -> Recognizer:
    from pulid_extract.faces.recognizer import Recognizer

    if flags.recognizer is not None:
        return Recognizer(Path(flags.recognizer).expanduser())
    recognizer = Recognizer.of_pack(extractor.files["antelopev2"].path)
    console.log(
        f"{recognizer.name} is the network that PuLID is conditioned on; "
        "--recognizer takes an independent one"
    )
    return recognizer
