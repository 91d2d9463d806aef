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

import make_cli_reference
import numpy as np
import pytest
from conftest import ROOT

from pulid_extract import encode_embedding

README = ROOT / "README.md"
PAGES = [README, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
PACKAGES = ("pulid_extract", "pulid_generate")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OURS = re.compile(r"(?:docs|scripts|tests|requirements|\.ci|pulid_extract|pulid_generate)/[\w./-]*")

FLAGS = {
    path: flags
    for program in make_cli_reference.PROGRAMS
    for path, flags in make_cli_reference.flags(program).items()
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
    assert (
        make_cli_reference.TARGET.read_text(encoding="utf-8") == make_cli_reference.reference()
    ), "run `make docs`"
    done = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make_cli_reference.py", "--check"],
        env={**os.environ, "COLUMNS": "40", "PULID_MODELS_DIR": "elsewhere", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_old_reference_is_one_line_and_exit_1(tmp_path, monkeypatch, capsys):
    old = tmp_path / "cli.md"
    old.write_text(make_cli_reference.reference() + "more\n")
    monkeypatch.setattr(make_cli_reference, "TARGET", old)
    monkeypatch.setattr(sys, "argv", ["make_cli_reference.py", "--check"])
    for missing in (False, True):
        if missing:
            old.unlink()
        with pytest.raises(SystemExit, match="1"):
            make_cli_reference.main()
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.count("\n") == 1
        assert "make docs" in printed.err


def test_the_reference_names_every_command_and_flag():
    text = make_cli_reference.reference()
    for program in make_cli_reference.PROGRAMS:
        for path, flags in make_cli_reference.flags(program).items():
            section = text.split(f"Usage: {path} ")[1].split("```")[0]
            assert not [
                flag
                for flag in flags
                if not re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", section)
            ]


def test_command_lines_of_the_readme_use_flags_that_exist():
    shell = "\n".join(blocks(README.read_text(encoding="utf-8"), "sh"))
    assert {name for name, _ in commands(shell)} == {*FLAGS}
    assert not wrong_flags(shell)
    assert wrong_flags(
        "x | pulid-extract --portrait - --seed 1; for w in 1; do pulid-generate verify --steps=4 \\\n --no-such; done"
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_files_named_exist(page):
    text = page.read_text(encoding="utf-8")
    links = [
        link
        for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", text))
        if not link.startswith("https://")
    ]
    missing = [link for link in links if not (page.parent / link.split("#")[0]).exists()]
    missing += [
        path
        for code in inline_code(text)
        for path in code.split()
        if OURS.fullmatch(path) and not (ROOT / path).exists()
    ]
    shell = "\n".join(blocks(text, "sh"))
    missing += [
        name for name, _ in commands(shell) if "/" in name and not os.access(ROOT / name, os.X_OK)
    ]
    assert not missing


def test_make_targets_of_the_readme_exist():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = README.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", text, re.MULTILINE))
    assert {"demo", "test", "check", "bench", "docs"} <= named <= targets


@pytest.mark.parametrize("package", PACKAGES)
def test_the_readmes_tree_is_the_package(package):
    tree = next(
        body
        for body in blocks(README.read_text(encoding="utf-8"), "text")
        if body.startswith(f"{PACKAGES[0]}/")
    )
    branch = re.search(rf"^{package}/\n((?: .*\n)+)", tree, re.MULTILINE)
    assert branch is not None
    listed = [
        name
        for line in branch[1].splitlines()
        for name in re.split(r"\s{2,}", line.strip())[0].split()
    ]
    folders = {f"{path.parent.name}/" for path in (ROOT / package).glob("*/*.py")}
    assert sorted(listed) == sorted(
        [*(path.name for path in (ROOT / package).glob("*.py")), *folders]
    )


# --------------------------------------------------------------------------------------------- code


def test_python_of_the_readme_imports_names_that_exist():
    imports = [
        node
        for body in blocks(README.read_text(encoding="utf-8"), "python")
        for node in ast.walk(ast.parse(body))
        if isinstance(node, ast.ImportFrom) and node.module in PACKAGES
    ]
    assert imports
    for node in imports:
        assert {alias.name for alias in node.names} <= set(
            importlib.import_module(str(node.module)).__all__
        )


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
    provenance = {f"{part}.sha256": "0" * 64 for part in ("portrait", "weights", "eva_clip")}
    provenance |= {"face": "largest", "tool": "pulid_extract 0.1.0"}
    sizes = [
        tokens.size * 2,
        len(encode_embedding(tokens)),
        len(encode_embedding(tokens, provenance=provenance)),
    ]
    sizes.append(len(encode_embedding(tokens, tokens, provenance=provenance)))
    assert not [size for size in sizes if f"{size:,}" not in page]
