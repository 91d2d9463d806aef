"""`pulid-extract worker`: parse, call."""

from __future__ import annotations

import typer

from pulid_extract.flags.worker import WorkerFlags
from pulid_extract.shared.cli.flags import takes_flags
from pulid_extract.shared.errors import require_packages


@takes_flags(WorkerFlags)
def worker(context: typer.Context, flags: WorkerFlags) -> None:
    """Answer tasks line by line with networks that stay: a line of JSON in, a line of JSON out,
    until standard input ends.

    {"task": "extract", "portrait": ["me.jpg"], "out": "me.pulidembd"} makes an identity.
    {"task": "crops", "portrait": ["me.jpg"], "preview": "sheet.png"} shows what the networks would
    see. {"task": "faces", "photo": "group.jpg"} lists faces; "people": {"ada": ["ada.jpg"]} adds
    how like each is, "allow_none": true takes a photo without a face. {"task": "score", "photo":
    "out.png", "reference": ["me.jpg"]} gives the likeness of the face that is most like; instead of
    reference it takes "vectors", which an extraction with "vectors": true answers. Other fields are
    options of a single extraction; "names" are what messages and pictures call the portraits. "id"
    comes back in the answer, with "status": "done" or "failed" and "error".
    """
    from pulid_extract.extraction.opening import PACKAGES

    require_packages(PACKAGES, "extract")
    from pulid_extract.batch.worker import answer_all

    answer_all(flags)
