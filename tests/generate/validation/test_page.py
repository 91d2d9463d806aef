"""The page of a validation: safe, readable for everyone, and with all the numbers."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image
from support.reports import SHOTS, A, B, report

from pulid_generate.validation import charts
from pulid_generate.validation.measures import parse_requirements
from pulid_generate.validation.page import as_page
from pulid_generate.validation.prompts import Trial
from pulid_generate.validation.report import (
    PERSON,
    WITHOUT,
    KnownPicture,
    Shot,
    ValidatedIdentity,
)

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
