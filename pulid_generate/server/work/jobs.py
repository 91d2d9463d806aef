"""A job of the server: what was asked for, how far it is, and what came of it; as a record in a
folder of its own, from which it goes on after a restart. Imports no torch.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pulid_extract.shared.json_text import read_object
from pulid_extract.shared.records import check_types
from pulid_extract.shared.writing import make_folder, write_atomically
from pulid_generate.pictures.picture import Format
from pulid_generate.server.work.changes import Changes

State = Literal["queued", "drawing", "done", "failed", "cancelled"]
RECORD, FILES = "job.json", "files"
FORMATS: dict[str, Format] = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}

# of what was asked for, the server's own: a picture whose faces are redrawn
DETAIL_IMG = "detail_img"

# what a record on the disk holds: name -> type of its value
RECORD_TYPES: dict[str, Any] = {
    "id": str,
    "visitor": str | None,
    "asked": dict,
    "output_format": str,
    "count": int,
    "created": int | float,
    "state": str,
    "error": str | None,
}
PICTURE_TYPES: dict[str, Any] = {"name": str, "sha256": str, "seed": int, "seconds": int | float}


@dataclass(frozen=True)
class PictureRecord:
    """One picture of a job."""

    # of its file, in the job's folder
    name: str
    sha256: str
    seed: int
    seconds: float


@dataclass
class JobRecord:
    """One job. Only the device's thread changes it once it is in the queue."""

    # which nobody can guess
    id: str
    folder: Path
    # whose it is, None for a request without a session
    visitor: str | None
    # fields of a generation by name, as JSON; files are plain names in the job's folder
    asked: dict[str, Any]
    # how the pictures are stored: a key of FORMATS
    output_format: str = "png"
    # pictures that it comes to
    count: int = 1
    created: float = field(default_factory=time.time)
    state: State = "queued"
    # why it failed: one sentence
    error: str | None = None
    pictures: list[PictureRecord] = field(default_factory=list)
    # what the person should know
    notes: list[str] = field(default_factory=list)
    # steps done and steps in all, of the picture in work
    step: tuple[int, int] = (0, 0)
    # PNG, small, of the picture in work
    preview: bytes | None = None
    # whether it is to end before the next step
    is_cancelled: bool = False
    # workers that died with it
    deaths: int = 0
    finished_at: float | None = None
    # picture -> how like each person it is, once somebody has asked
    likenesses: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    # all of it
    changes: Changes = field(default_factory=Changes)
    # of its state alone: who waits for the end is not woken by each step
    turns: Changes = field(default_factory=Changes)

    @property
    def options(self) -> dict[str, Any]:
        """What was asked for as far as it is options of a generation."""
        return {name: value for name, value in self.asked.items() if name != DETAIL_IMG}

    @property
    def detail_img(self) -> Path | None:
        """The picture whose faces are redrawn; None where a picture is drawn."""
        name = self.asked.get(DETAIL_IMG)
        return self.files / name if name is not None else None

    @property
    def is_finished(self) -> bool:
        return self.state in ("done", "failed", "cancelled")

    def announce_turn(self) -> None:
        """Its state has changed, or is to change."""
        self.turns.announce()
        self.changes.announce()

    @property
    def files(self) -> Path:
        """Where what came with the request lies until the job is finished."""
        return self.folder / FILES

    def as_dict(self, place: int | None) -> dict[str, Any]:
        """As requests are told. place: in the queue, 0 for the next one; None for a job that does
        not wait.
        """
        pictures = []
        for index, picture in enumerate(self.pictures):
            pictures.append(
                {
                    "url": f"/v1/jobs/{self.id}/pictures/{index}",
                    "sha256": picture.sha256,
                    "seed": picture.seed,
                    "seconds": round(picture.seconds, 3),
                }
            )
        return {
            "id": self.id,
            "state": self.state,
            "place": place,
            "created": round(self.created, 3),
            "picture": min(len(self.pictures) + 1, self.count),
            "count": self.count,
            "step": self.step[0],
            "steps": self.step[1],
            "pictures": pictures,
            "error": self.error,
            "notes": self.notes,
        }


def write_record(job: JobRecord) -> None:
    """The journal's entry of a job, whole or not at all, for its user alone. Raises OutputError."""
    told = {
        "id": job.id,
        "visitor": job.visitor,
        "asked": job.asked,
        "output_format": job.output_format,
        "count": job.count,
        "created": job.created,
        "state": job.state,
        "error": job.error,
        "pictures": [vars(picture) for picture in job.pictures],
    }
    make_folder(job.folder, mode=0o700)
    write_atomically(job.folder / RECORD, json.dumps(told).encode(), mode=0o600)


def read_record(folder: Path) -> JobRecord | None:
    """What `write_record` wrote; None for a folder that holds no job. One that was in work when its
    server ended is queued again.
    """
    try:
        told = read_object((folder / RECORD).read_bytes())
        pictures = []
        for picture in told.pop("pictures"):
            check_types(picture, PICTURE_TYPES)
            pictures.append(PictureRecord(**picture))
        check_types(told, RECORD_TYPES)
        job = JobRecord(folder=folder, pictures=pictures, **told)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    if not job.is_finished:
        job.state = "queued"
    else:
        job.finished_at = time.time()
    return job


def forget_files(job: JobRecord) -> None:
    """Portraits, embeddings and masks of a job that is finished."""
    shutil.rmtree(job.files, ignore_errors=True)


def delete_job(job: JobRecord) -> None:
    """All of it."""
    shutil.rmtree(job.folder, ignore_errors=True)
