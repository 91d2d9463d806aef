"""Whether several portraits are one person: cosines, outliers, strangers, and what --strict,
--drop-outliers and --mix-people make of them.

Vectors' cosines and words in, places out. Knows no picture, no network and no file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from pulid_extract.flags.extract import ExtractFlags
from pulid_extract.networks import fusion
from pulid_extract.shared.cli.console import counted
from pulid_extract.shared.errors import FaceError

Log = Callable[[str], None]


@dataclass(frozen=True)
class Comparison:
    """How the portraits of one job go together. Places count from 0, in the job's order."""

    # (I, I) float64 ArcFace cosines of every pair, None for one portrait
    cosines: np.ndarray | None = None
    # portraits that are unlike the others, the worst first
    outliers: tuple[int, ...] = ()
    # those of them that are left out
    dropped: tuple[int, ...] = ()


def say_quality(where: str, line: str, advice: Sequence[str], log: Log) -> None:
    """The quality of one portrait and its warnings, a line each, for people."""
    log(f"{where}: {line}")
    for warning in advice:
        log(f"{where}: warning: {warning}")


def compare(
    names: Sequence[str],
    cosines: np.ndarray | None,
    advice: Sequence[Sequence[str]],
    flags: ExtractFlags,
    log: Log,
) -> Comparison:
    """Judge the portraits of these names; `log` gets the table of cosines and what is done.

    cosines: (I, I) of every pair, None for one portrait. advice: each portrait's warnings, an error
    with --strict. Raises FaceError for two people without --mix-people, and for any warning with
    --strict.
    """
    warnings = []
    for name, lines in zip(names, advice, strict=True):
        warnings += [f"{name}: {line}" for line in lines]
    comparison = Comparison()
    if cosines is not None:
        for line in fusion.cosine_table(names, cosines):
            log(line)
        comparison = _judge_outliers(names, cosines, flags, log, warnings)
        _refuse_strangers(names, cosines, comparison.dropped, flags, log)
    if flags.strict and warnings:
        count = counted(len(warnings), "warning")
        raise FaceError(f"--strict: {count}, nothing was written: {'; '.join(warnings)}")
    return comparison


def _judge_outliers(
    names: Sequence[str],
    cosines: np.ndarray,
    flags: ExtractFlags,
    log: Log,
    warnings: list[str],
) -> Comparison:
    """Outliers that stay are added to the warnings."""
    outliers = tuple(fusion.outliers(cosines))
    means = fusion.mean_to_others(cosines)
    for place in outliers:
        unlike = (
            f"{names[place]}: unlike the other portraits "
            f"(mean ArcFace cosine {means[place]:.2f}, below {fusion.OUTLIER})"
        )
        if flags.drop_outliers:
            log(f"{unlike}: dropped")
        else:
            log(f"{unlike}: warning: leave it out, or give --drop-outliers")
            warnings.append(unlike)
    return Comparison(cosines, outliers, outliers if flags.drop_outliers else ())


def _refuse_strangers(
    names: Sequence[str],
    cosines: np.ndarray,
    dropped: Sequence[int],
    flags: ExtractFlags,
    log: Log,
) -> None:
    kept = [place for place in range(len(names)) if place not in dropped]
    pair = fusion.strangers(cosines[kept][:, kept])
    if pair is None:
        return
    first, second, cosine = pair
    two_people = (
        f"{names[kept[first]]} and {names[kept[second]]} are two people by ArcFace "
        f"(cosine {cosine:.2f}, below {fusion.STRANGER})"
    )
    if not flags.mix_people:
        remedy = "leave one out" if len(kept) < 3 else "leave one out, or give --drop-outliers"
        raise FaceError(f"{two_people}; {remedy}; --mix-people fuses them all the same")
    log(f"{two_people}: fused all the same, as --mix-people says")
