"""`make bench` beside an sd-cli: here a program that takes its flags and burns time."""

from __future__ import annotations

import sys

import pytest
from bench import __main__ as bench
from bench import beside_sdcli
from bench.full_size_files import SMALL

FAKE = """#!{python}
import sys, time
assert "--t5-tokenizer" not in sys.argv and "--device" not in sys.argv, sys.argv
assert "--diffusion-model" in sys.argv
steps = int(sys.argv[sys.argv.index("--steps") + 1])
end = time.process_time() + 0.05 * steps
while time.process_time() < end:
    pass
sys.exit({code})
"""


def fake(tmp_path, code: int = 0):
    program = tmp_path / "sd-cli"
    program.write_text(FAKE.format(python=sys.executable, code=code))
    program.chmod(0o755)
    return program


@pytest.mark.slow
def test_steps_of_both(tmp_path, monkeypatch):
    monkeypatch.setattr(beside_sdcli, "TURNS", 1)
    monkeypatch.setattr(beside_sdcli, "SIDE", 64)
    table = beside_sdcli.beside(str(fake(tmp_path)), SMALL, tmp_path / "files")
    rows = [line.split("|") for line in table.splitlines()[4:]]
    assert [row[1].strip() for row in rows] == ["sd-cli", "ours, by default", "ours, float32"]
    assert float(rows[0][2]) > 0
    assert rows[0][3].strip() == "1.0x"


def test_a_program_that_fails_is_named(tmp_path):
    program = fake(tmp_path, code=3)
    with pytest.raises(SystemExit, match="bench: sd-cli ended with 3: it said nothing"):
        beside_sdcli.beside(str(program), SMALL, tmp_path / "files")


def test_the_flag():
    assert bench._arguments([]) == (list(bench.TABLES), None)
    assert bench._arguments(["steps", "--sd-cli", "x"]) == (["steps"], "x")
    assert bench._arguments(["--sd-cli", "x"]) == ([], "x")
    with pytest.raises(SystemExit, match="wants the program's path"):
        bench._arguments(["--sd-cli"])
