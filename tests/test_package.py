"""The packages as they are installed: public names, versions, entry points, extras, the lock, and
the wheel.
"""

from __future__ import annotations

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT

PACKAGES = ("pulid_extract", "pulid_generate")


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_resolve(package):
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018
    # what type checkers are told is what is there
    told = {
        alias.name
        for node in ast.walk(
            ast.parse((ROOT / package / "__init__.py").read_text(encoding="utf-8"))
        )
        if isinstance(node, ast.If)
        for alias in _names(node)
    }
    assert told == set(module.__all__)


def _names(node: ast.If) -> Iterator[ast.alias]:
    for statement in node.body:
        if isinstance(statement, ast.ImportFrom):
            yield from statement.names


def test_versions_and_entry_points_are_pyprojects():
    project = tomllib.loads(Path(ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {
        package: importlib.import_module(package).__version__ for package in PACKAGES
    } == dict.fromkeys(PACKAGES, project["version"])
    assert set(project["scripts"]) == {"pulid-extract", "pulid-generate"}
    for target in project["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_lock_is_hashed_and_names_no_index():
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        assert "://" not in text
        assert "index-url" not in text
        pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert pins
        # each pin goes on with its hashes
        assert all("==" in pin and pin.endswith("\\") for pin in pins)
        assert text.count("--hash=sha256:") >= len(pins)


def test_each_extra_brings_what_its_stage_needs_and_nothing_of_the_other():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    names = {
        extra: {re.split(r"[<>=\[; ]", line)[0] for line in lines}
        for extra, lines in extras.items()
    }
    assert not names["extract"] & {"diffusers", "transformers", "accelerate"}
    assert not names["generate"] & {
        "insightface",
        "facexlib",
        "onnxruntime",
        "opencv-python-headless",
    }
    # spiece.model; protobuf otherwise only comes with the other stage
    assert {"sentencepiece", "protobuf"} <= names["generate"]


def test_numbers_that_two_leaves_must_agree_on():
    from pulid_extract.commands import cache
    from pulid_extract.faces import crop as face_crop
    from pulid_extract.pictures import regions
    from pulid_generate.pipeline import text_cache

    assert cache.TEXT == text_cache.ENTRIES
    assert regions.CROP_SIDE == face_crop.CROP_SIDE
    assert face_crop.BORDER_BGR[::-1] == regions.PAD_RGB


# ------------------------------------------------------------------------------------------- wheel

IMPORT_ALL = """
import importlib, json, sys
from pathlib import Path

modules, wheel = json.loads(sys.argv[1])
for module in modules:
    path = Path(importlib.import_module(module).__file__)
    assert path.is_relative_to(wheel), f"{module} comes from {path}"
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The project's wheel, built from a copy, so that the build leaves nothing in the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    project = folder / "project"
    for package in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / package, project / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, project)
    build = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", build, folder], cwd=project, check=True, capture_output=True
    )
    [built] = folder.glob("*.whl")
    return built


def sources() -> set[str]:
    """Every file of the two packages, from the root."""
    found = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts:
                found.add(path.relative_to(ROOT).as_posix())
    return found


def test_the_wheel_has_every_file_of_the_packages(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == sources()


@pytest.mark.slow  # torch, diffusers, transformers and the rest, in a process of their own
def test_every_module_of_the_wheel_can_be_imported(wheel, tmp_path):
    """In an environment of its own, which has the wheel, and the libraries of this one without the
    editable install: a .pth adds a folder, whose own .pth files nobody reads.
    """
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    python = environment / "bin" / "python"
    base = {"base": str(environment), "platbase": str(environment)}
    site = Path(sysconfig.get_path("purelib", "venv", vars=base))
    options = ["--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "--python", python]
    subprocess.run([*pip, "install", *options, wheel], check=True)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib") + "\n")
    modules = []
    for name in sorted(sources()):
        if name.endswith(".py") and not name.endswith("__main__.py"):
            modules.append(name[:-3].replace("/", ".").removesuffix(".__init__"))
    clean = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", IMPORT_ALL, json.dumps([modules, str(site)])],
        cwd=tmp_path,
        env=clean,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for program in ("pulid-extract", "pulid-generate"):
        done = subprocess.run(
            [environment / "bin" / program, "--version"],
            cwd=tmp_path,
            env=clean,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
