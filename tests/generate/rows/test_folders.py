"""The folders of a batch: made, and without what a killed run left in them."""

from __future__ import annotations

import pytest

from pulid_generate.errors import OutputError
from pulid_generate.rows.folders import make_folders
from pulid_generate.rows.items import Item


def item(path) -> Item:
    return Item(1, 1, 0, path, 1, (), (), ())


def test_folders_are_made_and_half_written_pictures_of_ours_are_removed(tmp_path):
    make_folders([item(tmp_path / "a" / "b" / "1.png"), item(tmp_path / "c.png")])
    assert (tmp_path / "a" / "b").is_dir()
    ours, others, whole = (
        tmp_path / name for name in (".c.png.x1.part", ".d.png.x1.part", "c.png")
    )
    for path in (ours, others, whole):
        path.write_bytes(b"half")
    make_folders([item(whole)])
    assert not ours.exists()
    assert others.exists()
    assert whole.exists()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot be made"):
        make_folders([item(tmp_path / "file" / "1.png")])
