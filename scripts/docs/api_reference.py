"""Write docs/api.md: every public name of the two packages, with its signature and what it says of
itself. Or check that it is current.

    make docs        (or: PYTHONPATH=scripts python -m docs.api_reference [--check])

Read from the source with ast, as written, so that neither versions of libraries nor torch matter;
where a name lives is what its package's `__init__` says.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

from docs.page import write_or_check

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "docs" / "api.md"
PACKAGES = ("pulid_extract", "pulid_generate")
INTRODUCTION = """\
# Public names

Made from the source by `make docs`; edit the docstrings, not this file. Importing either package
loads nothing heavy: a name loads its module on first use. What is not listed here may change
without notice; these names change with a line in the changelog.
"""
Definition = ast.ClassDef | ast.FunctionDef


def home_of(package: str, name: str) -> str:
    """The module in which a public name is defined."""
    homes = importlib.import_module(package)._HOMES
    module = homes[name]
    return module if module.startswith("pulid_") else f"{package}.{module}"


def path_of(module: str) -> Path:
    return ROOT / f"{module.replace('.', '/')}.py"


def definition_of(module: str, name: str) -> tuple[str, Definition]:
    """(module, class or function) of a name, which its module may have from another of ours."""
    path = path_of(module)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, Definition) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom) and name in [alias.name for alias in node.names]:
            return definition_of(str(node.module), name)
    raise SystemExit(f"{path}: defines no {name}, which {module} makes public")


def signature(node: ast.FunctionDef, name: str = "", method: bool = False) -> str:
    """As it is called: without self or cls."""
    copy = ast.parse(f"def f({ast.unparse(node.args)}): ...").body[0]
    assert isinstance(copy, ast.FunctionDef)
    arguments = copy.args
    if method:
        del arguments.args[0]
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"{name or node.name}({ast.unparse(arguments)}){result}"


def is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(one) for one in node.decorator_list)


def fields(node: ast.ClassDef, source: list[str]) -> list[str]:
    """Of a dataclass, as written, with the comments above them; of another class none. source: the
    lines of its file.
    """
    if not is_dataclass(node):
        return []
    found = []
    for line in node.body:
        if not isinstance(line, ast.AnnAssign) or ast.unparse(line.target).startswith("_"):
            continue
        start = line.lineno - 1
        while source[start - 1].lstrip().startswith("#"):
            start -= 1
        found += [comment.strip() for comment in source[start : line.lineno - 1]]
        found.append(ast.unparse(line))
    return found


def methods(node: ast.ClassDef) -> list[ast.FunctionDef]:
    """Public ones, and the constructor where it is written."""
    found = []
    for line in node.body:
        if isinstance(line, ast.FunctionDef) and (
            not line.name.startswith("_") or line.name == "__init__"
        ):
            found.append(line)
    return found


def kinds_of(node: ast.FunctionDef) -> set[str]:
    return {ast.unparse(one) for one in node.decorator_list}


def text_of(node: Definition) -> str:
    return ast.get_docstring(node) or ""


def entry(package: str, name: str) -> str:
    """One name: where it is, how it is called, what it says."""
    module, node = definition_of(home_of(package, name), name)
    lines = [f"### {name}", "", f"`from {package} import {name}` (of `{module}`)", ""]
    if isinstance(node, ast.FunctionDef):
        return "\n".join([*lines, *code([signature(node)]), *prose(text_of(node))])
    bases = ", ".join(ast.unparse(base) for base in node.bases)
    source = path_of(module).read_text(encoding="utf-8").splitlines()
    head = f"class {name}({bases})" if bases else f"class {name}"
    lines += code([head, *indented(fields(node, source))])
    lines += prose(text_of(node))
    for method in methods(node):
        if kinds_of(method) & {"property", "cached_property"}:
            result = ast.unparse(method.returns) if method.returns else "Any"
            shown = f"{name}.{method.name}: {result}"
        elif method.name == "__init__":
            shown = signature(method, name, method=True).removesuffix(" -> None")
        else:
            is_method = "staticmethod" not in kinds_of(method)
            shown = signature(method, f"{name}.{method.name}", method=is_method)
        lines += [*code([shown]), *prose(text_of(method))]
    return "\n".join(lines)


def indented(lines: list[str]) -> list[str]:
    return [f"    {line}" for line in lines]


def code(lines: list[str]) -> list[str]:
    return ["```text", *lines, "```", ""]


def prose(docstring: str) -> list[str]:
    return [*docstring.splitlines(), ""] if docstring else []


def reference() -> str:
    """The whole text of docs/api.md."""
    parts = [INTRODUCTION]
    for package in PACKAGES:
        parts.append(f"## {package}\n")
        for name in importlib.import_module(package).__all__:
            parts.append(entry(package, name))
    return "\n".join(parts).rstrip() + "\n"


def main() -> None:
    write_or_check(TARGET, reference(), "the source says")


if __name__ == "__main__":
    main()
