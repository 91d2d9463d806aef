"""What validate reports: its numbers, its notes, its page. No picture is drawn."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from pulid_generate.pictures.scorer import Recognizer
from pulid_generate.validation import charts
from pulid_generate.validation.formats import as_dict
from pulid_generate.validation.notes import notes_of
from pulid_generate.validation.page import as_page
from pulid_generate.validation.prompts import TRIALS, Trial, own_trials
from pulid_generate.validation.report import (
    PERSON,
    STRANGER,
    WITHOUT,
    KnownPicture,
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
        "identity": ValidatedIdentity("id", 1.0),
        "references": [KnownPicture("me", "r", 1.0)],
        "strangers": [],
        "recognizer": Recognizer("own.onnx", "j", own=False),
        "settings": {},
    }
    return Report(**(facts | more), shots=shots)


def test_a_picture_without_a_face_counts_0_and_one_that_failed_does_not_count():
    found = report(*SHOTS)
    assert found.similarity == pytest.approx((0.8 + 0.2 + 0) / 3)
    assert found.share_above(PERSON, 0.2) == pytest.approx(2 / 3)
    # no face is never alike, not even by 0
    assert found.share_above(PERSON, 0.0) == pytest.approx(2 / 3)
    assert found.share_above(STRANGER, 0.5) is None
    # no face is not closer, whatever weight 0 has
    assert as_dict(found)["closer_than_weight_0"] == {"pairs": 3, "closer": 1}
    assert found.mean_moved(PERSON) == pytest.approx(40 / 3)
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
    good = report(SHOTS[0], minimum=0.8)
    assert (
        good.passed,
        replace(good, minimum=0.81).passed,
        replace(good, minimum=None).passed,
    ) == (True, False, None)
    assert report(SHOTS[6], minimum=-1.0).passed is False


@pytest.mark.parametrize(
    ("shots", "more", "note"),
    [
        (
            SHOTS[:2],
            {"recognizer": Recognizer("g", "j", own=True)},
            "g is the network that PuLID is conditioned on",
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
    calm = report(*SHOTS[:2], strangers=[KnownPicture("you", "y")])
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
            identity=ValidatedIdentity("id", 0.8, "you"),
        ),
        lambda _: None,
        [],
    )
    for text in (
        "flux schnell, vae ae",
        "name a, weight 1",
        "SHA-256 id, weight 0.8",
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


def test_the_plots_show_what_the_report_says():
    found = report(*SHOTS, minimum=0.5)
    plot = charts.by_prompt(found)
    assert plot.count("<circle") == 2
    assert plot.count('class="cross person"') == 1  # no face is shown, at 0
    assert plot.count('class="limit"') == 1
    assert 'class="limit"' not in charts.by_prompt(replace(found, minimum=None))
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
