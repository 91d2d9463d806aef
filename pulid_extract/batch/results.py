"""What became of one row of a batch: the record behind its line of JSON. Knows no network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pulid_extract.batch.rows import BatchRow
from pulid_extract.extraction.job import Job
from pulid_extract.extraction.results import ExtractionResult, report_of

RowStatus = Literal["done", "cached", "skipped", "failed"]


@dataclass(frozen=True)
class RowResult:
    """One row that was finished."""

    row: BatchRow
    status: RowStatus
    # the file that was written, or was there already; None for a row that failed
    output: str | None
    # of that file
    sha256: str | None
    # why it failed
    error: str | None
    seconds: float
    # None for a row that was skipped or failed
    job: Job | None = None
    result: ExtractionResult | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON values, in the order in which they are printed."""
        record: dict[str, Any] = {
            "row": self.row.number,
            "line": self.row.line,
            "status": self.status,
            "portrait": self.row.flags.portrait,
            "output": self.output,
            "sha256": self.sha256,
            "error": self.error,
            "seconds": self.seconds,
        }
        if self.job is not None and self.result is not None:
            record |= report_of(self.job, self.result)
            record["tokens"] = list(self.result.shape)
            record |= {"device": self.result.device, "arithmetic": self.result.arithmetic}
        return record
