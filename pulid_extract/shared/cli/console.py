"""Standard output, standard error and exit codes: what every command of both programs does the same
way. Imports no torch.

Results go to standard output and arrive or raise; everything else goes to standard error. `run` is
the one place where an expected error becomes a line and an exit code. Knows no command.
"""

from __future__ import annotations

import enum
import errno
import os
import sys

import typer

from pulid_extract.shared import openmp, telemetry
from pulid_extract.shared.cli.interrupts import ending_cleanly
from pulid_extract.shared.cli.standard_output import check_open, known_to_arrive
from pulid_extract.shared.errors import PulidError, UsageError, printable
from pulid_extract.shared.libraries import MORE_MEMORY, import_problem


def new_app(**settings: object) -> typer.Typer:
    """A typer app as both programs want it: plain help (rich costs 0.2 s of every --help), -h,
    typer's own shell completion, and no pretty tracebacks.
    """
    return typer.Typer(
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        **settings,  # type: ignore[arg-type]
    )


def run(app: typer.Typer, program: str) -> None:
    """Entry point. Exit 0: done; 1: it could not be done, one line says why; 2: wrong usage; 130:
    interrupted; 143: asked to end, by SIGTERM.
    """
    telemetry.switch_off()
    openmp.wait_asleep()
    set_loudness()
    try:
        with ending_cleanly():
            app(prog_name=program)
    except PulidError as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, UsageError) else 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except MemoryError:
        print(f"{program}: error: out of memory; {MORE_MEMORY}", file=sys.stderr)
        sys.exit(1)
    # a library is there and cannot be loaded
    except ImportError as error:
        _say_import_problem(program, error)
    # whoever read our output went away; nothing more to say, not even at shutdown
    except BrokenPipeError:
        _close_output()
        sys.exit(1)
    except OSError as error:  # --help into a full disk: typer prints that itself
        if error.errno not in (errno.ENOSPC, errno.EIO):
            _say_import_problem(program, error)
        _close_output()
        print(
            f"{program}: error: standard output: cannot be written ({error.strerror})",
            file=sys.stderr,
        )
        sys.exit(1)


def _say_import_problem(program: str, error: Exception) -> None:
    """The one line of an import that failed, and exit code 1; raises any other error again."""
    problem = import_problem(error)
    if problem is None:
        raise error
    print(f"{program}: error: {problem}; 'doctor' tries every import", file=sys.stderr)
    sys.exit(1)


def _close_output() -> None:
    """What is still buffered goes nowhere, and does not fail again when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def write_result(data: bytes) -> None:
    """Write to standard output, and know that it arrived. Raises OutputError, BrokenPipeError."""
    check_open()
    with known_to_arrive():
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def write_line(line: str) -> None:
    """One line of results, or several. Raises OutputError, BrokenPipeError.

    What a terminal would obey is not for it: names of files may hold escape codes. A program that
    reads gets every byte, even of names that are not UTF-8.
    """
    if sys.stdout is not None and sys.stdout.isatty():
        line = "\n".join(map(harmless, line.split("\n")))
    write_result(f"{line}\n".encode(errors="surrogateescape"))


class Loudness(enum.IntEnum):
    """How much of what happens is said."""

    QUIET = 0
    NORMAL = 1
    VERBOSE = 2


_loudness = Loudness.NORMAL


def set_loudness(quiet: bool = False, verbose: bool = False) -> None:
    """Of this process, from now on; the flags --quiet and --verbose of a command."""
    global _loudness
    _loudness = Loudness.VERBOSE if verbose else Loudness.NORMAL
    if quiet:
        _loudness = Loudness.QUIET


def detail(line: str) -> None:
    """One line for who wants to know all of it."""
    if _loudness is Loudness.VERBOSE:
        log(line)


def log(line: str) -> None:
    """One line for the person at the terminal, unless it is to be quiet."""
    if _loudness is not Loudness.QUIET:
        complain(line)


def complain(line: str) -> None:
    """One line about what went wrong, however quiet it is to be."""
    # closed: print would take standard output then
    if sys.stderr is None:
        return
    # a file name may hold line breaks and escape codes
    print(harmless(line), file=sys.stderr, flush=True)


def harmless(line: str) -> str:
    """One line for a person: what cannot be printed is shown as missing."""
    return printable(line, "\N{REPLACEMENT CHARACTER}")


def counted(number: int, noun: str) -> str:
    """ "1 picture", "2 pictures". noun: whose plural ends in s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def was_given(context: typer.Context, name: str) -> bool:
    """Whether a parameter stood on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def refuse_options(context: typer.Context) -> None:
    """Wrong usage for options before a sub-command's name, which would be dropped."""
    for parameter in context.command.params:
        if parameter.name and was_given(context, parameter.name):
            context.fail(
                f"{parameter.opts[0]} stands before '{context.invoked_subcommand}'; options go "
                "after the sub-command."
            )
