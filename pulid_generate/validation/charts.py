"""The plots of the page: SVG text, written by hand so that a report needs nothing but itself.

Colours are classes (the page's style sheet has them for light and dark); series also differ by the
form of their marks and by dashes. Coordinates are those of a phone: 360 units wide, so that text
keeps its size there. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from pulid_generate.validation.formats import THRESHOLDS
from pulid_generate.validation.prompts import Trial
from pulid_generate.validation.report import (
    PERSON,
    RUNS,
    STRANGER,
    WITHOUT,
    Report,
    mean,
    number,
)

WIDTH = 360
# margins; BOTTOM holds ticks and the axis's name
LEFT, RIGHT, TOP, BOTTOM = 12, 12, 14, 34
# left margin of a plot whose vertical axis has numbers
LABELLED = 30
CURVE_HEIGHT, ROW = 220, 34
AXIS = (0.0, 0.25, 0.5, 0.75, 1.0)
# cosines below it stand at the edge; strangers scatter around 0 by about 0.1
LOWEST = -0.2
# gains in cosine beyond these stand at the edge
LEAST_GAIN, MOST_GAIN = -0.5, 1.0
CLASSES = {PERSON: "person", WITHOUT: "without", STRANGER: "stranger"}

Scale = Callable[[float], float]


def legend(runs: Sequence[str]) -> str:
    """HTML: each run's mark and name."""
    items = ""
    for run in runs:
        items += (
            '<li><svg class="key" viewBox="0 0 16 16" aria-hidden="true">'
            f"{mark(run, 8, 8, 5)}</svg>{escape(RUNS[run])}</li>"
        )
    return f'<ul class="legend">{items}</ul>'


def by_prompt(report: Report) -> str:
    """A row for each prompt: every picture's cosine, and a bar at the mean. Pictures without a face
    stand as crosses at 0.
    """
    trials = report.trials
    height = TOP + ROW * len(trials) + BOTTOM
    across = _scale(LOWEST, 1.0, LEFT, WIDTH - RIGHT)
    parts = _columns(across, AXIS, TOP, height - BOTTOM, "cosine to the references")
    if report.minimum is not None:
        x = across(report.minimum)
        parts.append(
            f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{height - BOTTOM}"/>'
        )
    descriptions = []
    for index, trial in enumerate(trials):
        parts += _prompt_row(report, trial, TOP + ROW * index, across)
        cosines = []
        for run in report.runs:
            cosines.append(f"{RUNS[run]} {number(report.mean_cosine(run, trial), 2)}")
        descriptions.append(f"{trial.name}: {', '.join(cosines)}")
    description = f"Mean cosine to the references. {'; '.join(descriptions)}."
    return _svg(height, "Similarity by prompt", description, parts)


def _prompt_row(report: Report, trial: Trial, top: float, across: Scale) -> list[str]:
    """The prompt's name, and its pictures on a line."""
    middle = top + 22
    parts = [
        f'<text class="row" x="{LEFT}" y="{top + 10}">{escape(trial.name)}</text>',
        _line(LEFT, middle, WIDTH - RIGHT, middle, "rule"),
    ]
    # the person on top
    for run in reversed(report.runs):
        for shot in report.shots_of(run, trial):
            if shot.status == "no face":
                parts.append(_cross(run, across(0), middle))
            elif shot.cosine is not None:
                parts.append(mark(run, across(max(shot.cosine, LOWEST)), middle, 3.2, "faint"))
        average = report.mean_cosine(run, trial)
        if average is not None:
            x = across(max(average, LOWEST))
            parts.append(_line(x, middle - 8, x, middle + 8, f"mean {CLASSES[run]}"))
    return parts


def share_curve(report: Report) -> str:
    """For each run, the share of its pictures whose cosine is at least x."""
    across = _scale(0.0, 1.0, LABELLED, WIDTH - RIGHT)
    down = _scale(1.0, 0.0, TOP, CURVE_HEIGHT - BOTTOM)
    parts = _columns(across, AXIS, TOP, CURVE_HEIGHT - BOTTOM, "threshold: cosine of at least")
    for share in (0.0, 0.5, 1.0):
        parts += _labelled_rule(down(share), f"{share:.0%}", "rule")
    descriptions = []
    for run in reversed(report.runs):
        points = []
        for threshold in THRESHOLDS:
            above = report.share_above(run, threshold)
            if above is not None:
                points.append(f"{across(threshold):.1f},{down(above):.1f}")
        if points:
            parts.append(f'<polyline class="curve {CLASSES[run]}" points="{" ".join(points)}"/>')
            descriptions.append(f"{report.share_above(run, 0.5):.0%} of {RUNS[run]} at 0.5 or more")
    title = "Share of pictures above a threshold"
    return _svg(CURVE_HEIGHT, title, f"{'; '.join(descriptions)}.", parts)


def moved_plot(report: Report) -> str:
    """For each pair of pictures: how far the identity moved the picture, and how much more like the
    person it is.
    """
    # (moved, gain in cosine, whether it has a face)
    pairs: list[tuple[float, float, bool]] = []
    for shot, other in report.pairs():
        if shot.moved is not None:
            gain = (shot.counted or 0.0) - (other.counted or 0.0)
            pairs.append((shot.moved, gain, shot.status != "no face"))
    ticks = _round_ticks(max([1.0, *(moved for moved, _, _ in pairs)]))
    across = _scale(0.0, ticks[-1], LABELLED, WIDTH - RIGHT)
    down = _scale(MOST_GAIN, LEAST_GAIN, TOP, CURVE_HEIGHT - BOTTOM)
    parts = _columns(across, ticks, TOP, CURVE_HEIGHT - BOTTOM, "mean change of a channel, of 255")
    for gain in (-0.5, 0.0, 0.5, 1.0):
        sign = "+" if gain else ""
        parts += _labelled_rule(down(gain), f"{gain:{sign}g}", "rule" if gain else "zero")
    for moved, gain, has_face in pairs:
        draw = mark if has_face else _cross
        height = down(min(max(gain, LEAST_GAIN), MOST_GAIN))
        parts.append(draw(PERSON, across(moved), height))
    description = (
        f"{len(pairs)} pairs of pictures; on average moved by "
        f"{number(mean(moved for moved, _, _ in pairs), 1)} of 255, and "
        f"{number(mean(gain for _, gain, _ in pairs), 2)} more like the person."
    )
    title = "How far the identity moved the picture, and what it gained in cosine"
    return _svg(CURVE_HEIGHT, title, description, parts)


# ------------------------------------------------------------------------------------------- pieces


def mark(run: str, x: float, y: float, size: float = 4.0, more: str = "") -> str:
    """The run's form: a disc, an open square, a triangle. more: a further class."""
    classes = " ".join(filter(None, ("mark", CLASSES[run], more)))
    if run == PERSON:
        return f'<circle class="{classes}" cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}"/>'
    if run == WITHOUT:
        return (
            f'<rect class="{classes}" x="{x - size:.1f}" y="{y - size:.1f}" '
            f'width="{2 * size:.1f}" height="{2 * size:.1f}"/>'
        )
    corners = (
        (x, y - size * 1.2),
        (x + size * 1.1, y + size * 0.9),
        (x - size * 1.1, y + size * 0.9),
    )
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in corners)
    return f'<polygon class="{classes}" points="{points}"/>'


def _svg(height: float, title: str, description: str, parts: Sequence[str]) -> str:
    """With a name and a description for whoever cannot see it."""
    label = f"{escape(title)}. {escape(description)}"
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{label}">'
        f"<title>{escape(title)}</title>{''.join(parts)}</svg>"
    )


def _scale(first: float, last: float, start: float, end: float) -> Scale:
    """Values from `first` to `last` -> coordinates from `start` to `end`."""
    return lambda value: start + (value - first) / (last - first) * (end - start)


def _round_ticks(widest: float) -> list[float]:
    """From 0 to beyond `widest`, a round number apart."""
    step = next(size for size in (1, 2, 5, 10, 20, 50, 100) if widest / size <= 5)
    return [float(step * index) for index in range(int(widest / step) + 2)]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _cross(run: str, x: float, y: float, size: float = 3.5) -> str:
    """A picture without a face."""
    path = f"M{x - size:.1f} {y - size:.1f}l{2 * size} {2 * size}m0 {-2 * size}"
    return f'<path class="cross {CLASSES[run]}" d="{path}l{-2 * size} {2 * size}"/>'


def _labelled_rule(y: float, label: str, kind: str) -> list[str]:
    """A horizontal line, and its number on the left."""
    return [
        _line(LABELLED, y, WIDTH - RIGHT, y, kind),
        f'<text class="tick end" x="{LABELLED - 4}" y="{y + 3:.1f}">{label}</text>',
    ]


def _columns(
    across: Scale, ticks: Sequence[float], top: float, bottom: float, name: str
) -> list[str]:
    """The horizontal axis: grid lines, numbers, a name."""
    parts = []
    for tick in ticks:
        x = across(tick)
        parts.append(_line(x, top, x, bottom, "grid"))
        parts.append(f'<text class="tick mid" x="{x:.1f}" y="{bottom + 13:g}">{tick:g}</text>')
    middle = (across(ticks[0]) + across(ticks[-1])) / 2
    parts.append(
        f'<text class="axis mid" x="{middle:.1f}" y="{bottom + 28:g}">{escape(name)}</text>'
    )
    return parts
