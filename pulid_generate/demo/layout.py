"""The sheet of the demo: people down, prompts across, under each picture its likeness. Knows no
command. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pulid_generate.demo.scenes import PROMPTS
from pulid_generate.pictures.sheet_grid import Heading, SheetGrid, Thumbnail


def grid(
    portraits: Mapping[str, Path],
    pictures: Sequence[Path],
    cosines: Sequence[Sequence[float]],
    verdict: str,
) -> SheetGrid:
    """Last the row without PuLID, with the cosine to whoever is the most alike by chance.

    pictures: row by row. cosines: for each picture that to each portrait, in their order.
    """
    cells = []
    for row in range(len(portraits) + 1):
        line = []
        for column in range(len(PROMPTS)):
            place = row * len(PROMPTS) + column
            if row < len(portraits):
                caption = f"likeness {cosines[place][row]:.2f}"
            else:
                caption = f"to anybody at most {max(cosines[place]):.2f}"
            line.append([Thumbnail(pictures[place], caption)])
        cells.append(line)
    rows = [Heading(name, path) for name, path in portraits.items()]
    rows.append(Heading("without PuLID, the same seed"))
    columns = [Heading(prompt.removeprefix("a portrait of a person, ")) for prompt in PROMPTS]
    return SheetGrid(cells, columns, rows, f"A portrait, a prompt, a picture. {verdict}")


def rightly_picked(cosines: Sequence[Sequence[float]], people: int) -> int:
    """In how many of the pictures of people the right one is the most alike."""
    right = 0
    for place, row in enumerate(cosines[: people * len(PROMPTS)]):
        right += row.index(max(row)) == place // len(PROMPTS)
    return right
