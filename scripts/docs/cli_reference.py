"""Write docs/cli.md from the full help texts of the two programs, or check that it is current.

    make docs        (or: PYTHONPATH=scripts python -m docs.cli_reference [--check])

The texts are formatted here at a fixed width, so terminal, environment and platform change nothing.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from docs.page import write_or_check
from pulid_extract.cli import app as extract_app
from pulid_extract.shared.cli.help import full_help
from pulid_generate.cli import app as generate_app

TARGET = Path(__file__).resolve().parents[2] / "docs" / "cli.md"
PROGRAMS = {"pulid-extract": extract_app, "pulid-generate": generate_app}
WIDTH = 100  # columns
INTRODUCTION = """\
# Command line reference

Made from `--help-all` by `make docs` (`--help` shows the basics); edit the help texts, not this
file. `python -m pulid_extract` and `python -m pulid_generate` are the same programs.

Both programs print results on standard output and everything else on standard error. Exit code 0: done; 1: it could not be done, one
line says why; 2: wrong usage; 130: interrupted; 143: ended by SIGTERM.
"""


def commands(program: str) -> Iterator[tuple[str, Any, Any]]:
    """(command line, command, context) of a program and of every sub-command below it."""

    def walk(name: str, command: Any, parent: Any) -> Iterator[tuple[str, Any, Any]]:
        # resilient: nothing is required and no callback runs; only the help is wanted
        context = command.make_context(
            name, [], parent=parent, resilient_parsing=True, terminal_width=WIDTH
        )
        yield context.command_path, command, context
        for child in command.list_commands(context) if hasattr(command, "list_commands") else ():
            yield from walk(child, command.get_command(context, child), context)

    yield from walk(program, get_command(PROGRAMS[program]), None)


def flags(program: str) -> dict[str, set[str]]:
    """command line -> every flag it takes, with aliases: {"pulid-generate verify": {"--seed", "-s",
    ..}, ..}.
    """
    return {
        path: {
            flag
            for parameter in command.get_params(context)
            for flag in (*parameter.opts, *parameter.secondary_opts)
            if flag.startswith("-")  # a positional argument has a name, and no flag
        }
        for path, command, context in commands(program)
    }


def reference() -> str:
    """The whole text of docs/cli.md."""
    parts = [INTRODUCTION]
    for program in PROGRAMS:
        for path, command, context in commands(program):
            lines = full_help(command, context).splitlines()
            text = "\n".join(line.rstrip() for line in lines)
            parts.append(
                f"{'#' * (1 + len(path.split()))} {path}\n\n```text\n{text.strip()}\n```\n"
            )
    return "\n".join(parts)


def main() -> None:
    write_or_check(TARGET, reference(), "--help says")


if __name__ == "__main__":
    main()
