"""The networks of stage one against the reference's golden tensors, and every layout and bad file
their loaders meet.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from seeded.tensors import seeded, seeded_state
from support.coloured_faces import RED, picture
from support.distances import relative
from support.paths import GOLDEN
from support.portrait_models import (
    bisenet_state,
    eva_state,
    models_folder,
    pulid_state,
    retinaface_state,
    write_antelopev2,
)

from pulid_extract.faces import antelopev2 as faces
from pulid_extract.faces import crop as face_crop
from pulid_extract.files.roles import ROLES
from pulid_extract.networks import eva_clip
from pulid_extract.networks.checkpoint import read_tensors, without_init
from pulid_extract.networks.idformer import IDFormer, load_idformer
from pulid_extract.shared.errors import FaceError, WeightsError
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
            "19 blocks.*at least 20",
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


def test_the_tower_keeps_its_rope_tables(tmp_path):
    """Built without initialising, never on meta: timm's rope tables are not parameters and must hold
    their numbers.
    """
    from timm.models.eva import eva02_large_patch14_clip_336

    torch.save(eva_state(), tmp_path / "e.pt")
    tower = eva_clip.load_eva_clip(tmp_path / "e.pt")
    plain = eva02_large_patch14_clip_336(
        img_size=56,
        embed_dim=128,
        depth=1,
        num_heads=2,
        mlp_ratio=341.5 / 128,
        num_classes=96,
        ref_feat_shape=(16, 16),
    )
    table = dict(plain.named_buffers())["rope.pos_embed"]
    assert table.abs().sum() > 0
    assert torch.equal(dict(tower.named_buffers())["rope.pos_embed"], table)


def test_without_init_skips_parameters_only():
    with without_init():
        torch.manual_seed(0)
        drawn, norm = torch.randn(3), torch.nn.BatchNorm2d(4)
        linear = torch.nn.Linear(1000, 1000)
    # nothing was drawn in between
    assert torch.equal(drawn, torch.manual_seed(0) and torch.randn(3))
    assert torch.equal(norm.running_var, torch.ones(4))
    assert linear.weight.requires_grad


# ------------------------------------------------------------------------------------ face features


def golden_face() -> tuple[np.ndarray, torch.Tensor]:
    """The golden test's aligned face, uint8 BGR (512, 512, 3), and its labels (1, 1, 512, 512)."""
    low = np.clip(seeded("in.aligned_face", (1, 3, 32, 32), 0.25, 0.5), 0, 1)
    rgb = np.round(low.repeat(16, 2).repeat(16, 3) * 255).astype(np.uint8)[0].transpose(1, 2, 0)
    cells = np.clip(
        np.floor((seeded("in.labels", (16, 16)) / np.sqrt(3) + 1) / 2 * 19), 0, 18
    ).astype(np.int64)
    return np.ascontiguousarray(rgb[..., ::-1]), torch.from_numpy(
        cells.repeat(32, 0).repeat(32, 1)
    )[None, None]


def test_face_features_are_the_references():
    golden = load_file(GOLDEN / "face_features.safetensors")
    crop, labels = golden_face()
    grey = face_crop.grey_on_white(face_crop.to_tensor(crop), labels)
    pixels = eva_clip.preprocess(grey, 336)
    assert relative(grey[:, :1, ::8, ::8], golden["masked_gray"]) <= 1e-6
    assert relative(pixels[:, :, ::8, ::8], golden["pixels"]) <= 1e-5
    assert relative(pixels.mean((2, 3)), golden["pixels_channel_means"]) <= 1e-5
    plain = (
        pixels * torch.tensor(eva_clip.STD)[:, None, None]
        + torch.tensor(eva_clip.MEAN)[:, None, None]
    )
    assert plain.max() > 1.01  # bicubic overshoots, and nothing clamps it
    swapped = face_crop.grey_on_white(face_crop.to_tensor(crop[..., ::-1]), labels)
    # RGB for BGR would be seen
    assert relative(swapped[:, :1, ::8, ::8], golden["masked_gray"]) > 1e-3


def test_antialias_is_on():
    from torchvision.transforms.functional import InterpolationMode, resize

    noise = torch.rand(1, 3, 512, 512)
    off = resize(noise, [336, 336], InterpolationMode.BICUBIC, antialias=False)
    ours = (
        eva_clip.preprocess(noise, 336) * torch.tensor(eva_clip.STD)[:, None, None]
        + torch.tensor(eva_clip.MEAN)[:, None, None]
    )
    assert (ours - off).abs().mean() > 0.05


def test_background_labels():
    face = torch.full((1, 3, 1, 19), 0.25)
    grey = face_crop.grey_on_white(face, torch.arange(19)[None, None, None])
    white = [i for i in range(19) if grey[0, 0, 0, i] == 1]
    assert white == sorted([0, 16, 18, 7, 8, 9, 14, 15])
    assert grey.shape == (1, 3, 1, 19)


def test_parsing_normalises_and_takes_the_first_output():
    seen = {}

    def parser(pixels):
        seen["pixels"] = pixels
        return torch.eye(19)[3].view(1, 19, 1, 1).expand(1, 19, 4, 4), None, None

    labels = face_crop.parse_face(parser, torch.full((1, 3, 4, 4), 0.5))
    assert (labels == 3).all()
    assert labels.shape == (1, 1, 4, 4)
    want = [
        (0.5 - mean) / std
        for mean, std in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ]
    np.testing.assert_allclose(seen["pixels"][0, :, 0, 0], want, rtol=1e-5)


def test_align_is_facexlibs_own():
    from facexlib.utils.face_restoration_helper import FaceRestoreHelper

    helper = FaceRestoreHelper.__new__(FaceRestoreHelper)  # its __init__ would fetch parsenet
    helper.pad_blur, helper.face_size, helper.face_template = False, (512, 512), face_crop.TEMPLATE
    helper.clean_all()
    image = np.random.default_rng(0).integers(0, 255, (300, 400, 3), np.uint8)
    points = np.array([[110, 90], [180, 100], [150, 140], [115, 180], [170, 185]], np.float32)
    helper.input_img, helper.all_landmarks_5 = image, [points]
    helper.align_warp_face()
    ours = face_crop.align(image, points)
    np.testing.assert_array_equal(ours, helper.cropped_faces[0])
    assert ours.shape == (512, 512, 3)
    corner = face_crop.align(image, points - 100)
    assert (corner[0, 0] == (135, 133, 132)).all()


def test_landmarks_without_extent_are_an_error():
    with pytest.raises(FaceError, match="landmarks lie on top"):
        face_crop.align(np.zeros((64, 64, 3), np.uint8), np.full((5, 2), 30, np.float32))


@pytest.mark.parametrize("legacy", [True, False])
def test_facexlib_files_load_quietly_with_or_without_module_prefix(legacy, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(
        {f"module.{k}": v for k, v in retinaface_state().items()},
        path,
        _use_new_zipfile_serialization=not legacy,
    )
    check_role(read_header(path), ROLES["retinaface"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = face_crop.load_retinaface(path)
    assert str(model.device) == "cpu"
    assert model.mean_tensor.device.type == "cpu"
    torch.save(bisenet_state(), path, _use_new_zipfile_serialization=not legacy)
    check_role(read_header(path), ROLES["bisenet"])
    assert (face_crop.parse_face(face_crop.load_bisenet(path), torch.rand(1, 3, 64, 64)) == 1).all()


def test_facexlib_files_load_strictly(tmp_path):
    state = bisenet_state()
    state.pop("ffm.conv1.weight")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"BiSeNet: missing ffm\.conv1\.weight"):
        face_crop.load_bisenet(tmp_path / "w.pth")


def test_a_detector_of_random_weights_is_named_and_not_believed():
    class Detector(torch.nn.Module):
        def detect_faces(self, image, threshold):
            assert threshold == 0.97  # the reference's
            return np.full((1, 15), np.nan, np.float32)

    with pytest.raises(WeightsError, match="RetinaFace gives boxes that are NaN"):
        face_crop.find_landmarks(Detector(), np.zeros((64, 64, 3), np.uint8))


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


# --------------------------------------------------------------------------------------- antelopev2


def test_only_the_two_networks_are_opened():
    antelope = faces.Antelope(models_folder() / "antelopev2")
    bgr = np.ascontiguousarray(picture((5, 5, RED))[..., ::-1])
    (face,) = antelope.detect(bgr)
    vector = antelope.embed(bgr, face)
    assert vector.shape == (512,)
    assert vector.dtype == np.float32
    assert np.linalg.norm(vector) > 2  # not normalised
    assert {task: Path(model.model_file).name for task, model in antelope._models.items()} == {
        "detection": "scrfd_10g_bnkps.onnx",
        "recognition": "glintr100.onnx",
    }
    assert antelope._models["detection"].input_sizes == [(640, 640)]
    assert not np.allclose(antelope.embed_crop(bgr[:512, :512]), vector)


def test_other_file_names_go_through_insightfaces_router(tmp_path):
    folder = write_antelopev2(tmp_path / "pack")
    (folder / "scrfd_10g_bnkps.onnx").rename(folder / "z_detector.onnx")
    (folder / "glintr100.onnx").rename(folder / "recogniser.onnx")
    antelope = faces.Antelope(folder)
    assert len(antelope.detect(picture((5, 5, RED))[..., ::-1].copy())) == 1
    assert antelope.embed_crop(np.zeros((512, 512, 3), np.uint8)).shape == (512,)


def test_a_pack_without_a_network_is_a_clear_error(tmp_path):
    folder = write_antelopev2(tmp_path / "pack")
    (folder / "scrfd_10g_bnkps.onnx").unlink()
    with pytest.raises(WeightsError, match=r"no detection network .*expected scrfd_10g_bnkps.onnx"):
        faces.Antelope(folder).detect(picture())
    (folder / "glintr100.onnx").write_bytes(b"\x08garbage")
    with pytest.raises(WeightsError, match=r"glintr100\.onnx: insightface cannot open it"):
        faces.Antelope(folder).embed_crop(picture())


def test_a_recogniser_of_another_width_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="gives 256 numbers"):
        faces.Antelope(write_antelopev2(tmp_path, width=256)).embed_crop(picture())


def test_overlap():
    boxes = [(0, 0, 10, 10), (50, 50, 80, 80), (60, 60, 90, 90)]
    assert faces.overlap(boxes[1], boxes[2]) == pytest.approx(400 / 1400)
    assert faces.overlap(boxes[0], boxes[1]) == 0
    assert faces.overlap((5, 5, 5, 5), (5, 5, 5, 5)) == 0
