"""`pulid-generate serve`, as --help shows it; `server/http/running.py` does the work and is
imported for it.
"""

from __future__ import annotations

import typer

from pulid_extract.shared.cli.flags import takes_flags
from pulid_generate.flags.commands.tables import ServeFlags


@takes_flags(ServeFlags)
def serve(context: typer.Context, flags: ServeFlags) -> None:
    """Answer HTTP requests with pictures, with models that are loaded once; with a studio for the
    browser.

    Speaks OpenAI's and WebUI's routes and its own, /v1/jobs, which take every option of a
    generation by its name. The options of a generation given here are defaults for every request.
    SIGTERM and Ctrl-C finish the picture in work; jobs that wait are drawn by the next start with
    the same --output-dir.
    """
    from pulid_generate.server.http.running import run

    run(context, flags)
