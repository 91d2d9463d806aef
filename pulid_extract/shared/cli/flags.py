"""A command line out of a dataclass of flags, for both programs: the fields are the table. Knows no
flag. Imports no torch.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.help import ABOUT, HELP_ALL, show_help_all
from pulid_extract.shared.cli.settings import PARAMETERS, used_settings

FlagsType = TypeVar("FlagsType")
Command = Callable[[typer.Context, FlagsType], None]
HelpAll = Annotated[
    bool,
    typer.Option(
        HELP_ALL,
        callback=show_help_all,
        is_eager=True,
        rich_help_panel=ABOUT,
        help="Show every option, explained, and exit.",
    ),
]


def takes_flags(kind: type[FlagsType]) -> Callable[[Command[FlagsType]], Callable[..., None]]:
    """A decorator for a function of a typer context and one object of flags: makes it a command
    with every field of `kind` as an option.

    kind: a dataclass, its fields annotated as typer wants them; one without a default is required.
    --help shows each under the heading of its table.
    """
    hints = get_type_hints(kind, include_extras=True)
    parameters = [_parameter("context", typer.Context)]
    for field in fields(kind):  # type: ignore[arg-type]
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        annotation = _under_heading(hints[field.name], heading_of(kind, field.name))
        parameters.append(_parameter(field.name, annotation, default))

    for name, (annotation, default) in PARAMETERS.items():
        parameters.append(_parameter(name, annotation, default))
    parameters.append(_parameter("help_all", HelpAll, False))

    def decorate(function: Command[FlagsType]) -> Callable[..., None]:
        def command(context: typer.Context, **values: Any) -> None:
            for name in (*PARAMETERS, "help_all"):
                del values[name]
            flags = kind(**values)
            console.set_loudness(getattr(flags, "quiet", False), getattr(flags, "verbose", False))
            for line in used_settings(context):
                console.detail(f"settings of {line}")
            function(context, flags)

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def heading_of(kind: type, field: str) -> str:
    """What --help puts above a field: the HEADING of the table that has it, which is a base of
    `kind`, else what that table says of itself.
    """
    tables = [table for table in kind.__mro__ if field in vars(table).get("__annotations__", {})]
    for table in tables:
        if heading := vars(table).get("HEADING"):
            return str(heading)
    return inspect.cleandoc(tables[-1].__doc__ or "Options").splitlines()[0].rstrip(".")


def _under_heading(annotation: Any, heading: str) -> Any:
    """The annotation with the heading in its option; an argument's as it is."""
    hint, info, *_ = get_args(annotation)
    if not isinstance(info, OptionInfo):
        return annotation
    # the table's own option stays as it is: several commands share it
    info = copy.copy(info)
    info.rich_help_panel = heading
    return Annotated[hint, info]


def _parameter(
    name: str, annotation: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
