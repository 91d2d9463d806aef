"""The packages as they are installed: public names, versions, entry points, extras, the lock, and
the wheel.
"""

from __future__ import annotations

import ast
import email
import email.message
import importlib
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import types
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.paths import ROOT

from pulid_extract.shared import home

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
        "opencv-contrib-python-headless",
    }
    # spiece.model; protobuf otherwise only comes with the other stage
    assert {"sentencepiece", "protobuf"} <= names["generate"]


def test_what_commands_ask_for_is_what_their_extra_brings():
    from pulid_extract.extraction import opening
    from pulid_extract.shared.libraries import MODULES
    from pulid_generate.assembly import opening as generating
    from pulid_generate.demo import running
    from pulid_generate.models import upscaler
    from pulid_generate.pictures import scorer

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    for wanted, names in (
        (opening.PACKAGES, ("extract",)),
        (opening.PROMPT_PACKAGES, ("extract",)),
        (scorer.LIBRARIES, ("extract",)),
        (generating.PACKAGES, ("generate",)),
        (running.LIBRARIES, ("extract", "generate")),
        (upscaler.PACKAGES, ("upscale",)),
    ):
        brought = set()
        for extra in names:
            for line in extras[extra]:
                name = re.split(r"[<>=\[; ]", line)[0]
                brought.add(MODULES.get(name, name.replace("-", "_")))
        assert set(wanted) <= brought


def test_the_headless_opencv_is_installed_over_the_other():
    """insightface asks for opencv-python, which needs the system's GL libraries and lands in the
    same cv2/. pip 20.3 and newer install leaves of the tree of dependencies in reverse order of
    their names (resolution/resolvelib/resolver.py, get_installation_order): what comes first in the
    alphabet comes last, and stays.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [ours] = [
        line for line in project["optional-dependencies"]["extract"] if line.startswith("opencv")
    ]
    assert "headless" in ours
    assert re.split("[<>=]", ours)[0] < "opencv-python"


def test_numbers_that_two_leaves_must_agree_on():
    from pulid_extract.commands import cache
    from pulid_extract.faces import crop as face_crop
    from pulid_extract.pictures import regions
    from pulid_generate.injection import compiling
    from pulid_generate.pipeline import text_cache

    assert (cache.TEXT, cache.COMPILED) == (text_cache.ENTRIES, compiling.COMPILED)
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
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
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


def metadata_of(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def test_the_wheel_says_what_a_package_page_shows(wheel):
    metadata = metadata_of(wheel)
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["License-File"] == "LICENSE"
    assert metadata["Author"]
    assert metadata["Keywords"]
    assert "Typing :: Typed" in metadata.get_all("Classifier")
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    # as long as the project has no address
    assert home.HOME_URL == ""
    assert metadata.get_all("Project-URL") is None
    page = str(metadata.get_payload())
    assert "PuLID-FLUX" in page
    assert relative_links(page) == []
    assert relative_links((ROOT / "README.md").read_text(encoding="utf-8"))  # they were there


def relative_links(page: str) -> list[str]:
    return re.findall(r"\]\((?!https?://|#)([^)]+)\)", page)


def test_with_an_address_links_and_urls_lead_there(monkeypatch):
    script = runpy.run_path(str(ROOT / "setup.py"))
    described, urls = script["described"], script["urls"]
    address = "https://example.org/someone/toolkit"
    # what setup.py has read
    read = described.__globals__["HOME"]
    monkeypatch.setitem(read, "HOME_URL", address)
    monkeypatch.setitem(read["page"].__globals__, "HOME_URL", address)
    text = described("[a](docs/a.md#b) ![p](docs/p.png) [c](https://c.example/d.md) [e](#f)")
    assert text == (
        f"[a]({address}/blob/main/docs/a.md#b) ![p]({address}/raw/main/docs/p.png) "
        "[c](https://c.example/d.md) [e](#f)"
    )
    assert urls()["Homepage"] == address


@pytest.mark.slow  # packs 60 MB
def test_the_source_archive_is_the_checkout(tmp_path):
    """Nothing is missing without which its tests would not run or its documents not lead on."""
    project = tmp_path / "project"
    made = (".git", ".venv", "build", "demo", "micro", "*.egg-info", "__pycache__", ".*_cache")
    ignored = shutil.ignore_patterns(*made, ".hypothesis", "*.part")
    shutil.copytree(ROOT, project, ignore=ignored)
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    there = {path.relative_to(project).as_posix() for path in project.rglob("*") if path.is_file()}
    subprocess.run(
        [sys.executable, "-c", build, tmp_path], cwd=project, check=True, capture_output=True
    )
    [built] = tmp_path.glob("*.tar.gz")
    with tarfile.open(built) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames() if "." in name}
    assert sorted(there - packed) == []


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
    for words, code in (
        (["pulid-extract", "--version"], 0),
        (["pulid-generate", "--version"], 0),
        # whose models are not in the wheel
        (["pulid-generate", "demo"], 1),
    ):
        done = subprocess.run(
            [environment / "bin" / words[0], *words[1:]],
            cwd=tmp_path,
            env={**clean, "HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1
    assert "scripts/micro_world/models of a checkout" in done.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_an_interrupt_while_commands_are_imported_is_no_traceback(package, monkeypatch):
    class Importing(types.ModuleType):
        def __getattr__(self, name):
            raise KeyboardInterrupt

    start = importlib.import_module(f"{package}.__main__")
    monkeypatch.setitem(sys.modules, f"{package}.cli", Importing(f"{package}.cli"))
    with pytest.raises(SystemExit) as stop:
        start.main()
    assert stop.value.code == 130
