"""What the small world writes is what the programs' ordinary loaders read: every network, with
untrained weights, before and after a file.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.distances import relative
from support.tokens import clip_ids, t5_ids

from pulid_extract.shared.model_files import read_header


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


def test_autoencoder(tmp_path):
    from micro_world.networks import autoencoder
    from micro_world.training import export

    from pulid_generate.models.autoencoder import load_vae

    model = autoencoder.build().eval()
    export.write_autoencoder(model, tmp_path / "ae.safetensors")
    again = load_vae(read_header(tmp_path / "ae.safetensors"), torch.float32)
    latents = torch.randn(1, 16, 12, 12)
    with torch.no_grad():
        assert relative(again.decoder(latents), model.decoder(latents)) < 1e-2  # stored in 16 bits
        picture = torch.rand(1, 3, 96, 96) * 2 - 1
        assert relative(again.encoder(picture), model.encoder(picture)) < 1e-2


def test_flux(tmp_path, painter):
    from micro_world.networks.painter import image_places
    from micro_world.training import export

    from pulid_generate.models.flux import load_flux

    model, _ = painter
    export.write_flux(model.flux, tmp_path / "flux.gguf")
    again = load_flux(read_header(tmp_path / "flux.gguf"), torch.float32)
    inputs = {
        "hidden_states": torch.randn(1, 36, 64),
        "encoder_hidden_states": torch.randn(1, 32, 128),
        "pooled_projections": torch.randn(1, 64),
        "timestep": torch.tensor([0.4]),
        "img_ids": image_places(torch.device("cpu")),
        "txt_ids": torch.zeros(32, 3),
    }
    with torch.no_grad():
        assert relative(again(**inputs)[0], model.flux(**inputs)[0]) < 2e-2  # Q8_0


def test_text(tmp_path, painter):
    from micro_world.training import export

    from pulid_generate.models.clip import ClipText
    from pulid_generate.models.t5 import T5Text

    model, words = painter
    export.write_t5(model.reader.t5, tmp_path / "t5.safetensors")
    export.write_clip(model.reader.clip, model.reader.clip_ids, tmp_path / "clip.safetensors")
    t5 = T5Text.load(read_header(tmp_path / "t5.safetensors"), torch.float32)
    clip = ClipText.load(read_header(tmp_path / "clip.safetensors"), torch.float32)
    prompt, vocabulary = "a sad person with a cap", tmp_path / "tokenizer.json"
    with torch.no_grad():
        states, pooled = model.reader(*words.of(torch.tensor([1]), torch.tensor([False])))
        assert relative(t5.encode(t5_ids(vocabulary, prompt, 32)), states) < 1e-2
        assert relative(clip.encode(clip_ids(vocabulary, prompt)), pooled) < 1e-2
        # other words, another vector
        other = clip_ids(vocabulary, "a sad person with a shirt")
        assert relative(clip.encode(other), pooled) > 1e-2


def test_identity(tmp_path):
    from micro_world.networks import tower
    from micro_world.networks.identity import ARCFACE, HEADS, Identity
    from micro_world.training import export

    from pulid_extract.networks.idformer import load_idformer
    from pulid_generate.injection.adapter import PulidAdapter

    model = Identity().eval()
    for layer in model.layers:
        torch.nn.init.normal_(layer.to_out.weight, std=0.05)
    export.write_pulid(model, tmp_path / "pulid.safetensors")
    condition, hidden = (
        torch.randn(1, ARCFACE + tower.POOLED),
        [torch.randn(1, 65, tower.WIDTH) for _ in range(5)],
    )
    with torch.no_grad():
        tokens = model.encoder(condition, hidden)
        # bfloat16
        assert (
            relative(load_idformer(tmp_path / "pulid.safetensors")(condition, hidden), tokens)
            < 2e-2
        )
    adapter = PulidAdapter.load(tmp_path / "pulid.safetensors")
    assert len(adapter) == len(model.layers)
    assert model.layers[0].to_q.weight.shape[0] == HEADS * 128


def test_tower(tmp_path):
    from micro_world.networks import tower
    from micro_world.training import export

    from pulid_extract.networks.eva_clip import encode_face, image_size, load_eva_clip

    model = tower.build().eval()
    export.write_tower(model, tmp_path / "eva.safetensors")
    again = load_eva_clip(tmp_path / "eva.safetensors")
    assert image_size(again) == 112
    pixels = torch.randn(1, 3, 112, 112)
    pooled, taps = encode_face(model, pixels)
    pooled_again, taps_again = encode_face(again, pixels)
    assert relative(pooled_again, pooled) < 1e-2
    assert max(relative(one, other) for one, other in zip(taps_again, taps, strict=True)) < 1e-2


@pytest.mark.parametrize("kind", ["glint", "judge"])
def test_recognisers(tmp_path, kind):
    import onnxruntime
    from micro_world.networks import recognisers

    network = {"glint": recognisers.GLINT, "judge": recognisers.JUDGE}[kind].network()
    network(torch.randn(8, 3, 112, 112))  # running statistics that are not those of a new network
    recognisers.export(network.eval(), tmp_path / "net.onnx")
    picture = torch.rand(1, 3, 112, 112) * 2 - 1
    session = onnxruntime.InferenceSession(
        str(tmp_path / "net.onnx"), providers=["CPUExecutionProvider"]
    )
    with torch.no_grad():
        assert relative(session.run(None, {"input.1": picture.numpy()})[0], network(picture)) < 1e-2


def test_the_detector_as_insightface_decodes_it(tmp_path):
    """Scores, boxes and landmarks arrive where the network puts them: one cell is made to
    answer.
    """
    from micro_world.networks import detector

    from pulid_extract.faces.antelopev2 import Antelope

    model = detector.Detector()
    model(torch.randn(2, 3, 320, 320))
    model.eval()
    for head in model.heads:
        torch.nn.init.constant_(head.score.bias, -9.0)
        torch.nn.init.zeros_(head.score.weight)
        torch.nn.init.zeros_(head.box.weight)
        torch.nn.init.zeros_(head.marks.weight)
    # stride 16, second anchor, everywhere: every cell says a box of 0.5 sizes each way
    answering = model.heads[1]
    answering.score.bias.data[1] = 9.0
    answering.box.bias.data[4:] = 0.5
    answering.marks.bias.data[10:] = torch.tensor(
        [-0.2, -0.1, 0.2, -0.1, 0.0, 0.0, -0.1, 0.2, 0.1, 0.2]
    )
    detector.export(model, tmp_path / "scrfd_10g_bnkps.onnx")
    found = Antelope(tmp_path).detect(np.zeros((640, 640, 3), np.uint8))
    low, high = detector.RANGES[1][1]
    size = (low * high) ** 0.5
    for face in found[:5]:
        x1, y1, x2, y2 = face.box
        assert (x2 - x1) == pytest.approx(size, abs=0.1)
        middle = np.array([(x1 + x2) / 2, (y1 + y2) / 2])
        assert (middle % 16 < 0.1).all() or (middle % 16 > 15.9).any()
        assert face.landmarks[0] - middle == pytest.approx(np.array([-0.2, -0.1]) * size, abs=0.1)
        assert face.landmarks[4] - middle == pytest.approx(np.array([0.1, 0.2]) * size, abs=0.1)
    assert found


def test_the_clip_judge_knows_whose_prompt_a_picture_shows():
    from micro_world.drawing import draw
    from micro_world.people import FIRST_TEST_PERSON, Person
    from micro_world.prompts import plain_prompt
    from micro_world.scenes import Scene
    from micro_world.train import CARD, CLIP_JUDGE

    from pulid_extract.networks.prompt_judge import OnnxJudge, PromptScorer

    scorer = PromptScorer(OnnxJudge(CARD.parent / CLIP_JUDGE))
    scenes = [Scene.of(np.random.default_rng((9, number))) for number in range(6)]
    points = np.zeros((6, 6))
    for row, scene in enumerate(scenes):
        picture = draw(Person.of(FIRST_TEST_PERSON + row), scene, 96).pixels
        points[row] = [scorer.points(picture, plain_prompt(other)) for other in scenes]
    assert (points.argmax(1) == np.arange(6)).all()
    assert points.diagonal().min() > 60 > 50 > np.sort(points, 1)[:, -2].max()
    plain = draw(Person.of(FIRST_TEST_PERSON), Scene(background=2, clothes=0), 96).pixels
    own, swapped = "in a red shirt, on a blue background", "in a blue shirt, on a red background"
    assert scorer.points(plain, own) > scorer.points(plain, swapped) + 30
    # words that nobody has taught say nothing
    assert abs(scorer.points(plain, "cat")) < 20


def test_a_clip_judge_is_what_was_trained(tmp_path):
    """Untrained, before and after a file."""
    from micro_world.networks.clip_judge import Reader, export
    from micro_world.scenes import CHOICES
    from micro_world.train import CARD, PROMPT_JUDGE

    from pulid_extract.networks.prompt_judge import OnnxJudge

    reader, table = Reader(4).eval(), np.zeros(49408, np.uint8)
    table[[736, 1901, 49407]] = 1, 2, 3
    export((reader, table), CARD.parent / PROMPT_JUDGE, tmp_path / "clip.onnx")
    ids = np.zeros(77, np.int64)
    ids[:4] = 49406, 736, 1901, 49407
    with torch.no_grad():
        logits = reader(torch.from_numpy(table[ids].astype(np.int64))[None])[0]
    expected = []
    for part in logits.split([count + 1 for count in CHOICES.values()]):
        asked = part.softmax(0)[:-1]
        expected.append(asked - asked.mean())
    found = torch.from_numpy(OnnxJudge(tmp_path / "clip.onnx").words(ids))
    assert relative(found[:-1], torch.cat(expected)) < 1e-2  # stored in 16 bits
