"""Typer's commands as both programs have them: wrong usage in plain words, and --help: the basics
first, with examples; the rest by name, and in full with --help-all. Knows no flag. Imports no
torch, and no rich, which costs 0.2 s.

An option's heading is that of the table of flags it stands in (`flags.heading_of`), so a new flag
needs nothing here. Which options are basics is a table of each program, a `HelpPage` for each
command.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

from pulid_extract.shared.cli.settings import setting_error, use_settings
from pulid_extract.shared.cli.wording import in_plain_words

HELP_ALL = "--help-all"
BASICS = "Basics"
# for what no table of flags has: --help, and typer's shell completion
ABOUT = "Help"
# what the texts say in short -> what is meant by it
WORDS = {
    r"[Tt]he reference\b(?!'s app)": ("the reference", "PuLID's own code, ToTheBeginning/PuLID"),
    r"\bthe app\b|reference's app": ("the app", "the web page for Flux in PuLID's own code"),
    r"\bsd-cli\b": ("sd-cli", "stable-diffusion.cpp's command, which reads a .pulidembd as well"),
    r"\.pulidembd\b": (".pulidembd", "a person as 32 vectors, made by pulid-extract"),
    r"\b(dev|schnell)\b": ("dev, schnell", "the two kinds of Flux.1: guided, 20 steps; fast, 4"),
    r"\b[Tt]rue CFG\b": (
        "true CFG",
        "every step computed twice, with the prompt and with the negative one",
    ),
    r"\bT5 tokens?\b": ("T5 token", "a piece of the prompt, about three quarters of a word"),
    r"\bcosines?\b": ("cosine", "how alike two faces are: 1 the same, about 0 strangers"),
    r"\bGGUF\b": ("GGUF", "a file of quantised weights, such as flux1-dev-Q4_K_S.gguf"),
    r"\bIDFormer\b": ("IDFormer", "the part of PuLID's weights that makes a face's vectors"),
}


@dataclass(frozen=True)
class HelpPage:
    """What stands first in a command's --help."""

    # parameters by name, in the order they are shown; those that a command lacks are left out
    basics: tuple[str, ...] = ()
    # whole command lines, and what each is for
    examples: tuple[tuple[str, str], ...] = ()


class _GroupedHelp:
    """A command whose --help has groups, and which says plainly what is wrong with a value; mixed
    into typer's classes.
    """

    # command's name -> its page; "" is the program itself
    pages: ClassVar[Mapping[str, HelpPage]] = {}

    params: list[Any]
    # click's
    get_params: Any
    make_parser: Any

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click's, with defaults from pulid.toml; what is wrong with a value is said in plain
        words.
        """
        if args and not ctx.resilient_parsing:
            self._use_settings(ctx, args)
        try:
            return super().parse_args(ctx, args)  # type: ignore[misc]
        except typer.BadParameter as error:
            in_plain_words(error)
            parameter = getattr(error, "param", None)
            if in_file := setting_error(ctx, parameter, str(error.message)):
                raise in_file from None
            raise

    def _use_settings(self, ctx: Any, args: list[str]) -> None:
        if "config" not in {parameter.name for parameter in self.params}:
            return
        given, rest, _ = self.make_parser(ctx).parse_args(args=list(args))
        # a program's own options do not stand before a sub-command, which reads the file itself
        if not (isinstance(self, TyperGroup) and rest and rest[0] in self.commands):
            use_settings(ctx, given)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Everything behind the text of the command."""
        page = self._page(ctx)
        groups = self._groups(ctx)
        basics = _taken_out(groups, page.basics)
        shown = {BASICS: basics} if basics else groups
        _write_examples(formatter, page)
        for heading, parameters in shown.items():
            _write_records(formatter, heading, parameters, ctx)
        if basics and ctx.meta.get(HELP_ALL):
            for heading, parameters in groups.items():
                _write_records(formatter, heading, parameters, ctx)
        if isinstance(self, TyperGroup):
            self.format_commands(ctx, formatter)
        words = _words_in(formatter.getvalue())
        if basics and not ctx.meta.get(HELP_ALL):
            _write_names(formatter, groups)
        if words:
            with formatter.section("Words"):
                formatter.write_dl(words)

    def _page(self, ctx: Any) -> HelpPage:
        return self.pages.get("" if ctx.parent is None else str(ctx.info_name), HelpPage())

    def _groups(self, ctx: Any) -> dict[str, list[Any]]:
        """Heading -> parameters, both in the order of the tables; the program's own come last."""
        groups: dict[str, list[Any]] = {}
        own: list[Any] = []
        for parameter in self.get_params(ctx):
            if parameter.param_type_name == "argument":
                groups.setdefault("Arguments", []).append(parameter)
            elif heading := getattr(parameter, "rich_help_panel", None):
                groups.setdefault(heading, []).append(parameter)
            else:
                own.append(parameter)
        if groups.keys() <= {"Arguments"}:
            return groups | {"Options": own}
        groups[ABOUT] = own + groups.pop(ABOUT, [])
        return groups


class HelpCommand(_GroupedHelp, TyperCommand):
    """A sub-command whose --help has groups."""


class HelpGroup(_GroupedHelp, TyperGroup):
    """A program with sub-commands whose --help has groups."""


def show_help_all(ctx: typer.Context, asked: bool) -> None:
    """A typer callback: print what --help-all shows and exit, if it was given."""
    if asked and not ctx.resilient_parsing:
        typer.echo(full_help(ctx.command, ctx))
        raise typer.Exit


def full_help(command: Any, context: Any) -> str:
    """What --help-all shows."""
    context.meta[HELP_ALL] = True
    return command.get_help(context)


def _taken_out(groups: dict[str, list[Any]], names: tuple[str, ...]) -> list[Any]:
    """The parameters of these names, in their order; `groups` loses them, and what is empty
    then.
    """
    found: dict[str, Any] = {}
    for heading, parameters in list(groups.items()):
        left = []
        for parameter in parameters:
            if parameter.name in names:
                found[parameter.name] = parameter
            else:
                left.append(parameter)
        groups[heading] = left
        if not left:
            del groups[heading]
    return [found[name] for name in names if name in found]


def _write_records(formatter: Any, heading: str, parameters: list[Any], ctx: Any) -> None:
    records = [parameter.get_help_record(ctx) for parameter in parameters]
    records = [record for record in records if record is not None]
    if records:
        with formatter.section(heading):
            formatter.write_dl(records)


def _write_names(formatter: Any, groups: Mapping[str, list[Any]]) -> None:
    """The options that --help-all explains, by name."""
    indent = 2 + max(map(len, groups)) + 2
    with formatter.section(f"More, explained by {HELP_ALL}"):
        for heading, parameters in groups.items():
            names = ", ".join(_long_name(parameter) for parameter in parameters)
            # click would break names at their hyphens
            lines = textwrap.wrap(names, formatter.width - indent, break_on_hyphens=False)
            formatter.write(f"  {heading}".ljust(indent))
            formatter.write(f"\n{' ' * indent}".join(lines) + "\n")


def _long_name(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name)
    return max(parameter.opts, key=lambda name: name.startswith("--"))


def _write_examples(formatter: Any, page: HelpPage) -> None:
    if not page.examples:
        return
    with formatter.section("Examples"):
        for line, purpose in page.examples:
            # never wrapped: whoever copies a line wants one line
            formatter.write(f"  {line}\n      {purpose}\n")


def _words_in(text: str) -> list[tuple[str, str]]:
    """The words of WORDS that stand in a text, and what is meant by them."""
    text = " ".join(text.split())
    return [row for pattern, row in WORDS.items() if re.search(pattern, text)]
