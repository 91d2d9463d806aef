"""The page of a report: one HTML file with its pictures and plots inside, and nothing from anywhere
else.

A reader on a phone, in the dark, or with a screen reader gets the same numbers: every plot has a
description, and a table has them all. Imports no torch.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from html import escape

from pulid_generate.validation import charts
from pulid_generate.validation.measures import MEASURES, by_recognizers
from pulid_generate.validation.notes import notes_of
from pulid_generate.validation.prompts import Trial
from pulid_generate.validation.report import (
    PERSON,
    RUNS,
    STRANGER,
    WITHOUT,
    Report,
    Shot,
    number,
)
from pulid_generate.validation.style import STYLE

# of the command line, in a sentence
FLAG = re.compile(r"--[a-z-]+")
# the browser itself refuses whatever is not in this file
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

# a shot's `output` -> its small JPEG; None for one that is not there
ReadThumbnail = Callable[[str], bytes | None]


def as_page(
    report: Report, read_thumbnail: ReadThumbnail, faces: Sequence[tuple[str, bytes]]
) -> str:
    """The HTML text. faces: (caption, JPEG) of who is compared with."""
    sections = [
        _verdict(report),
        _people(faces),
        _plots(report),
        _numbers(report),
        _pictures(report, read_thumbnail),
        _facts(report),
    ]
    head = [
        '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        '<meta name="referrer" content="no-referrer">',
        '<meta name="color-scheme" content="light dark">',
        f"<title>Identity validation: {escape(report.identity.name)}, "
        f"{report.created[:10]}</title>",
        f"<style>{STYLE}</style>",
    ]
    lines = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        *("<head>", *head, "</head>"),
        *("<body>", "<main>", *sections, "</main>", "</body>"),
        "</html>\n",
    ]
    return "\n".join(lines)


def _verdict(report: Report) -> str:
    """Who, when and by which command; the measures and their controls, and what one must know to
    believe them.
    """
    identity = report.identity
    names = ", ".join(picture.name for picture in report.references)
    when = report.created.replace("T", " ").replace("+00:00", " UTC")
    parts = [
        "<h1>Identity validation</h1>",
        f'<p class="who"><b>{escape(identity.name)}</b> at weight {identity.weight:g}, compared '
        f"with {escape(names)}, "
        f'<time datetime="{escape(report.created)}">{escape(when)}</time></p>',
        f'<p class="command"><code>{_unbroken(report.command)}</code></p>',
    ]
    if report.passed is not None:
        word, kind = ("passed", "good") if report.passed else ("missed", "bad")
        parts.append(f'<p class="verdict {kind}">{word}</p>')
        parts.append(_requirements(report))
    items = [
        f"<li><b>{value}</b> <span>{escape(text)}</span></li>" for value, text in _cards(report)
    ]
    parts.append(f'<ul class="cards">{"".join(items)}</ul>')
    if notes := [f"<li>{_with_flags(note)}</li>" for note in notes_of(report)]:
        parts.append(f"<h2>To know</h2><ul>{''.join(notes)}</ul>")
    return f"<header>{''.join(parts)}</header>"


def _unbroken(command: str) -> str:
    """HTML; its words do not break behind a hyphen."""
    words = command.split(" ")
    return " ".join(f'<span class="word">{escape(word)}</span>' for word in words)


def _requirements(report: Report) -> str:
    """What was required, and what it came to."""
    items = ""
    for requirement in report.requirements:
        met = requirement.is_met(report)
        value = number(requirement.measure.of(report), requirement.measure.digits)
        items += (
            f'<li class="{"good" if met else "bad"}">{"met" if met else "not met"}: '
            f"{escape(str(requirement))} is {value}</li>"
        )
    return f'<ul class="required">{items}</ul>'


def _cards(report: Report) -> list[tuple[str, str]]:
    """(number, what it is) of what matters most."""
    cards = [_card(report, "mean_likeness")]
    for run, text in ((WITHOUT, "at weight 0"), (STRANGER, "as a stranger")):
        if run in report.runs:
            cards.append((number(report.mean_likeness(run)), f"the same, drawn {text}"))
    for name in ("to_stranger", "truth_likeness", "copy_paste", "prompt", "pose_freedom"):
        if MEASURES[name].of(report) is not None:
            cards.append(_card(report, name))
    cards.append(
        (
            f"{report.closer()} of {len(report.pairs())}",
            "pairs in which the identity made the picture more like the person",
        )
    )
    return cards


def _card(report: Report, name: str) -> tuple[str, str]:
    measure = MEASURES[name]
    return number(measure.of(report), measure.digits), f"{name}: {measure.text}"


def _with_flags(sentence: str) -> str:
    """HTML; the flags in it do not break at the end of a line."""
    return FLAG.sub(r"<code>\g<0></code>", escape(sentence))


def _people(faces: Sequence[tuple[str, bytes]]) -> str:
    figures = "".join(_figure(data, caption, caption) for caption, data in faces)
    return f'<section><h2>Compared with</h2><div class="strip">{figures}</div></section>'


def _plots(report: Report) -> str:
    legend = charts.legend(report.runs)
    plots = [
        _plot(
            "Likeness by prompt",
            legend + charts.by_prompt(report),
            "Each mark is a picture, each bar a mean; a cross is a picture without a face, an "
            f"arrow one below {charts.LOWEST:g}, two a mean. Pairs of real photographs of one "
            f"person have a median cosine of about {charts.REAL_PAIRS:g} (dotted line): a picture "
            "far above it may be a copy. A dashed line is what was required.",
        )
    ]
    if report.truths:
        plots.append(
            _plot(
                "Copy or person",
                charts.copied_by_prompt(report),
                "Angles to the photograph that was given and to others of the person. Above 0: "
                "nearer to the photograph than to the person; a cross has no face. Pairs of real "
                f"photographs have a median cosine of about {charts.REAL_PAIRS:g}.",
            )
        )
    if MEASURES["prompt"].of(report) is not None:
        plots.append(
            _plot(
                "Prompt against weight 0",
                charts.prompt_by_prompt(report),
                "100 times the cosine of picture and prompt, against the picture of the same "
                "prompt and seed at weight 0. Below 0: the identity cost something of the prompt.",
            )
        )
    plots.append(
        _plot(
            "Share of pictures above a threshold",
            legend + charts.share_curve(report),
            "Further right is more like the person.",
        )
    )
    plots.append(
        _plot(
            "How far the identity moved the picture",
            charts.moved_plot(report),
            "Against the picture of the same prompt and seed at weight 0. Upwards: what that "
            "gained in likeness.",
        )
    )
    return f'<section><h2>Plots</h2><div class="plots">{"".join(plots)}</div></section>'


def _plot(title: str, drawing: str, caption: str) -> str:
    return (
        f"<figure><h3>{escape(title)}</h3>{drawing}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _numbers(report: Report) -> str:
    columns = _columns_of(report)
    names = "".join(
        f'<th scope="col">{escape(name)}</th>' for name in ("prompt", "aspect", *columns)
    )
    rows = [
        _number_row(report, columns, trial.name, trial.aspect, trial) for trial in report.trials
    ]
    caption = (
        "Likeness: mean cosine to the references; a picture without a face counts 0. Moved: mean "
        "change of a channel from weight 0, of 255; disruption: the same outside the head."
    )
    table = (
        f"<table><thead><tr>{names}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody>"
        f"<tfoot>{_number_row(report, columns, 'all', '', None)}</tfoot></table>"
    )
    required = "--require asks for these by their names; - where there is none."
    return _scrolling("Numbers", caption, table) + _section("Measures", required, _measures(report))


Cell = Callable[[Trial | None], str]


def _columns_of(report: Report) -> dict[str, Cell]:
    """name -> a prompt's cell, or that of all."""

    def likeness_of(run: str) -> Cell:
        return lambda trial: number(report.mean_likeness(run, trial))

    def mean_of(value: Callable[[Shot], float | None], digits: int) -> Cell:
        return lambda trial: number(report.mean_of(value, PERSON, trial), digits)

    columns: dict[str, Cell] = {}
    for run in report.runs:
        columns[RUNS[run]] = likeness_of(run)
    if report.strangers:
        columns["to the stranger"] = mean_of(lambda shot: shot.stranger, 3)
    if report.truths:
        columns["copy_paste"] = mean_of(lambda shot: shot.copy_paste, 2)
    if report.judges.prompt is not None:
        columns["prompt score"] = mean_of(lambda shot: shot.prompt_score, 2)
    columns["turned"] = mean_of(lambda shot: shot.turned, 0)
    columns["moved"] = mean_of(lambda shot: shot.moved, 1)
    columns["disruption"] = mean_of(lambda shot: shot.disruption, 1)
    columns["without a face"] = lambda trial: (
        f"{report.faceless(PERSON, trial)} of {len(report.shots_of(PERSON, trial))}"
    )
    return columns


def _number_row(
    report: Report, columns: dict[str, Cell], name: str, aspect: str, trial: Trial | None
) -> str:
    """trial: None for all."""
    numbers = "".join(f"<td>{cell(trial)}</td>" for cell in columns.values())
    return (
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td class="text">{escape(aspect)}</td>{numbers}</tr>'
    )


def _measures(report: Report) -> str:
    """Every measure by its name, and what each recogniser says."""
    rows = ""
    for name, measure in MEASURES.items():
        value = number(measure.of(report), measure.digits)
        rows += (
            f'<tr><th scope="row">{name}</th><td>{value}</td>'
            f'<td class="text">{escape(measure.text)}</td></tr>'
        )
    for name, value, text in by_recognizers(report):
        rows += (
            f'<tr><th scope="row">{escape(name)}</th><td>{value}</td>'
            f'<td class="text">{escape(text)}</td></tr>'
        )
    return f'<table class="words"><tbody>{rows}</tbody></table>'


def _pictures(report: Report, read_thumbnail: ReadThumbnail) -> str:
    """Every prompt; of each, a strip for every seed."""
    articles = []
    for trial in report.trials:
        by_seed: dict[int, list[Shot]] = {}
        for run in report.runs:
            for shot in report.shots_of(run, trial):
                by_seed.setdefault(shot.seed, []).append(shot)
        strips = []
        for seed, shots in by_seed.items():
            figures = "".join(_shot(shot, read_thumbnail) for shot in shots)
            strips.append(
                f'<div class="strip of-{len(shots)}" role="group" aria-label="seed {seed}">'
                f"{figures}</div>"
            )
        articles.append(
            f"<article><h3>{escape(trial.name)} <small>{escape(trial.aspect)}</small></h3>"
            f'<p>{escape(trial.text)}</p><div class="seeds">{"".join(strips)}</div></article>'
        )
    return f"<section><h2>Pictures</h2>{''.join(articles)}</section>"


def _shot(shot: Shot, read_thumbnail: ReadThumbnail) -> str:
    label = f"{RUNS[shot.run]}, seed {shot.seed}"
    caption = shot.likeness_text
    if shot.status == "ok":
        caption = f"likeness {caption}"
    if shot.stranger is not None:
        caption += f", stranger {number(shot.stranger, 2)}"
    alt = f"{shot.trial.name}, {label}: {shot.likeness_text}"
    return _figure(read_thumbnail(shot.output), alt, caption, label)


def _figure(data: bytes | None, alt: str, caption: str, more: str = "") -> str:
    """data: a JPEG. more: a smaller line below the caption."""
    if data is not None:
        source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
        image = f'<img loading="lazy" alt="{escape(alt)}" src="{source}">'
    else:
        image = '<div class="none" role="img" aria-label="no picture"></div>'
    small = f"<small>{escape(more)}</small>" if more else ""
    return f"<figure>{image}<figcaption>{escape(caption)}{small}</figcaption></figure>"


def _facts(report: Report) -> str:
    identity, judge = report.identity, report.judges.prompt
    facts = {"identity": f"{identity.name}, SHA-256 {identity.sha256}, weight {identity.weight:g}"}
    for index, recognizer in enumerate(report.judges.recognizers, 1):
        number_of = f" {index}" if len(report.judges.recognizers) > 1 else ""
        facts[f"recogniser{number_of}"] = f"{recognizer.name}, SHA-256 {recognizer.sha256}"
    if judge is not None:
        facts["judge of prompts"] = f"{judge.name}, SHA-256 {judge.sha256}"
    if identity.stranger_sha256 is not None:
        facts["the stranger's identity"] = f"SHA-256 {identity.stranger_sha256}"
    for kind, pictures in (
        ("reference", report.references),
        ("another photograph", report.truths),
        ("stranger", report.strangers),
    ):
        for index, picture in enumerate(pictures, 1):
            facts[f"{kind} {index}"] = f"{picture.name}, SHA-256 {picture.sha256}"
    for name, value in report.settings.items():
        facts[name] = _in_words(value)
    facts["made by"] = report.tool

    rows = ""
    for name, text in facts.items():
        rows += f'<tr><th scope="row">{escape(name)}</th><td class="text">{escape(text)}</td></tr>'
    return _section(
        "What made it",
        "Faces are biometric data: mind where you keep this page.",
        f'<table class="words"><tbody>{rows}</tbody></table>',
    )


def _in_words(value: object) -> str:
    """A setting, whatever it is made of."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "; ".join(map(_in_words, value))
    return str(value)


def _section(title: str, about: str, table: str, hint: str = "") -> str:
    """about: a sentence on the table. hint: HTML behind it."""
    sentence = f'<p class="about">{_with_flags(about)}{hint}</p>'
    return f"<section><h2>{title}</h2>{sentence}{table}</section>"


def _scrolling(title: str, about: str, table: str) -> str:
    """A table that scrolls by itself where it is wider than the screen, with the keyboard too."""
    hint = ' <span class="hint">Wider than the screen, it scrolls sideways.</span>'
    scroll = f'<div class="scroll" role="region" aria-label="{title}" tabindex="0">{table}</div>'
    return _section(title, about, scroll, hint)
