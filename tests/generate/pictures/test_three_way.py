"""The verdict of the three-way check: it passes for one reason and fails for three."""

from __future__ import annotations

import numpy as np
import pytest

from pulid_extract.shared.embedding_file import read_embedding
from pulid_generate.pictures.three_way import RUNS, as_table, compare, subjects_of_runs
from pulid_generate.request.job import Subject

GREY, OTHER = np.full((4, 4, 3), 100, np.uint8), np.full((4, 4, 3), 103, np.uint8)


def verdict(files: tuple[bytes, bytes, bytes], *pixels: np.ndarray):
    return compare(dict(zip(RUNS, files, strict=True)), dict(zip(RUNS, pixels, strict=True)))


def test_it_passes_if_nothing_but_the_identity_changes_the_picture():
    passed = verdict((b"a", b"a", b"c"), GREY, GREY, OTHER)
    assert passed.passed
    assert passed.reason == ""
    assert passed.moved == 3
    assert passed.files["A"] == passed.files["B"] != passed.files["C"]
    assert passed.as_dict()["passed"] is True
    assert as_table(passed).endswith("A = B, A != C (mean change 3.00 of 255): PASSED")


@pytest.mark.parametrize(
    ("files", "pixels", "reason", "table"),
    [
        ((b"a", b"b", b"c"), (GREY, OTHER, OTHER), "not draw the same picture", "A != B, A != C"),
        # the metadata alone tells of the weight
        ((b"a", b"b", b"c"), (GREY, GREY, OTHER), "not draw the same file", "A != B, A != C"),
        # another file in any case, since its metadata names the person
        ((b"a", b"a", b"c"), (GREY, GREY, GREY), "C equals A", "A = B, A = C"),
    ],
)
def test_it_fails_for_hooks_that_leave_a_trace_and_for_an_identity_without_effect(
    files, pixels, reason, table
):
    failed = verdict(files, *pixels)
    assert not failed.passed
    assert reason in failed.reason
    assert table in as_table(failed)
    assert as_table(failed).endswith("FAILED")


def test_the_second_run_has_the_same_people_without_weight(person):
    subject = Subject(read_embedding(person), weight=0.8)
    nobody, weightless, asked = subjects_of_runs([subject])
    assert nobody == ()
    assert asked == (subject,)
    assert weightless[0].weight == 0
    assert weightless[0].embedding is subject.embedding
    assert weightless[0].weights_at(0, 4) == (0, 0)
