"""TODO"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any, TypeVar, get_type_hints

import typer

if TYPE_CHECKING:
    pass


Kind = TypeVar("Kind")


def takes_flags(
    kind: type[Kind],
) -> Callable[[Callable[[typer.Context, Kind], None]], Callable[..., None]]:
    """A decorator: a command with every field of `kind` as an option, for a function that takes
    them as one object.
    """
    hints = get_type_hints(kind, include_extras=True)
    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)
    ]
    for field in fields(kind):  # type: ignore[arg-type]
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        parameters.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=default,
                annotation=hints[field.name],
            )
        )

    def decorate(function: Callable[[typer.Context, Kind], None]) -> Callable[..., None]:
        def command(context: typer.Context, **values: Any) -> None:
            function(context, kind(**values))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate
