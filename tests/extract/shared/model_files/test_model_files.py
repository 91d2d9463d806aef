"""Model files: told apart by their headers, found by ordered rules, fetched whole or not at all,
written beside and renamed.
"""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import stat
import struct
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from support.models.portrait_models import eva_state, write_antelopev2
from support.paths import ROOT

from pulid_extract.files.roles import ROLES
from pulid_extract.shared.errors import OutputError, WeightsError
from pulid_extract.shared.model_files import (
    Role,
    Source,
    check_role,
    download,
    find,
    kind_of,
    read_header,
)
from pulid_extract.shared.model_files.finding import fetch
from pulid_extract.shared.writing import check_writable, write_atomically

ONE = np.ones(2, np.float32)


def tensors(path: Path, *names: str) -> Path:
    save_file(dict.fromkeys(names, ONE), path)
    return path


def pulid(path: Path) -> Path:
    return tensors(path, "pulid_ca.0.norm1.weight", "pulid_encoder.latents")


# ----------------------------------------------------------------------------------- what a file is


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["id_adapter.latents", "id_adapter_attn_layers.0.id_to_k.weight"],
            "SDXL PuLID file .*pulid_flux_v0.9.1.safetensors",
        ),
        (
            [
                "double_blocks.0.img_attn.qkv.weight._data",
                "double_blocks.0.img_attn.qkv.weight._scale",
            ],
            "quanto",
        ),
        (["img_in.weight", "x.weight.absmax", "x.weight.quant_map"], "nf4"),
        (
            ["img_in.weight", "double_blocks.0.img_attn.qkv.weight"],
            "Flux transformer, --pulid-weights wants a PuLID-FLUX file",
        ),
        (
            ["visual.cls_token", "visual.pos_embed", "visual.patch_embed.proj.weight"],
            "is a EVA-CLIP tower, --pulid-weights wants",
        ),
        (["something.else"], "no known kind; first names in it: something.else"),
    ],
)
def test_files_of_another_kind_are_named(names, message, tmp_path):
    """By the header and not by the name; 312 tensors are in the SDXL file as well, so a count could
    not tell them apart.
    """
    path = tensors(tmp_path / "pulid_flux_v0.9.1.safetensors", *names)
    with pytest.raises(WeightsError, match=message):
        find(ROLES["pulid_weights"], path)


def test_damaged_files_are_one_error_each(tmp_path):
    good = pulid(tmp_path / "good.safetensors").read_bytes()
    cases = {
        "empty": (b"", "is empty"),
        "cut": (good[:-3], "truncated"),
        "cut in the header": (good[:40], "truncated or not a safetensors file"),
        "longer": (good + b"x", "longer than its header says"),
        "html": (b"<!DOCTYPE html><html>", "HTML page"),
        "html after a newline": (b"\n<html>", "HTML page"),
        "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs pointer"),
        "text": (b"hello there, this is no model", "not a model file"),
        "a header that claims 2**62 bytes": (struct.pack("<Q", 2**62) + b"{" * 100, "claims"),
        "a header that is no JSON": (struct.pack("<Q", 10) + b"{" * 10, "header is damaged"),
        "a header of other JSON": (struct.pack("<Q", 10) + b'{"a": [1]}', "header is damaged"),
        "a broken zip": (b"PK\x03\x04" + bytes(100), "damaged or truncated torch checkpoint"),
        "a broken pickle": (b"\x80\x02" + bytes(100), "damaged or truncated torch checkpoint"),
    }
    for name, (data, message) in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(WeightsError, match=message):
            read_header(tmp_path / name)
    with pytest.raises(WeightsError, match="no such file"):
        read_header(tmp_path / "none")


def test_a_folder_for_a_file_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="is a folder; --eva-clip wants a file"):
        find(ROLES["eva_clip"], tmp_path)
    with pytest.raises(WeightsError, match=r"holds no \.onnx files; expected scrfd_10g_bnkps.onnx"):
        find(ROLES["antelopev2"], tmp_path)


@pytest.mark.parametrize("legacy", [True, False])
def test_pickles_are_told_apart_without_running_them(legacy, tmp_path):
    import torch

    path = tmp_path / "eva.pt"
    torch.save(eva_state(), path, _use_new_zipfile_serialization=not legacy)
    assert kind_of(read_header(path)).name == "EVA-CLIP tower"
    with pytest.raises(WeightsError, match="is a EVA-CLIP tower, --bisenet wants a BiSeNet parser"):
        check_role(read_header(path), ROLES["bisenet"])


# --------------------------------------------------------------------------------------- finding it


def test_the_flag_wins_then_the_models_folder(tmp_path):
    inside, outside = tmp_path / "models", tmp_path / "mine.bin"
    inside.mkdir()
    kept = pulid(inside / "any name at all.safetensors")
    tensors(inside / "other.safetensors", "img_in.weight", "double_blocks.0.img_attn.qkv.weight")
    (inside / "junk.safetensors").write_bytes(b"junk")
    pulid(outside)
    assert (
        find(ROLES["pulid_weights"], outside, inside).path,
        find(ROLES["pulid_weights"], outside, inside).rule,
    ) == (
        outside,
        "flag",
    )
    found = find(ROLES["pulid_weights"], None, inside)
    assert (found.path, found.rule) == (kept, "models folder")


def test_two_candidates_are_an_error_that_lists_them(tmp_path):
    first, second = pulid(tmp_path / "a.safetensors"), pulid(tmp_path / "b.safetensors")
    with pytest.raises(WeightsError, match="2 files can be the PuLID") as caught:
        find(ROLES["pulid_weights"], None, tmp_path)
    assert str(first) in str(caught.value)
    assert str(second) in str(caught.value)
    assert "--pulid-weights" in str(caught.value)


def test_an_unpacked_antelopev2_zip_is_one_folder_too_deep(tmp_path):
    inner = write_antelopev2(tmp_path / "antelopev2" / "antelopev2")
    assert find(ROLES["antelopev2"], tmp_path / "antelopev2").path == inner
    assert find(ROLES["antelopev2"], inner).path == inner
    assert find(ROLES["antelopev2"], None, tmp_path).path == inner


def test_nothing_anywhere_says_where_to_get_it(tmp_path):
    for name, role in ROLES.items():
        with pytest.raises(WeightsError, match=role.flag) as caught:
            find(role, None, tmp_path)
        assert "https://" in str(caught.value), name


def test_offline_means_no_network_call(tmp_path, monkeypatch):
    import socket

    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: pytest.fail("a network call"))
    with pytest.raises(WeightsError, match="no file given"):
        find(ROLES["bisenet"], None, tmp_path)


def test_the_hugging_face_cache_is_asked(tmp_path):
    """In a child process: the library reads HF_HOME when it is imported. The cache links into
    blobs, as the real one does.
    """
    revision, repo = "0" * 40, tmp_path / "hub" / "models--DIAMONIK7777--antelopev2"
    snapshot = repo / "snapshots" / revision
    for folder in (repo / "blobs", repo / "refs", snapshot):
        folder.mkdir(parents=True)
    (repo / "refs" / "main").write_text(revision)
    for file in write_antelopev2(tmp_path / "pack").glob("*.onnx"):
        blob = repo / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        file.rename(blob)
        (snapshot / file.name).symlink_to(blob)
    script = (
        "import numpy as np; from pulid_extract.shared.model_files import find; from "
        "pulid_extract.files.roles import ROLES\n"
        "from pulid_extract.faces.antelopev2 import Antelope\n"
        "found = find(ROLES['antelopev2']); print(found.rule, found.path)\n"
        "print(Antelope(found.path).embed_crop(np.zeros((512, 512, 3), np.uint8)).shape)"
    )
    environment = {
        **os.environ,
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.stdout.splitlines() == [f"hugging face cache {snapshot}", "(512,)"], done.stderr


# ----------------------------------------------------------------------------------------- fetching


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A local server of three paths: /whole, /short (breaks off half way), /none; its address. It
    knows neither HEAD nor ranges.
    """
    import huggingface_hub.constants

    # read from the variable when it was imported
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    body = pulid(tmp_path / "served.safetensors").read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path.startswith("/none"):
                return self.send_error(404)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2] if self.path.startswith("/short") else body)

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}", body
        running.shutdown()


def test_downloads_are_checked_and_written_whole(server, tmp_path):
    address, body = server
    target = tmp_path / "new folder" / "x.safetensors"
    download(f"{address}/whole", target, hashlib.sha256(body).hexdigest())
    assert target.read_bytes() == body
    with pytest.raises(WeightsError, match=r"SHA-256 is .*, expected 0000"):
        download(f"{address}/whole", target, "0000")
    for bad, message in (("short", "broke off after"), ("none", "404")):
        with pytest.raises(WeightsError, match=message):
            download(f"{address}/{bad}", target, pause=0)
        assert target.read_bytes() == body
    with pytest.raises(WeightsError, match="cannot be reached"):
        download("http://127.0.0.1:9/x", tmp_path / "y")
    part, whole = sorted(target.parent.iterdir(), key=lambda path: path.suffix)
    # to go on with
    assert (part.suffix, part.stat().st_size, whole.name) == (
        ".part",
        len(body) // 2,
        "x.safetensors",
    )


def test_a_missing_file_is_fetched_into_the_models_folder(server, tmp_path, monkeypatch):
    address, body = server
    source = Source(
        url=f"{address}/whole/pulid.safetensors", sha256=hashlib.sha256(body).hexdigest()
    )
    role = Role("PuLID weights", "--pulid-weights", ("PuLID-FLUX file",), source, fetch=True)
    models = tmp_path / "models"
    models.mkdir()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(
        "pulid_extract.shared.model_files.finding.downloads_dir", lambda: tmp_path / "none"
    )
    assert (find(role, None, models).rule, find(role, None, models).rule) == (
        "download",
        "models folder",
    )


# ------------------------------------------------------------------------------------------ writing


def test_write_replaces_whole_and_sets_the_mode(tmp_path):
    path = tmp_path / "x"
    write_atomically(path, b"one", mode=0o600)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_atomically(path, [b"t", b"wo"])
    assert path.read_bytes() == b"two"


def test_a_failed_write_leaves_the_old_file_and_no_rest(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"old")

    def chunks():
        yield b"half"
        raise WeightsError("broke off")

    with pytest.raises(WeightsError):
        write_atomically(path, chunks())
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_what_cannot_be_written_is_said_before_the_work(tmp_path):
    with pytest.raises(OutputError, match="is a folder"):
        check_writable(tmp_path)
    with pytest.raises(OutputError, match="check that the folder exists"):
        check_writable(tmp_path / "no" / "x")
    check_writable(tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_special_files_are_written_through_and_not_replaced(tmp_path):
    write_atomically("/dev/null", b"x")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    write_atomically(pipe, b"through")
    reader.join(10)
    assert got == [b"through"]
    if os.path.exists("/dev/full"):
        with pytest.raises(OutputError, match="No space left"):
            write_atomically("/dev/full", b"x")


def test_zip_and_json_are_what_the_other_tests_think(tmp_path):
    """The fixtures' own formats: a new-style torch file is a zip, a safetensors header is JSON."""
    import torch

    torch.save({"a": torch.ones(1)}, tmp_path / "x.pt")
    assert zipfile.is_zipfile(tmp_path / "x.pt")
    data = pulid(tmp_path / "p").read_bytes()
    assert "pulid_encoder.latents" in json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def test_a_link_is_written_to_its_target(tmp_path):
    (tmp_path / "disk").mkdir()
    target, link = tmp_path / "disk" / "x", tmp_path / "x"
    for before in (None, b"old"):
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        if before is not None:
            target.write_bytes(before)
        check_writable(link)
        write_atomically(link, b"new")
        assert link.is_symlink()
        assert target.read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["x"]
    link.unlink()
    link.symlink_to(tmp_path / "none" / "x")
    with pytest.raises(OutputError, match="check that the folder exists"):
        check_writable(link)


def test_a_download_that_fails_names_what_it_is_for_and_its_flag(tmp_path):
    role = Role("RetinaFace detector", "--retinaface", (), Source(url="http://127.0.0.1:9/x.pth"))
    with pytest.raises(WeightsError) as caught:
        fetch(role, tmp_path)
    assert str(caught.value).startswith("RetinaFace detector: http://127.0.0.1:9/x.pth: cannot be ")
    assert str(caught.value).endswith("try again, or give --retinaface FILE")
