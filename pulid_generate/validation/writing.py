"""The files of a report: page, JSON and sheet. All show faces or measure them, so that nobody else
may read them. Imports no torch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

from pulid_extract.shared.writing import write_atomically
from pulid_generate.pictures.scorer import Scorer
from pulid_generate.pictures.sheet import write_sheet
from pulid_generate.pictures.sheet_grid import Heading, SheetGrid, Thumbnail
from pulid_generate.validation.formats import as_dict
from pulid_generate.validation.page import as_page
from pulid_generate.validation.report import RUNS, Report, Shot, number

PAGE, JSON, SHEET = "report.html", "report.json", "sheet.png"
MODE = 0o600
# of the page's small pictures: longer side in pixels, quality of the JPEG
SIDE, QUALITY = 320, 80
# digits of a SHA-256 for people
SHORT = 12


def write_report(
    report: Report, folder: Path, scorer: Scorer, note: Callable[[str], None]
) -> list[Path]:
    """Write the files and give their names, the page first. scorer: whose references and strangers
    the page shows. note: gets a line if the sheet has several pages. Raises OutputError.
    """
    faces: list[tuple[str, bytes]] = []
    for kind, paths in (("reference", scorer.references), ("stranger", scorer.strangers)):
        for path in paths:
            small = read_small(Path(path).expanduser())
            if small is not None:
                faces.append((f"{kind}: {Path(path).name}", small))
    page = as_page(report, lambda output: read_small(folder / output), faces)
    text = json.dumps(as_dict(report), ensure_ascii=False, indent=1) + "\n"
    write_atomically(folder / PAGE, page.encode("utf-8", "replace"), mode=MODE)
    write_atomically(folder / JSON, text.encode("utf-8", "replace"), mode=MODE)
    sheets = write_sheet(folder / SHEET, _sheet(report, folder), note, mode=MODE)
    return [folder / PAGE, folder / JSON, *sheets]


def _sheet(report: Report, folder: Path) -> SheetGrid:
    """Prompts down; the person and the controls across, each with its seeds."""
    cells = []
    for trial in report.trials:
        row = []
        for run in report.runs:
            row.append([_thumbnail(shot, folder) for shot in report.shots_of(run, trial)])
        cells.append(row)
    recognizer = report.recognizer
    return SheetGrid(
        cells,
        columns=[Heading(f"{RUNS[run]}: {number(report.mean_cosine(run))}") for run in report.runs],
        rows=[Heading(f"{trial.name}\n{trial.aspect}") for trial in report.trials],
        title=(
            f"similarity {number(report.similarity)}, "
            f"by {recognizer.name} {recognizer.sha256[:SHORT]}"
        ),
    )


def _thumbnail(shot: Shot, folder: Path) -> Thumbnail:
    drawn = folder / shot.output if shot.sha256 is not None else None
    return Thumbnail(drawn, f"seed {shot.seed}\n{shot.cosine_text}", shot.error or "")


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
