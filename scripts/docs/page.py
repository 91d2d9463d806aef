"""One generated page: written, or compared with what is there."""

from __future__ import annotations

import sys
from pathlib import Path


def write_or_check(target: Path, text: str, source: str) -> None:
    """Without an argument writes the page; with --check exits with 1 if it has another text.

    source: what the page is made from, for the message.
    """
    if sys.argv[1:] not in ([], ["--check"]):
        print(f"usage: {Path(sys.argv[0]).name} [--check]", file=sys.stderr)
        sys.exit(2)
    if not sys.argv[1:]:
        target.write_text(text, encoding="utf-8")
        print(target)
    elif not target.is_file() or target.read_text(encoding="utf-8") != text:
        print(
            f"{target.name}: not what {source} now; run 'make docs' and commit docs/{target.name}",
            file=sys.stderr,
        )
        sys.exit(1)
