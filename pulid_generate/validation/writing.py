"""The files of a report: page, JSON and sheet. All show faces or measure them, so that nobody else
may read them. Imports no torch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.json_text import read_object
from pulid_extract.shared.writing import write_together
from pulid_generate.errors import OutputError
from pulid_generate.pictures.scorer import Scorer
from pulid_generate.pictures.sheet import sheet_files
from pulid_generate.pictures.sheet_grid import Heading, SheetGrid, Thumbnail
from pulid_generate.validation.formats import as_dict
from pulid_generate.validation.page import as_page
from pulid_generate.validation.report import (
    PERSON,
    RUNS,
    Report,
    Shot,
    ValidatedIdentity,
    number,
)

PAGE, JSON, SHEET = "report.html", "report.json", "sheet.png"
MODE = 0o600
# of the page's small pictures: longer side in pixels, quality of the JPEG
SIDE, QUALITY = 320, 80
# digits of a SHA-256 for people
SHORT = 12


def check_whose(path: Path, identity: ValidatedIdentity) -> None:
    """Raise OutputError if `path` is the report of somebody else, or no report at all, or if a page
    lies there alone.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        if path.with_name(PAGE).exists():
            raise OutputError(
                f"{path.with_name(PAGE)}: is there without its {path.name}, so that nobody knows "
                "whose it is; give another --output-dir, or remove it"
            ) from None
        return
    except OSError as error:
        raise OutputError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        earlier = read_object(data)["identity"]
        sha256, name = str(earlier["sha256"]), str(earlier.get("name", "without a name"))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise OutputError(
            f"{path}: is there and is no report of validate; give another --output-dir, or remove "
            "it"
        ) from None
    if sha256 != identity.sha256:
        raise OutputError(
            f"{path}: is the report of another identity ({name}, SHA-256 {sha256[:SHORT]}); give "
            "another --output-dir, or remove that one"
        )


def write_report(
    report: Report, folder: Path, scorer: Scorer, note: Callable[[str], None]
) -> list[Path]:
    """Write the files, all of them or none, and give their names, the page first. scorer: whose
    references and strangers the page shows. note: gets a line if the sheet has several pages.
    Raises OutputError.
    """
    faces: list[tuple[str, bytes]] = []
    for kind, paths in (
        ("reference", scorer.references),
        ("the person", scorer.truths),
        ("stranger", scorer.strangers),
    ):
        for path in paths:
            small = read_small(path_of(path))
            if small is not None:
                faces.append((f"{kind}: {Path(path).name}", small))
    page = as_page(report, lambda output: read_small(folder / output), faces)
    text = json.dumps(as_dict(report), ensure_ascii=False, indent=1) + "\n"
    files = {
        folder / PAGE: page.encode("utf-8", "replace"),
        folder / JSON: text.encode("utf-8", "replace"),
        **dict(sheet_files(folder / SHEET, _sheet(report, folder), note)),
    }
    write_together(files, MODE)
    return list(files)


def _sheet(report: Report, folder: Path) -> SheetGrid:
    """Prompts down; the person and the controls across, each with its seeds."""
    cells = []
    for trial in report.trials:
        row = []
        for run in report.runs:
            row.append([_thumbnail(shot, folder) for shot in report.shots_of(run, trial)])
        cells.append(row)
    recognizer = report.judges.recognizers[0]
    return SheetGrid(
        cells,
        columns=[
            Heading(f"{RUNS[run]}: {number(report.mean_likeness(run))}") for run in report.runs
        ],
        rows=[Heading(f"{trial.name}\n{trial.aspect}") for trial in report.trials],
        title=(
            f"mean_likeness {number(report.mean_likeness(PERSON))}, "
            f"by {recognizer.name} {recognizer.sha256[:SHORT]}"
        ),
    )


def _thumbnail(shot: Shot, folder: Path) -> Thumbnail:
    drawn = folder / shot.output if shot.sha256 is not None else None
    return Thumbnail(drawn, f"seed {shot.seed}\n{shot.likeness_text}", shot.error or "")


def read_small(path: Path) -> bytes | None:
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
    # Pillow's plugins raise whatever a damaged byte leads to
    except Exception:
        return None
