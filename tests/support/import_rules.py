"""Who may import whom: four rules over the source of the two packages, file by file.

Read with ast, so that an import inside a function, for a type or by `import_module("...")` counts
as well. The functions take a tree of files and give what breaks a rule, one line each, so that a
test can run them on a made-up tree. Knows no module of the packages but by its name.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("pulid_extract", "pulid_generate")
SHARED = "pulid_extract.shared"
# The one folder below a package whose __init__ imports: its files are one library with one face.
FACES = ("pulid_extract.shared.model_files",)
HEAVY = ("torch", "torchvision", "diffusers", "transformers", "insightface", "cv2")


@dataclass(frozen=True)
class Import:
    """One import of a module of ours."""

    importer: str  # dotted; a folder's __init__ has the folder's name
    imported: str  # dotted, the longest part of the name that is a module
    where: str  # file:line, from the root


class Tree:
    """The modules of both packages under a root, and what they import of each other."""

    def __init__(self, root: Path):
        self.root = root
        self.files: dict[str, Path] = {}  # module -> file
        self.parsed: dict[str, ast.Module] = {}
        for package in PACKAGES:
            for path in sorted((root / package).rglob("*.py")):
                parts = path.relative_to(root).with_suffix("").parts
                module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                self.files[module] = path
                self.parsed[module] = ast.parse(path.read_text(encoding="utf-8"))
        self.imports = [found for module in self.files for found in self._imports_of(module)]

    def place(self, module: str, line: int) -> str:
        return f"{self.files[module].relative_to(self.root)}:{line}"

    def _imports_of(self, module: str) -> Iterator[Import]:
        for line, name in imported_names(self.parsed[module]):
            if name.split(".")[0] in PACKAGES:
                yield Import(module, self._module_of(name), self.place(module, line))

    def _module_of(self, name: str) -> str:
        while name not in self.files and "." in name:
            name = name.rpartition(".")[0]
        return name


def imported_names(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported, to the last part: `from a import b` gives
    "a.b". A relative import gives a name that starts with a dot.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                module = [node.module] if node.module else []
                yield node.lineno, "." * node.level + ".".join([*module, alias.name])
        elif isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func
            name = called.id if isinstance(called, ast.Name) else called
            arguments = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            if name in ("import_module", "__import__") and arguments:
                yield node.lineno, str(arguments[0])


def relative(tree: Tree) -> list[str]:
    """Relative imports: the other rules could not see where they lead."""
    broken = []
    for module, parsed in tree.parsed.items():
        for line, name in imported_names(parsed):
            if name.startswith("."):
                broken.append(f"{tree.place(module, line)}: write where {name} comes from")
    return broken


# -------------------------------------------------------------------- one: between the two packages


def between_packages(tree: Tree) -> list[str]:
    """Imports of pulid_extract's inside by pulid_generate, and of pulid_generate by
    pulid_extract.
    """
    broken = []
    for found in tree.imports:
        there = f"{found.imported}."
        if found.importer.startswith("pulid_generate") and there.startswith("pulid_extract."):
            if not there.startswith(f"{SHARED}."):
                broken.append(f"{found.where}: {found.imported} is not in {SHARED}")
        elif found.importer.startswith("pulid_extract") and there.startswith("pulid_generate."):
            broken.append(f"{found.where}: pulid_extract imports {found.imported}")
    return broken


# ------------------------------------------------------------------------------ two: downwards only


def upwards(tree: Tree, order: dict[str, tuple[str, ...]]) -> list[str]:
    """Imports of what stands above. `order` has, for each folder with folders in it, its entries
    from the top down, files among them; those that it does not name stand together at the bottom.
    A package's own __init__ and __main__ stand above everything.
    """
    broken = []
    for found in tree.imports:
        importer, imported = found.importer.split("."), found.imported.split(".")
        if importer[0] != imported[0]:
            continue
        common = 1
        while importer[common:] and importer[common : common + 1] == imported[common : common + 1]:
            common += 1
        parent = ".".join(importer[:common])
        if parent in order:
            below = _floor(order[parent], importer[common:])
            above = _floor(order[parent], imported[common:])
            if above < below:
                broken.append(f"{found.where}: {found.imported} stands above {found.importer}")
    return broken


def _floor(entries: tuple[str, ...], rest: list[str]) -> int:
    """The place of a module among the entries of a folder; -1: above them all."""
    if not rest or rest[0] == "__main__":
        return -1
    return entries.index(rest[0]) if rest[0] in entries else len(entries)


def unordered(tree: Tree, order: dict[str, tuple[str, ...]]) -> list[str]:
    """Folders and top files that `order` does not name, and names in it that are not there."""
    there: dict[str, set[str]] = {package: set() for package in PACKAGES}
    for module, path in tree.files.items():
        parent, _, name = module.rpartition(".")
        if name in ("", "__main__") or not parent:
            continue
        if path.name == "__init__.py" or parent in PACKAGES:
            there.setdefault(parent, set()).add(name)
    broken = []
    for parent in sorted({*there, *order}):
        named = set(order.get(parent, ()))
        missing = {name for name in named if f"{parent}.{name}" not in tree.files}
        without_a_place = there.get(parent, set()) - named
        broken += [f"{parent}: {name}" for name in sorted(missing | without_a_place)]
    return broken


def circles(tree: Tree) -> list[str]:
    """Files that import each other in a circle, wherever they stand: one line for each circle that
    a walk along the imports runs into.
    """
    edges: dict[str, list[str]] = {module: [] for module in tree.files}
    for found in tree.imports:
        if found.imported in edges and found.imported not in edges[found.importer]:
            edges[found.importer].append(found.imported)
    broken: list[str] = []
    finished: set[str] = set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            broken.append(" -> ".join([*path[path.index(module) :], module]))
        elif module not in finished:
            for imported in edges[module]:
                walk(imported, [*path, module])
            finished.add(module)

    for module in edges:
        walk(module, [])
    return broken


# ------------------------------------------------------------------------ three: nothing on import


def folders_that_import(tree: Tree) -> list[str]:
    """A folder's __init__ that imports, or has none. Those of the packages may, for types and
    inside functions; those of FACES may import their own files.
    """
    broken = []
    for folder in sorted({path.parent for path in tree.files.values()}):
        module = ".".join(folder.relative_to(tree.root).parts)
        if module not in tree.files:
            broken.append(f"{module}: has no __init__.py")
            continue
        parsed = tree.parsed[module]
        if module in PACKAGES:
            parsed = _at_import(parsed)
        for line, name in imported_names(parsed):
            allowed = (
                name.split(".")[0] in ("__future__", "importlib", "typing")
                or name == f"{module}.version.__version__"
                if module in PACKAGES
                else module in FACES and name.startswith(f"{module}.")
            )
            if not allowed:
                broken.append(f"{tree.place(module, line)}: imports {name}")
    return broken


def _at_import(parsed: ast.Module) -> ast.Module:
    """What runs when a module is imported: without functions and without `if TYPE_CHECKING`."""
    kept = []
    for statement in parsed.body:
        types = isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test)
        if not types and not isinstance(statement, ast.FunctionDef):
            kept.append(statement)
    return ast.Module(body=kept, type_ignores=[])


WITHOUT_HEAVY = """
import importlib, json, sys

class Refusal:
    def find_spec(self, name, path=None, target=None):
        if name in HEAVY:
            asked.append(name)
            raise ImportError(f"{name} is not for this module")

HEAVY, modules = json.loads(sys.argv[1])
sys.meta_path.insert(0, Refusal())
broken = []
for module in modules:
    asked = []
    try:
        importlib.import_module(module)
    except ImportError as problem:
        asked = asked or [str(problem)]
    if asked:
        broken.append(f"{module}: imports {asked[0]}")
print(json.dumps([broken, "numpy" in sys.modules]))
"""


def with_torch(root: Path, modules: list[str]) -> tuple[list[str], bool]:
    """(each of `modules` that cannot be imported where torch and its like are refused, whether
    numpy was loaded meanwhile). In one process: an import that failed leaves nothing behind, so
    that every module is judged by itself.
    """
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_HEAVY, json.dumps([HEAVY, modules])],
        env={**os.environ, "PYTHONPATH": str(root)},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    broken, numpy = json.loads(done.stdout)
    return broken, numpy


# modules that Windows' Python lacks
POSIX_ONLY = (
    *("crypt", "curses", "fcntl", "grp", "nis", "posix", "pty", "pwd", "readline", "resource"),
    *("spwd", "syslog", "termios", "tty"),
)


def posix_imports(tree: Tree) -> list[str]:
    """Imports of POSIX_ONLY that would fail on Windows: outside functions such a file could not
    even be imported; inside, there must be a way without it, `except ImportError`.
    """
    broken = []
    for module, parsed in tree.parsed.items():
        forgiven: set[int] = set()
        for function in ast.walk(parsed):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                forgiven |= _with_a_way_out(function)
        for line, name in imported_names(parsed):
            if name.split(".")[0] in POSIX_ONLY and line not in forgiven:
                broken.append(f"{tree.place(module, line)}: imports {name}, which Windows lacks")
    return broken


def _with_a_way_out(function: ast.AST) -> set[int]:
    """Lines of imports that stand in a `try` which minds ImportError."""
    lines = set()
    for block in ast.walk(function):
        if isinstance(block, ast.Try):
            minded = [ast.unparse(handler.type) for handler in block.handlers if handler.type]
            if any("ImportError" in kinds for kinds in minded):
                tried = ast.Module(body=block.body, type_ignores=[])
                lines |= {line for line, _ in imported_names(tried)}
    return lines


# ----------------------------------------------------------------------- four: commands are on top


def commands_imported(tree: Tree) -> list[str]:
    """Imports of a command by anything but its package's cli.py."""
    broken = []
    for found in tree.imports:
        package, _, rest = found.imported.partition(".")
        if rest.split(".")[0] == "commands" and found.importer != f"{package}.cli":
            broken.append(f"{found.where}: {found.imported} is for {package}/cli.py alone")
    return broken
