"""What validate reports: its numbers and its notes. No picture is drawn."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from support.paths import ROOT
from support.reports import SHOTS, A, B, report

from pulid_generate.pictures.score_lines import Judges, Pose, Recognizer
from pulid_generate.validation.formats import as_dict, as_table
from pulid_generate.validation.measures import angle_between, parse_requirements
from pulid_generate.validation.notes import notes_of
from pulid_generate.validation.prompts import TRIALS, Trial, own_trials
from pulid_generate.validation.report import (
    PERSON,
    STRANGER,
    WITHOUT,
    KnownPicture,
    Memory,
    Shot,
    number,
)


def test_a_picture_without_a_face_counts_0_and_one_that_failed_does_not_count():
    found = report(*SHOTS)
    assert found.mean_likeness(PERSON) == pytest.approx((0.8 + 0.2 + 0) / 3)
    assert found.share_above(PERSON, 0.2) == pytest.approx(2 / 3)
    # no face is never alike, not even by 0
    assert found.share_above(PERSON, 0.0) == pytest.approx(2 / 3)
    assert found.share_above(STRANGER, 0.5) is None
    # no face is not closer, whatever weight 0 has
    assert as_dict(found)["closer_than_weight_0"] == {"pairs": 3, "closer": 1}
    assert found.mean_of(lambda shot: shot.moved) == pytest.approx(40 / 3)
    summary = as_dict(found)["runs"]["person"]
    assert (
        summary["pictures"],
        summary["with_face"],
        summary["without_face"],
        summary["failed"],
    ) == (4, 2, 1, 1)
    assert [shot.counted for shot in SHOTS] == [0.8, 0.1, 0.2, 0.3, 0.0, -0.2, None, None]


def test_numbers_for_people():
    assert [number(value) for value in (0.12345, -0.0001, -0.25, None)] == [
        "0.123",
        "0.000",
        "-0.250",
        "-",
    ]


def test_passing_is_at_least_the_minimum_and_nothing_passes_without_pictures():
    def passed(shot: Shot, *texts: str) -> bool | None:
        return report(shot, requirements=parse_requirements(texts)).passed

    assert passed(SHOTS[0], "mean_likeness>=0.8") is True
    assert passed(SHOTS[0], "mean_likeness>0.8") is False
    assert passed(SHOTS[0], "mean_likeness<=0.8,mean_likeness<0.81", "with_face>=1") is True
    assert passed(SHOTS[0]) is None
    # what has no number meets nothing
    assert passed(SHOTS[6], "mean_likeness>=-1") is False
    assert passed(SHOTS[0], "prompt<=100") is False


def test_every_key_of_the_report_is_in_the_docs():
    """Of version 2; those of the records too."""
    told = as_dict(
        report(
            *SHOTS,
            strangers=[KnownPicture("s", "s")],
            memory=Memory(3 << 30, "cuda"),
            requirements=parse_requirements(["mean_likeness>=0.3"]),
        )
    )
    text = (ROOT / "docs/validation.md").read_text()
    records = [told, told["identity"], told["memory"], told["measures"], told["runs"]["person"]]
    for name in ("references", "recognizers", "requirements", "prompts", "pictures"):
        records.append(told[name][0])
    for record in records:
        for key in record:
            assert f"`{key}`" in text, key
    assert told["version"] == 2


def test_numbers_that_copying_does_not_raise():
    """By hand: pictures of two prompts, one of which asks for a pose."""
    free = {"prompt_score": 30.0, "turned": 50.0}
    held = {"prompt_score": 28.0, "turned": 20.0, "truth": 0.3, "copy_paste": 0.6}
    found = report(
        Shot(A, 1, PERSON, "1.png", "s", "ok", 0.9, seconds=2.0, **held),
        Shot(A, 1, WITHOUT, "2.png", "s", "ok", 0.1, **free),
        Shot(B, 1, PERSON, "3.png", "s", "no face", prompt_score=25.0, seconds=4.0),
        Shot(B, 1, WITHOUT, "4.png", "s", "ok", 0.1, prompt_score=26.0, turned=80.0),
        truths=[KnownPicture("me too", "t")],
        memory=Memory(3 << 30, "cuda"),
    )
    told = as_dict(found)["measures"]
    assert (told["mean_likeness"], told["lowest_likeness"], told["with_face"]) == (0.45, 0.0, 0.5)
    # without a face: 0 in the likeness, nothing in the copying
    assert (told["truth_likeness"], told["copy_paste"]) == (0.15, 0.6)
    assert (told["prompt"], told["prompt_score"]) == (-1.5, 26.5)
    # B asks for light: how its heads turn does not count
    assert told["pose_freedom"] == pytest.approx(20 / 50)
    assert (told["seconds"], told["memory_gib"]) == (3.0, 3.0)
    straight = replace(found, shots=[replace(shot, turned=0.2) for shot in found.shots])
    assert as_dict(straight)["measures"]["pose_freedom"] is None


@pytest.mark.parametrize(
    ("pose", "other", "degrees"),
    [
        (Pose(0, 0, 0), Pose(30, 0, 0), 30),
        (Pose(0, 10, 0), Pose(0, -15, 0), 25),
        (Pose(40, 5, 0), Pose(40, 5, 90), 90),
        (Pose(12, -7, 3), Pose(12, -7, 3), 0),
        (Pose(-170, 0, 0), Pose(170, 0, 0), 20),
    ],
)
def test_the_angle_between_two_heads(pose, other, degrees):
    assert angle_between(pose, other) == pytest.approx(degrees, abs=1e-4)
    assert angle_between(other, pose) == pytest.approx(degrees, abs=1e-4)


def test_recognisers_agree_as_far_as_their_likenesses_do():
    both = [(0.1, 0.3), (0.2, 0.2), (0.4, None), (0.3, 0.1)]
    shots = [
        Shot(A, seed, PERSON, f"{seed}.png", "s", "ok", pair[0], by_each=pair)
        for seed, pair in enumerate(both)
    ]
    faceless = Shot(B, 9, PERSON, "9.png", "s", "no face")
    judges = Judges((Recognizer("a", "a", own=True), Recognizer("b", "b", own=False)))
    first, second = as_dict(report(*shots, faceless, judges=judges))["recognizers"]
    assert second["agreement"] == -1
    assert second["mean_likeness"] == {"person": 0.15}
    assert first["mean_likeness"] == {"person": 0.2}
    few = as_dict(report(*shots[:2], judges=judges))["recognizers"]
    assert few[1]["agreement"] is None
    # at the terminal too, the one that PuLID is conditioned on marked
    told = as_table(report(*shots, faceless, judges=judges)).splitlines()[-2:]
    assert re.match(r"by a +0\.200  the network that PuLID is conditioned on: the person", told[0])
    assert re.match(r"by b +0\.150  the person 0\.150; correlation with the first -1\.00", told[1])
    assert "by a" not in as_table(report(*shots, judges=Judges(judges.recognizers[:1])))


@pytest.mark.parametrize(
    ("shots", "more", "note"),
    [
        (
            SHOTS[:2],
            {"judges": Judges((Recognizer("g", "j", own=True),))},
            "g is the network that PuLID is conditioned on, so these numbers flatter it; --recogn",
        ),
        (
            SHOTS[:2],
            {"judges": Judges((Recognizer("g", "j", own=True), Recognizer("h", "k", own=False)))},
            "flatter it; h stands beside it.",
        ),
        (SHOTS[:2], {"truths": []}, "No other photograph of the person was given (--truth)"),
        (SHOTS[:2], {"unjudged": "no tower"}, "show their prompts was not judged (no tower)."),
        (
            [replace(SHOTS[0], copy_paste=0.3)],
            {},
            "nearer to the photograph that was given than to the person (copy_paste +0.30)",
        ),
        (SHOTS[4:5], {}, "No face was found in pictures: 1 of 1 of the person; each counts as 0."),
        (SHOTS[6:], {}, "2 of 2 pictures could not be drawn or scored"),
        (SHOTS[:2], {}, "No stranger was given"),
        (
            SHOTS[2:3],
            {"strangers": [KnownPicture("you", "y")]},
            "In 1 of 1 picture the face is as like the stranger as the person",
        ),
        (SHOTS[2:4], {}, "Only in 0 of 1 pairs"),
        (SHOTS[2:3], {}, "1 picture of the person with several faces"),
        (
            SHOTS[:2],
            {"references": [KnownPicture("me", "r", 1.0, 0.4)]},
            "portrait is like the person's (cosine 0.40)",
        ),
    ],
)
def test_what_a_reader_must_know_is_said_when_it_is_so(shots, more, note):
    assert any(note in said for said in notes_of(report(*shots, **more)))
    others = {"strangers": [KnownPicture("you", "y")], "truths": [KnownPicture("me 2", "t")]}
    calm = report(*SHOTS[:2], **others)
    assert notes_of(calm) == []


def test_our_prompts_are_a_dozen_of_every_aspect():
    assert (
        len({trial.name for trial in TRIALS})
        == len({trial.text for trial in TRIALS})
        == len(TRIALS)
        == 12
    )
    assert {trial.aspect for trial in TRIALS} == {
        "pose",
        "light",
        "age",
        "style",
        "occlusion",
        "crowd",
    }
    assert all(
        re.fullmatch(r"[a-z-]+", trial.name) and "a person" in trial.text for trial in TRIALS
    )
    assert own_trials([(3, "a cat")]) == (Trial("line-3", "own", "a cat"),)
