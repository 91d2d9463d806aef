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
        f"<title>Identity validation: similarity {number(report.similarity)}</title>",
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
    """The similarity and its controls, and what one must know to believe them."""
    cards = [
        (
            number(report.similarity),
            "mean cosine of the person's pictures; one without a face counts 0",
        )
    ]
    for run, text in ((WITHOUT, "at weight 0"), (STRANGER, "as a stranger")):
        if run in report.runs:
            cards.append((number(report.mean_cosine(run)), f"the same, drawn {text}"))
    if report.strangers:
        cards.append(
            (
                number(report.mean_stranger(PERSON)),
                "of the person's pictures to the stranger's portrait",
            )
        )
    cards.append(
        (
            f"{report.closer()} of {len(report.pairs())}",
            "pairs in which the identity made the picture more like the person",
        )
    )
    parts = ["<h1>Identity validation</h1>"]
    if report.passed is not None:
        word, kind = ("passed", "good") if report.passed else ("missed", "bad")
        parts.append(
            f'<p class="verdict {kind}">{word}: at least {report.minimum:g} was asked for</p>'
        )
    items = [f"<li><b>{value}</b> <span>{escape(text)}</span></li>" for value, text in cards]
    parts.append(f'<ul class="cards">{"".join(items)}</ul>')
    if notes := [f"<li>{_with_flags(note)}</li>" for note in notes_of(report)]:
        parts.append(f"<h2>To know</h2><ul>{''.join(notes)}</ul>")
    return f"<header>{''.join(parts)}</header>"


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
            "Similarity by prompt",
            legend + charts.by_prompt(report),
            "Each mark is a picture, each bar a mean; a cross is a picture without a face.",
        ),
        _plot(
            "Share of pictures above a threshold",
            legend + charts.share_curve(report),
            "Further right is more like the person.",
        ),
        _plot(
            "How far the identity moved the picture",
            charts.moved_plot(report),
            "Against the picture of the same prompt and seed at weight 0. Upwards: what that "
            "gained in cosine.",
        ),
    ]
    return f'<section><h2>Plots</h2><div class="plots">{"".join(plots)}</div></section>'


def _plot(title: str, drawing: str, caption: str) -> str:
    return (
        f"<figure><h3>{escape(title)}</h3>{drawing}"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _numbers(report: Report) -> str:
    names = [*(RUNS[run] for run in report.runs), "moved"]
    if report.strangers:
        names.append("to the stranger")
    names.append("without a face")
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("prompt", "aspect", *names))
    rows = [_number_row(report, trial.name, trial.aspect, trial) for trial in report.trials]
    caption = (
        "Mean cosine to the references; a picture without a face counts 0. Moved: mean change of a "
        "channel from weight 0, of 255."
    )
    return _scrolling(
        "Numbers",
        f"<table><caption>{caption}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody>"
        f"<tfoot>{_number_row(report, 'all', '', None)}</tfoot></table>",
    )


def _number_row(report: Report, name: str, aspect: str, trial: Trial | None) -> str:
    """trial: None for all."""
    cells = [number(report.mean_cosine(run, trial)) for run in report.runs]
    cells.append(number(report.mean_moved(PERSON, trial), 1))
    if report.strangers:
        cells.append(number(report.mean_stranger(PERSON, trial)))
    cells.append(f"{report.faceless(PERSON, trial)} of {len(report.shots_of(PERSON, trial))}")
    numbers = "".join(f"<td>{cell}</td>" for cell in cells)
    return (
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td class="text">{escape(aspect)}</td>{numbers}</tr>'
    )


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
    caption = shot.cosine_text
    if shot.stranger is not None:
        caption += f", stranger {number(shot.stranger, 2)}"
    alt = f"{shot.trial.name}, {label}: {shot.cosine_text}"
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
    identity, recognizer = report.identity, report.recognizer
    facts = {
        "recogniser": f"{recognizer.name}, SHA-256 {recognizer.sha256}",
        "identity": f"SHA-256 {identity.sha256}, weight {identity.weight:g}",
    }
    if identity.stranger_sha256 is not None:
        facts["the stranger's identity"] = f"SHA-256 {identity.stranger_sha256}"
    for kind, pictures in (("reference", report.references), ("stranger", report.strangers)):
        for index, picture in enumerate(pictures, 1):
            facts[f"{kind} {index}"] = f"{picture.name}, SHA-256 {picture.sha256}"
    for name, value in report.settings.items():
        facts[name] = _in_words(value)
    facts["made by"] = report.tool

    rows = ""
    for name, text in facts.items():
        rows += f'<tr><th scope="row">{escape(name)}</th><td class="text">{escape(text)}</td></tr>'
    caption = "Faces are biometric data: mind where you keep this page."
    return _scrolling(
        "What made it", f"<table><caption>{caption}</caption><tbody>{rows}</tbody></table>"
    )


def _in_words(value: object) -> str:
    """A setting, whatever it is made of."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(part)}" for name, part in value.items())
    if isinstance(value, list):
        return "; ".join(map(_in_words, value))
    return str(value)


def _scrolling(title: str, table: str) -> str:
    """A table that scrolls by itself where it is wider than the screen, with the keyboard too."""
    return (
        f'<section><h2>{title}</h2><div class="scroll" role="region" aria-label="{title}" '
        f'tabindex="0">{table}</div></section>'
    )
