"""The networks of stage one against the reference's golden tensors, and every layout and bad file
their loaders meet.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from seeded.tensors import seeded, seeded_state
from support.distances import relative
from support.models.portrait_models import (
    eva_state,
    models_folder,
    pulid_state,
)
from support.paths import GOLDEN

from pulid_extract.files.roles import ROLES
from pulid_extract.networks import eva_clip
from pulid_extract.networks.checkpoint import read_tensors, without_init
from pulid_extract.networks.eva_tower import rope_angles
from pulid_extract.networks.idformer import IDFormer, load_idformer
from pulid_extract.shared.errors import WeightsError
from pulid_extract.shared.model_files import check_role, read_header

# ----------------------------------------------------------------------------------------- IDFormer


@pytest.fixture(scope="module")
def full_idformer(tmp_path_factory) -> IDFormer:
    shapes = json.loads((GOLDEN / "idformer_shapes.json").read_text())
    state = {
        f"pulid_encoder.{name.removeprefix('pulid_encoder.')}": tuple(shape)
        for name, shape in shapes.items()
    }
    path = tmp_path_factory.mktemp("idformer") / "pulid.safetensors"
    save_file({name: torch.from_numpy(value) for name, value in seeded_state(state).items()}, path)
    model = load_idformer(path)
    path.unlink()
    return model


@torch.no_grad()
def test_idformer_is_the_reference(full_idformer):
    golden = load_file(GOLDEN / "idformer.safetensors")

    def inputs(tag: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
        condition = torch.from_numpy(seeded(f"in.id_cond{tag}", (1, 1280), 0.5))
        return condition, [
            torch.from_numpy(seeded(f"in.vit_hidden{tag}.{i}", (1, 577, 1024))) for i in range(5)
        ]

    (cond, hidden), (cond2, hidden2) = inputs(""), inputs(".second")
    ours = {
        "single": full_idformer(cond, hidden),
        "uncond": full_idformer(torch.zeros_like(cond), [torch.zeros_like(h) for h in hidden]),
        "two_images": full_idformer(
            torch.stack([cond, cond2], 1),
            [torch.cat(pair, 1) for pair in zip(hidden, hidden2, strict=True)],
        ),
    }
    for name, tokens in ours.items():
        assert tokens.shape == (1, 32, 2048)
        assert relative(tokens, golden[name]) <= 1e-5, name
    assert relative(ours["single"], golden["two_images"]) > 1e-3  # the measure can fail
    assert relative(full_idformer(cond, hidden[::-1]), golden["single"]) > 1e-3


@torch.no_grad()
def test_one_image_in_both_spellings_is_the_same(full_idformer):
    cond, hidden = torch.ones(1, 1280), [torch.ones(1, 3, 1024)] * 5
    assert torch.equal(full_idformer(cond, hidden), full_idformer(cond[:, None], hidden))


def test_idformer_reads_its_sizes_from_the_tensors():
    model = load_idformer(models_folder() / "pulid.safetensors")
    assert (model.dim, model.cond_dim, model.vit_dims, model.num_latents) == (
        64,
        608,
        (128,) * 5,
        32,
    )
    assert model.latents.dtype == torch.float32
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda s: s.pop("pulid_encoder.layers.3.0.to_q.weight"),
            r"missing layers\.3\.0\.to_q\.weight",
        ),
        (lambda s: s.update({"pulid_encoder.surplus": torch.ones(1)}), "unknown surplus"),
        (
            lambda s: s.update({"pulid_encoder.layers.2.1.0.bias": torch.ones(3)}),
            r"wrong shape layers\.2\.1\.0\.bias \(3,\)",
        ),
        (lambda s: s.pop("pulid_encoder.latents"), "missing latents"),
        (lambda s: [s.pop(n) for n in list(s) if ".layers.9." in n], "9 layers"),
        (
            lambda s: [s.pop(n) for n in list(s) if n.startswith("pulid_encoder.")],
            r"holds no pulid_encoder\.\*",
        ),
    ],
)
def test_idformer_loads_strictly(damage, message, tmp_path):
    state = pulid_state()
    damage(state)
    save_file(state, tmp_path / "p.safetensors")
    with pytest.raises(WeightsError, match=message):
        load_idformer(tmp_path / "p.safetensors")


# ----------------------------------------------------------------------------------------- EVA-CLIP


def check_eva(name: str, tolerance: float, path: Path) -> None:
    torch.save(eva_state(name), path)
    tower = eva_clip.load_eva_clip(path)
    path.unlink()
    side = eva_clip.image_size(tower)
    pooled, hidden = eva_clip.encode_face(
        tower, torch.from_numpy(seeded("in.pixels", (1, 3, side, side)))
    )
    golden = load_file(GOLDEN / f"{name}.safetensors")
    assert relative(pooled, golden["pooled"]) <= tolerance
    assert len(hidden) == 5
    for i, state in enumerate(hidden):
        assert relative(state[:, :8, :64], golden[f"hidden.{i}.head"]) <= tolerance
        assert relative(state.norm(dim=-1), golden[f"hidden.{i}.row_norms"]) <= tolerance
    assert relative(hidden[0][:, :8, :64], golden["hidden.1.head"]) > 1e-2


def test_eva_small_is_the_reference(tmp_path):
    check_eva("eva_small", 1e-5, tmp_path / "e.pt")


@pytest.mark.slow
def test_eva_full_is_the_reference(tmp_path):
    check_eva("eva_full", 1e-4, tmp_path / "e.pt")


def eva_outputs(path: Path) -> torch.Tensor:
    pooled, hidden = eva_clip.encode_face(
        eva_clip.load_eva_clip(path), torch.from_numpy(seeded("in.pixels", (1, 3, 56, 56)))
    )
    return torch.cat([pooled.flatten(), *[state.flatten() for state in hidden]])


def test_eva_layouts_load_equal(tmp_path):
    """Original, original with its text tower and rope tables, wrapped, timm, open_clip; pickles old
    and new; half precision.
    """
    original = {name: tensor.half() for name, tensor in eva_state().items()}
    timm_names = eva_clip.tower_tensors(original, Path("x"))
    rope = {
        f"visual.{name}": torch.full((16, 64), torch.nan)
        for name in ("rope.freqs_cos", "blocks.3.attn.rope.freqs_sin")
    }
    text = {"text.positional_embedding": torch.ones(77, 8), "logit_scale": torch.tensor(4.6)}
    torch.save(original, tmp_path / "original.pt")
    torch.save(original, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save({**original, **rope, **text}, tmp_path / "with_more.pt")
    torch.save({"state_dict": original}, tmp_path / "wrapped.pt")
    save_file(original, tmp_path / "original.safetensors")
    save_file(timm_names, tmp_path / "timm.safetensors")
    save_file(
        {**{f"visual.trunk.{k}": v for k, v in timm_names.items()}, **text},
        tmp_path / "open_clip.safetensors",
    )
    paths = sorted(tmp_path.iterdir())
    outputs = [eva_outputs(path) for path in paths]
    for path, output in zip(paths, outputs, strict=True):
        check_role(read_header(path), ROLES["eva_clip"])
        assert torch.equal(output, outputs[0]), path.name
    assert len(paths) == 7
    changed = {
        **original,
        "visual.blocks.19.mlp.w3.bias": original["visual.blocks.19.mlp.w3.bias"] + 1,
    }
    torch.save(changed, tmp_path / "changed.pt")
    assert not torch.equal(eva_outputs(tmp_path / "changed.pt"), outputs[0])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda s: s.pop("visual.blocks.7.attn.q_bias"), r"missing blocks\.7\.attn\.q_proj\.bias"),
        (lambda s: s.update({"visual.blocks.0.extra": torch.ones(1)}), r"unknown blocks\.0\.extra"),
        (lambda s: s.pop("visual.head.weight"), r"missing head\.weight"),
        (
            lambda s: [
                s.pop(n) for n in list(s) if n.startswith(("visual.blocks.19.", "visual.blocks.2"))
            ],
            "18 blocks.*at least 20",
        ),
        (lambda s: s.update({"visual.pos_embed": torch.ones(1, 18, 128)}), "18 positions"),
        (lambda s: s.pop("visual.pos_embed"), "missing pos_embed"),
    ],
)
def test_eva_loads_strictly(damage, message, tmp_path):
    state = eva_state()
    damage(state)
    torch.save(state, tmp_path / "e.pt")
    with pytest.raises(WeightsError, match=message):
        eva_clip.load_eva_clip(tmp_path / "e.pt")


@torch.no_grad()
def test_the_tower_is_timms(tmp_path):
    from timm.models.eva import Eva

    torch.save(eva_state(), tmp_path / "e.pt")
    tower = eva_clip.load_eva_clip(tmp_path / "e.pt")
    theirs = Eva(
        img_size=56,
        patch_size=14,
        embed_dim=128,
        depth=len(tower.blocks),
        num_heads=2,
        mlp_ratio=(tower.blocks[0].mlp.fc1_g.out_features + 0.5) / 128,
        qkv_fused=False,
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(16, 16),
        global_pool="token",
        num_classes=96,
    ).eval()
    theirs.load_state_dict(tower.state_dict())
    sines, cosines = dict(theirs.named_buffers())["rope.pos_embed"].chunk(2, -1)
    angles = rope_angles(4)
    assert torch.equal(angles.sin(), sines)
    assert torch.equal(angles.cos(), cosines)
    pixels = torch.randn(2, 3, 56, 56)
    normed, tapped = tower(pixels, (0, 19))
    expected, taps = theirs.forward_intermediates(
        pixels, indices=[0, 19], return_prefix_tokens=True, norm=False, output_fmt="NLC"
    )
    # products of the same numbers, by another library
    assert relative(normed, expected) <= 1e-5
    assert relative(tower.pool(normed), theirs.forward_head(expected)) <= 1e-5
    for found, (spatial, prefix) in zip(tapped, taps, strict=True):
        assert relative(found, torch.cat([prefix, spatial], dim=1)) <= 1e-5


def test_without_init_skips_parameters_only():
    with without_init():
        torch.manual_seed(0)
        drawn, norm = torch.randn(3), torch.nn.BatchNorm2d(4)
        linear = torch.nn.Linear(1000, 1000)
    # nothing was drawn in between
    assert torch.equal(drawn, torch.manual_seed(0) and torch.randn(3))
    assert torch.equal(norm.running_var, torch.ones(4))
    assert linear.weight.requires_grad


# -------------------------------------------------------------------------------------- checkpoints


def test_code_in_a_pickle_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    torch.save({"visual.pos_embed": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(WeightsError, match="cannot load it as plain tensors"):
        read_tensors(tmp_path / "evil.pt")
    assert not (tmp_path / "ran").exists()


def find_and_load(path: Path) -> None:
    """As the command does: the header first, which sees most damage, then the tensors."""
    check_role(read_header(path), ROLES["eva_clip"])
    eva_clip.load_eva_clip(path)


@pytest.mark.parametrize("legacy", [True, False])
def test_truncated_pickles_are_one_error(legacy, tmp_path):
    torch.save(eva_state(), tmp_path / "e.pt", _use_new_zipfile_serialization=not legacy)
    data = (tmp_path / "e.pt").read_bytes()
    for part in (0.02, 0.5, 0.999):
        (tmp_path / "cut.pt").write_bytes(data[: int(len(data) * part)])
        with pytest.raises(WeightsError, match=r"cut\.pt: "):
            find_and_load(tmp_path / "cut.pt")


def test_a_pickle_that_is_no_dict_is_refused(tmp_path):
    torch.save([torch.ones(2)], tmp_path / "list.pt")
    with pytest.raises(WeightsError, match="holds a list"):
        read_tensors(tmp_path / "list.pt")
