"""Cosines, means, copy-paste and agreement: the numbers of a score, from vectors alone."""

from __future__ import annotations

import numpy as np
import pytest

from pulid_extract.faces import scorer
from pulid_extract.faces.scoring import (
    MEASURES,
    Comparison,
    Score,
    Tally,
    copy_paste,
    cosines_to,
    most_alike,
)


def test_cosines_ignore_length_and_nothing_is_like_nothing():
    assert cosines_to(
        np.array([3.0, 0.0]), [np.array([0.5, 0.0]), np.array([0.0, 2.0]), np.array([-1.0, 0.0])]
    ) == (
        1.0,
        0.0,
        -1.0,
    )
    assert cosines_to(np.zeros(2), [np.ones(2)]) == (0.0,)


def test_the_most_alike_is_by_the_mean():
    references = [np.array([1.0, 0.0]), np.array([0.0, 1.0])]
    assert (
        most_alike([np.array([1.0, 0.0]), np.array([1.0, 1.0]), np.array([-1.0, 0.0])], references)
        == 1
    )


def turned(degrees: float) -> np.ndarray:
    """A vector of the plane, so far from the first axis."""
    return np.array([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))])


@pytest.mark.parametrize(
    ("face", "truth", "expected"),
    [
        # the reference lies at 0 degrees
        (0, 60, 1.0),
        (60, 60, -1.0),
        (30, 60, 0.0),
        (45, 60, -0.5),
        # beyond the truth, and on the other side of the reference
        (100, 60, -1.0),
        (-20, 60, 1.0),
        (20, -40, 1.0),
    ],
)
def test_copy_paste_by_angles(face, truth, expected):
    reference, truth_vector = turned(0), turned(truth)
    known = scorer.KnownFaces(
        [scorer.KnownFace("r", np.zeros(0), (reference,))],
        truths=[scorer.KnownFace("t", np.zeros(0), (truth_vector,))],
    )
    # whatever the vectors' lengths
    found = known.compare(3 * turned(face), 0)
    assert found.copy_paste == pytest.approx(expected)


def test_copy_paste_to_several_is_of_mean_angles():
    vectors = [scorer.KnownFace(str(at), np.zeros(0), (turned(at),)) for at in (0, 10, 60, 80)]
    known = scorer.KnownFaces(vectors[:2], truths=vectors[2:])
    # (20 + 40) / 2 - (40 + 30) / 2, over (60 + 80 + 50 + 70) / 4
    assert known.compare(turned(40), 0).copy_paste == pytest.approx((30 - 35) / 65)
    assert copy_paste((1.0000001,), (0.0,), np.pi / 2) == pytest.approx(-1)


def test_a_tally():
    tally = Tally(limit=0.5)
    for score in (
        Score("a", "ok", (Comparison((0.8, 0.6), 0.1, (0.5,), 0.4),), prompt=30.0),
        Score("b", "ok", (Comparison((0.4,), 0.4, (0.5,), -0.2),), prompt=20.0),
        Score("c", "no face"),
        Score("d", "failed", error="broken"),
    ):
        tally.add(score)
    # (0.7 + 0.4 + 0) / 3
    assert tally.mean_likeness == pytest.approx(1.1 / 3)
    assert (tally.count, tally.scored, tally.below, tally.fooled) == (4, 2, 3, 1)
    assert tally.line() == (
        "4 pictures: mean_likeness 0.367, lowest 0.400 (b), copy_paste +0.100, prompt_score 25.00, "
        "1 without a face, which counts 0, 1 failed"
    )
    told = tally.measures()
    assert told["truth_likeness"] == pytest.approx(1 / 3)
    assert told["to_stranger"] == pytest.approx(0.25)
    assert (told["with_face"], told["lowest_likeness"]) == (pytest.approx(2 / 3), 0)
    assert (told["copy_paste"], told["prompt_score"]) == (pytest.approx(0.1), 25)
    assert set(told) == set(MEASURES)
    assert Tally().line() == "0 pictures"
    assert Tally().mean_likeness is None
    nobody = Tally()
    nobody.add(Score("c", "no face"))
    assert nobody.line() == "1 picture: mean_likeness 0.000, 1 without a face, which counts 0"


def test_agreement_is_a_correlation():
    tally = Tally()
    for mine, theirs in ((0.1, 0.9), (0.2, 0.7), (0.4, 0.3)):
        assert tally.agreement(1) is None
        tally.add(Score("a", "ok", (Comparison((mine,)), Comparison((theirs,)))))
    assert tally.agreement(1) == pytest.approx(-1)
    assert tally.agreement(0) == pytest.approx(1)
