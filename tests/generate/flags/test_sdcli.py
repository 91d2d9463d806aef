"""sd-cli's flags: the table against sd-cli's own list, against our options, and as the command line
applies it.
"""

from __future__ import annotations

import json
import sys

import pytest
import typer
from support.paths import TESTS
from typer.main import get_command

from docs import cli_reference, sdcli_table
from pulid_extract.shared.cli import console
from pulid_generate.errors import RequestError
from pulid_generate.flags.sdcli.arguments import SdCommand, SdGroup, take_sd_flags
from pulid_generate.flags.sdcli.table import BY_NAME, SD_FLAGS

THEIRS = {
    flag["name"]: flag for flag in json.loads((TESTS / "sdcli" / "flags.json").read_text())["flags"]
}
# The list was read off sd-cli's help, which writes no <value> behind options with a callback;
# common.cpp at the same commit takes the next word for each of these.
TAKES_ONE_ALL_THE_SAME = {
    "--cache-option",
    "--hires-sigmas",
    "--imat-in",
    "--negative-prompt-file",
    "--prompt-file",
    "--ref-audio",
    "--ref-image",
    "--ref-video",
    "--ref-video-audio",
    "--scm-mask",
    "--scm-policy",
    "--vae-relative-tile-size",
}
OPTIONS = {
    name: option
    for _, command, context in cli_reference.commands("pulid-generate")
    if context.parent is None
    for option in command.get_params(context)
    for name in (*option.opts, *option.secondary_opts)
}


def test_every_flag_of_sd_cli_is_in_the_table_and_nothing_else():
    assert sorted(THEIRS) == sorted(flag.name for flag in SD_FLAGS if not flag.since)
    assert len(BY_NAME) == sum(len(flag.names) for flag in SD_FLAGS)  # no name twice


def test_a_command_for_a_newer_build_gets_a_reason():
    kept, notes = take(
        *("--sage-attn", "--linear-scale", "0.5", "--log-level", "debug", "-p", "a cat"),
        *("--disable-prefetch", "--disable-segmented-compute", "--attn-scale", "2"),
    )
    assert kept == ["-p", "a cat"]
    assert len(notes) == 6
    with pytest.raises(RequestError, match="--t5-tokenizer"):
        take("--tokenizer", "spiece.model")
    page = sdcli_table.page()
    assert "| --sage-attn | noted | PyTorch chooses the fastest attention itself; since: " in page
    assert "until: 97d29908" in page


@pytest.mark.parametrize(
    "flag", [flag for flag in SD_FLAGS if not flag.since], ids=lambda flag: flag.name
)
def test_names_values_and_defaults_are_sd_clis(flag):
    theirs = THEIRS[flag.name]
    assert flag.aliases == tuple(theirs.get("aliases", ()))
    assert flag.default == theirs.get("default")
    assert flag.value == (theirs["takes"] != "nothing" or flag.name in TAKES_ONE_ALL_THE_SAME)
    assert flag.status == "implemented" or flag.text
    assert bool(flag.accepts) == bool(flag.otherwise)


@pytest.mark.parametrize(
    "flag", [flag for flag in SD_FLAGS if flag.status == "implemented"], ids=lambda flag: flag.name
)
def test_what_is_implemented_is_an_option_with_the_same_aliases_and_default(flag):
    option = OPTIONS[flag.name]
    assert {*option.opts, *option.secondary_opts} >= set(flag.names)
    assert flag.value == (not option.is_flag)
    if flag.default is not None and not _same_default(flag.default, option.default):
        assert flag.text, f"default {option.default!r} here, {flag.default!r} in sd-cli: say why"


def _same_default(theirs: str, ours: object) -> bool:
    theirs = theirs.split(",")[0] if theirs.startswith("42") else theirs
    try:
        return float(theirs) == float(ours)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return theirs.strip('"').replace("[", "").replace("]", "") == str(ours).replace(
            "[", ""
        ).replace("]", "")


def test_defaults_are_compared_as_values():
    assert _same_default("512", 512)
    assert _same_default('""', "")
    assert _same_default("42, use random seed for < 0", 42)
    assert _same_default("[7,8,9]", "7,8,9")
    assert not _same_default("7.0", 1.0)
    assert not _same_default("euler", "heun")


@pytest.mark.parametrize(
    "flag", [flag for flag in SD_FLAGS if flag.status != "implemented"], ids=lambda flag: flag.name
)
def test_what_is_not_implemented_is_no_option(flag):
    assert not set(flag.names) & set(OPTIONS)


# --------------------------------------------------------------------------------- the command line

OWN = {"-p": True, "--prompt": True, "--seed": True, "--vae-tiling": False}


def take(*arguments: str) -> tuple[list[str], list[str]]:
    notes: list[str] = []
    return take_sd_flags(arguments, OWN, notes.append), notes


@pytest.mark.parametrize(
    ("arguments", "kept", "noted"),
    [
        (("--fa", "-p", "a cat"), ["-p", "a cat"], ["--fa"]),
        (
            ("-p", "a cat", "--clip-skip", "2", "--seed", "1"),
            ["-p", "a cat", "--seed", "1"],
            ["--clip-skip"],
        ),
        (("--clip-skip=2", "--seed=1"), ["--seed=1"], ["--clip-skip"]),
        (("-p", "--fa"), ["-p", "--fa"], []),  # a prompt that looks like a flag
        (("--prompt=--fa", "--fa"), ["--prompt=--fa"], ["--fa"]),
        (("-M", "img_gen", "--vae-tiling"), ["--vae-tiling"], ["-M"]),
        (("--auto-fit", "on", "--seed", "1"), ["--seed", "1"], ["--auto-fit"]),
        (("--auto-fit", "--seed", "1"), ["--seed", "1"], ["--auto-fit"]),
        (("--color", "--color", "--mmap"), [], ["--color", "--mmap"]),  # each is said once
        (("--clip-skip", "-1"), [], ["--clip-skip"]),
        # a sub-command's own affair
        (("--seed", "1", "pull", "--fa"), ["--seed", "1", "pull", "--fa"], []),
        (("--", "--fa"), ["--", "--fa"], []),
        (("--no-such-flag", "x"), ["--no-such-flag", "x"], []),  # the parser refuses it
        (("-o", "-"), ["-o", "-"], []),
    ],
)
def test_flags_without_effect_are_taken_off_and_reported(arguments, kept, noted):
    left, notes = take(*arguments)
    assert left == kept
    assert [note.split()[1] for note in notes] == noted
    assert all(note.startswith("note: ") and "changes nothing here: " in note for note in notes)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ip-adapter", "face.safetensors"), "--ip-adapter: "),
        (("--circular",), "--circular: seamless"),
        (
            ("-M", "vid_gen"),
            "-M vid_gen: no such mode; the detail pass alone is `pulid-generate detail`; here it can only be img_gen",
        ),
        (("--mode=convert",), "--mode convert: "),
        (("--vae-format", "sd3"), "can only be auto or flux"),
        (("--video-frames", "33"), "--video-frames 33: video"),
        (("--type", "q8_0"), "flux1-dev-Q8_0.gguf"),
        (("--clip-skip",), "--clip-skip: its value is missing"),
    ],
)
def test_flags_that_cannot_be_done_are_refused_by_name(arguments, message):
    with pytest.raises(RequestError) as refusal:
        take(*arguments)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_every_refusal_says_what_to_do():
    for flag in SD_FLAGS:
        if flag.status == "refused":
            assert ";" in flag.text, flag.name


def test_our_own_option_wins_over_the_table():
    assert take_sd_flags(["--clip-skip", "2"], {"--clip-skip": True}) == ["--clip-skip", "2"]


def _app() -> typer.Typer:
    """A program as ours is built: a group that is a command itself, and a sub-command."""
    app = console.new_app()

    @app.callback(invoke_without_command=True, cls=SdGroup)
    def draw(
        context: typer.Context,
        prompt: str = typer.Option("", "--prompt", "-p"),
        tiling: bool = False,
    ) -> None:
        if context.invoked_subcommand is None:
            typer.echo(f"draw {prompt} {tiling}")

    @app.command(cls=SdCommand)
    def verify(prompt: str = typer.Option("", "--prompt", "-p")) -> None:
        typer.echo(f"verify {prompt}")

    @app.command()
    def pull(kit: str) -> None:
        typer.echo(f"pull {kit}")

    return app


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["-p", "a cat", "-t", "4"], 2, "", "No such option"),  # ours to implement: never swallowed
        (
            ["--fa", "-p", "--fa", "--tiling", "--rpc-servers", "a:1"],
            2,
            "",
            "x: error: --rpc-servers: ",
        ),
        (
            ["--fa", "-p", "--fa", "--tiling"],
            0,
            "draw --fa True\n",
            "note: --fa changes nothing here: ",
        ),
        (
            ["verify", "-p", "a cat", "--mmap"],
            0,
            "verify a cat\n",
            "note: --mmap changes nothing here: ",
        ),
        (["verify", "--ip-adapter", "x"], 2, "", "x: error: --ip-adapter: "),
        (["pull", "--mmap"], 2, "", "No such option"),
        (["--mmap", "--help"], 0, "Usage", ""),
    ],
)
def test_on_a_real_command_line(arguments, code, out, err, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x", *arguments])
    with pytest.raises(SystemExit) as end:
        console.run(_app(), "x")  # ends in SystemExit also when all is well
    printed = capsys.readouterr()
    assert (end.value.code or 0) == code, printed.err
    assert out in printed.out
    assert err in printed.err
    assert "Traceback" not in printed.err


# ----------------------------------------------------------------------------------------- the page


def test_the_page_is_current_and_names_every_flag():
    text = sdcli_table.page()
    assert sdcli_table.TARGET.read_text(encoding="utf-8") == text, "run `make docs`"
    for flag in SD_FLAGS:
        assert f"| {', '.join(flag.names)} | {flag.status} |" in text


def test_an_old_page_is_one_line_and_exit_1(tmp_path, monkeypatch, capsys):
    old = tmp_path / "sd-cli.md"
    old.write_text(sdcli_table.page() + "more\n")
    monkeypatch.setattr(sdcli_table, "TARGET", old)
    monkeypatch.setattr(sys, "argv", ["sdcli_table.py", "--check"])
    with pytest.raises(SystemExit, match="1"):
        sdcli_table.main()
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert "make docs" in printed.err


def test_the_command_is_built_of_these_classes():
    command = get_command(cli_reference.PROGRAMS["pulid-generate"])
    assert isinstance(command, SdGroup)
    for name in ("verify", "doctor"):
        assert isinstance(command.commands[name], SdCommand)
