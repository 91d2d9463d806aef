"""A models folder as people have it: links, trash, other packs, damaged downloads. What is looked
at, what can fill a role, and what is said of the rest.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.models.hollow_files import hollow

from pulid_extract.files.model_set import find_files
from pulid_extract.files.roles import ROLES
from pulid_extract.shared.errors import WeightsError
from pulid_extract.shared.model_files import PULID, find
from pulid_extract.shared.model_files.walking import files_below

PACK = ROLES["antelopev2"]
NETWORKS = ("scrfd_10g_bnkps.onnx", "glintr100.onnx")
BUFFALO = ("det_10g.onnx", "w600k_r50.onnx", "2d106det.onnx")


def pulid(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"pulid_ca.0.norm1.weight": np.ones(2, np.float32)}, path)
    return path


def files(folder: Path, *names: str) -> Path:
    """Their contents do not matter: a pack is told by its names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"onnx")
    return folder


# ------------------------------------------------------------------------------ what is looked at


def test_linked_folders_are_entered_and_no_loop_is_endless(tmp_path):
    disk, models = tmp_path / "disk", tmp_path / "models"
    kept = pulid(disk / "pulid" / "weights.safetensors")
    models.mkdir()
    (models / "pulid").symlink_to(disk / "pulid")
    # its own parent, the folder again, and each other
    (disk / "pulid" / "up").symlink_to(models)
    (models / "again").symlink_to(disk / "pulid")
    (models / "broken").symlink_to(tmp_path / "nowhere")
    assert len(list(files_below(models))) == 1
    assert find(PULID, None, models).path.samefile(kept)


@pytest.mark.parametrize(
    "folder",
    [".Trash-1000/files", ".cache", "$RECYCLE.BIN/S-1-5", "Trash", "lost+found", "__MACOSX/x"],
)
def test_hidden_folders_and_trash_are_not_looked_into(tmp_path, folder):
    pulid(tmp_path / folder / "weights.safetensors")
    pulid(tmp_path / "._weights.safetensors")
    assert list(files_below(tmp_path)) == []
    kept = pulid(tmp_path / "models" / "weights.safetensors")
    assert find(PULID, None, tmp_path).path == kept
    # named as the models folder, it is what was meant
    hidden = (tmp_path / folder).parent if "/" in folder else tmp_path / folder
    assert find(PULID, None, hidden).path.is_file()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(WeightsError, match=r"closed: cannot be read \(Permission denied\)"):
        find(PULID, None, tmp_path)


@pytest.mark.parametrize("link", ["symlink_to", "hardlink_to"])
def test_one_file_under_two_names_is_one_file(tmp_path, link):
    kept = pulid(tmp_path / "pulid.safetensors")
    other = tmp_path / "a" / "pulid.safetensors"
    other.parent.mkdir()
    getattr(other, link)(kept)
    assert find(PULID, None, tmp_path).path.samefile(kept)
    if link == "symlink_to":
        # the file's own name, although the link's comes first
        assert find(PULID, None, tmp_path).path == kept
    # a copy is another file
    pulid(tmp_path / "copy.safetensors")
    with pytest.raises(WeightsError, match="2 files can be the PuLID weights"):
        find(PULID, None, tmp_path)


def test_sft_is_safetensors(tmp_path):
    kept = pulid(tmp_path / "weights.sft")
    assert find(PULID, None, tmp_path).path == kept
    assert find(PULID, tmp_path).path == kept


# --------------------------------------------------------------------------------------- antelopev2


def test_antelopev2_is_known_by_its_files(tmp_path):
    kept = files(tmp_path / "insightface" / "models" / "antelopev2" / "antelopev2", *NETWORKS)
    files(tmp_path / "insightface" / "models" / "buffalo_l", *BUFFALO)
    files(tmp_path / "insightface", "inswapper_128.onnx", "inswapper_128_fp16.onnx")
    files(tmp_path / "insightface" / "models" / "__MACOSX" / "antelopev2", *NETWORKS)
    files(kept, "._glintr100.onnx", "._scrfd_10g_bnkps.onnx")
    (tmp_path / "linked").symlink_to(kept)
    assert find(PACK, None, tmp_path).path == kept
    # the flag may name any folder above it
    for given in (tmp_path, tmp_path / "insightface", kept.parent, kept):
        found = find(PACK, given)
        assert (found.path, found.warning) == (kept, "")


def test_another_pack_is_taken_by_its_flag_alone_and_with_a_warning(tmp_path):
    buffalo = files(tmp_path / "models" / "buffalo_l", *BUFFALO)
    with pytest.raises(WeightsError, match="buffalo_l is a face pack other than antelopev2"):
        find(PACK, None, tmp_path)
    said: list[str] = []
    found = find_files({"antelopev2": buffalo.parent}, None, {"antelopev2"}, said.append)
    assert found["antelopev2"].path == buffalo
    assert said[0].startswith(f"warning: {buffalo}: is a face pack other than antelopev2: PuLID")
    files(tmp_path / "models" / "buffalo_s", "det_500m.onnx", "w600k_mbf.onnx")
    with pytest.raises(WeightsError, match=r"holds 2 face packs: .*buffalo_l, .*buffalo_s; give"):
        find(PACK, tmp_path)


# ------------------------------------------------------------------------------------ damaged files


def test_every_damaged_file_that_could_fill_the_role_is_named(tmp_path):
    """A cut file whose header is whole says what it would have been; the others do not."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    (tmp_path / "a.safetensors").write_bytes(pointer)
    (tmp_path / "pulid_flux_v0.9.1.safetensors").write_bytes(pointer)
    flux = hollow(
        tmp_path / "another.safetensors",
        {"img_in.weight": ("F32", (2, 64)), "double_blocks.0.img_attn.qkv.weight": ("F32", (6, 2))},
    )
    cut = pulid(tmp_path / "cut.safetensors")
    for path in (flux, cut):
        os.truncate(path, path.stat().st_size - 1)
    with pytest.raises(WeightsError) as caught:
        find(PULID, None, tmp_path)
    message = str(caught.value)
    assert "but 3 files there cannot be read: " in message
    assert "another.safetensors" not in message
    # the likeliest first
    places = [
        message.index(f"{tmp_path / name}")
        for name in ("pulid_flux_v0.9.1.safetensors", "cut.safetensors", "a.safetensors")
    ]
    assert places[0] == min(places)
