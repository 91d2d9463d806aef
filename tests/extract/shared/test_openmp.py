"""How OpenMP's threads wait is said before torch is imported, by both programs."""

import os
import subprocess
import sys

import pytest

from pulid_extract.shared import openmp

ENDS = "import atexit, os; atexit.register(lambda: print(os.environ.get('GOMP_SPINCOUNT')))"


def test_threads_sleep_soon(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    openmp.wait_asleep()
    assert os.environ["GOMP_SPINCOUNT"] == openmp.SPINS


@pytest.mark.parametrize("name", ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_what_somebody_said_holds(monkeypatch, name):
    for other in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(other, raising=False)
    monkeypatch.setenv(name, "7")
    openmp.wait_asleep()
    assert os.environ[name] == "7"
    assert ("GOMP_SPINCOUNT" in os.environ) == (name == "GOMP_SPINCOUNT")


@pytest.mark.parametrize("package", ["pulid_extract", "pulid_generate"])
def test_both_programs_say_it(package):
    environment = dict(os.environ)
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        environment.pop(name, None)
    code = f"{ENDS}; import sys; sys.argv[1:] = ['--help']; from {package}.cli import main; main()"
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert ended.stdout.splitlines()[-1] == openmp.SPINS
