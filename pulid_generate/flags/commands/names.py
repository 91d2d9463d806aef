"""How the fields of the tables are written on a command line. Imports no torch."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args, get_type_hints

from pulid_generate.flags.commands.tables import BatchFlags, DrawFlags, SweepFlags, ValidateFlags


def flag_name(field: str) -> str:
    """The flag of a field of any command's table: "--json" for as_json."""
    return _flag_names()[field]


def option_names(hint: Any) -> tuple[str, ...]:
    """All that an option is called, from the annotation of its field; () of an argument."""
    info = get_args(hint)[1]
    declared = (info.default, *(info.param_decls or ()))
    return tuple(name for name in declared if isinstance(name, str) and name.startswith("-"))


@cache
def _flag_names() -> dict[str, str]:
    """Field -> its first name. A field that several commands have is called the same in all."""
    names = {}
    for table in (DrawFlags, BatchFlags, SweepFlags, ValidateFlags):
        for field, hint in get_type_hints(table, include_extras=True).items():
            if declared := option_names(hint):
                names[field] = declared[0]
    return names
