"""The pulid-generate command: its sub-commands. Thin; imports torch only once there is work to do.

Standard output carries results (paths, JSON lines, or the picture itself), standard error
everything else. `console.run` is the one place where an expected error becomes a line and an exit
code.
"""

from __future__ import annotations

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.help import HelpCommand
from pulid_extract.shared.cluster.flags import BatchCommand
from pulid_generate.commands.batch import batch
from pulid_generate.commands.demo import demo
from pulid_generate.commands.detail import detail
from pulid_generate.commands.doctor import doctor
from pulid_generate.commands.draw import draw
from pulid_generate.commands.inspect import inspect
from pulid_generate.commands.pull import pull
from pulid_generate.commands.serve import serve
from pulid_generate.commands.sweep import sweep
from pulid_generate.commands.validate import validate
from pulid_generate.commands.verify import verify
from pulid_generate.flags.help_pages import PAGES
from pulid_generate.flags.sdcli.arguments import SdCommand, SdGroup


class SdBatchCommand(BatchCommand, SdCommand):
    """`batch` and `serve`: --ray with or without an address, beside sd-cli's flags."""


class GenerateCommand(HelpCommand):
    """A sub-command that takes none of sd-cli's flags."""

    pages = PAGES


PROGRAM = "pulid-generate"

app = console.new_app()
app.callback(invoke_without_command=True, no_args_is_help=True, cls=SdGroup)(draw)
app.command(cls=SdBatchCommand, no_args_is_help=True)(batch)
for command in (detail, sweep, validate, verify):
    app.command(cls=SdCommand, no_args_is_help=True)(command)
app.command(cls=SdCommand)(doctor)
app.command(cls=SdBatchCommand)(serve)
app.command(cls=GenerateCommand)(demo)
for command in (inspect, pull):
    app.command(cls=GenerateCommand, no_args_is_help=True)(command)


def main() -> None:
    """Entry point; see `console.run`."""
    console.run(app, PROGRAM)
