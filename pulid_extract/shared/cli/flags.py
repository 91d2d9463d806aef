"""A command line out of a dataclass of flags, for both programs: the fields are the table. Knows no
flag. Imports no torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

import typer

FlagsType = TypeVar("FlagsType")
Command = Callable[[typer.Context, FlagsType], None]


def takes_flags(kind: type[FlagsType]) -> Callable[[Command[FlagsType]], Callable[..., None]]:
    """A decorator for a function of a typer context and one object of flags: makes it a command
    with every field of `kind` as an option.

    kind: a dataclass, its fields annotated as typer wants them; one without a default is required.
    """
    hints = get_type_hints(kind, include_extras=True)
    parameters = [_parameter("context", typer.Context)]
    for field in fields(kind):  # type: ignore[arg-type]
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        parameters.append(_parameter(field.name, hints[field.name], default))

    def decorate(function: Command[FlagsType]) -> Callable[..., None]:
        def command(context: typer.Context, **values: Any) -> None:
            function(context, kind(**values))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def _parameter(
    name: str, annotation: Any, default: Any = inspect.Parameter.empty
) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
