"""Where `serve` listens, what it offers, and how much it takes. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True, kw_only=True)
class ServingFlags:
    """What `serve` has for itself."""

    HEADING = "Server"

    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Where to listen. Any address but this machine's loopback needs --api-key-file.",
        ),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        typer.Option("--port", metavar="N", min=0, max=65535, help="0 takes any free port."),
    ] = 7860
    identities: Annotated[
        str | None,
        typer.Option(
            "--identities",
            metavar="FOLDER",
            help="Every .pulidembd of it can be named in a request, and as <id:NAME:WEIGHT> in any "
            "prompt.",
        ),
    ] = None
    output_dir: Annotated[
        str,
        typer.Option(
            "--output-dir",
            metavar="FOLDER",
            help="Where pictures and waiting jobs are kept, readable by you alone; made if need "
            "be.",
        ),
    ] = "studio"
    keep: Annotated[
        bool,
        typer.Option(
            "--keep",
            help="Leave visitors' pictures in --output-dir when the server ends. Default: only "
            "jobs that still wait stay.",
        ),
    ] = False
    studio: Annotated[
        bool, typer.Option("--studio/--no-studio", help="The page for the browser, beside HTTP.")
    ] = True
    api_key_file: Annotated[
        str | None,
        typer.Option(
            "--api-key-file",
            metavar="FILE",
            help="Answer only who has one of these keys, one in each line.",
        ),
    ] = None
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-host",
            metavar="NAME",
            help="A name of this machine that requests may be addressed to, beside localhost and "
            "plain addresses.",
        ),
    ] = None
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            "--allow-origin",
            metavar="ORIGIN",
            help="Pages of this origin, such as https://chat.example.org, may send requests from a "
            "browser. Default: none but the studio.",
        ),
    ] = None
    max_queue: Annotated[
        int,
        typer.Option("--max-queue", metavar="N", min=1, help="Jobs that may wait; more get 429."),
    ] = 64
    max_pictures: Annotated[
        int, typer.Option("--max-pictures", metavar="N", min=1, help="Pictures of one job.")
    ] = 8
    max_megapixels: Annotated[
        float,
        typer.Option("--max-megapixels", metavar="M", help="Of one picture, a million pixels."),
    ] = 2.4
    max_steps: Annotated[
        int, typer.Option("--max-steps", metavar="N", min=1, help="Steps of one picture.")
    ] = 100
    idle_minutes: Annotated[
        float,
        typer.Option(
            "--idle-minutes",
            metavar="M",
            min=0,
            help="Let the models go after so long without a job; they come back with the next. 0 "
            "keeps them.",
        ),
    ] = 30.0
    extract_flags: Annotated[
        str,
        typer.Option(
            "--extract-flags",
            metavar="FLAGS",
            help="Further flags, in one text, for 'pulid-extract worker', which reads portraits; "
            "--models-dir and --device cpu of this command are passed on as well.",
        ),
    ] = ""
