"""Ctrl-C: what is in work is finished, a second one stops at once, and who ignores it goes on."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest
from support.programs.processes import started

from pulid_extract.shared.cli.interrupts import MESSAGE, Interrupts


@pytest.fixture(params=["default", "ignored"])
def before(request):
    """How the process was started; the tests themselves may have been started either way."""
    handler = signal.SIG_IGN if request.param == "ignored" else signal.default_int_handler
    own = signal.signal(signal.SIGINT, handler)
    yield handler
    signal.signal(signal.SIGINT, own)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def test_work_is_finished_and_a_second_interrupt_stops_at_once(before):
    said: list[str] = []
    with Interrupts(said.append) as interrupts:
        if before is signal.SIG_IGN:
            interrupt()
            with interrupts.working():
                interrupt()
                interrupt()
            assert not interrupts.asked
            assert not said
            return
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        with interrupts.working():
            with interrupts.working():
                interrupt()
            assert interrupts.asked
            with pytest.raises(KeyboardInterrupt):
                interrupt()
    assert said == [MESSAGE]


def test_the_handler_is_as_it_was(before):
    with Interrupts(print), pytest.raises(ZeroDivisionError):
        raise ZeroDivisionError
    assert signal.getsignal(signal.SIGINT) is before


WORK = """
import sys
from pulid_extract.shared.cli.interrupts import Interrupts
with Interrupts(print) as interrupts, interrupts.working():
    print("ready", flush=True)
    sys.stdin.read()
print(interrupts.asked)
"""


@pytest.mark.parametrize("ignored", [False, True])
def test_a_process_obeys_how_it_was_started(ignored):
    """As a terminal starts it; and as a script's `&` does."""
    process = started("-c", WORK, ignoring_interrupts=ignored, stdin=subprocess.PIPE)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate("", timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out == ("False\n" if ignored else f"{MESSAGE}\nTrue\n")
