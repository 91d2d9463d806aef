"""The columns that rows may have, made from the tables of flags: what each is called, and how a
cell or a JSON value becomes what the command line would give.

Knows no row. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pulid_extract.shared import records
from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.records import SEPARATOR
from pulid_generate.errors import RequestError
from pulid_generate.flags.commands.names import option_names
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.request.people.identities import rename_files
from pulid_generate.rows.row import BY_ROW

# Texts of the command line that JSON may give as a number, or as a list of numbers
NUMBER_TEXTS = ("id_start_step", "id_end_step", "flow_shift")
LIST_TEXTS = ("sigmas", "hires_sigmas", "skip_layers", "scm_mask")
# those that say something of each ControlNet
OF_EACH = ("control_strength", "control_start", "control_end", "control_mode")
# Columns that name one file, and those that name several
FILES = (
    "pulid_id_embedding",
    "prompt_file",
    "negative_prompt_file",
    "init_img",
    "mask",
    "lora_model_dir",
    "hires_upscalers_dir",
)
LISTS_OF_FILES = ("lora", "reference", "ref_image", "control_net", "control_image")


@dataclass(frozen=True)
class Column:
    """One column, a field of BatchFlags."""

    name: str
    # a cell or a JSON value -> its value; raises ValueError
    read: Callable[[object], Any]
    # in words
    expected: str
    # the option's own check of a value; raises typer.BadParameter
    check: Callable[[Any], Any] | None = None

    def value(self, given: object, base: Path) -> Any:
        """base: the folder that file names start from. Raises ValueError, TypeError or
        OverflowError for what is not `expected`, typer.BadParameter and RequestError otherwise.
        """
        value = self.read(given)
        if self.check is not None:
            value = self.check(value)
        if self.name in FILES:
            return file_below(base, value)
        if self.name in LISTS_OF_FILES:
            return [file_below(base, name) for name in value]
        if self.name == "identity":
            return [rename_files(text, partial(file_below, base)) for text in value]
        return value


def file_below(base: Path, name: str) -> str:
    """The path of a file that a row names. Raises RequestError, ValueError."""
    if name == "-":
        raise RequestError(
            "rows are drawn from files, standard input can be read once; name a file"
        )
    if not name.strip():
        raise ValueError("a file name")
    return str(base / path_of(name))


def _number_text(value: object) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return records.text(value)


def _list_text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(_number_text(part) for part in value)
    return records.text(value)


def _of_each(value: object) -> list[str]:
    """Numbers or words, one for each ControlNet; an empty one is of a ControlNet without."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(SEPARATOR)]
    return [_number_text(part) for part in (value if isinstance(value, list) else [value])]


def _word(words: tuple[str, ...], value: object) -> str:
    if value not in words:
        raise ValueError("one of them")
    return records.text(value)


# Type of a field -> how it is read, and what is expected
READERS: dict[Any, tuple[Callable[[object], Any], str]] = {
    bool: (records.yes_no, "true or false"),
    int: (records.whole, "a whole number"),
    float: (records.number, "a number"),
    str: (records.text, "a text"),
    list: (records.texts, f"a list of texts, or texts between {SEPARATOR!r}"),
}


def _column(name: str, hint: Any) -> Column:
    """hint: the field's annotation, a type and a typer.Option."""
    kind, info = get_args(hint)[:2]
    if NoneType in get_args(kind):
        [kind] = [part for part in get_args(kind) if part is not NoneType]
    if get_origin(kind) is Literal:
        words = get_args(kind)
        return Column(name, partial(_word, words), f"one of {', '.join(words)}", info.callback)
    read, expected = READERS[get_origin(kind) or kind]
    if name in OF_EACH:
        expected = f"a number or a text for each, in a list or between {SEPARATOR!r}"
        read = _of_each
    if name in NUMBER_TEXTS:
        read, expected = _number_text, "a number, or a text"
    if name in LIST_TEXTS:
        read, expected = _list_text, "a list of numbers, or numbers between commas"
    return Column(name, read, expected, info.callback)


def _fields_by_name(hints: dict[str, Any]) -> dict[str, str]:
    """Everything that an option is called, with _ for -, -> its field."""
    names = {}
    for item in fields(BatchFlags):
        called = [item.name]
        # id-weight, as the metadata has it
        called.append(item.name.removeprefix("pulid_"))
        called += [name for name in option_names(hints[item.name]) if name.startswith("--")]
        for name in called:
            names[name.lstrip("-").replace("-", "_")] = item.name
    return names


_HINTS = get_type_hints(BatchFlags, include_extras=True)
COLUMNS = {name: _column(name, _HINTS[name]) for name in BY_ROW}
FIELDS_BY_NAME = _fields_by_name(_HINTS)


def field_of(name: str) -> str | None:
    """The field of an option, however it is written: "id-weight", "--pulid-id-weight"."""
    return FIELDS_BY_NAME.get(name.strip().lstrip("-").replace("-", "_"))
