"""Markdown tables of the parts of bench.gpu."""

from __future__ import annotations

from collections.abc import Sequence


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """On standard output."""
    print(f"{title}:\n")
    print(f"| {' | '.join(heads)} |")
    print(f"|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")
    print(flush=True)
