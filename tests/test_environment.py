"""The world that the tests run in, whoever starts them and with however many workers; and the
tests' own tree, which mirrors the packages.
"""

from __future__ import annotations

import ast
import os

import pytest
from support.paths import ROOT, TESTS

FILES = sorted(TESTS.rglob("*.py"))


def test_workers_do_not_fight_for_the_cores():
    """torch reads the number once, when it is imported: conftest must have set it before."""
    import torch

    workers = os.environ.get("PYTEST_XDIST_WORKER_COUNT")
    if workers is None:
        pytest.skip("there is one process")
    most = max(1, len(os.sched_getaffinity(0)) // int(workers))
    assert torch.get_num_threads() <= max(most, int(os.environ["OMP_NUM_THREADS"]))


def test_nothing_is_fetched_and_nothing_is_cached():
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    assert os.environ["PULID_NO_CACHE"] == "1"
    assert "PULID_MODELS_DIR" not in os.environ


def imported(path):
    """Every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield node.module or ""
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_no_test_imports_another():
    """What several of them need is in support/ or a fixture."""
    breaches = []
    for path in FILES:
        for module in imported(path):
            parts = module.split(".")
            if parts[0] in ("tests", "conftest") or parts[-1].startswith("test_"):
                breaches.append((str(path.relative_to(TESTS)), module))
    assert breaches == []


def test_what_is_no_test_is_support():
    others = [path for path in FILES if not path.name.startswith(("test_", "conftest"))]
    assert {path.relative_to(TESTS).parts[0] for path in others} == {"support"}


@pytest.mark.parametrize(
    ("folder", "package"), [("extract", "pulid_extract"), ("generate", "pulid_generate")]
)
def test_folders_are_those_of_the_package(folder, package):
    ours = {path.parent.name for path in (TESTS / folder).glob("*/test_*.py")}
    assert ours
    assert ours <= {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
