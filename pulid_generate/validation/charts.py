"""The plots of the page: SVG text, written by hand so that a report needs nothing but itself.

Colours are classes (the page's style sheet has them for light and dark); series also differ by the
form of their marks and by dashes. Coordinates are those of a phone: 360 units wide, so that text
keeps its size there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from pulid_generate.validation.report import (
    PERSON,
    RUNS,
    STRANGER,
    THRESHOLDS,
    WITHOUT,
    Report,
    mean,
    number,
)

WIDTH = 360
LEFT, RIGHT, TOP, BOTTOM = 12, 12, 14, 34  # margins; BOTTOM holds ticks and the axis's name
CURVE_HEIGHT, ROW = 220, 34
LABELLED = 30  # left margin of a plot whose vertical axis has numbers
LOWEST = -0.2  # cosines below it stand at the edge; strangers scatter around 0 by about 0.1
AXIS = (0.0, 0.25, 0.5, 0.75, 1.0)
CLASSES = {PERSON: "person", WITHOUT: "without", STRANGER: "stranger"}


def mark(run: str, x: float, y: float, size: float = 4.0, more: str = "") -> str:
    """The run's form: a disc, an open square, a triangle."""
    kind = f'class="mark {CLASSES[run]} {more}"'.replace(' "', '"')
    if run == PERSON:
        return f'<circle {kind} cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"/>'
    if run == WITHOUT:
        return f'<rect {kind} x="{x - size:.1f}" y="{y - size:.1f}" width="{2 * size:.1f}" height="{2 * size:.1f}"/>'
    points = (
        (x, y - size * 1.2),
        (x + size * 1.1, y + size * 0.9),
        (x - size * 1.1, y + size * 0.9),
    )
    return f'<polygon {kind} points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'


def legend(runs: Sequence[str]) -> str:
    """HTML: each run's mark and name."""
    items = (
        f'<li><svg class="key" viewBox="0 0 16 16" aria-hidden="true">{mark(run, 8, 8, 5)}</svg>{escape(RUNS[run])}</li>'
        for run in runs
    )
    return f'<ul class="legend">{"".join(items)}</ul>'


def by_prompt(report: Report) -> str:
    """A row for each prompt: every picture's cosine, and a bar at the mean. Pictures without a face
    stand as crosses at 0.
    """
    trials = report.trials
    height = TOP + ROW * len(trials) + BOTTOM
    place = _scale(LOWEST, 1.0, LEFT, WIDTH - RIGHT)
    parts = _columns(place, AXIS, TOP, height - BOTTOM, "cosine to the references")
    if report.minimum is not None:
        x = place(report.minimum)
        parts.append(
            f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        )
    for index, trial in enumerate(trials):
        top = TOP + ROW * index
        parts.append(f'<text class="row" x="{LEFT}" y="{top + 10}">{escape(trial.name)}</text>')
        parts.append(_line(LEFT, top + 22, WIDTH - RIGHT, top + 22, "rule"))
        for run in reversed(report.runs):  # the person on top
            for shot in report.of(run, trial):
                if shot.status == "no face":
                    parts.append(_cross(run, place(0), top + 22))
                elif shot.cosine is not None:
                    parts.append(mark(run, place(max(shot.cosine, LOWEST)), top + 22, 3.2, "faint"))
            middle = mean(shot.counted for shot in report.of(run, trial))
            if middle is not None:
                parts.append(
                    _line(
                        place(max(middle, LOWEST)),
                        top + 14,
                        place(max(middle, LOWEST)),
                        top + 30,
                        f"mean {CLASSES[run]}",
                    )
                )
    told = "; ".join(
        f"{trial.name}: "
        + ", ".join(
            f"{RUNS[run]} {number(mean(s.counted for s in report.of(run, trial)), 2)}"
            for run in report.runs
        )
        for trial in trials
    )
    return _svg(height, "Similarity by prompt", f"Mean cosine to the references. {told}.", parts)


def share_curve(report: Report) -> str:
    """For each run, the share of its pictures whose cosine is at least x."""
    across = _scale(0.0, 1.0, LABELLED, WIDTH - RIGHT)
    down = _scale(1.0, 0.0, TOP, CURVE_HEIGHT - BOTTOM)
    parts = _columns(across, AXIS, TOP, CURVE_HEIGHT - BOTTOM, "threshold: cosine of at least")
    for share in (0.0, 0.5, 1.0):
        parts.append(_line(LABELLED, down(share), WIDTH - RIGHT, down(share), "rule"))
        parts.append(
            f'<text class="tick end" x="{LABELLED - 4}" y="{down(share) + 3:.1f}">{share:.0%}</text>'
        )
    told = []
    for run in reversed(report.runs):
        shares = [(threshold, report.share_above(run, threshold)) for threshold in THRESHOLDS]
        points = [
            f"{across(threshold):.1f},{down(share):.1f}"
            for threshold, share in shares
            if share is not None
        ]
        if points:
            parts.append(f'<polyline class="curve {CLASSES[run]}" points="{" ".join(points)}"/>')
            half = report.share_above(run, 0.5)
            told.append(f"{half:.0%} of {RUNS[run]} at 0.5 or more" if half is not None else "")
    return _svg(CURVE_HEIGHT, "Share of pictures above a threshold", f"{'; '.join(told)}.", parts)


def moved_plot(report: Report) -> str:
    """For each pair of pictures: how far the identity moved the picture, and how much more like the
    person it is.
    """
    pairs = [(shot, other) for shot, other in report.pairs() if shot.moved is not None]
    widest = max([shot.moved or 0.0 for shot, _ in pairs] + [1.0])
    step = next(size for size in (1, 2, 5, 10, 20, 50, 100) if widest / size <= 5)
    ticks = [float(step * index) for index in range(int(widest / step) + 2)]
    across = _scale(0.0, ticks[-1], LABELLED, WIDTH - RIGHT)
    down = _scale(1.0, -0.5, TOP, CURVE_HEIGHT - BOTTOM)
    parts = _columns(
        across, ticks, TOP, CURVE_HEIGHT - BOTTOM, "mean change of a channel, of 255", "{:g}"
    )
    for gain in (-0.5, 0.0, 0.5, 1.0):
        parts.append(
            _line(LABELLED, down(gain), WIDTH - RIGHT, down(gain), "zero" if gain == 0 else "rule")
        )
        parts.append(
            f'<text class="tick end" x="{LABELLED - 4}" y="{down(gain) + 3:.1f}">{gain:{"+" if gain else ""}g}</text>'
        )
    for shot, other in pairs:
        gain = min(max((shot.counted or 0.0) - (other.counted or 0.0), -0.5), 1.0)
        draw = _cross if shot.status == "no face" else mark
        parts.append(draw(PERSON, across(shot.moved or 0.0), down(gain)))
    moved, gained = (
        mean(shot.moved for shot, _ in pairs),
        mean((a.counted or 0.0) - (b.counted or 0.0) for a, b in pairs),
    )
    told = f"{len(pairs)} pairs of pictures; on average moved by {number(moved, 1)} of 255, and {number(gained, 2)} more like the person."
    return _svg(
        CURVE_HEIGHT,
        "How far the identity moved the picture, and what it gained in cosine",
        told,
        parts,
    )


# ------------------------------------------------------------------------------------------- pieces


def _svg(height: float, title: str, description: str, parts: Sequence[str]) -> str:
    """With a name and a description for whoever cannot see it."""
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(title)}. {escape(description)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _scale(first: float, last: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (value - first) / (last - first) * (end - start)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _cross(run: str, x: float, y: float, size: float = 3.5) -> str:
    """A picture without a face."""
    return f'<path class="cross {CLASSES[run]}" d="M{x - size:.1f} {y - size:.1f}l{2 * size} {2 * size}m0 {-2 * size}l{-2 * size} {2 * size}"/>'


def _columns(
    place: Callable[[float], float],
    ticks: Sequence[float],
    top: float,
    bottom: float,
    name: str,
    form: str = "{:g}",
) -> list[str]:
    """The horizontal axis: grid lines, numbers, a name."""
    parts = []
    for tick in ticks:
        parts.append(_line(place(tick), top, place(tick), bottom, "grid"))
        parts.append(
            f'<text class="tick mid" x="{place(tick):.1f}" y="{bottom + 13:g}">{form.format(tick)}</text>'
        )
    middle = (place(ticks[0]) + place(ticks[-1])) / 2
    parts.append(
        f'<text class="axis mid" x="{middle:.1f}" y="{bottom + 28:g}">{escape(name)}</text>'
    )
    return parts
