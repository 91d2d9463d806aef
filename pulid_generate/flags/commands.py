"""The flags that describe a generation: one table, in five parts, shared by every sub-command that
draws.

Names, aliases and meanings follow sd-cli (stable-diffusion.cpp 97d29908); where a default differs,
the help says so. Imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Annotated, Any, get_type_hints

import typer

from pulid_extract.shared.cluster.flags import ClusterFlags
from pulid_generate.flags.batch import ManyFlags, RowFlags, SheetFlags, SweepOwnFlags
from pulid_generate.flags.best_of import BestFlags
from pulid_generate.flags.drawing import DrawingFlags
from pulid_generate.flags.identity import IdentityFlags
from pulid_generate.flags.likeness import LikenessFlags
from pulid_generate.flags.models import ModelFlags
from pulid_generate.flags.output import OutputFlags
from pulid_generate.flags.placement import DTYPES, PlacementFlags
from pulid_generate.flags.validation import ValidationFlags

__all__ = [
    "DTYPES",
    "BatchFlags",
    "DrawFlags",
    "Flags",
    "SweepFlags",
    "ValidateFlags",
    "takes_flags",
]


@dataclass(frozen=True, kw_only=True)
class Flags(OutputFlags, PlacementFlags, DrawingFlags, IdentityFlags, ModelFlags):
    """Every flag of one generation, as typed. The fields of its bases are the table, the last
    base's first; nothing else lists them.
    """


@dataclass(frozen=True, kw_only=True)
class DrawFlags(Flags, LikenessFlags, BestFlags):
    """Every flag of the command that draws one picture."""


@dataclass(frozen=True, kw_only=True)
class BatchFlags(Flags, LikenessFlags, SheetFlags, ClusterFlags, RowFlags):
    """Every flag of `batch`; those of a generation hold for every row that does not say
    otherwise.
    """


@dataclass(frozen=True, kw_only=True)
class SweepFlags(Flags, LikenessFlags, ManyFlags, SweepOwnFlags):
    """Every flag of `sweep`; those of a generation hold for every picture. output: the sheet, not a
    picture.
    """

    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.png",
            help="The sheet; FILE-2.png and so on if it gets too large.",
        ),
    ] = "sweep.png"


@dataclass(frozen=True, kw_only=True)
class ValidateFlags(Flags, LikenessFlags, ValidationFlags):
    """Every flag of `validate`; those of a generation hold for every picture."""


def takes_flags(
    function: Callable[[typer.Context, Any], None], kind: type[Flags] = Flags
) -> Callable[..., None]:
    """A command with every field of `kind` as an option, for a function that takes them as one
    object.
    """
    hints = get_type_hints(kind, include_extras=True)
    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    ]
    for field in fields(kind):
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=hints[field.name],
            )
        )

    def command(context: typer.Context, **values: Any) -> None:
        function(context, kind(**values))

    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command
