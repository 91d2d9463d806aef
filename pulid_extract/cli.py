"""The pulid-extract command: its sub-commands, and what stands behind --portrait on the command
line. Thin; imports no torch.

What a command does is in commands/. `console.run` is the one place where an expected error becomes
a line and an exit code.
"""

from __future__ import annotations

import os
from typing import Any

import typer
from typer.core import TyperGroup

from pulid_extract.commands import extract as extraction
from pulid_extract.commands.batch import run as run_batch
from pulid_extract.commands.cache import cache
from pulid_extract.commands.doctor import doctor
from pulid_extract.commands.faces import run as list_faces
from pulid_extract.commands.pull import pull
from pulid_extract.commands.score import run as run_score
from pulid_extract.flags.batch import BatchFlags
from pulid_extract.flags.extract import Flags
from pulid_extract.flags.faces import FacesFlags
from pulid_extract.flags.score import ScoreFlags
from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.flags import takes_flags
from pulid_extract.shared.cluster.flags import BatchCommand, usage_error

PROGRAM = "pulid-extract"
PORTRAIT = "--portrait"


class PortraitGroup(TyperGroup):
    """Sub-commands beside a root command, whose --portrait takes what a shell makes of *.jpg:
    several names in a row.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        takes_value = {
            option: not parameter.is_flag
            for parameter in self.get_params(ctx)
            for option in parameter.opts
            if hasattr(parameter, "is_flag")
        }
        return super().parse_args(ctx, repeat_portrait(args, takes_value, set(self.commands)))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        word = args[0]
        # which, unlike Path, takes a name of any length
        if word not in self.commands and os.path.exists(word):
            ctx.fail(
                f"No such command '{word}'. To extract from it: {PROGRAM} {PORTRAIT} {word} --out me.pulidembd"
            )
        return super().resolve_command(ctx, args)


def repeat_portrait(args: list[str], takes_value: dict[str, bool], commands: set[str]) -> list[str]:
    """`--portrait a.jpg b.jpg` -> `--portrait a.jpg --portrait b.jpg`, up to the next option or the
    name of a sub-command.

    takes_value: option -> whether a value follows. A file that has a sub-command's name is a
    portrait here.
    """
    done: list[str] = []
    rest = iter(args)
    in_portraits = False
    for word in rest:
        if word.startswith("-") and word != "-":
            name, glued, _ = word.partition("=")
            in_portraits = name == PORTRAIT
            done.append(word)
            if word == "--":
                break
            if not glued and takes_value.get(name, False):
                done += [value for value in [next(rest, None)] if value is not None]
        elif in_portraits and (word not in commands or os.path.isfile(word)):
            done += [PORTRAIT, word]
        else:  # a sub-command: what follows is its own
            done.append(word)
            break
    return [*done, *rest]


app = console.new_app(cls=PortraitGroup)


@app.callback(invoke_without_command=True)
@takes_flags(Flags)
def extract(context: typer.Context, flags: Flags) -> None:
    """Turn portraits of a person into an identity file (.pulidembd) for pulid-generate and sd-cli.

    Example: pulid-extract --portrait me.jpg --pulid-weights pulid_flux_v0.9.1.safetensors --out
    me.pulidembd
    """
    if context.invoked_subcommand is not None:
        console.refuse_options(context)
        return
    extraction.run(context, flags)


@app.command()
@takes_flags(FacesFlags)
def faces(context: typer.Context, flags: FacesFlags) -> None:
    """List every face of a photograph: index, box, landmarks, score, head pose and sharpness; draw
    them with --draw.

    The index is what --face-index takes. Needs antelopev2 only.
    """
    list_faces(flags)


@app.command(cls=BatchCommand)
@takes_flags(BatchFlags)
def batch(context: typer.Context, flags: BatchFlags) -> None:
    """Extract from many portraits with models that are loaded once; print one line of JSON for
    each, as it is finished.

    One that fails does not stop the rest; the exit code is 1 then. Nothing is half-written,
    whenever it is interrupted.
    """
    if wrong := usage_error(flags, flags.device):
        context.fail(wrong)
    run_batch(flags)


@app.command()
@takes_flags(ScoreFlags)
def score(context: typer.Context, flags: ScoreFlags) -> None:
    """Say how like a person the faces of pictures are: ArcFace cosines, as a table, as JSON or as a
    contact sheet.

    Of several faces in a picture the most alike counts, unless --face-order or --face-index says
    which. Needs antelopev2 only.
    """
    run_score(context, flags)


app.command()(cache)
app.command()(doctor)
app.command()(pull)


def main() -> None:
    """Entry point; see `console.run`."""
    console.run(app, PROGRAM)
