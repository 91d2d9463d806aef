"""The page of a report: one HTML file with its pictures and plots inside, and nothing from anywhere
else.

A reader on a phone, in the dark, or with a screen reader gets the same numbers: every plot has a
description, and a table has them all.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from html import escape

from pulid_generate.validation import charts
from pulid_generate.validation.prompts import Trial
from pulid_generate.validation.report import (
    PERSON,
    RUNS,
    STRANGER,
    WITHOUT,
    Report,
    Shot,
    mean,
    number,
)
from pulid_generate.validation.style import STYLE

Thumbnail = Callable[[str], bytes | None]
FLAG = re.compile(r"--[a-z-]+")  # of the command line, in a sentence


def as_page(report: Report, thumbnail: Thumbnail, faces: Sequence[tuple[str, bytes]]) -> str:
    """The HTML text. thumbnail: the small JPEG of a shot's `output`, None for one that is not
    there. faces: (caption, JPEG) of who is compared with.
    """
    sections = [
        _verdict(report),
        _people(faces),
        _plots(report),
        _numbers(report),
        _pictures(report, thumbnail),
        _facts(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        # the browser itself refuses whatever is not in this file
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">\n"
        '<meta name="referrer" content="no-referrer">\n<meta name="color-scheme" content="light dark">\n'
        f"<title>Identity validation: {_headline(report)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(sections)
        + "\n</main>\n</body>\n</html>\n"
    )


def _headline(report: Report) -> str:
    return f"similarity {number(report.similarity)}"


def _verdict(report: Report) -> str:
    verdict = ""
    if report.passed is not None:
        word, kind = ("passed", "good") if report.passed else ("missed", "bad")
        verdict = f'<p class="verdict {kind}">{word}: at least {report.minimum:g} was asked for</p>'
    pairs = report.as_dict()["closer_than_weight_0"]
    cards = [
        (
            number(report.similarity),
            "mean cosine of the person's pictures; one without a face counts 0",
        )
    ]
    cards += [
        (number(mean(shot.counted for shot in report.of(run))), f"the same, drawn {text}")
        for run, text in ((WITHOUT, "at weight 0"), (STRANGER, "as a stranger"))
        if run in report.runs
    ]
    if report.strangers:
        cards.append(
            (
                number(mean(shot.stranger for shot in report.of(PERSON))),
                "of the person's pictures to the stranger's portrait",
            )
        )
    cards += [
        (
            f"{pairs['closer']} of {pairs['pairs']}",
            "pairs in which the identity made the picture more like the person",
        )
    ]
    shown = "".join(f"<li><b>{value}</b> <span>{escape(text)}</span></li>" for value, text in cards)
    notes = "".join(f"<li>{_with_flags(note)}</li>" for note in report.notes())
    return (
        f'<header><h1>Identity validation</h1>{verdict}<ul class="cards">{shown}</ul>'
        f"{f'<h2>To know</h2><ul>{notes}</ul>' if notes else ''}</header>"
    )


def _with_flags(sentence: str) -> str:
    """HTML; the flags in it do not break at the end of a line."""
    return FLAG.sub(r"<code>\g<0></code>", escape(sentence))


def _people(faces: Sequence[tuple[str, bytes]]) -> str:
    figures = "".join(_figure(data, caption, caption) for caption, data in faces)
    return f'<section><h2>Compared with</h2><div class="strip">{figures}</div></section>'


def _plots(report: Report) -> str:
    plots = (
        (
            "Similarity by prompt",
            charts.by_prompt(report),
            "Each mark is a picture, each bar a mean; a cross is a picture without a face.",
        ),
        (
            "Share of pictures above a threshold",
            charts.share_curve(report),
            "Further right is more like the person.",
        ),
        (
            "How far the identity moved the picture",
            charts.moved_plot(report),
            "Against the picture of the same prompt and seed at weight 0. Upwards: what that gained in cosine.",
        ),
    )
    shown = "".join(
        f"<figure><h3>{escape(title)}</h3>{legend}{svg}<figcaption>{escape(text)}</figcaption></figure>"
        for (title, svg, text), legend in zip(
            plots, (charts.legend(report.runs), charts.legend(report.runs), ""), strict=True
        )
    )
    return f'<section><h2>Plots</h2><div class="plots">{shown}</div></section>'


def _numbers(report: Report) -> str:
    names = (
        [RUNS[run] for run in report.runs]
        + ["moved"]
        + ["to the stranger"] * bool(report.strangers)
        + ["without a face"]
    )
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)

    def row(name: str, aspect: str, trial: Trial | None) -> str:
        cells = [
            number(mean(shot.counted for shot in report.of(run, trial))) for run in report.runs
        ]
        cells.append(number(mean(shot.moved for shot in report.of(PERSON, trial)), 1))
        if report.strangers:
            cells.append(number(mean(shot.stranger for shot in report.of(PERSON, trial))))
        faceless = sum(shot.status == "no face" for shot in report.of(PERSON, trial))
        cells.append(f"{faceless} of {len(report.of(PERSON, trial))}")
        numbers = "".join(f"<td>{cell}</td>" for cell in cells)
        return f'<tr><th scope="row">{escape(name)}</th><td class="text">{escape(aspect)}</td>{numbers}</tr>'

    rows, total = (
        "".join(row(trial.name, trial.aspect, trial) for trial in report.trials),
        row("all", "", None),
    )
    return _scrolling(
        "Numbers",
        f"<table><caption>Mean cosine to the references; a picture without a face counts 0. Moved: mean change of a channel from weight 0, of "
        f'255.</caption><thead><tr><th scope="col">prompt</th><th scope="col">aspect</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody><tfoot>{total}</tfoot></table>",
    )


def _pictures(report: Report, thumbnail: Thumbnail) -> str:
    blocks = []
    for trial in report.trials:
        rows: dict[int, list[Shot]] = {}
        for run in report.runs:
            for shot in report.of(run, trial):
                rows.setdefault(shot.seed, []).append(shot)
        shown = "".join(
            f'<div class="strip of-{len(shots)}" role="group" aria-label="seed {seed}">{"".join(_shot(shot, thumbnail) for shot in shots)}</div>'
            for seed, shots in rows.items()
        )
        blocks.append(
            f"<article><h3>{escape(trial.name)} <small>{escape(trial.aspect)}</small></h3><p>{escape(trial.text)}</p>"
            f'<div class="seeds">{shown}</div></article>'
        )
    return f"<section><h2>Pictures</h2>{''.join(blocks)}</section>"


def _shot(shot: Shot, thumbnail: Thumbnail) -> str:
    more = f", stranger {number(shot.stranger, 2)}" if shot.stranger is not None else ""
    label = f"{RUNS[shot.run]}, seed {shot.seed}"
    return _figure(
        thumbnail(shot.output),
        f"{shot.trial.name}, {label}: {shot.told}",
        f"{shot.told}{more}",
        label,
    )


def _figure(data: bytes | None, alt: str, caption: str, more: str = "") -> str:
    image = '<div class="none" role="img" aria-label="no picture"></div>'
    if data is not None:
        image = f'<img loading="lazy" alt="{escape(alt)}" src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
    small = f"<small>{escape(more)}</small>" if more else ""
    return f"<figure>{image}<figcaption>{escape(caption)}{small}</figcaption></figure>"


def _facts(report: Report) -> str:
    judge = report.recognizer
    facts = {
        "recogniser": f"{judge['name']}, SHA-256 {judge['sha256']}",
        "identity": f"SHA-256 {report.identity['sha256']}, weight {report.identity['weight']:g}",
        **(
            {"the stranger's identity": f"SHA-256 {report.identity['stranger_sha256']}"}
            if "stranger_sha256" in report.identity
            else {}
        ),
        **{
            f"reference {index}": f"{facts['name']}, SHA-256 {facts['sha256']}"
            for index, facts in enumerate(report.references, 1)
        },
        **{
            f"stranger {index}": f"{facts['name']}, SHA-256 {facts['sha256']}"
            for index, facts in enumerate(report.strangers, 1)
        },
        **{name: _in_words(value) for name, value in report.settings.items()},
        "made by": report.tool,
    }
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="text">{escape(text)}</td></tr>'
        for name, text in facts.items()
    )
    return _scrolling(
        "What made it",
        f"<table><caption>Faces are biometric data: mind where you keep this page.</caption><tbody>{rows}</tbody></table>",
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
    return f'<section><h2>{title}</h2><div class="scroll" role="region" aria-label="{title}" tabindex="0">{table}</div></section>'
