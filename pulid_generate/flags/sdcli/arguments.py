"""The step of a command line that applies sd-cli's flags: those that are not our own options are
taken out, noted or refused, as the table says. Knows no command. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.help import HelpCommand, HelpGroup
from pulid_extract.shared.cli.wording import unquoted
from pulid_generate.errors import RequestError
from pulid_generate.flags.help_pages import PAGES
from pulid_generate.flags.sdcli.flag import SdFlag
from pulid_generate.flags.sdcli.table import BY_NAME


def take_sd_flags(
    arguments: Sequence[str],
    own: Mapping[str, bool],
    note: Callable[[str], None] = lambda line: None,
) -> list[str]:
    """The arguments without sd-cli's flags that are not our own options; those that change nothing
    are reported to `note`.

    own: our options, each with whether it takes a value, so that the value of one is never read as
    a flag. As in sd-cli, a value is the next word; `--flag=value` is understood too. Everything
    from the first word that is neither option nor value (a sub-command), or from `--`, is left
    alone. Raises RequestError for a flag that is refused, and for one whose value is missing.
    """
    kept: list[str] = []
    words = list(arguments)
    noted: set[str] = set()
    while words:
        word = words.pop(0)
        name, equals, value = word.partition("=")
        flag = BY_NAME.get(name)
        if word == "--" or not word.startswith("-") or word == "-":
            return [*kept, word, *words]
        if name in own or flag is None or flag.status == "implemented":
            kept.append(word)
            if not equals and own.get(name) and words:
                kept.append(words.pop(0))
            continue
        value = _value(flag, name, words, value if equals else None)
        _refuse(flag, name, value)
        if flag.name not in noted:
            note(f"note: {name} changes nothing here: {flag.text}")
            noted.add(flag.name)
    return kept


def _value(flag: SdFlag, name: str, words: list[str], given: str | None) -> str:
    """The value of a flag, taken off `words` unless it was `given` after an equals sign; "" for a
    flag without one.
    """
    if given is not None:
        return given
    if flag.value:
        if not words and flag.status != "refused":
            raise RequestError(f"{name}: its value is missing")
        return words.pop(0) if words else ""
    return words.pop(0) if words and words[0] in flag.optional else ""


def _refuse(flag: SdFlag, name: str, value: str) -> None:
    if flag.status == "refused":
        raise RequestError(f"{name}: {flag.text}")
    if flag.accepts and value not in flag.accepts:
        raise RequestError(
            f"{name} {value}: {flag.otherwise}; here it can only be {' or '.join(flag.accepts)}"
        )


class _TakesSdFlags:
    """A command that also takes the flags of this table."""

    params: list[Any]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        own = dict.fromkeys(ctx.help_option_names, False)
        for option in self.params:
            takes_value = not getattr(option, "is_flag", False)
            own |= dict.fromkeys((*option.opts, *option.secondary_opts), takes_value)
        notes: list[str] = []
        left = super().parse_args(ctx, take_sd_flags(args, own, notes.append))  # type: ignore[misc]
        words = [*getattr(ctx, "_protected_args", ()), *ctx.args]
        if words and words[0] not in getattr(self, "commands", ()) and not ctx.resilient_parsing:
            if hint := unquoted(words, "--prompt", ctx.params.get("prompt")):
                ctx.fail(hint)
            if not hasattr(self, "commands"):
                ctx.fail(f"{words[0]!r} belongs to no option.")
        if not ctx.params.get("quiet"):
            for line in notes:
                console.log(line)
        return left


class SdCommand(_TakesSdFlags, HelpCommand):
    """For `@app.command(cls=SdCommand)`."""

    # refused by `parse_args`, with a better reason than click's
    allow_extra_args = True

    pages = PAGES


class SdGroup(_TakesSdFlags, HelpGroup):
    """For `@app.callback(cls=SdGroup)`."""

    pages = PAGES
