"""--help of both programs: the basics first and short, everything under --help-all, by groups that
the tables of flags give.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pytest
import typer
from support.programs.commands import call

from docs import cli_reference
from pulid_extract.flags.help_pages import PAGES as EXTRACT_PAGES
from pulid_extract.shared.cli.flags import heading_of, takes_flags
from pulid_extract.shared.cli.help import HelpCommand, HelpPage, full_help
from pulid_generate.flags.commands.tables import DrawFlags, SweepFlags
from pulid_generate.flags.help_pages import PAGES as GENERATE_PAGES

PAGES = {"pulid-extract": EXTRACT_PAGES, "pulid-generate": GENERATE_PAGES}
COMMANDS = [found for program in PAGES for found in cli_reference.commands(program)]


@pytest.mark.parametrize(
    ("path", "command", "context"), COMMANDS, ids=[path for path, _, _ in COMMANDS]
)
def test_every_option_is_explained_once_and_the_short_page_is_short(path, command, context):
    context.meta.clear()
    short = command.get_help(context)
    # behind the text, which may begin a line with a flag
    full = full_help(command, context).partition("\nExamples:\n")[2]
    context.meta.clear()
    for parameter in command.get_params(context):
        for flag in (*parameter.opts, *parameter.secondary_opts):
            if not flag.startswith("--"):
                continue
            # at the start of a line of the list, behind its short name or before its aliases
            rows = re.findall(
                rf"^  (?:-\w, |--[\w-]+, |--[\w-]+ / )*{flag}(?![\w-])", full, re.MULTILINE
            )
            assert len(rows) == 1, flag
        names = [flag for flag in parameter.opts if re.search(rf"(?<![\w-]){flag}(?![\w-])", short)]
        assert names or parameter.param_type_name == "argument", parameter.opts
    assert short.count("\n") < 100
    # a name is never broken at a hyphen in the list of further options
    assert not re.search(r"^ .*-$", short.partition("More, explained")[2], re.MULTILINE)


@pytest.mark.parametrize("program", PAGES)
def test_the_pages_name_commands_and_parameters_that_exist(program):
    names = {}
    for path, command, _ in cli_reference.commands(program):
        names[path.partition(" ")[2]] = {parameter.name for parameter in command.params}
    for name, page in PAGES[program].items():
        assert set(page.basics) <= names[name], name
        assert len(set(page.basics)) == len(page.basics)
        for line, purpose in page.examples:
            assert line.startswith(f"{program} {name}".strip())
            assert purpose
            flags = {word for word in line.split() if word.startswith("-") and word != "-"}
            assert flags <= cli_reference.flags(program)[f"{program} {name}".strip()], line


def test_a_new_flag_stands_under_the_heading_of_its_table(capsys):
    @dataclass(frozen=True, kw_only=True)
    class BrushFlags:
        """How it is painted."""

        brush: Annotated[str, typer.Option("--brush", help="Which one.")] = "round"

    @dataclass(frozen=True, kw_only=True)
    class PaperFlags:
        """What it is painted on."""

        HEADING = "Paper"
        paper: Annotated[str, typer.Option("--paper", help="The reference takes rag.")] = "rag"

    @dataclass(frozen=True, kw_only=True)
    class PaintFlags(PaperFlags, BrushFlags):
        """Every flag."""

    class Paint(HelpCommand):
        pages: ClassVar = {"": HelpPage(("brush",), (("paint --brush flat", "broad"),))}

    app = typer.Typer(rich_markup_mode=None, add_completion=False)

    @app.command(cls=Paint)
    @takes_flags(PaintFlags)
    def paint(context: typer.Context, flags: PaintFlags) -> None:
        """Paint."""
        print(flags)

    def shown(*arguments: str) -> str:
        with pytest.raises(SystemExit):
            app(list(arguments))
        return capsys.readouterr().out

    assert heading_of(PaintFlags, "brush") == "How it is painted"
    short, full = shown("--help"), shown("--help-all")
    assert "Examples:\n  paint --brush flat\n      broad\n" in short
    assert "Basics:\n  --brush TEXT" in short.replace("<str>", "TEXT")
    assert "Which one." in short
    assert "rag" not in short
    assert re.search(r"More, explained by --help-all:\n  Paper     --paper\n", short)
    assert re.search(r"\nPaper:\n  --paper .* The reference takes rag\.", full)
    # a word is explained where it stands
    assert "Words:" not in short
    assert "the reference  PuLID's own code" in full
    assert "paper='cotton'" in shown("--paper", "cotton")


def test_an_overridden_flag_stays_in_its_group():
    assert heading_of(SweepFlags, "output") == heading_of(DrawFlags, "output") == "Output"


@pytest.mark.parametrize("arguments", [(), ("batch",), ("score",), ("faces",)])
def test_no_arguments_is_help_and_wrong_usage(arguments, capfd, monkeypatch):
    code, out, err = call(capfd, monkeypatch, *arguments)
    assert (code, out) == (2, "")
    assert "Usage: pulid-extract" in err
    assert "Examples:" in err
    assert "Missing" not in err


def test_shell_completion_knows_options_and_words(capfd, monkeypatch):
    def complete(line: str) -> list[str]:
        monkeypatch.setenv("_PULID_EXTRACT_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", line)
        monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
        code, out, _ = call(capfd, monkeypatch)
        assert code == 0
        return out.split()

    assert complete("pulid-extract --port") == ["--portrait"]
    assert complete("pulid-extract --parser ") == ["bisenet", "none"]
    assert complete("pulid-extract do") == ["doctor"]
