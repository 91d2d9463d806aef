"""The programs as they start: help without torch, three processes, standard output."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
import sys

import pytest
from PIL import Image
from support.paths import ROOT

# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("redirect", [">/dev/full", ">&-"])
def test_a_full_or_closed_standard_output_is_one_line(micro, redirect):
    """In a process, with a command that needs no torch."""
    inspect = (sys.executable, "-m", "pulid_generate", "inspect", micro / "ae.safetensors")
    command = " ".join(shlex.quote(str(part)) for part in inspect)
    done = subprocess.run(
        ["bash", "-c", f"{command} {redirect}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "standard output: " in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("package", "blocked"), [("pulid_generate", "tokenizers"), ("pulid_extract", "cv2")]
)
def test_a_missing_extra_is_one_line_that_says_what_to_install(package, blocked, base, tmp_path):
    Image.new("RGB", (2000, 64)).save(tmp_path / "p.png")
    flags = {
        "pulid_generate": [*map(str, base), "-o", str(tmp_path / "a.png")],
        "pulid_extract": ["--portrait", str(tmp_path / "p.png"), "--out", str(tmp_path / "o")],
    }[package]
    code = f"import sys; sys.modules[{blocked!r}] = None; sys.argv[1:] = {flags!r}\nfrom {package}.cli import main\nmain()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert blocked in done.stderr.splitlines()[-1]
    assert f"pip install 'pulid-flux-toolkit[{package.removeprefix('pulid_')}]'" in done.stderr


# ------------------------------------------------------------------------------------- entry points


@pytest.mark.parametrize("package", ["pulid_generate", "pulid_extract"])
def test_help_is_quick_because_torch_stays_out(package):
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['x', '--help']\n"
        "try:\n"
        f"    runpy.run_module('{package}', run_name='__main__', alter_sys=True)\n"
        "except SystemExit:\n"
        "    pass\n"
        "heavy = {'torch', 'numpy', 'transformers', 'diffusers', 'cv2', 'insightface', 'rich'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


@pytest.mark.slow
def test_three_processes_agree(base, identity, tmp_path):
    """scripts/verify_three_way.sh: the same check with separate processes and sha256sum."""
    flags = [str(flag) for flag in (*base, *identity)]
    done = subprocess.run(
        ["bash", ROOT / "scripts" / "verify_three_way.sh", *flags],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PULID_GENERATE": f"{sys.executable} -m pulid_generate",
            "PYTHONPATH": str(ROOT),
        },
    )
    assert done.returncode == 0, done.stderr
    assert "PASSED" in done.stdout
    assert len([line for line in done.stdout.splitlines() if len(line.split()[0]) == 64]) == 3


def test_picture_from_bytes(generate, base, tmp_path):
    """`-o -` is a whole PNG."""
    with Image.open(io.BytesIO(generate(*base, "-o", "-").out)) as picture:
        assert picture.size == (64, 48)
