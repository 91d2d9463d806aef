"""File names as people write them: each that can be none is one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from pulid_extract.shared.errors import InputError
from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.writing import make_folder


def test_names_that_mean_something(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert path_of("~/a") == Path("/home/me/a")
    # bytes that are no UTF-8, as Python has them of a command line
    assert path_of("a\udcff b") == Path("a\udcff b")
    assert path_of(f"{'a' * 255}/{'b' * 255}").name == "b" * 255


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("a\0b", "holds a NUL byte"),
        ("a\ud800", "holds half a character"),
        ("~nobody-at-all/x", "nobody here is called 'nobody-at-all'"),
        ("a" * 256, "longer than a file's name can be"),
        ("a/" * 3000, "longer than a file's name can be"),
        ("é" * 128, "longer than a file's name can be"),
    ],
    ids=range(6),
)
def test_names_that_can_be_none(name, reason):
    with pytest.raises(InputError, match=reason) as caught:
        path_of(name)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("~nobody-at-all/x", "nobody here is called 'nobody-at-all'"),
        ("a" * 5000, "longer than a file's name can be"),
    ],
    ids=range(2),
)
def test_commands_say_so(name, reason, generate):
    for flag in ("--models-dir", "--diffusion-model", "--lora"):
        assert reason in generate("-p", "a cat", flag, name).error, flag
    assert reason in generate("--prompt-file", name).error
    # a picture is only looked for
    assert name[:20] in generate("-p", "a cat", "--init-img", name).error


def test_private_folders_are_private_to_the_top(tmp_path):
    import os

    before = os.umask(0)
    try:
        made = make_folder(tmp_path / "cache" / "of" / "mine", mode=0o700)
    finally:
        os.umask(before)
    for folder in (made, made.parent, made.parent.parent):
        assert folder.stat().st_mode & 0o777 == 0o700
