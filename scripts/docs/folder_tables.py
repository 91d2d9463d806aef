"""Write the tables of folders into docs/architecture.md, or check that they are current.

    make docs        (or: PYTHONPATH=scripts python -m docs.folder_tables [--check])

A table has a package's folders in the order in which they may import, from the top down, and what
each folder's docstring says first. The order is written here and nowhere else: the tests of the
imports read it too. Imports neither package.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from docs.page import write_or_check

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "docs" / "architecture.md"

# For each folder that has folders: its entries from the top down. What stands higher may import
# what stands lower, never the other way. Files that are not named stand together at the bottom.
ORDER = {
    "pulid_extract": (
        "cli",
        "commands",
        "batch",
        "extraction",
        "flags",
        "faces",
        "networks",
        "pictures",
        "files",
        "version",
        "shared",
    ),
    "pulid_extract.shared": ("cluster", "cli", "model_files"),
    "pulid_generate.server": ("http", "intake", "work"),
    "pulid_generate.flags": ("commands", "generation", "sdcli"),
    "pulid_generate.request": ("job", "generation", "passes", "conditions", "people", "prompts"),
    "pulid_generate": (
        "cli",
        "commands",
        "server",
        "demo",
        "validation",
        "batch",
        "inspection",
        "assembly",
        "rows",
        "pipeline",
        "caching",
        "control",
        "injection",
        "lora",
        "pictures",
        "flags",
        "models",
        "memory",
        "detail",
        "request",
        "sampling",
        "networks",
        "files",
        "packed",
        "kernels",
        "errors",
        "version",
    ),
}
START, END = "<!-- folders of {} -->\n", "<!-- end -->\n"


def docstring_of(path: Path) -> str:
    """The docstring of a module; a folder's is that of its __init__."""
    if path.suffix != ".py":
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def summary_of(entry: Path) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join(docstring_of(entry).split("\n\n")[0].split())


def table(package: str) -> str:
    """A package's folders from the top down; folders inside a folder follow it."""
    lines = ["| folder | what it holds |", "|---|---|"]
    for name in ORDER[package]:
        entry = ROOT / package / name
        title = f"{name}/" if entry.is_dir() else f"{name}.py"
        lines.append(f"| `{title}` | {summary_of(entry)} |")
        for inner in ORDER.get(f"{package}.{name}", ()):
            if (entry / inner).is_dir():
                lines.append(f"| `{name}/{inner}/` | {summary_of(entry / inner)} |")
    return "\n".join(lines) + "\n"


def with_tables(text: str) -> str:
    """The text of docs/architecture.md with the tables as they should be."""
    for package in ORDER:
        start = START.format(package)
        if start in text:
            pattern = re.escape(start) + ".*?" + re.escape(END)
            block = start + "\n" + table(package) + "\n" + END
            text = re.sub(pattern, lambda _, block=block: block, text, flags=re.DOTALL)
    return text


def main() -> None:
    write_or_check(
        TARGET, with_tables(TARGET.read_text(encoding="utf-8")), "the folders' docstrings say"
    )


if __name__ == "__main__":
    main()
