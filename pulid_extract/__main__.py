"""Where `pulid-extract` and `python -m pulid_extract` start.

Imports nothing before Ctrl-C is looked after: the commands take a moment to import, and an
interrupt in that moment is no bug that wants a traceback.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point; see `cli.main`."""
    try:
        from pulid_extract.cli import main as run
        from pulid_extract.shared.cli.ending import run_and_end
        from pulid_extract.shared.cli.interrupts import end_at_once

        try:
            run_and_end(run)
        finally:
            end_at_once()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
