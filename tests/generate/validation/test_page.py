"""What validate reports: its numbers, its notes, its page. No picture is drawn."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image
from support.paths import ROOT

from pulid_generate.pictures.score_lines import Judges, Pose, Recognizer
from pulid_generate.validation import charts
from pulid_generate.validation.formats import as_dict, as_table
from pulid_generate.validation.measures import angle_between, parse_requirements
from pulid_generate.validation.notes import notes_of
from pulid_generate.validation.page import as_page
from pulid_generate.validation.prompts import TRIALS, Trial, own_trials
from pulid_generate.validation.report import (
    PERSON,
    STRANGER,
    WITHOUT,
    KnownPicture,
    Memory,
    Report,
    Shot,
    ValidatedIdentity,
    number,
)

# ------------------------------------------------------------------------------------------ numbers

A, B = Trial("a", "pose", "a cat"), Trial("b", "light", "a <dog>")
SHOTS = (
    Shot(A, 1, PERSON, "1.png", "s", "ok", 0.8, 0.1, 1, 12.0),
    Shot(A, 1, WITHOUT, "2.png", "s", "ok", 0.1, 0.0, 1),
    Shot(B, 1, PERSON, "3.png", "s", "ok", 0.2, 0.3, 4, 20.0),
    Shot(B, 1, WITHOUT, "4.png", "s", "ok", 0.3, 0.0, 1),
    Shot(B, 2, PERSON, "5.png", "s", "no face", moved=8.0),
    Shot(B, 2, WITHOUT, "6.png", "s", "ok", -0.2, 0.0, 1),
    Shot(A, 2, PERSON, "7.png", error="no memory"),
    Shot(A, 2, WITHOUT, "8.png", "s", "unreadable"),
)


def report(*shots: Shot, **more) -> Report:
    facts = {
        "tool": "test",
        "created": "2026-11-29T16:00:00+00:00",
        "command": "pulid-generate validate --reference <me>.jpg",
        "identity": ValidatedIdentity("me.pulidembd", "id", 1.0),
        "references": [KnownPicture("me", "r", 1.0)],
        "strangers": [],
        "judges": Judges((Recognizer("own.onnx", "j", own=False),)),
        "settings": {},
    }
    return Report(**(facts | more), shots=shots)


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


# --------------------------------------------------------------------------------------------- page


VOID = {"meta", "img", "link", "br"}


class Tags(HTMLParser):
    """Every element with its attributes, balanced."""

    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def page() -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    return as_page(
        report(*SHOTS), {"1.png": buffer.getvalue()}.get, [("reference <me>", buffer.getvalue())]
    )


def test_the_page_needs_nothing_but_itself(page):
    assert "://" not in page
    assert "default-src 'none'" in page
    for tag, attributes in Tags(page).found:
        assert tag not in ("script", "link", "iframe", "object")
        assert (attributes.get("src") or "data:").startswith(
            "data:image/jpeg;base64,"
        ) or tag != "img"
        assert not any(name.startswith("on") for name in attributes)
    assert "url(" not in page
    assert "@import" not in page


def test_prompts_and_errors_are_text_on_the_page():
    hostile = '"></td><script>alert(1)</script><img src=x onerror=alert(1)>'
    shot = Shot(Trial("a", "pose", hostile), 1, PERSON, "1.png", error=hostile)
    page = as_page(report(shot, command=hostile), lambda name: None, [])
    assert "&lt;script&gt;" in page
    tags = Tags(page).found
    assert "script" not in {tag for tag, _ in tags}
    assert not [attributes for tag, attributes in tags if tag == "img"]
    assert not any(name.startswith("on") for _, attributes in tags for name in attributes)


def test_the_page_is_for_everyone(page):
    tags = Tags(page).found
    images = [attributes for tag, attributes in tags if tag == "img"]
    assert [image["alt"] for image in images] == ["reference <me>", "a, the person, seed 1: 0.800"]
    drawings = [
        attributes for tag, attributes in tags if tag == "svg" and "aria-hidden" not in attributes
    ]
    assert len(drawings) == 3
    assert all(
        attributes["role"] == "img" and len(attributes["aria-label"] or "") > 40
        for attributes in drawings
    )
    assert ("html", {"lang": "en"}) in tags
    assert any(attributes.get("name") == "viewport" for tag, attributes in tags if tag == "meta")
    assert "prefers-color-scheme:dark" in page
    assert all("scope" in attributes for tag, attributes in tags if tag == "th")


def test_the_page_says_what_made_it():
    settings = {
        "models": {"flux": "schnell", "vae": "ae"},
        "loras": [{"name": "a", "weight": 1}],
        "steps": 4,
    }
    page = as_page(
        report(
            SHOTS[0],
            settings=settings,
            identity=ValidatedIdentity("me", "id", 0.8, "you"),
        ),
        lambda _: None,
        [],
    )
    for text in (
        "flux schnell, vae ae",
        "name a, weight 1",
        "me, SHA-256 id, weight 0.8",
        "SHA-256 you",
        "own.onnx, SHA-256 j",
    ):
        assert f">{text}<" in page
    assert "stranger" not in as_page(report(SHOTS[0]), lambda _: None, []).split("What made it")[1]


def test_names_are_no_markup_and_all_numbers_are_in_the_table(page):
    assert "a <dog>" not in page
    assert "a &lt;dog&gt;" in page
    for cell in ("0.800", "0.100", "13.3", "1 of 2", "1 of 4"):
        assert f"<td>{cell}</td>" in page
    assert "no face" in page
    assert "not drawn" in page


def test_the_head_says_who_when_and_by_which_command(page):
    head = page.split("<header>")[1].split("</header>")[0]
    assert "<b>me.pulidembd</b> at weight 1, compared with me" in head
    assert "2026-11-29 16:00:00 UTC" in head
    command = "".join(re.findall(r">([^<]*)<", head.split("<code>")[1].split("</code>")[0]))
    assert command == "pulid-generate validate --reference &lt;me&gt;.jpg"
    assert "<title>Identity validation: me.pulidembd, 2026-11-29</title>" in page


def test_the_page_says_what_was_required(page):
    asked = parse_requirements(["mean_likeness>=0.3,copy_paste<=0"])
    text = as_page(report(*SHOTS, requirements=asked), lambda _: None, [])
    assert '<p class="verdict bad">missed</p>' in text
    assert "met: mean_likeness&gt;=0.3 is 0.333" in text
    assert "not met: copy_paste&lt;=0 is -" in text
    assert 'class="verdict' not in page


def test_what_is_beyond_an_axis_is_marked_at_its_edge():
    far = replace(SHOTS[3], likeness=-0.6)
    found = report(SHOTS[2], far, replace(SHOTS[0], likeness=0.9), replace(SHOTS[1], likeness=-0.4))
    plot = charts.by_prompt(found)
    # an arrow for each picture, two for the mean of each prompt
    assert plot.count('class="cross beyond without"') == 2 + 2 * 2
    assert plot.count('class="mean') == 2  # of the person
    assert "2 pictures below -0.2" in plot
    calm = charts.by_prompt(report(*SHOTS[:4]))
    assert "beyond" not in calm
    assert "below" not in calm


def test_every_gain_is_on_its_axis():
    shots = [replace(SHOTS[0], likeness=0.9), replace(SHOTS[1], likeness=-0.4), *SHOTS[2:4]]
    moved = charts.moved_plot(report(*shots))
    assert re.findall(r'class="tick end"[^>]*>([^<]+)<', moved) == [
        "-0.5",
        "0",
        "+0.5",
        "+1",
        "+1.5",
    ]
    heights = [float(y) for y in re.findall(r'<circle[^>]* cy="([^"]+)"', moved)]
    top, bottom = charts.TOP, charts.CURVE_HEIGHT - charts.BOTTOM
    # 1.3 of -0.5 to 1.5
    assert min(heights) == pytest.approx(top + (bottom - top) * 0.1, abs=0.1)


def test_plots_of_copying_and_of_prompts():
    shots = [
        Shot(A, 1, PERSON, "1.png", "s", "ok", 0.8, copy_paste=0.5, prompt_score=20.0),
        Shot(A, 1, WITHOUT, "2.png", "s", "ok", 0.1, copy_paste=-0.5, prompt_score=23.0),
        Shot(B, 1, PERSON, "3.png", "s", "no face", prompt_score=24.0),
        Shot(B, 1, WITHOUT, "4.png", "s", "ok", 0.1, prompt_score=23.0),
    ]
    found = report(*shots)
    copied = charts.copied_by_prompt(found)
    assert copied.count("<circle") == 1
    assert copied.count('class="cross person"') == 1
    assert "a: 0.50; b: -" in copied
    prompts = charts.prompt_by_prompt(found)
    assert prompts.count("<circle") == 2
    assert "a: -3.0; b: 1.0" in prompts
    page = as_page(replace(found, truths=[KnownPicture("t", "t")]), lambda _: None, [])
    assert page.count("<figcaption>") == 5 + len(shots)


def test_no_number_of_an_axis_is_cut_off():
    """A digit is 0.6 of the letters' size wide, and these are 12 high on a phone."""
    labels = re.findall(
        r'class="tick end" x="([\d.]+)"[^>]*>([^<]+)<', charts.share_curve(report(*SHOTS))
    )
    assert [text for _, text in labels] == ["0%", "50%", "100%"]
    for x, text in labels:
        assert float(x) >= 12 * (0.6 * len(text) + 0.3)


def test_the_plots_show_what_the_report_says():
    found = report(*SHOTS, requirements=parse_requirements(["mean_likeness>=0.5"]))
    plot = charts.by_prompt(found)
    assert plot.count("<circle") == 2
    assert plot.count('class="cross person"') == 1  # no face is shown, at 0
    assert plot.count('class="limit"') == 1
    assert 'class="limit"' not in charts.by_prompt(replace(found, requirements=()))
    curve = charts.share_curve(found)
    points = re.search(r'class="curve person" points="([^"]+)"', curve)[1].split()
    assert len(points) == 21
    heights = [float(point.split(",")[1]) for point in points]
    assert heights == sorted(heights)  # it only falls
    assert heights[0] < heights[-1]
    moved = charts.moved_plot(found)
    assert moved.count("<circle") == 2
    assert "3 pairs" in moved
    assert "moved by - of 255" in charts.moved_plot(
        report(SHOTS[6])
    )  # nothing to show is not an error
