"""Lines of results: what came of a picture, how like the person it is, where the sheet is.

Knows no model, no flag and not where lines go.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

PictureStatus = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class PictureResult:
    """What came of one picture."""

    status: PictureStatus
    # Number of its row, from 1
    row: int
    # Where the row starts in its manifest; None for a row that no file holds
    line: int | None = None
    # The file; None if there is none
    output: str | None = None
    # Of the file
    sha256: str | None = None
    seed: int | None = None
    # SHA-256 of the embeddings of everybody in it
    identities: tuple[str, ...] = ()
    # In what the models computed; None where nothing was drawn
    arithmetic: str | None = None
    # That it took
    seconds: float = 0.0
    # Why it failed
    error: str | None = None
    # Of a sweep: option -> its value, as they were typed
    values: Mapping[str, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it is printed. identity: the first person; identities: where there are several."""
        told: dict[str, Any] = {
            "row": self.row,
            "line": self.line,
            "status": self.status,
            "output": self.output,
            "sha256": self.sha256,
            "seed": self.seed,
            "identity": self.identities[0] if self.identities else None,
            "arithmetic": self.arithmetic,
            "seconds": round(self.seconds, 3),
            "error": self.error,
        }
        if len(self.identities) > 1:
            told["identities"] = list(self.identities)
        if self.values is not None:
            told["values"] = dict(self.values)
        return told


@dataclass(frozen=True)
class ScoreResult:
    """How like the person a picture is: its second line."""

    row: int
    line: int | None
    output: str | None
    sha256: str | None
    seed: int | None
    # With the references and with the strangers; None without a face, or without strangers
    likeness: float | None
    stranger: float | None
    # Found in the picture
    faces: int
    # Why there is no likeness
    error: str | None = None
    # As of PictureResult
    values: Mapping[str, str] | None = None

    def as_dict(self) -> dict[str, Any]:
        """As it is printed."""
        told: dict[str, Any] = {
            "row": self.row,
            "line": self.line,
            "output": self.output,
            "sha256": self.sha256,
            "seed": self.seed,
            "status": "scored",
            "likeness": self.likeness,
            # what it was called before
            "cosine": self.likeness,
            "stranger": self.stranger,
            "faces": self.faces,
            "error": self.error,
        }
        if self.values is not None:
            told["values"] = dict(self.values)
        return told


@dataclass(frozen=True)
class SheetResult:
    """A page of the sheet."""

    output: str
    sha256: str

    def as_dict(self) -> dict[str, Any]:
        """As it is printed."""
        return {
            "row": None,
            "line": None,
            "status": "sheet",
            "output": self.output,
            "sha256": self.sha256,
            "error": None,
        }


Result = PictureResult | ScoreResult | SheetResult


def as_json(result: Result) -> str:
    """The line, without its end."""
    return json.dumps(result.as_dict(), ensure_ascii=False)
