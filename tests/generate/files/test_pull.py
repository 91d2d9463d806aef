"""`pulid-generate pull KIT`: the table of kits, and the command against a hub of this machine."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from safetensors.numpy import save

from pulid_generate.files.kits import KITS, Kit
from pulid_generate.files.roles import CLIP_L, FLUX, PULID, T5XXL, VAE

ONE = np.ones(2, np.float32)
BODIES = {
    FLUX: save({"img_in.weight": ONE, "double_blocks.0.img_attn.qkv.weight": ONE}),
    VAE: save({"decoder.conv_in.weight": ONE, "decoder.mid.attn_1.q.weight": ONE}),
    CLIP_L: save(
        {
            "text_model.embeddings.token_embedding.weight": ONE,
            "text_model.embeddings.position_embedding.weight": ONE,
        }
    ),
    T5XXL: save({"encoder.block.0.layer.0.SelfAttention.q.weight": ONE}),
    PULID: save({"pulid_ca.0.norm1.weight": ONE}),
}
WORDS = b"a vocabulary"


@pytest.fixture
def hub(online, monkeypatch):
    """Serves every file of the kits, small; the table's hashes are theirs."""
    small = {}
    for name, items in KITS.items():
        small[name] = ()
        for item in items:
            body = BODIES.get(item.role, WORDS)
            online.files[f"{item.source.repo}/{item.source.files[0]}"] = body
            sha256 = hashlib.sha256(body).hexdigest() if item.source.sha256 else ""
            small[name] += (
                replace(item, source=replace(item.source, sha256=sha256), size=len(body)),
            )
            if item.gated:
                online.gated[item.source.repo] = "token"
    monkeypatch.setattr("pulid_generate.commands.pull.KITS", small)
    return online


# ---------------------------------------------------------------------------------------- the table


def test_every_kit_is_complete_and_says_its_terms():
    assert set(get_args(Kit)) == set(KITS)
    for name, items in KITS.items():
        assert len({item.path_in(Path()) for item in items}) == len(items)
        roles = [item.role for item in items]
        if name != "pulid":
            assert {VAE, CLIP_L, T5XXL, PULID, None} <= set(roles)
            assert (
                ("flux" in items[0].file_name)
                == (roles[0] is FLUX)
                == items[0].own
                == (name != "encoders")
            )
        for item in items:
            assert len(item.source.files) == 1
            assert item.source.licence
            assert len(item.source.sha256) in (0, 64)
            assert item.gated == ("gated" in item.terms)
        noncommercial = any("no commercial use" in item.terms for item in items)
        assert noncommercial == ("dev" in name)
        assert any(item.gated for item in items) == (name in ("schnell", "dev", "krea-dev"))


# -------------------------------------------------------------------------------------- the command


@pytest.mark.parametrize("kit", ["schnell-q4", "dev-q8", "encoders", "pulid"])
def test_a_kit_without_a_gate_arrives_whole(hub, generate, tmp_path, kit):
    run = generate("pull", kit, "--models-dir", tmp_path, "--json")
    assert run.code == 0, run.err
    lines = [json.loads(line) for line in run.out.splitlines()]
    assert {line["status"] for line in lines} == {"fetched"}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        line["path"].rsplit("/", 1)[-1] for line in lines
    )
    assert f"export PULID_MODELS_DIR={tmp_path}" in run.err
    assert ("no commercial use" in run.err) == (kit == "dev-q8")
    hub.calls = []
    again = generate("pull", kit, "--models-dir", tmp_path)
    assert (
        again.code,
        {line.split()[0] for line in again.out.decode().splitlines()},
        hub.calls,
    ) == (0, {"present"}, [])


def test_a_gated_kit_brings_what_it_may_and_explains_the_rest(hub, generate, tmp_path, monkeypatch):
    run = generate("pull", "dev", "--models-dir", tmp_path)
    assert (
        "accept the terms at https://huggingface.co/black-forest-labs/FLUX.1-dev, then run "
        "'hf auth login'"
    ) in run.error
    assert [line.split()[0] for line in run.out.decode().splitlines()] == ["failed"] + [
        "fetched"
    ] * 5
    monkeypatch.setenv("HF_TOKEN", "token")
    run = generate("pull", "dev", "--models-dir", tmp_path)
    assert run.code == 0, run.err
    assert [line.split()[0] for line in run.out.decode().splitlines()] == ["fetched"] + [
        "present"
    ] * 5


def test_what_the_folder_has_is_not_fetched_again(hub, generate, tmp_path):
    (tmp_path / "my_t5.safetensors").write_bytes(BODIES[T5XXL])
    (tmp_path / "tokenizer.json").write_bytes(b"{}")
    run = generate("pull", "schnell-q4", "--models-dir", tmp_path)
    assert run.code == 0, run.err
    skipped = [line for line in run.out.decode().splitlines() if line.startswith("skipped")]
    assert len(skipped) == 2
    assert "my_t5.safetensors is already the T5 text encoder" in skipped[0]
    assert "tokenizer.json is already the T5 tokenizer" in skipped[1]
    other = generate("pull", "dev-q8", "--models-dir", tmp_path)
    assert (
        "is already the Flux transformer, and two would make every command ask which" in other.error
    )
    assert not (tmp_path / "flux1-dev-Q8_0.gguf").exists()
    forced = generate("pull", "dev-q8", "--models-dir", tmp_path, "--force")
    assert forced.code == 0, forced.err
    assert (tmp_path / "flux1-dev-Q8_0.gguf").exists()


def test_a_dry_run_asks_nobody(hub, generate, tmp_path):
    run = generate("pull", "krea-dev", "--models-dir", tmp_path / "none", "--dry-run")
    assert run.code == 0, run.err
    assert {line.split()[0] for line in run.out.decode().splitlines()} == {"missing"}
    assert (
        "gated, accept the terms at https://huggingface.co/black-forest-labs/FLUX.1-Krea-dev"
        in run.err
    )
    assert "to fetch: about" in run.err
    assert hub.calls == []
    assert not (tmp_path / "none").exists()


def test_offline_is_one_line(generate, tmp_path):
    run = generate("pull", "pulid", "--models-dir", tmp_path)  # HF_HUB_OFFLINE=1: see conftest
    assert (
        "HF_HUB_OFFLINE is set: no network call was made; missing: pulid_flux_v0.9.1.safetensors"
        in run.error
    )
    assert run.err.count("\n") == 1


def test_wrong_usage(generate):
    for arguments in (["pull"], ["pull", "sdxl"]):
        run = generate(*arguments)
        assert run.code == 2
        assert "schnell-q4" in run.err


def test_a_dry_run_beside_another_flux_says_so_and_fails_at_nothing(hub, generate, tmp_path):
    (tmp_path / "mine.safetensors").write_bytes(BODIES[FLUX])
    run = generate("pull", "dev", "--models-dir", tmp_path, "--dry-run")
    assert run.code == 0, run.err
    first = run.out.decode().splitlines()[0]
    assert first.startswith("refused")
    assert "is already the Flux transformer" in first
    assert "error" not in run.err
