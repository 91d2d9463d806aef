"""The two commands in this process, exactly as their entry points run them."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from support.models.portrait_models import models_folder


@dataclass(frozen=True)
class Run:
    """What a command did: its exit code, standard output as bytes, standard error as text."""

    code: int
    out: bytes
    err: str

    @property
    def error(self) -> str:
        """The one line of an expected failure; fails the test for a traceback or a second line."""
        return self._line(1)

    @property
    def usage_error(self) -> str:
        """The one line about an option that no file could make right; fails the test as `error`
        does.
        """
        return self._line(2)

    @property
    def refusal(self) -> str:
        """The one line, whether an option or a file is what is wrong."""
        return self._line(1, 2)

    def _line(self, *codes: int) -> str:
        assert self.code in codes, (self.code, self.err)
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if "error:" in line]
        assert len(lines) == 1, self.err
        return lines[0]


def lines(run: Run) -> list[dict[str, Any]]:
    """Standard output as JSON, line by line."""
    return [json.loads(line) for line in run.out.decode().splitlines()]


def generate_command(capfdbinary, monkeypatch) -> Callable[..., Run]:
    """What the fixture `generate` gives."""

    def run(*arguments, stdin: bytes = b"") -> Run:
        from pulid_generate import cli

        monkeypatch.setattr(sys, "argv", ["pulid-generate", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = 0
        # The pipeline collects garbage after each of its stages. What libraries and thousands of
        # tests have made is left out of that, or it would take most of a small picture's time.
        gc.freeze()
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        finally:
            gc.unfreeze()
        if sys.stdout is not None:  # a test has closed it
            with contextlib.suppress(OSError):  # or a test lets it lead to a full disk
                sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return Run(code, out, err.decode())

    return run


def call(capfd, monkeypatch, *arguments: str) -> tuple[int, str, str]:
    """pulid-extract: exit code, standard output, standard error."""
    from pulid_extract import cli

    monkeypatch.setattr(sys, "argv", ["pulid-extract", *arguments])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    out, err = capfd.readouterr()
    return int(exit_.value.code or 0), out, err


def run(capfd, monkeypatch, *arguments, stdin: bytes = b"") -> tuple[int, list[dict], str]:
    """pulid-extract on the small world's models: exit code, JSON lines of standard output, standard
    error.
    """
    code, out, err = run_plainly(capfd, monkeypatch, *arguments, stdin=stdin)
    return code, [json.loads(line) for line in out.splitlines() if line.startswith("{")], err


def run_plainly(capfd, monkeypatch, *arguments, stdin: bytes = b"") -> tuple[int, str, str]:
    """As `run`, with standard output as it is."""
    from pulid_extract import cli

    monkeypatch.setattr(sys, "argv", ["pulid-extract", *map(str, arguments)])
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    monkeypatch.setenv("PULID_MODELS_DIR", str(models_folder()))
    code = 0
    try:
        cli.main()
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capfd.readouterr()
    assert "Traceback" not in err
    return code, out, err
