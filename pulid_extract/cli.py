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
from pulid_extract.flags.portrait_list import PortraitGroup
from pulid_extract.shared.cli import console
from pulid_extract.shared.cluster.flags import BatchCommand

PROGRAM = "pulid-extract"

app = console.new_app(cls=PortraitGroup)
app.callback(invoke_without_command=True)(extract)
app.command()(faces)
app.command(cls=BatchCommand)(batch)
for command in (score, worker, cache, doctor, pull):
    app.command()(command)


def main() -> None:
    """Entry point; see `console.run`."""
    console.run(app, PROGRAM)
