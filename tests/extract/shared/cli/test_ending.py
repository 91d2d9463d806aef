"""The end of a program: nothing that is to happen at it is lost, and what is in memory stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import atexit, os, sys, tempfile, threading, time
from pulid_extract.shared.cli.ending import run_and_end

class Heavy:
    def __del__(self):
        os.write(2, b"taken apart ")

def run():
    global heavy, folder
    heavy, folder = Heavy(), tempfile.TemporaryDirectory()
    open(folder.name + "/file", "w").close()
    print(folder.name)
    atexit.register(os.write, 2, b"cleared up ")
    threading.Thread(target=lambda: (time.sleep(0.05), os.write(2, b"thread done "))).start()
    sys.stdout.write("a line without an end")
    END

if START:
    run_and_end(run)
else:
    run()
"""


def ended(end: str, start: str = "True") -> tuple[int, str, str]:
    """Exit code, standard output, standard error."""
    program = PROGRAM.replace("END", end).replace("START", start)
    # unbuffered, nothing would be left to be flushed
    environment = {name: value for name, value in os.environ.items() if "UNBUFFERED" not in name}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("end", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        ("sys.exit('in words')", 1),
        ("raise ValueError('unforeseen')", 1),
        ("raise KeyboardInterrupt", 130),
    ],
)
def test_nothing_is_lost(end, code):
    found, out, err = ended(end)
    plain = ended(end, "False")
    assert found == code
    # Python ends an interrupt by the signal itself
    assert plain[0] == (-2 if code == 130 else code)
    folder, rest = out.split("\n", 1)
    assert rest == "a line without an end"
    assert not Path(folder).exists()
    assert "thread done" in err
    assert err.index("thread done") < err.index("cleared up")
    assert "taken apart" not in err
    # the twin: Python by itself takes everything apart
    assert "taken apart" in plain[2]
    if "Value" in end:
        assert "Traceback" in err
        assert "unforeseen" in err


def test_standard_output_that_nobody_reads():
    code, _, err = ended("os.close(1)")
    assert code == 120
    assert "cleared up" in err
