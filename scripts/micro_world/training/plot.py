"""The losses of every network as one picture. Reads the .csv files that `training` leaves: step,
seconds, loss.
"""

from __future__ import annotations

import csv
import math
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

PANEL, GAP, COLUMNS = (320, 200), 40, 4
INK, PAPER, LINE, RULE = (30, 30, 30), (250, 249, 246), (40, 100, 190), (215, 212, 205)


def losses(folder: Path, target: Path) -> None:
    """One panel for each network that has been begun, the last that was written last: loss on a
    logarithmic axis over steps.
    """
    logs = sorted(folder.glob("*.csv"), key=lambda path: path.stat().st_ctime)
    found = {path.stem: points for path in logs if (points := _points(path))}
    if not found:
        return
    rows = -(-len(found) // COLUMNS)
    size = COLUMNS * (PANEL[0] + GAP) + GAP, rows * (PANEL[1] + 2 * GAP) + GAP
    sheet = Image.new("RGB", size, PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for index, (stage, points) in enumerate(found.items()):
        left, top = (
            GAP + index % COLUMNS * (PANEL[0] + GAP),
            GAP + index // COLUMNS * (PANEL[1] + 2 * GAP),
        )
        draw.rectangle((left, top, left + PANEL[0], top + PANEL[1]), outline=RULE)
        steps, values = (
            [step for step, _, _ in points],
            [math.log10(max(loss, 1e-6)) for _, _, loss in points],
        )
        low, high = min(values), max(max(values), min(values) + 1e-6)
        line = [
            (left + step / steps[-1] * PANEL[0], top + (high - value) / (high - low) * PANEL[1])
            for step, value in zip(steps, values, strict=True)
        ]
        draw.line(line, LINE, 2)
        minutes = points[-1][1] / 60
        draw.text(
            (left, top - 20),
            f"{stage}: {steps[-1]} steps, {minutes:.0f} min, loss {points[-1][2]:.3f}",
            INK,
            font,
        )
        draw.text((left + 4, top + 2), f"{10**high:.3g}", INK, font)
        draw.text((left + 4, top + PANEL[1] - 18), f"{10**low:.3g}", INK, font)
    sheet.save(target)


def _points(path: Path) -> list[tuple[int, float, float]]:
    with open(path, encoding="utf-8", newline="") as file:
        return [
            (int(step), float(seconds), float(loss)) for step, seconds, loss in csv.reader(file)
        ]
