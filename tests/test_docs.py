"""What the documents say against what is there: flags, files, the tree, the command line reference,
the gguf-py reader.
"""

from __future__ import annotations

import ast
import importlib
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from support.paths import ROOT

from docs import api_reference, cli_reference, folder_tables
from pulid_extract import encode_embedding

README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
PAGES = [
    README,
    ROOT / "CHANGELOG.md",
    CONTRIBUTING,
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
PACKAGES = ("pulid_extract", "pulid_generate")
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
OURS = re.compile(
    r"(?<![\w./-])(?:docs|scripts|tests|requirements|\.ci|pulid_extract|pulid_generate)/[\w./-]*"
)
# Where a file's name in the text may start, beside the root: `memory/plan.py`, `people.py`.
HOMES = ("", "pulid_extract", "pulid_generate", "scripts", "scripts/micro_world")
# What a run makes, and is not in the repository.
MADE = ("build/", "compiled/", "embeddings/", "text/")

FLAGS = {
    path: flags
    for program in cli_reference.PROGRAMS
    for path, flags in cli_reference.flags(program).items()
}
FLAGS["scripts/verify_three_way.sh"] = FLAGS["pulid-generate"]  # it passes its flags on


def blocks(text: str, *languages: str) -> list[str]:
    return [body for language, body in FENCE.findall(text) if language in languages]


def inline_code(text: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", FENCE.sub("", text))


def commands(shell: str) -> Iterator[tuple[str, list[str]]]:
    """(one of our commands, its flags) for every simple command of a shell block."""
    for line in shell.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if word not in ("|", "||", "&&", ";", "do"):
                words.append(word)
                continue
            name = next((name for name in (" ".join(words[:2]), *words[:1]) if name in FLAGS), None)
            if name is not None:
                yield name, [word for word in words if re.match(r"--?[A-Za-z]", word)]
            words = []


def wrong_flags(shell: str) -> list[str]:
    return [
        f"{name} {flag}"
        for name, given in commands(shell)
        for flag in given
        if flag.split("=")[0] not in FLAGS[name]
    ]


# -------------------------------------------------------------------------------------------- flags


def test_the_reference_is_current_in_any_terminal():
    assert cli_reference.TARGET.read_text(encoding="utf-8") == cli_reference.reference(), (
        "run `make docs`"
    )
    done = subprocess.run(
        [sys.executable, "-m", "docs.cli_reference", "--check"],
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT / "scripts"),
            "COLUMNS": "40",
            "PULID_MODELS_DIR": "elsewhere",
            "NO_COLOR": "1",
        },
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_old_reference_is_one_line_and_exit_1(tmp_path, monkeypatch, capsys):
    old = tmp_path / "cli.md"
    old.write_text(cli_reference.reference() + "more\n")
    monkeypatch.setattr(cli_reference, "TARGET", old)
    monkeypatch.setattr(sys, "argv", ["cli_reference.py", "--check"])
    for missing in (False, True):
        if missing:
            old.unlink()
        with pytest.raises(SystemExit, match="1"):
            cli_reference.main()
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert "make docs" in printed.err


def test_the_reference_names_every_command_and_flag():
    text = cli_reference.reference()
    for program in cli_reference.PROGRAMS:
        for path, flags in cli_reference.flags(program).items():
            section = text.split(f"Usage: {path} ")[1].split("```")[0]
            assert not [
                flag
                for flag in flags
                if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", section)
            ]


def test_the_public_names_are_all_explained(tmp_path, monkeypatch, capsys):
    text = api_reference.reference()
    assert api_reference.TARGET.read_text(encoding="utf-8") == text, "run `make docs`"
    for package in PACKAGES:
        section = text.split(f"## {package}\n")[1].split("\n## ")[0]
        for name in importlib.import_module(package).__all__:
            told = section.split(f"### {name}\n")[1].split("### ")[0]
            # its import, its form, and a sentence of its own
            assert len(told.split("```")) >= 3
            assert re.search(r"```\n\n\w", told), name
    old = tmp_path / "api.md"
    old.write_text(text + "more\n")
    monkeypatch.setattr(api_reference, "TARGET", old)
    monkeypatch.setattr(sys, "argv", ["api_reference.py", "--check"])
    with pytest.raises(SystemExit, match="1"):
        api_reference.main()
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)


def test_command_lines_of_the_pages_use_flags_that_exist():
    """All of them, those too that need what is not here; and each command is shown somewhere."""
    shell = "\n".join(body for page in PAGES for body in blocks(page.read_text("utf-8"), "sh"))
    assert {*FLAGS} - {name for name, _ in commands(shell)} == {"scripts/verify_three_way.sh"}
    assert not wrong_flags(shell)
    assert wrong_flags(
        "x | pulid-extract --portrait - --seed 1; "
        "for w in 1; do pulid-generate verify --steps=4 \\\n --no-such; done"
    ) == [
        "pulid-extract --seed",
        "pulid-generate verify --no-such",
    ]  # the check can fail


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_flags_named_in_the_text_exist(page):
    known = set().union(*FLAGS.values())
    named = {
        flag
        for code in inline_code(page.read_text(encoding="utf-8"))
        for flag in re.findall(r"(?<!\S)--[\w-]+", code)
    }
    assert not named - known


# -------------------------------------------------------------------------------------------- files


def missing_files(text: str) -> list[str]:
    """Files and folders of ours that a text names and that are not there; in blocks too."""
    missing = []
    for path in OURS.findall(text):
        if not (ROOT / path.rstrip(".-")).exists():
            missing.append(path)
    for code in inline_code(text):
        named = re.fullmatch(r"[\w./-]+\.(?:py|sh)|(?:shared/)?[a-z_]+/", code)
        if not named or code in MADE or OURS.match(code):
            continue
        if not any((ROOT / home / code).exists() for home in HOMES):
            missing.append(code)
    return missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_named_exist(page):
    text = page.read_text(encoding="utf-8")
    missing = missing_files(text)
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text)):
        if not link.startswith("https://") and not (page.parent / link.split("#")[0]).exists():
            missing.append(link)
    shell = "\n".join(blocks(text, "sh"))
    for name, _ in commands(shell):
        if "/" in name and not os.access(ROOT / name, os.X_OK):
            missing.append(name)
    assert not missing


def test_a_file_that_is_not_there_is_missed():
    text = """`memory/plan.py` and `plan.py`, pulid_generate/memory/plan.py, `memory/plans.py`,
        `memory/`, `memories/`, (tests/conftest.py, tests/no_such.py).
        """
    assert missing_files(text) == ["tests/no_such.py", "plan.py", "memory/plans.py", "memories/"]


def test_make_targets_that_are_named_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = README.read_text(encoding="utf-8") + CONTRIBUTING.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
    assert {"demo", "test", "check", "bench", "docs"} <= named <= targets


@pytest.mark.parametrize("package", PACKAGES)
def test_the_tree_is_the_package_from_the_top_down(package):
    tree = next(
        body
        for body in blocks(CONTRIBUTING.read_text(encoding="utf-8"), "text")
        if body.startswith(f"{PACKAGES[0]}/")
    )
    branch = re.search(rf"^{package}/ .*\n((?: .*\n)+)", tree, re.MULTILINE)
    assert branch is not None
    listed = [line.split()[0] for line in branch[1].splitlines()]
    folders = []
    for name in folder_tables.ORDER[package]:
        if (ROOT / package / name).is_dir():
            folders.append(f"{name}/")
    assert listed == folders


def test_the_tables_of_folders_are_current_and_no_page_lacks_one():
    page = folder_tables.TARGET.read_text(encoding="utf-8")
    assert folder_tables.with_tables(page) == page, "run `make docs`"
    for package in PACKAGES:
        for folder in (ROOT / package).glob("*/__init__.py"):
            assert f"| `{folder.parent.name}/` |" in page


def test_old_tables_are_one_line_and_exit_1(tmp_path, monkeypatch, capsys):
    old = tmp_path / "architecture.md"
    page = folder_tables.with_tables(folder_tables.TARGET.read_text(encoding="utf-8"))
    old.write_text(page.replace("| `memory/` | ", "| `memory/` | Once "))
    monkeypatch.setattr(folder_tables, "TARGET", old)
    monkeypatch.setattr(sys, "argv", ["folder_tables.py", "--check"])
    with pytest.raises(SystemExit, match="1"):
        folder_tables.main()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "make docs" in printed.err
    monkeypatch.setattr(sys, "argv", ["folder_tables.py"])
    folder_tables.main()
    assert old.read_text() == page


# --------------------------------------------------------------------------------------------- code


def imports_of_ours(code: str) -> list[ast.ImportFrom]:
    found = []
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in PACKAGES:
            found.append(node)
    return found


def test_python_of_the_pages_imports_public_names():
    """In the pages' blocks, and in the indented block of each package's own docstring."""
    codes = []
    for page in PAGES:
        codes += blocks(page.read_text(encoding="utf-8"), "python")
    for package in PACKAGES:
        said = importlib.import_module(package).__doc__ or ""
        lines = [line[4:] for line in said.splitlines() if line.startswith("    ")]
        codes.append("\n".join(lines))
    shown = set()
    for node in [node for code in codes for node in imports_of_ours(code)]:
        public = importlib.import_module(str(node.module)).__all__
        names = {alias.name for alias in node.names}
        assert names <= set(public), f"from {node.module} import {', '.join(sorted(names))}"
        shown |= names
    assert {"PulidAdapter", "inject", "read_embedding"} <= shown


def test_the_shown_import_works_in_a_process_of_its_own():
    guide = ROOT / "docs" / "guide.md"
    [line] = re.findall(
        r"^from pulid_generate import .*$", guide.read_text(encoding="utf-8"), re.MULTILINE
    )
    code = f"{line}\nprint(inject.__name__, PulidAdapter.__name__, read_embedding.__name__)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "inject PulidAdapter read_embedding\n", done.stderr


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f32"])
def test_the_reader_of_the_format_page_reads(dtype, tmp_path, monkeypatch, capsys):
    tokens = np.linspace(-2, 2, 32 * 2048).reshape(32, 2048)
    (tmp_path / "me.pulidembd").write_bytes(encode_embedding(tokens, tokens[:1], dtype=dtype))
    monkeypatch.chdir(tmp_path)
    [body] = blocks((ROOT / "docs" / "pulidembd.md").read_text(encoding="utf-8"), "python")
    names: dict[str, np.ndarray] = {}
    exec(body, names)
    assert "(32, 2048) float32" in capsys.readouterr().out
    np.testing.assert_allclose(names["tokens"], tokens, atol=2**-7)


def test_sizes_of_the_format_page():
    page = (ROOT / "docs" / "pulidembd.md").read_text(encoding="utf-8")
    tokens = np.ones((32, 2048))
    hashed = ("portrait", "weights", "eva_clip", "recognizer")
    provenance = {f"{part}.sha256": "0" * 64 for part in hashed}
    provenance |= {"face": "largest", "tool": "pulid_extract 0.1.0"}
    sizes = [
        tokens.size * 2,
        len(encode_embedding(tokens)),
        len(encode_embedding(tokens, provenance=provenance)),
    ]
    sizes.append(len(encode_embedding(tokens, tokens, provenance=provenance)))
    assert not [size for size in sizes if f"{size:,}" not in page]
