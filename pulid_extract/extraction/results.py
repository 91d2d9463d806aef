"""What an extraction comes to: the file's bytes, and what was found out about each portrait, as
typed records that become JSON at the edge. Knows no file and no network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pulid_extract.extraction.comparison import compare
from pulid_extract.extraction.embedding_cache import CachedExtraction
from pulid_extract.faces.quality import Quality
from pulid_extract.shared.embedding_file import decode_embedding
from pulid_extract.shared.records import check_types, number, whole

if TYPE_CHECKING:
    from pulid_extract.extraction.identity import FaceCrop
    from pulid_extract.extraction.job import Job
    from pulid_extract.pictures.sources import Source

# what the cache keeps: name -> type of its value
STORED: dict[str, Any] = {
    "portraits": list,
    "cosines": list | None,
    "tokens": list,
    "uncond": bool,
    "device": str,
    "arithmetic": str,
}
PORTRAIT: dict[str, Any] = {
    "sha256": str,
    "face": str,
    "box": list | tuple,
    "landmarks": list | tuple | None,
    "score": int | float | None,
    "faces": int,
    "quality": dict,
    "line": str,
}


@dataclass(frozen=True)
class PortraitResult:
    """One portrait, without its name."""

    # of its file
    sha256: str
    # how the face was chosen: `FaceChoice.name`
    face: str
    # X, Y, W, H in pixels of the upright portrait
    box: tuple[int, int, int, int]
    # five (x, y) pixels, None for a box by hand
    landmarks: tuple[tuple[float, float], ...] | None
    # the detector's, None by hand
    score: float | None
    # how many faces that detector saw, 0 by hand
    faces: int
    quality: Quality
    # the quality, for people
    line: str

    @classmethod
    def of(cls, source: Source, crop: FaceCrop) -> PortraitResult:
        """Numbers are rounded to what is printed."""
        landmarks = None
        if crop.landmarks is not None:
            landmarks = tuple((round(float(x), 2), round(float(y), 2)) for x, y in crop.landmarks)
        return cls(
            sha256=source.sha256,
            face=crop.face,
            box=(crop.box.x, crop.box.y, crop.box.width, crop.box.height),
            landmarks=landmarks,
            score=crop.score,
            faces=crop.faces_found,
            quality=crop.quality,
            line=crop.quality.line(),
        )

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> PortraitResult:
        """The inverse of `to_json`. Raises ValueError, KeyError or TypeError."""
        check_types(record, PORTRAIT)
        landmarks = record["landmarks"]
        if landmarks is not None:
            landmarks = tuple((number(x), number(y)) for x, y in landmarks)
        quality = Quality.from_dict(record["quality"])
        left, top, width, height = (whole(length) for length in record["box"])
        box = (left, top, width, height)
        changed = {"box": box, "landmarks": landmarks, "quality": quality}
        return cls(**{**record, **changed})

    def to_json(self) -> dict[str, Any]:
        """JSON values, in the order in which they are printed."""
        return {
            "sha256": self.sha256,
            "face": self.face,
            "box": self.box,
            "landmarks": self.landmarks,
            "score": self.score,
            "faces": self.faces,
            "quality": self.quality.as_dict(),
            "line": self.line,
        }

    def advice(self) -> list[str]:
        """What the quality warns of, a line each."""
        return [warning.advice for warning in self.quality.warnings]


@dataclass(frozen=True)
class ExtractionResult:
    """The bytes of a .pulidembd, and what was found out on the way."""

    data: bytes
    # in the order of the job's sources
    portraits: tuple[PortraitResult, ...]
    # (I, I) ArcFace cosines of every pair of portraits, None for one
    cosines: np.ndarray | None
    # (N, C) of the tokens
    shape: tuple[int, ...]
    # whether the tokens of an all-zero condition are stored as well
    has_uncond: bool
    device: str
    # of EVA-CLIP and IDFormer: "float32", or "bfloat16" with --fast
    arithmetic: str
    # whether an earlier run made it
    is_cached: bool = False

    @classmethod
    def from_cache(cls, stored: CachedExtraction, hashes: Sequence[str]) -> ExtractionResult:
        """What the cache holds, portraits in the order of these SHA-256. Raises EmbeddingError,
        ValueError, KeyError, TypeError, IndexError or OverflowError for what is no extraction.
        """
        decode_embedding(stored.data)
        check_types(stored.facts, STORED)
        records = {record["sha256"]: record for record in stored.facts["portraits"]}
        places = {sha256: place for place, sha256 in enumerate(records)}
        order = [places[sha256] for sha256 in hashes]
        cosines = stored.facts["cosines"]
        if cosines is not None:
            cosines = np.array(cosines)
            # not texts of numbers
            if cosines.dtype.kind not in "fi" or not np.isfinite(cosines).all():
                raise ValueError("cosines")
            cosines = cosines[order][:, order]
        return cls(
            data=stored.data,
            portraits=tuple(PortraitResult.from_json(records[sha256]) for sha256 in hashes),
            cosines=cosines,
            shape=tuple(whole(length) for length in stored.facts["tokens"]),
            has_uncond=stored.facts["uncond"],
            device=stored.facts["device"],
            arithmetic=stored.facts["arithmetic"],
            is_cached=True,
        )

    def to_cache(self) -> CachedExtraction:
        """The inverse of `from_cache`."""
        facts = {
            "portraits": [portrait.to_json() for portrait in self.portraits],
            "cosines": None if self.cosines is None else self.cosines.tolist(),
            "tokens": list(self.shape),
            "uncond": self.has_uncond,
            "device": self.device,
            "arithmetic": self.arithmetic,
        }
        return CachedExtraction(self.data, facts)


def report_of(job: Job, result: ExtractionResult) -> dict[str, Any]:
    """JSON values: each portrait with its name, of a single one its face once more, of several how
    they go together.
    """
    portraits: list[dict[str, Any]] = []
    for source, portrait in zip(job.sources, result.portraits, strict=True):
        facts = portrait.to_json()
        del facts["line"]
        portraits.append({"portrait": source.path, **facts})
    report: dict[str, Any] = {}
    if len(portraits) == 1:
        for name in ("face", "box", "score", "faces", "quality"):
            report[name] = portraits[0][name]
    report["portraits"] = portraits
    if result.cosines is not None:
        report |= _together(job, result.cosines)
    return report


def _together(job: Job, cosines: np.ndarray) -> dict[str, Any]:
    names = [source.where for source in job.sources]
    # it has been judged before
    lenient = replace(job.flags, strict=False, mix_people=True)
    comparison = compare(names, cosines, [[] for _ in names], lenient, lambda line: None)
    rounded = []
    for row in cosines.tolist():
        rounded.append([round(cosine, 4) for cosine in row])
    return {
        "fuse": job.flags.fuse,
        "cosines": rounded,
        "outliers": [names[place] for place in comparison.outliers],
        "dropped": [names[place] for place in comparison.dropped],
    }
