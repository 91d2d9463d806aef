"""Validations that cannot be, or that lose something on the way: one line, and nothing is drawn or
replaced in vain.
"""

from __future__ import annotations

import json

import pytest
from support.programs.fake_reports import NOBODY, SCORES

from pulid_extract.shared.embedding_file import read_embedding


def test_prompts_that_must_be_judged_and_cannot_be_cost_no_drawing(generate, base, fake, tmp_path):
    fake(SCORES)
    done = generate("validate", *base, "--require", "prompt>=-1")
    assert "pulid-extract score: eva.pt: holds no text tower" in done.error
    assert not (tmp_path / "out" / "pictures").exists()


def test_a_report_of_somebody_else_is_not_replaced(generate, drawn, person, fake, tmp_path):
    fake(SCORES)
    folder = tmp_path / "out"
    (folder / "report.json").unlink(missing_ok=True)
    (folder / "report.html").write_text("somebody's")
    assert "is there without its report.json" in generate("validate", *drawn).error
    earlier = {"version": 1, "identity": {"sha256": "ab" * 32, "weight": 1.0}}
    (folder / "report.json").write_text(json.dumps(earlier))
    error = generate("validate", *drawn).error
    assert "is the report of another identity (without a name, SHA-256 abababababab)" in error
    assert "another --output-dir" in error
    assert json.loads((folder / "report.json").read_text()) == earlier
    for text in ("[]", "no report", '{"identity": 3}'):
        (folder / "report.json").write_text(text)
        assert "is no report of validate" in generate("validate", *drawn).error
    # one of the same person is
    earlier["identity"]["sha256"] = read_embedding(person).sha256
    (folder / "report.json").write_text(json.dumps(earlier))
    assert generate("validate", *drawn).code == 0


def test_nothing_is_drawn_for_a_reference_without_a_face(generate, base, fake, tmp_path):
    fake(NOBODY)
    assert (
        "pulid-extract score: me.png: no face found in this reference"
        in generate("validate", *base).error
    )
    assert not (tmp_path / "out" / "pictures").exists()


def test_a_reference_is_not_overwritten(generate, base, fake, tmp_path):
    fake(SCORES)
    (tmp_path / "out" / "pictures").mkdir(parents=True)
    mine = tmp_path / "out" / "pictures" / "line-1_1_person.png"
    mine.write_bytes((tmp_path / "me & you.png").read_bytes())
    assert (
        "line-1_1_person.png: is read as an input"
        in generate("validate", *base, "--reference", mine).error
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--reference", "me.png"), "Missing option '--pulid-id-embedding'"),
        (("--pulid-id-embedding", "me.pulidembd"), "Missing option '--reference'"),
        (("-p", "a cat"), "--prompt is for one picture; give --prompts FILE"),
        (("-s", "7"), "--seed is for one picture; give --seeds"),
        (("-o", "a.png"), "--output is for one picture; give --output-dir"),
        (("--pulid-id-weight", "0"), "compares with weight 0 by itself"),
        (("--identity", "you.pulidembd"), "validate looks at one person"),
        (("--pulid-id-embedding", "-"), "Standard input can be read once"),
        (("--min-similarity", "2"), "--min-similarity"),
    ],
)
def test_wrong_usage(flags, message, generate):
    both = ("--pulid-id-embedding", "me.pulidembd", "--reference", "me.png")
    done = generate("validate", *(flags if message.startswith("Missing") else (*both, *flags)))
    assert done.code == 2
    assert message in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--seeds", "3-1"), "counts down"),
        (("--prompts", "none.txt"), "none.txt"),
        (("--reference", "-"), "reference -: faces are compared with files"),
    ],
)
def test_what_cannot_be_done_is_one_line(flags, message, generate, base):
    assert message in generate("validate", *base, *flags).refusal


@pytest.mark.parametrize(
    ("required", "message"),
    [
        ("likeness>=0.5", "--require likeness: expected one of mean_likeness,"),
        ("mean_likeness=0.5", "expected such as mean_likeness>=0.5,"),
        ("mean_likeness>=many", "many is not a number"),
        ("copy_paste<=0.2", "has no value without --truth"),
    ],
)
def test_a_wrong_requirement_is_wrong_usage(required, message, generate, base):
    assert message in generate("validate", *base, "--require", required).usage_error


def test_a_stranger_is_somebody_else(generate, base, person):
    assert (
        "is the person; a control wants somebody else"
        in generate("validate", *base, "--stranger-embedding", person).error
    )


def test_pictures_that_vanish_are_no_crash(generate, drawn, fake, tmp_path):
    """Somebody cleans up while the faces are compared."""
    gone = """
gone = ("line-1_1_person.png", "line-3_1_weight_0.png")
lost = [picture for picture in pictures if picture.endswith(gone)]
for picture in pictures:
    if picture in lost:
        os.unlink(picture)
        tell(status="failed", likeness=None, cosines=[], faces=0, box=None, error="gone")
    else:
        likeness(0.5)
sys.exit(bool(lost))
"""
    fake(gone)
    done = generate("validate", *drawn)
    assert "2 of 12 pictures could not be drawn or scored" in done.error
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["runs"]["person"]["failed"] == report["runs"]["weight_0"]["failed"] == 1
    moved = {picture["output"]: picture["moved"] for picture in report["pictures"]}
    assert moved["pictures/line-1_1_person.png"] is moved["pictures/line-3_1_person.png"] is None
    assert moved["pictures/line-1_2_person.png"] > 0
    assert report["closer_than_weight_0"]["pairs"] == 2
