"""The plots of the page: SVG text, written by hand so that a report needs nothing but itself.

Colours are classes (the page's style sheet has them for light and dark); series also differ by the
form of their marks and by dashes. Coordinates are those of a phone: 360 units wide, so that text
keeps its size there. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from pulid_extract.shared.cli.console import counted
from pulid_generate.validation.formats import THRESHOLDS
from pulid_generate.validation.measures import prompt_change
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

WIDTH = 360
# margins; BOTTOM holds ticks and the axis's name
LEFT, RIGHT, TOP, BOTTOM = 12, 12, 14, 34
# left margin of a plot whose vertical axis has numbers
LABELLED = 42
CURVE_HEIGHT, ROW = 220, 34
AXIS = (0.0, 0.25, 0.5, 0.75, 1.0)
# likenesses below it stand at the edge, as an arrow; strangers scatter around 0 by about 0.1
LOWEST = -0.2
# gains in likeness that are on their axis in any case; cosines differ by 2 at most
LEAST_GAIN, MOST_GAIN, GAIN_STEP = -0.5, 1.0, 0.5
# the median cosine of two photographs of one person: MultiID-Bench (arXiv 2510.14975)
REAL_PAIRS = 0.46
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
    """A row for each prompt: every picture's likeness, and a bar at the mean. Pictures without a
    face stand as crosses at 0, what is below the axis as arrows at its edge, a mean as a double
    one; a dotted line where pairs of real photographs are, a dashed one at what is required.
    """
    across = _scale(LOWEST, 1.0, LEFT, WIDTH - RIGHT)
    lines = [_vertical(report, across(REAL_PAIRS), "pairs")]
    for requirement in report.requirements:
        if requirement.measure.name == "mean_likeness":
            lines.append(_vertical(report, across(requirement.clause.limit), "limit"))
    descriptions = []
    for trial in report.trials:
        means = []
        for run in report.runs:
            means.append(f"{RUNS[run]} {number(report.mean_likeness(run, trial), 2)}")
        descriptions.append(f"{trial.name}: {', '.join(means)}")
    below = sum(shot.likeness is not None and shot.likeness < LOWEST for shot in report.shots)
    if below:
        descriptions.append(f"{counted(below, 'picture')} below {LOWEST:g}")
    return _rows(
        report,
        report.runs,
        lambda shot: shot.likeness,
        report.mean_likeness,
        across,
        (AXIS, LOWEST),
        ("Likeness by prompt", "cosine to the references"),
        f"Mean cosine to the references. {'; '.join(descriptions)}.",
        lines,
    )


def copied_by_prompt(report: Report) -> str:
    """A row for each prompt: copy_paste of the person's pictures, and a bar at the mean."""
    across = _scale(-1.0, 1.0, LEFT, WIDTH - RIGHT)

    def average(run: str, trial: Trial) -> float | None:
        return report.mean_of(lambda shot: shot.copy_paste, run, trial)

    means = [f"{trial.name}: {number(average(PERSON, trial), 2)}" for trial in report.trials]
    return _rows(
        report,
        [PERSON],
        lambda shot: shot.copy_paste,
        average,
        across,
        ((-1.0, -0.5, 0.0, 0.5, 1.0), -1.0),
        ("Copy or person", "-1 another photograph, 1 the one that was given"),
        f"Mean copy_paste. {'; '.join(means)}.",
        [_vertical(report, across(0), "zero")],
    )


def prompt_by_prompt(report: Report) -> str:
    """A row for each prompt: CLIPScore points that the identity gained or lost."""
    changes: dict[Shot, float] = {}
    for shot, base in report.pairs():
        change = prompt_change(shot, base)
        if change is not None:
            changes[shot] = change
    widest = _round_ticks(max([1.0, *map(abs, changes.values())]))[-1]
    across = _scale(-widest, widest, LEFT, WIDTH - RIGHT)

    def average(run: str, trial: Trial) -> float | None:
        return report.mean_of(changes.get, run, trial)

    means = [f"{trial.name}: {number(average(PERSON, trial), 1)}" for trial in report.trials]
    return _rows(
        report,
        [PERSON],
        changes.get,
        average,
        across,
        ((-widest, -widest / 2, 0.0, widest / 2, widest), -widest),
        ("Prompt against weight 0", "CLIPScore points gained or lost"),
        f"Mean change of the prompt score. {'; '.join(means)}.",
        [_vertical(report, across(0), "zero")],
    )


def _rows(
    report: Report,
    runs: Sequence[str],
    value: Callable[[Shot], float | None],
    average: Callable[[str, Trial], float | None],
    across: Scale,
    axis: tuple[Sequence[float], float],
    names: tuple[str, str],
    description: str,
    lines: Sequence[str],
) -> str:
    """A plot of a row for each prompt. axis: ticks, and the lowest value that is on it. names: of
    the plot, of its axis. lines: drawn below the marks.
    """
    height = TOP + ROW * len(report.trials) + BOTTOM
    ticks, lowest = axis
    parts = _columns(across, ticks, TOP, height - BOTTOM, names[1])
    parts += lines
    for index, trial in enumerate(report.trials):
        top = TOP + ROW * index
        middle = top + 22
        parts.append(f'<text class="row" x="{LEFT}" y="{top + 10}">{escape(trial.name)}</text>')
        parts.append(_line(LEFT, middle, WIDTH - RIGHT, middle, "rule"))
        # the person on top
        for run in reversed(runs):
            for shot in report.shots_of(run, trial):
                parts += _shot_mark(shot, value(shot), across, lowest, middle)
            mean_value = average(run, trial)
            if mean_value is not None:
                parts += _mean_mark(run, mean_value, across, lowest, middle)
    return _svg(height, names[0], description, parts)


def _shot_mark(
    shot: Shot, value: float | None, across: Scale, lowest: float, y: float
) -> list[str]:
    """Of one picture, if there is anything to show."""
    if value is not None and value < lowest:
        return [_arrow(shot.run, across(lowest), y)]
    if value is not None:
        return [mark(shot.run, across(value), y, 3.2, "faint")]
    if shot.status == "no face":
        return [_cross(shot.run, across(0), y)]
    return []


def _mean_mark(run: str, value: float, across: Scale, lowest: float, y: float) -> list[str]:
    """Of the pictures of a prompt."""
    if value < lowest:
        edge = across(lowest)
        return [_arrow(run, edge, y), _arrow(run, edge + 5, y)]
    x = across(value)
    return [_line(x, y - 8, x, y + 8, f"mean {CLASSES[run]}")]


def _vertical(report: Report, x: float, kind: str) -> str:
    """A line from the top of a plot of rows to its axis."""
    return _line(x, TOP, x, TOP + ROW * len(report.trials), kind)


def share_curve(report: Report) -> str:
    """For each run, the share of its pictures whose cosine is at least x."""
    across = _scale(0.0, 1.0, LABELLED, WIDTH - RIGHT)
    down = _scale(1.0, 0.0, TOP, CURVE_HEIGHT - BOTTOM)
    parts = _columns(across, AXIS, TOP, CURVE_HEIGHT - BOTTOM, "likeness of at least")
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
    # (moved, gain in likeness, whether it has a face)
    pairs: list[tuple[float, float, bool]] = []
    for shot, other in report.pairs():
        if shot.moved is not None:
            gain = (shot.counted or 0.0) - (other.counted or 0.0)
            pairs.append((shot.moved, gain, shot.status != "no face"))
    ticks = _round_ticks(max([1.0, *(moved for moved, _, _ in pairs)]))
    across = _scale(0.0, ticks[-1], LABELLED, WIDTH - RIGHT)
    gains = [LEAST_GAIN, MOST_GAIN, *(gain for _, gain, _ in pairs)]
    first, last = math.floor(min(gains) / GAIN_STEP), math.ceil(max(gains) / GAIN_STEP)
    down = _scale(last * GAIN_STEP, first * GAIN_STEP, TOP, CURVE_HEIGHT - BOTTOM)
    parts = _columns(across, ticks, TOP, CURVE_HEIGHT - BOTTOM, "mean change of a channel, of 255")
    for step in range(first, last + 1):
        gain, sign = step * GAIN_STEP, "+" if step else ""
        parts += _labelled_rule(down(gain), f"{gain:{sign}g}", "rule" if step else "zero")
    for moved, gain, has_face in pairs:
        draw = mark if has_face else _cross
        parts.append(draw(PERSON, across(moved), down(gain)))
    description = (
        f"{len(pairs)} pairs of pictures; on average moved by "
        f"{number(mean(moved for moved, _, _ in pairs), 1)} of 255, and "
        f"{number(mean(gain for _, gain, _ in pairs), 2)} more like the person."
    )
    title = "How far the identity moved the picture, and what it gained in likeness"
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


def _arrow(run: str, x: float, y: float) -> str:
    """A picture beyond the left edge of a plot, which it points at."""
    path = f"M{x + 6:.1f} {y - 4:.1f}L{x:.1f} {y:.1f}L{x + 6:.1f} {y + 4:.1f}"
    return f'<path class="cross beyond {CLASSES[run]}" d="{path}"/>'


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
