"""The judge of prompts: the text tower against open_clip's, and pictures and prompts through
`score`.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from seeded.onnx_graph import Graph
from seeded.tensors import seeded_state
from support.models.portrait_models import eva_state, models_folder
from support.pictures.coloured_faces import RED, picture
from support.programs.commands import call

from pulid_extract.networks.clip_text import TextTower, load_text_tower
from pulid_extract.networks.prompt_judge import (
    EvaJudge,
    OnnxJudge,
    PromptScorer,
    pixels_of,
    token_ids,
)
from pulid_extract.shared.clip_words import open_clip_tokenizer
from pulid_extract.shared.errors import InputError, WeightsError

# of CLIP's vocabulary; the golden tower gives vectors of 96
ROWS, LENGTH, WIDTH, DEPTH = 49408, 77, 64, 2
PROMPTS = ("a photo of a cat", "", "two dogs, and a bird!", "word " * 100)


@pytest.fixture(scope="module")
def eva(tmp_path_factory) -> Path:
    """The golden image tower and a seeded text tower in one file."""
    image = eva_state()
    pooled = image["visual.head.weight"].shape[0]
    tower = TextTower(ROWS, LENGTH, WIDTH, DEPTH, 3 * WIDTH, pooled)
    shapes = {f"text.{name}": tuple(value.shape) for name, value in tower.state_dict().items()}
    text = {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    path = tmp_path_factory.mktemp("eva") / "EVA02_CLIP_L_336_psz14_s6B.safetensors"
    save_file({**image, **text, "logit_scale": torch.tensor(4.6)}, path)
    return path


def ids_of(prompts) -> torch.Tensor:
    tokenizer = open_clip_tokenizer("extract")
    return torch.from_numpy(np.stack([token_ids(tokenizer, text, LENGTH) for text in prompts]))


def test_the_text_tower_is_open_clips(eva):
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transformer import TextTransformer

    ours = load_text_tower(eva)
    theirs = TextTransformer(
        context_length=LENGTH,
        vocab_size=ROWS,
        width=WIDTH,
        heads=1,
        layers=DEPTH,
        mlp_ratio=3,
        output_dim=ours.text_projection.shape[1],
        act_layer=torch.nn.GELU,
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    ids = ids_of(PROMPTS)
    assert torch.equal(ids, SimpleTokenizer()(list(PROMPTS), LENGTH))
    with torch.no_grad():
        expected = theirs(ids)
    found = ours(ids)
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5
    assert not torch.allclose(found[0], found[2], atol=1e-3)


def test_the_vocabulary_is_found_without_importing_open_clip(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "open_clip"]:
        monkeypatch.delitem(sys.modules, name)
    assert open_clip_tokenizer("extract").encode("a cat").ids == [49406, 320, 2368, 49407]
    assert "open_clip" not in sys.modules


def test_without_open_clip_prompts_are_refused_in_one_line(tmp_path, capfd, monkeypatch):
    find_spec = importlib.util.find_spec

    def lacks_it(name, package=None):
        return None if name == "open_clip" else find_spec(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", lacks_it)
    picture_file = tmp_path / "me.png"
    Image.fromarray(picture((2, 2, RED))).save(picture_file)
    code, out, err = call(capfd, monkeypatch, "score", str(picture_file), "--prompt", "a cat")
    assert (code, out) == (1, "")
    [line] = err.splitlines()
    assert "open_clip" in line
    assert "pip install 'pulid-flux-toolkit[extract]'" in line


def test_memory_that_runs_out_is_one_line(eva, monkeypatch):
    judge = EvaJudge(eva)

    def too_large(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    for tower in (judge._image, judge._text):
        monkeypatch.setattr(tower, "forward", too_large)
    with pytest.raises(InputError, match="EVA-CLIP: out of memory on cpu"):
        judge.picture(np.zeros((3, judge.side, judge.side), np.float32))
    with pytest.raises(InputError, match="EVA-CLIP: out of memory on cpu"):
        judge.words(np.zeros(judge.length, np.int64))


def test_pixels_are_open_clips():
    from open_clip.transform import image_transform

    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)
    expected = image_transform(28, is_train=False)(Image.fromarray(image)).numpy()
    np.testing.assert_allclose(pixels_of(image, 28), expected, atol=1e-6)


def test_points_are_a_hundred_times_the_cosine(eva):
    scorer = PromptScorer(EvaJudge(eva))
    image = picture((2, 2, RED))
    words = load_text_tower(eva)(ids_of(["a cat"]))[0].double().numpy()
    seen = scorer.judge.picture(pixels_of(image, scorer.judge.side)).astype(float)
    cosine = seen @ words / np.linalg.norm(seen) / np.linalg.norm(words)
    assert scorer.points(image, "a cat") == pytest.approx(100 * cosine)
    assert scorer.points(image, "a dog") != scorer.points(image, "a cat")
    assert (scorer.is_cut(PROMPTS[3]), scorer.is_cut(PROMPTS[2])) == (True, False)


def write_judge(path: Path, *, attention: bool = False, words: str = "text_embeds") -> Path:
    """Knows red from green: a picture's mean colours, and ids of a prompt as they are."""
    from onnx import TensorProto, helper, save

    graph = Graph()
    graph("ReduceMean", "pixel_values", axes=[2, 3], keepdims=0, name="image_embeds")
    numbers = graph("Cast", "input_ids", to=TensorProto.FLOAT)
    if attention:
        numbers = graph("Mul", numbers, graph("Cast", "attention_mask", to=TensorProto.FLOAT))
    # of "red" and "green" the ids are 736 and 1901: (1, 0, 0) and (0, 1, 0)
    columns = []
    for number in (736.0, 1901.0, -1.0):
        away = graph("Abs", graph("Sub", numbers, np.array(number, np.float32)))
        near = graph("Sub", np.array(1, np.float32), graph("Clip", away, *map(np.float32, (0, 1))))
        columns.append(graph("ReduceMax", near, axes=[1], keepdims=1))
    graph("Concat", *columns, axis=1, name=words)
    names = ("input_ids", "attention_mask") if attention else ("input_ids",)
    inputs = [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, 32, 32])]
    for name in names:
        inputs.append(helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "length"]))
    outputs = []
    for name in ("image_embeds", words):
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]))
    made = helper.make_graph(graph.nodes, "judge", inputs, outputs, graph.constants)
    save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


@pytest.mark.parametrize("attention", [False, True])
def test_an_onnx_of_somebody_else_judges(tmp_path, attention):
    scorer = PromptScorer(OnnxJudge(write_judge(tmp_path / "judge.onnx", attention=attention)))
    red = np.zeros((40, 60, 3), np.uint8)
    red[..., 0] = 255
    assert (scorer.judge.side, scorer.judge.length) == (32, 77)
    assert scorer.points(red, "red") > 50 > 0 > scorer.points(red, "green")
    assert scorer.points(red, "blue") == 0


def test_what_is_no_judge_says_so(tmp_path):
    with pytest.raises(WeightsError, match="gives image_embeds, words; a judge of prompts takes"):
        OnnxJudge(write_judge(tmp_path / "judge.onnx", words="words"))
    with pytest.raises(WeightsError, match=r"eva\.pt: holds no text tower"):
        load_text_tower(models_folder() / "eva.pt")


def test_the_command_without_and_with_a_reference(eva, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PULID_CACHE_DIR", str(tmp_path / "cache"))
    Image.fromarray(picture((2, 2, RED))).save("me.png")
    Image.fromarray(picture()).save("nobody.png")
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    models = ("--models-dir", str(models_folder()), "--eva-clip", str(eva), "--device", "cpu")

    def score(*arguments: str) -> tuple[int, str, str]:
        return call(capfd, monkeypatch, "score", *arguments, *models)

    code, out, err = score("me.png", "--prompt", "a cat", "--json")
    assert code == 0, err
    told = json.loads(out)
    assert (told["status"], told["likeness"], told["recognizer"]) == ("ok", None, None)
    assert told["prompt_judge"]["name"] == eva.name
    assert "antelopev2" not in err
    expected = PromptScorer(EvaJudge(eva)).points(picture((2, 2, RED)), "a cat")
    assert told["prompt_score"] == pytest.approx(expected, abs=1e-3)

    flags = ("--reference", "me.png", "--prompts", "prompts.txt")
    code, out, err = score("me.png", "nobody.png", *flags)
    assert code == 0, err
    _, judged, columns, me, nobody = out.splitlines()
    assert judged.startswith(
        f"prompt_score: 100 times the cosine of picture and prompt by {eva.name}"
    )
    assert columns.split() == ["likeness", "best", "prompt_score", "faces", "picture"]
    assert float(me.split()[2]) == pytest.approx(told["prompt_score"], abs=0.01)
    # a picture without a face shows its prompt, or does not
    assert nobody.split()[:2] == ["no", "face"]
    assert float(nobody.split()[2]) != float(me.split()[2])
    code, out, err = score("me.png", *flags)
    assert (code, out) == (1, "")
    assert "prompts.txt: 2 prompts for 1 pictures" in err
