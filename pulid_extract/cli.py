"""The pulid-extract command: its sub-commands. Thin; imports torch only once there is work to do.

What a command does is in commands/. `console.run` is the one place where an expected error becomes
a line and an exit code.
"""

from __future__ import annotations

from pulid_extract.commands.batch import batch
from pulid_extract.commands.cache import cache
from pulid_extract.commands.doctor import doctor
from pulid_extract.commands.extract import extract
from pulid_extract.commands.faces import faces
from pulid_extract.commands.pull import pull
from pulid_extract.commands.score import score
from pulid_extract.commands.worker import worker
from pulid_extract.flags.help_pages import PAGES
from pulid_extract.flags.portrait_list import PortraitGroup
from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.help import HelpCommand
from pulid_extract.shared.cluster.flags import BatchCommand


class ExtractCommand(HelpCommand):
    """A sub-command of this program."""

    pages = PAGES


class ExtractBatchCommand(BatchCommand, ExtractCommand):
    """`batch`: --ray with or without an address."""


PROGRAM = "pulid-extract"

app = console.new_app(cls=PortraitGroup)
app.callback(invoke_without_command=True, no_args_is_help=True)(extract)
app.command(cls=ExtractBatchCommand, no_args_is_help=True)(batch)
for command in (faces, score):
    app.command(cls=ExtractCommand, no_args_is_help=True)(command)
for command in (worker, cache, doctor, pull):
    app.command(cls=ExtractCommand)(command)


def main() -> None:
    """Entry point; see `console.run`."""
    console.run(app, PROGRAM)
