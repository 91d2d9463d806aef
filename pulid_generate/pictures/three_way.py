"""The three-way check: A without PuLID = B with weight 0, byte for byte, and C with the weight
asked for is another picture.

Run B passes through every hook and adds 0 * CA, so A = B proves that nothing but the identity is
added, C that it is. Knows nothing of models: it says who is drawn and judges the results.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from pulid_generate.request.job import Subject


RUNS = "ABC"


@dataclass(frozen=True)
class Verdict:
    """What the three runs come to."""

    # run -> SHA-256 of the PNG's bytes
    files: Mapping[str, str]
    # run -> SHA-256 of the bare pixels
    pixels: Mapping[str, str]
    # mean absolute change of C from A, of 255
    moved: float
    # why it failed; "" if it passed
    reason: str

    @property
    def passed(self) -> bool:
        return not self.reason

    def as_dict(self) -> dict[str, Any]:
        """As it is printed."""
        return {"passed": self.passed, **asdict(self)}


def shell_script() -> bytes:
    """The same check for a shell: three processes, compared by sha256sum."""
    return resources.files(__package__).joinpath("verify_three_way.sh").read_bytes()


def subjects_of_runs(subjects: Sequence[Subject]) -> list[tuple[Subject, ...]]:
    """Who is in the picture in runs A, B and C."""
    weightless = tuple(replace(subject, weight=0.0) for subject in subjects)
    return [(), weightless, tuple(subjects)]


def compare(files: Mapping[str, bytes], pixels: Mapping[str, np.ndarray]) -> Verdict:
    """Judge three PNG files and their pixels (H, W, 3) uint8.

    C is judged by its pixels: its file differs from A's in any case, since the metadata names the
    identity.
    """
    hashes = {run: hashlib.sha256(data).hexdigest() for run, data in files.items()}
    drawn = {run: hashlib.sha256(array.tobytes()).hexdigest() for run, array in pixels.items()}
    moved = mean_change(pixels["C"], pixels["A"])
    reason = ""
    if hashes["A"] != hashes["B"]:
        what = "file" if drawn["A"] == drawn["B"] else "picture"
        reason = f"A and B differ: weight 0 does not draw the same {what} as no PuLID at all"
    elif drawn["C"] == drawn["A"]:
        reason = "C equals A: the identity has no effect on the picture"
    return Verdict(hashes, drawn, moved, reason)


def mean_change(pixels: np.ndarray, others: np.ndarray) -> float:
    """Mean absolute change of a channel, of 255, between two pictures (H, W, 3) uint8."""
    return float(abs(pixels.astype("int16") - others.astype("int16")).mean())


def as_table(verdict: Verdict) -> str:
    """The table and the verdict, for a person."""
    rows = [("run", "file SHA-256", "pixel SHA-256")]
    rows += [(run, verdict.files[run], verdict.pixels[run]) for run in RUNS]
    lines = [f"{run:<4} {file:<64} {drawn}" for run, file, drawn in rows]
    same = "=" if verdict.files["A"] == verdict.files["B"] else "!="
    other = "!=" if verdict.pixels["A"] != verdict.pixels["C"] else "="
    outcome = "PASSED" if verdict.passed else "FAILED"
    lines.append(f"A {same} B, A {other} C (mean change {verdict.moved:.2f} of 255): {outcome}")
    return "\n".join(lines)
