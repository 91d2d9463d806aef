"""Libraries that are there and cannot be imported: one line with the cure, in every command and in
doctor.
"""

from __future__ import annotations

import sys

import pytest
import typer

from pulid_extract.shared import libraries
from pulid_extract.shared.cli import console
from pulid_extract.shared.libraries import import_problem, try_import
from pulid_extract.shared.model_files import checkup

GL = "libGL.so.1: cannot open shared object file: No such file or directory"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ImportError(GL, name="cv2"), "cv2 cannot be imported (libGL.so.1: cannot open"),
        (ImportError(GL), "apt-get install libgl1"),
        (OSError("libcudart.so.12: cannot open shared object file"), "torch torchvision"),
        (ModuleNotFoundError("No module named 'timm'", name="timm"), "--force-reinstall timm"),
        (ImportError("cannot import name 'x'", name="pulid_extract.x"), None),
        (OSError("libtorch_cpu.so: failed to map segment from shared object"), "ulimit -v"),
        (ImportError("libz.so.1: cannot create shared object descriptor"), "ulimit -v"),
        (OSError("No space left"), None),
        (ValueError(GL), None),
    ],
)
def test_which_library_and_what_cures_it(error, words):
    line = import_problem(error)
    assert (line is None) == (words is None)
    assert words is None or words in line


@pytest.mark.parametrize("error", [ImportError(GL, name="cv2"), OSError(GL)])
def test_a_command_ends_in_one_line(error, capsys, monkeypatch):
    app = console.new_app()

    @app.command()
    def fail() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as end:
        console.run(app, "x")
    said = capsys.readouterr().err
    assert (end.value.code, said.count("\n")) == (1, 1)
    assert "cannot be imported (libGL.so.1" in said
    assert "apt-get install libgl1" in said


def test_our_own_mistakes_are_not_dressed_up(monkeypatch):
    app = typer.Typer(pretty_exceptions_enable=False)

    @app.command()
    def fail() -> None:
        raise ImportError("cannot import name 'x'", name="pulid_extract.x")

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(ImportError, match="cannot import name"):
        console.run(app, "x")


def test_doctor_tries_the_import_and_not_the_metadata_alone(monkeypatch, tmp_path):
    (tmp_path / "onnxruntime.py").write_text(f"raise ImportError({GL!r}, name='onnxruntime')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "onnxruntime", raising=False)
    assert "libgl1" in str(try_import("onnxruntime"))
    found = {check.name: check for check in checkup.libraries("extract")}
    assert found["onnxruntime"].status == "wrong"
    assert "libGL.so.1" in found["onnxruntime"].text
    assert "libgl1" in found["onnxruntime"].remedy
    assert found["numpy"].status == "ok"
    assert libraries.MODULES["pillow"] == "PIL"


def test_without_memory_no_library_is_to_be_installed_anew(monkeypatch, capsys):
    """The first one finds none, the next ones fail on what it has left behind."""
    said = {"torch": "libtorch.so: failed to map segment from shared object"}

    def fail(name):
        if name == "insightface":
            raise MemoryError
        raise ImportError(said.get(name, "spoilt"))

    monkeypatch.setattr(libraries.importlib, "import_module", fail)
    wrong = [check for check in checkup.libraries("extract") if check.status == "wrong"]
    assert {"torch", "onnxruntime", "insightface"} <= {check.name for check in wrong}
    assert {check.remedy for check in wrong} == {libraries.MORE_MEMORY}

    app = console.new_app()

    @app.command()
    def grow() -> None:
        raise MemoryError

    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit) as end:
        console.run(app, "x")
    assert end.value.code == 1
    assert capsys.readouterr().err == f"x: error: out of memory; {libraries.MORE_MEMORY}\n"
