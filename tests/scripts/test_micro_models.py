"""The scripts that write seeded files: the micro set is accepted by the real libraries, and the
seeded values never change.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from seeded import astronaut, checkpoints, micro_antelopev2, micro_models, public_layouts
from seeded import tensors as seeded

from pulid_extract.shared.embedding_file import read_embedding
from pulid_extract.shared.model_files import kind_of, read_header

LBP_BOX = (175, 70, 268, 163)  # what scikit-image's shipped cascade finds

KINDS = {
    "flux1-schnell.safetensors": "Flux transformer",
    "pulid_flux_v0.9.1.safetensors": "PuLID-FLUX file",
    "EVA02_CLIP_L_336_psz14_s6B.pt": "EVA-CLIP tower",
    "ae.safetensors": "Flux autoencoder",
    "clip_l.safetensors": "CLIP-L text encoder",
    "t5xxl_fp16.safetensors": "T5 encoder",
    "antelopev2": "antelopev2 folder",
    "detection_Resnet50_Final.pth": "RetinaFace detector",
    "parsing_bisenet.pth": "BiSeNet parser",
}


@pytest.fixture(scope="module")
def micro(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("micro")
    micro_models.write_micro_models(folder)
    return folder


@pytest.fixture(scope="module")
def bgr() -> np.ndarray:
    return np.ascontiguousarray(astronaut.portrait()[..., ::-1])


def iou(a, b) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, width) * max(0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def moved(bgr: np.ndarray, x: int, y: int, size: int = 512) -> np.ndarray:
    canvas = np.full((size, size, 3), 90, np.uint8)
    part = bgr[max(0, -y) : size - y, max(0, -x) : size - x]
    canvas[max(0, y) : max(0, y) + part.shape[0], max(0, x) : max(0, x) + part.shape[1]] = part
    return canvas


def faceless() -> dict[str, np.ndarray]:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    erased = np.ascontiguousarray(astronaut.portrait()[..., ::-1])
    erased[60:190, 160:290] = 128  # her orange suit stays
    return {"flat": np.full((512, 512, 3), 128, np.uint8), "noise": noise, "suit": erased}


# ------------------------------------------------------------------------------------ the whole set


@pytest.mark.parametrize("name", KINDS)
def test_every_file_is_recognised_as_what_it_is(micro, name):
    kind = kind_of(read_header(micro / name))
    assert (kind.name, kind.refusal) == (KINDS[name], "")


def test_the_set_is_small_and_complete(micro):
    assert {path.name for path in micro.iterdir()} == {*KINDS, "tokenizer.json"}
    assert {part.name for part in micro_models.parts()} == {*KINDS, "tokenizer.json"}
    assert sum(path.stat().st_size for path in micro.rglob("*") if path.is_file()) < 300e6


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(micro, tmp_path):
    small = [
        part
        for part in micro_models.parts()
        if part.name in ("clip_l.safetensors", "tokenizer.json")
    ]
    for part in small:
        part.write(tmp_path / part.name, 0)
        assert (tmp_path / part.name).read_bytes() == (micro / part.name).read_bytes()
    small[0].write(tmp_path / "other.safetensors", 1)
    assert (tmp_path / "other.safetensors").read_bytes() != (tmp_path / small[0].name).read_bytes()
    for path in micro_antelopev2.write_pack(tmp_path / "pack", 0):
        assert path.read_bytes() == (micro / "antelopev2" / path.name).read_bytes()


def test_fitted_files_are_the_same_twice(micro, tmp_path):
    for part in micro_models.parts():
        if part.name == "parsing_bisenet.pth":
            part.write(tmp_path / part.name, 0)
            assert (tmp_path / part.name).read_bytes() == (micro / part.name).read_bytes()


def test_dev_has_guidance_and_schnell_has_not(micro):
    dev = micro_models.parts(dev=True)[0]
    assert dev.name == "flux1-dev.safetensors"
    schnell = read_header(micro / "flux1-schnell.safetensors").names
    extra = set(public_layouts.flux(128, context=64, vector=64, guidance=True)) - schnell
    assert extra == {
        f"guidance_in.{layer}_layer.{kind}"
        for layer in ("in", "out")
        for kind in ("weight", "bias")
    }
    assert len(schnell) == 776


# ------------------------------------------------------------------------------- the face detectors


@pytest.fixture(scope="module")
def insightface_app(micro):
    from insightface.app import FaceAnalysis

    app = FaceAnalysis(name=str(micro / "antelopev2"), providers=["CPUExecutionProvider"])
    app.prepare(ctx_id=-1, det_size=(640, 640))
    return app


@pytest.fixture(scope="module")
def retinaface(micro):
    from facexlib.detection.retinaface import RetinaFace

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = RetinaFace(network_name="resnet50", device=torch.device("cpu"))
    state = torch.load(micro / "detection_Resnet50_Final.pth", weights_only=True)
    net.load_state_dict(state, strict=True)

    def detect(image: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return net.detect_faces(image, 0.97)

    return detect


def test_insightface_boxes_the_astronauts_face_once(insightface_app, bgr):
    (face,) = insightface_app.get(bgr)
    assert iou(face.bbox, LBP_BOX) > 0.8
    assert face.det_score > 0.9
    assert np.abs(face.kps - astronaut.LANDMARKS).max() < 2
    assert set(insightface_app.models) == {
        "detection",
        "recognition",
        "landmark_3d_68",
        "landmark_2d_106",
        "genderage",
    }


@pytest.mark.parametrize("place", [(37, -9, 512), (-60, 20, 512), (50, 40, 600), (150, 100, 800)])
def test_insightface_follows_the_face(insightface_app, bgr, place):
    x, y, _ = place
    (face,) = insightface_app.get(moved(bgr, *place))
    assert iou(face.bbox, np.add(LBP_BOX, [x, y, x, y])) > 0.7
    assert np.abs(face.kps - astronaut.LANDMARKS - [x, y]).max() < 5


@pytest.mark.parametrize("name", faceless())
def test_detectors_find_nothing_where_nobody_is(insightface_app, retinaface, name):
    assert insightface_app.get(faceless()[name]) == []
    assert len(retinaface(faceless()[name])) == 0


def test_the_recogniser_tells_faces_apart_and_ignores_brightness(insightface_app, bgr):
    net = insightface_app.models["recognition"]
    face, suit = bgr[70:170, 175:275], bgr[300:400, 50:150]
    one, darker, other = (net.get_feat(image)[0] for image in (face, face // 2 + 20, suit))
    assert one.shape == (512,)
    assert np.linalg.norm(one) > 2  # not normalised
    cosine = [
        one @ vector / np.linalg.norm(one) / np.linalg.norm(vector) for vector in (darker, other)
    ]
    assert cosine[0] > 0.99
    assert cosine[1] < 0.7


@pytest.mark.parametrize("place", [(0, 0, 512), (37, -9, 512), (50, 40, 600)])
def test_facexlib_finds_the_same_face(insightface_app, retinaface, bgr, place):
    image = moved(bgr, *place)
    (ours,), (theirs,) = insightface_app.get(image), retinaface(image)
    assert iou(ours.bbox, theirs[:4]) > 0.6
    assert np.abs(theirs[5:].reshape(5, 2) - astronaut.LANDMARKS - place[:2]).max() < 4


def test_the_parser_sees_a_face_on_a_background(micro):
    from facexlib.parsing.bisenet import BiSeNet
    from seeded import micro_bisenet

    net = BiSeNet(num_class=19).eval()
    net.load_state_dict(torch.load(micro / "parsing_bisenet.pth", weights_only=True), strict=True)
    aligned = torch.from_numpy(np.array(micro_bisenet.aligned_portrait())).float() / 255
    with torch.no_grad():
        labels = net(
            ((aligned - micro_bisenet.PARSE_MEAN) / micro_bisenet.PARSE_STD).permute(2, 0, 1)[None]
        )[0].argmax(1)[0]
    share = torch.bincount(labels.flatten(), minlength=19) / labels.numel()
    assert share[0] > 0.15
    assert share[1] > 0.2
    assert share[17] > 0.1
    kept = ~torch.isin(labels, torch.tensor([0, 16, 18, 7, 8, 9, 14, 15]))
    assert kept[180:420, 170:360].all()  # eyes, nose and mouth are never painted over
    assert not kept[-20:, :40].any()
    assert not kept[:40, :40].any()


# -------------------------------------------------------------------------------- the other loaders


def test_timm_accepts_the_eva_tower(micro):
    import timm
    from timm.models.eva import checkpoint_filter_fn

    state = torch.load(micro / "EVA02_CLIP_L_336_psz14_s6B.pt", weights_only=True)
    assert not [name for name in state if "rope" in name]
    state = {
        name.removeprefix("visual."): tensor.float()
        for name, tensor in state.items()
        if name.startswith("visual.")
    }
    tower = timm.create_model(
        "eva02_large_patch14_clip_336",
        embed_dim=micro_models.EVA_WIDTH,
        num_heads=micro_models.EVA_WIDTH // public_layouts.ENCODER_HEAD,
        num_classes=micro_models.EVA_POOLED,
    ).eval()
    tower.load_state_dict(checkpoint_filter_fn(state, tower), strict=True)
    with torch.no_grad():
        pooled = tower(torch.from_numpy(seeded.seeded("pixels", (1, 3, 336, 336))))
    assert torch.isfinite(pooled).all()


def test_transformers_accepts_the_text_encoders(micro):
    from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

    state = load_file(micro / "t5xxl_fp16.safetensors")
    assert torch.equal(state["shared.weight"], state["encoder.embed_tokens.weight"])
    width = micro_models.T5_WIDTH
    config = T5Config(
        d_model=width,
        d_ff=2 * width,
        num_layers=2,
        num_heads=1,
        d_kv=64,
        feed_forward_proj="gated-gelu",
    )
    t5 = T5EncoderModel(config)
    t5.load_state_dict(state, strict=True)

    state = load_file(micro / "clip_l.safetensors")
    width = micro_models.CLIP_WIDTH
    sizes = {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": 2,
        "num_attention_heads": 1,
    }
    clip = CLIPTextModel(CLIPTextConfig(vocab_size=49408, **sizes))
    prefix = (
        "" if any(name.startswith("text_model.") for name in clip.state_dict()) else "text_model."
    )
    clip.load_state_dict(
        {name.removeprefix(prefix): tensor for name, tensor in state.items()}, strict=True
    )


@pytest.mark.parametrize(
    "prompt", ["a photo of a cat", "", "naïve 北京 🙂", "  two  spaces ", "x" * 300]
)
def test_the_tokenizer_takes_any_prompt(micro, prompt):
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file(str(micro / "tokenizer.json")).encode(prompt)
    assert encoded.ids[-1] == 1
    assert 2 not in encoded.ids  # nothing is unknown
    assert max(encoded.ids) < micro_models.T5_ROWS
    pieces = json.loads((micro / "tokenizer.json").read_text())["model"]["vocab"]
    assert [piece for piece, _ in pieces[:3]] == ["<pad>", "</s>", "<unk>"]


def test_layouts_have_the_published_tensor_counts():
    assert len(public_layouts.flux(3072, context=4096, guidance=True)) == 780
    assert len(public_layouts.autoencoder()) == 244
    assert len(public_layouts.clip_l()) == 196
    assert len(public_layouts.t5(4096, 24)) == 219
    assert len(public_layouts.pulid_ca(3072, 20)) == 140
    assert len(public_layouts.pulid_encoder()) == 172
    numbers = {**public_layouts.pulid_ca(3072, 20), **public_layouts.pulid_encoder()}
    assert sum(int(np.prod(shape)) for shape, _ in numbers.values()) == 571_033_600


# -------------------------------------------------------------------- values that must never change


def test_seeded_numbers_are_those_of_the_golden_files():
    assert seeded.seeded("in.id_cond", (4,)).tolist() == GOLDEN_PLAIN
    assert seeded.seeded("in.img_tokens", (2, 2), 2.0, 0.3).ravel().tolist() == GOLDEN_SCALED


def test_seeded_checkpoints_are_those_that_sd_cli_drew_from(tmp_path):
    checkpoints.write_checkpoints(
        tmp_path, seed=21, depth=1, single=2, guidance=True, only=("flux", "pulid")
    )
    for name, expected in GOLDEN_FILES.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == expected, name
    weight = load_file(tmp_path / "flux.safetensors")["img_in.weight"]
    assert weight.flatten()[:3].tolist() == GOLDEN_WEIGHT


def test_seeded_embedding_is_the_one_that_sd_cli_drew_from(tmp_path):
    tokens = read_embedding(checkpoints.write_embedding(tmp_path / "me.pulidembd", 5)).tokens
    assert tokens.shape == (32, 2048)
    assert hashlib.sha256(tokens.astype("<f2").tobytes()).hexdigest() == GOLDEN_TOKENS


# Computed with the scripts that made the sd-cli samples.
GOLDEN_PLAIN = [0.2525598406791687, -1.6293070316314697, 1.4907209873199463, 0.5558499097824097]
GOLDEN_SCALED = [2.0613749027252197, 1.3263494968414307, -2.335014820098877, -2.813387155532837]
GOLDEN_WEIGHT = [0.16796875, 0.146484375, -0.150390625]
GOLDEN_TOKENS = "496331dfdddbfda38dc9c4c6cdc26a4556db1f23b31ba61f7727371b71f062a8"
GOLDEN_FILES = {
    "flux.safetensors": "d108c68f8a9ee640a84986e2397cc890c87152f6d2f53796a4d75898558b18cd",
    "pulid_flux_v0.9.1.safetensors": "4dd58902dd4e868d0e88e8932b7b1ef1dd4a6227dca627ef8cd2bddb4f777d2e",
}
