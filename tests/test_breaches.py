"""Each rule of tests/test_boundaries.py is broken once, in a small tree, and it is noticed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import import_rules
from support.import_rules import Tree

# A small house in which every rule holds.
SOUND = {
    "pulid_extract/__init__.py": "from typing import Any\n",
    "pulid_extract/cli.py": "from pulid_extract.commands import cache\n",
    "pulid_extract/commands/__init__.py": "",
    "pulid_extract/commands/cache.py": "from pulid_extract.files import roles\n",
    "pulid_extract/files/__init__.py": "",
    "pulid_extract/files/roles.py": "from pulid_extract.shared import errors\n",
    "pulid_extract/shared/__init__.py": "",
    "pulid_extract/shared/errors.py": "class PulidError(Exception): ...\n",
    # a file that stands above the folders beside it
    "pulid_extract/shared/reports.py": "from pulid_extract.shared.cli import console\n",
    "pulid_extract/shared/cli/__init__.py": "",
    "pulid_extract/shared/cli/console.py": "from pulid_extract.shared.errors import PulidError\n",
    "pulid_extract/shared/model_files/__init__.py": "",
    "pulid_extract/shared/model_files/kinds.py": "",
    "pulid_generate/__init__.py": "__version__ = '0'\n",
    "pulid_generate/cli.py": "from pulid_generate.commands.draw import draw\n",
    "pulid_generate/commands/__init__.py": "",
    "pulid_generate/commands/draw.py": "def draw():\n    import pulid_generate.pipeline.order\n",
    "pulid_generate/commands/pull.py": "",
    "pulid_generate/pipeline/__init__.py": "",
    "pulid_generate/pipeline/order.py": (
        "import torch\nfrom pulid_generate.request.job import Job\n"
    ),
    "pulid_generate/request/__init__.py": "",
    "pulid_generate/request/job.py": (
        "from pulid_extract.shared.errors import PulidError\nclass Job: ...\n"
    ),
    "pulid_generate/request/people.py": "import pulid_generate.request.job\n",
}
SMALL_ORDER = {
    "pulid_extract": ("cli", "commands", "files", "shared"),
    "pulid_extract.shared": ("reports", "cli", "model_files"),
    "pulid_generate": ("cli", "commands", "pipeline", "request"),
}
LIGHT = [
    *("pulid_generate.commands.draw", "pulid_generate.request.job"),
    *("pulid_generate.request.people", "pulid_extract.shared.errors"),
]


def broken_rules(root: Path) -> dict[str, list[str]]:
    """Rule -> what breaks it, for the small house under a root."""
    tree = Tree(root)
    rules: dict[str, Callable[[], list[str]]] = {
        "relative": lambda: import_rules.relative(tree),
        "between": lambda: import_rules.between_packages(tree),
        "upwards": lambda: import_rules.upwards(tree, SMALL_ORDER),
        "unordered": lambda: import_rules.unordered(tree, SMALL_ORDER),
        "circle": lambda: import_rules.circles(tree),
        "folder": lambda: import_rules.folders_that_import(tree),
        "torch": lambda: import_rules.with_torch(root, LIGHT)[0],
        "posix": lambda: import_rules.posix_imports(tree),
        "command": lambda: import_rules.commands_imported(tree),
    }
    found = {name: rule() for name, rule in rules.items()}
    return {name: lines for name, lines in found.items() if lines}


def build(root: Path, breach: dict[str, str]) -> None:
    """Write the small house; `breach` has lines that are added to its files, or new files."""
    for name in {**SOUND, **breach}:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(SOUND.get(name, "") + breach.get(name, ""))
    (root / "torch.py").write_text("")


def test_the_small_house_is_sound(tmp_path):
    build(tmp_path, {})
    assert broken_rules(tmp_path) == {}


JOB = "pulid_generate/request/job.py"
BREACHES = {
    # a name, what is added, the rules that must notice, and one line of what they must say
    "posix, at import": (
        {JOB: "try:\n    import fcntl\nexcept ImportError:\n    pass\n"},
        {"posix"},
        "imports fcntl, which Windows lacks",
    ),
    "posix, without a way out": (
        {
            JOB: (
                "def lock():\n    try:\n        import fcntl\n    except ImportError:\n"
                "        return\n    import termios\n"
            )
        },
        {"posix"},
        "imports termios, which Windows lacks",
    ),
    "upwards": (
        {"pulid_generate/request/people.py": "import pulid_generate.pipeline.order\n"},
        {"upwards", "torch"},
        "pulid_generate/request/people.py:2: pulid_generate.pipeline.order stands above "
        "pulid_generate.request.people",
    ),
    "upwards, hidden in a function": (
        {JOB: "def late():\n    from pulid_generate.pipeline import order\n"},
        {"upwards", "circle"},
        "pulid_generate.pipeline.order stands above",
    ),
    "upwards, for a type": (
        {
            JOB: (
                "from typing import TYPE_CHECKING\n"
                "if TYPE_CHECKING:\n    from pulid_generate.pipeline import order\n"
            )
        },
        {"upwards", "circle"},
        "pulid_generate.pipeline.order stands above",
    ),
    "upwards, by name": (
        {
            "pulid_generate/request/people.py": (
                "def late():\n    importlib.import_module('pulid_generate.pipeline.order')\n"
            )
        },
        {"upwards"},
        "pulid_generate.pipeline.order stands above",
    ),
    "upwards, inside shared": (
        {"pulid_extract/shared/model_files/kinds.py": "import pulid_extract.shared.cli.console\n"},
        {"upwards"},
        "pulid_extract.shared.cli.console stands above pulid_extract.shared.model_files.kinds",
    ),
    "upwards, from a file beside folders": (
        {
            "pulid_extract/shared/records.py": (
                "from pulid_extract.shared.model_files.kinds import Kind\n"
            )
        },
        {"upwards"},
        "pulid_extract.shared.model_files.kinds stands above pulid_extract.shared.records",
    ),
    "upwards, to a file above its folder": (
        {"pulid_extract/shared/cli/console.py": "import pulid_extract.shared.reports\n"},
        {"upwards", "circle"},
        "pulid_extract.shared.reports stands above pulid_extract.shared.cli.console",
    ),
    "the package itself": (
        {JOB: "from pulid_generate import __version__\n"},
        {"upwards"},
        "pulid_generate stands above pulid_generate.request.job",
    ),
    "two folders in a circle": (
        {"pulid_extract/files/kinds.py": "import pulid_extract.commands.cache\n"},
        {"upwards", "command"},
        "pulid_extract.commands.cache stands above pulid_extract.files.kinds",
    ),
    "two files in a circle": (
        {JOB: "def late():\n    from pulid_generate.request import people\n"},
        {"circle"},
        "pulid_generate.request.job -> pulid_generate.request.people -> pulid_generate.request.job",
    ),
    "a folder's face and its file in a circle": (
        {
            "pulid_extract/shared/model_files/__init__.py": (
                "import pulid_extract.shared.model_files.kinds\n"
            ),
            "pulid_extract/shared/model_files/kinds.py": (
                "from pulid_extract.shared.model_files import Kind\n"
            ),
        },
        {"circle"},
        "pulid_extract.shared.model_files -> pulid_extract.shared.model_files.kinds -> ",
    ),
    "the inside of extract": (
        {JOB: "def late():\n    from pulid_extract.files.roles import ROLES\n"},
        {"between"},
        "pulid_generate/request/job.py:4: pulid_extract.files.roles is not in pulid_extract.shared",
    ),
    "extract itself": (
        {JOB: "import pulid_extract\n"},
        {"between"},
        "pulid_extract is not in pulid_extract.shared",
    ),
    "generate imported by extract": (
        {
            "pulid_extract/shared/errors.py": (
                "def late():\n    from pulid_generate import request\n"
            )
        },
        {"between"},
        "pulid_extract/shared/errors.py:3: pulid_extract imports pulid_generate.request",
    ),
    "torch at the top": (
        {JOB: "import torch\n"},
        {"torch"},
        # whoever imports job is named as well
        "pulid_generate.request.people: imports torch",
    ),
    "torch by way of another": (
        {"pulid_generate/commands/draw.py": "import pulid_generate.pipeline.order\n"},
        {"torch"},
        "pulid_generate.commands.draw: imports torch",
    ),
    "relative": (
        {JOB: "def late():\n    from . import people\n"},
        {"relative"},
        "pulid_generate/request/job.py:4: write where .people comes from",
    ),
    "a folder that imports": (
        {"pulid_generate/request/__init__.py": "import json\n"},
        {"folder"},
        "pulid_generate/request/__init__.py:1: imports json",
    ),
    "a folder that imports its own file": (
        {"pulid_generate/request/__init__.py": "from pulid_generate.request.job import Job\n"},
        {"folder"},
        "pulid_generate/request/__init__.py:1: imports pulid_generate.request.job.Job",
    ),
    "a package that imports": (
        {"pulid_generate/__init__.py": "import numpy\n"},
        {"folder"},
        "pulid_generate/__init__.py:2: imports numpy",
    ),
    "a folder without __init__": (
        {"pulid_generate/sampling/noise.py": ""},
        {"folder"},
        "pulid_generate.sampling: has no __init__.py",
    ),
    "a folder without a place": (
        {"pulid_generate/sampling/__init__.py": ""},
        {"unordered"},
        "pulid_generate: sampling",
    ),
    "a folder in a folder without a place": (
        {"pulid_generate/request/inner/__init__.py": ""},
        {"unordered"},
        "pulid_generate.request: inner",
    ),
    "a command that a command imports": (
        {"pulid_generate/commands/pull.py": "from pulid_generate.commands.draw import draw\n"},
        {"command"},
        "pulid_generate.commands.draw is for pulid_generate/cli.py alone",
    ),
    "a command that its folder imports": (
        {"pulid_generate/commands/__init__.py": "from pulid_generate.commands import draw\n"},
        {"command", "folder"},
        "pulid_generate/commands/__init__.py:1: pulid_generate.commands.draw is for",
    ),
}


def test_a_place_of_nothing_is_noticed(tmp_path):
    build(tmp_path, {})
    order = {**SMALL_ORDER, "pulid_extract.shared": ("reports", "cli", "gone", "model_files")}
    assert import_rules.unordered(Tree(tmp_path), order) == ["pulid_extract.shared: gone"]


@pytest.mark.parametrize("name", BREACHES)
def test_a_breach_is_noticed(name, tmp_path):
    breach, rules, line = BREACHES[name]
    build(tmp_path, breach)
    broken = broken_rules(tmp_path)
    assert {*broken} == rules
    assert line in "\n".join(line for lines in broken.values() for line in lines)
