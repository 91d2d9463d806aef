"""Where `pulid-generate` and `python -m pulid_generate` start.

Imports nothing before Ctrl-C is looked after: the commands take a moment to import, and an
interrupt in that moment is no bug that wants a traceback.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point; see `cli.main`."""
    try:
        from pulid_generate.cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()
