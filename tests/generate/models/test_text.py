"""Text encoders and their tokenizers: the traps that give wrong states without an error."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.distances import relative
from support.models.vocabularies import PROMPTS, vocabulary
from support.tokens import clip_ids, t5_ids

from pulid_extract.shared.model_files import read_header
from pulid_generate.errors import CheckpointError, RequestError
from pulid_generate.files.t5_vocabulary import find_t5_tokenizer
from pulid_generate.models.clip import ClipText
from pulid_generate.models.prompt_reader import PromptReader
from pulid_generate.models.t5 import T5Text
from pulid_generate.models.tokenizers import clip_tokenizer, read_t5_tokenizer


def t5_tokenizer(given, t5_path):
    """The tokenizer for a T5 file, as the pipeline finds and reads it."""
    return read_t5_tokenizer(find_t5_tokenizer(given, [t5_path.parent]))


@pytest.fixture(scope="module")
def t5(micro):
    return T5Text.load(read_header(micro / "t5xxl_fp16.safetensors"), torch.float32)


def test_clip_ids_are_openais():
    from transformers import CLIPTokenizer

    ours, theirs = clip_tokenizer(), CLIPTokenizer.from_pretrained(vocabulary("tokenizer_1"))
    assert ours.encode("a photo of a cat").ids == [49406, 320, 1125, 539, 320, 2368, 49407]
    strange = [
        "<|endoftext|> <|startoftext|>",
        "İstanbul ẞ ﬁ ①",
        "don't I'LL",
        "\u200b\u0301\tb\nc",
    ]
    for prompt in [*PROMPTS, *strange]:
        assert ours.encode(prompt).ids == theirs(prompt)["input_ids"], prompt


@pytest.mark.parametrize("prompt", [*PROMPTS, "cat " * 74, "cat " * 75, "cat " * 76, ""])
def test_a_prompt_is_read_once_into_the_ids_of_both_encoders(micro, prompt):
    reader = PromptReader(micro / "tokenizer.json")
    read = reader.read(prompt, 300)
    start, *words, end = clip_tokenizer().encode(prompt).ids
    words = words[:75]
    assert list(read.clip_ids) == [start, *words, *[end] * (76 - len(words))]
    ids = reader.t5.encode(prompt).ids
    padded = 300 if len(ids) <= 300 else 512
    assert list(read.t5_chunks[0].ids) == ids + [0] * (padded - len(ids))
    assert read.t5_tokens == padded
    assert reader.read(prompt, 300) is read
    assert reader.read(prompt, 200) is not read


def test_a_long_prompt_takes_what_t5_reads_and_a_longer_one_is_refused(micro):
    reader = PromptReader(micro / "tokenizer.json")
    count = len(reader.t5.encode("cat " * 10).ids) - 1
    words = "cat " * (10 * 511 // count)
    tokens = len(reader.t5.encode(words).ids)
    assert 20 < tokens <= 512
    read = reader.read(words, 20)
    assert read.t5_tokens == 512
    assert any(f": has {tokens} T5 tokens, more than 20: using 512" in note for note in read.notes)
    with pytest.raises(RequestError, match=r"T5 tokens, the most that Flux reads is 512"):
        reader.read("cat " * 600, 20)
    assert reader.read("cat " * 600, 20, weighted=True).t5_tokens > 512


@pytest.mark.parametrize("form", ["folder", "tokenizer.json", "spiece.model", "beside the T5 file"])
def test_t5_ids_are_the_same_from_every_form_of_the_vocabulary(tmp_path, form):
    from transformers import T5Tokenizer

    folder = vocabulary("tokenizer_2")
    if form == "beside the T5 file":
        shutil.copy(folder / "spiece.model", tmp_path)
        tokenizer = t5_tokenizer(None, tmp_path / "t5xxl_fp16.safetensors")
    elif form == "spiece.model":
        # under another name: T5Tokenizer(vocab_file=...) would give 104 words, and ids [3, 2, 3, 2,
        # ..] for any text
        tokenizer = t5_tokenizer(shutil.copy(folder / form, tmp_path / "t5.model"), tmp_path / "t5")
    else:
        tokenizer = t5_tokenizer(folder if form == "folder" else folder / form, tmp_path / "t5")
    assert tokenizer.encode("a photo of a cat").ids == [3, 9, 1202, 13, 3, 9, 1712, 1]
    reference = T5Tokenizer.from_pretrained(folder)
    for prompt in PROMPTS:
        assert tokenizer.encode(prompt).ids == reference(prompt)["input_ids"]


def test_a_missing_vocabulary_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(CheckpointError, match="give --t5-tokenizer FILE"):
        t5_tokenizer(None, tmp_path / "t5.safetensors")
    real = (vocabulary("tokenizer_2") / "spiece.model").read_bytes()
    for name, data in (
        ("tokenizer.json", b"{}"),
        # transformers alone makes a tokenizer of it, and a picture of nothing
        ("empty.model", b""),
        ("html.model", b"<html></html>"),
        ("cut.model", real[:-1000]),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(
            CheckpointError, match=r"not a T5 tokenizer, or damaged .*download it again"
        ):
            t5_tokenizer(tmp_path / name, tmp_path / "t5.safetensors")


def test_a_vocabulary_in_the_hugging_face_cache_is_found(tmp_path, monkeypatch):
    snapshot = tmp_path / "models--google--t5-v1_1-xxl" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    shutil.copy(vocabulary("tokenizer_2") / "spiece.model", snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert t5_tokenizer(None, tmp_path / "t5.safetensors").encode("a photo of a cat").ids == [
        3,
        9,
        1202,
        13,
        3,
        9,
        1712,
        1,
    ]


def test_truncation_and_padding_saved_in_a_vocabulary_are_not_obeyed(tmp_path):
    from tokenizers import Tokenizer

    saved = Tokenizer.from_file(str(vocabulary("tokenizer_2") / "tokenizer.json"))
    saved.enable_truncation(4)
    saved.enable_padding(length=20)
    saved.save(str(tmp_path / "tokenizer.json"))
    assert t5_tokenizer(tmp_path, tmp_path / "t5").encode("a photo of a cat").ids == [
        3,
        9,
        1202,
        13,
        3,
        9,
        1712,
        1,
    ]


def test_t5_pads_with_zeros_and_attends_to_them(t5, micro):
    ids = t5_ids(micro / "tokenizer.json", "a cat", 32)
    assert ids.shape == (1, 32)
    assert ids[0, -20:].tolist() == [0] * 20
    states = t5.encode(ids)
    assert states.shape == (1, 32, 64)
    # what a prompt without its padding gives is something else
    masked, states = t5.encode(ids[:, :-20]), states[:, :-20]
    assert relative(masked, states) > 0.01


@pytest.mark.parametrize("kept", ["shared.weight", "encoder.embed_tokens.weight"])
def test_t5_embedding_stored_once_under_either_name(micro, tmp_path, t5, kept):
    state = load_file(micro / "t5xxl_fp16.safetensors")
    dropped = {
        "shared.weight": "encoder.embed_tokens.weight",
        "encoder.embed_tokens.weight": "shared.weight",
    }[kept]
    save_file(
        {name: value for name, value in state.items() if name != dropped},
        tmp_path / "t5.safetensors",
    )
    once = T5Text.load(read_header(tmp_path / "t5.safetensors"), torch.float32)
    ids = t5_ids(micro / "tokenizer.json", "a cat", 16)
    assert torch.equal(once.encode(ids), t5.encode(ids))


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_plain_fp8_t5_is_read_as_its_numbers(micro, tmp_path, t5, dtype):
    state = {
        name: value.to(dtype) for name, value in load_file(micro / "t5xxl_fp16.safetensors").items()
    }
    save_file(state, tmp_path / "t5.safetensors")
    ours = T5Text.load(read_header(tmp_path / "t5.safetensors"), torch.float32)
    rows = torch.tensor([[5, 31000, 0]])
    assert torch.equal(ours.model.shared(rows), state["shared.weight"].float()[rows])
    assert ours.model.shared.table.data.dtype == dtype  # kept as stored
    name = "encoder.block.1.layer.1.DenseReluDense.wo.weight"
    layer = ours.model.get_submodule(name.removesuffix(".weight"))
    assert layer.data.dtype == dtype
    assert torch.equal(layer.weight.dequantize(torch.float32), state[name].float())
    # the states are those of a file that holds the same numbers in 32 bits
    save_file({name: value.float() for name, value in state.items()}, tmp_path / "wide.safetensors")
    wide = T5Text.load(read_header(tmp_path / "wide.safetensors"), torch.float32)
    ids = t5_ids(micro / "tokenizer.json", "a cat", 16)
    assert torch.equal(ours.encode(ids), wide.encode(ids))
    assert relative(ours.encode(ids), t5.encode(ids)) > 0.01  # of rounding to 8 bits


def test_clip_pools_at_the_end_token_and_reads_77(micro):
    clip = ClipText.load(read_header(micro / "clip_l.safetensors"), torch.float32)
    reader = PromptReader(micro / "tokenizer.json")
    short, long, cut = (
        reader.read(text, 512) for text in ("a photo of a cat", "cat " * 100, "cat " * 75)
    )
    assert clip.encode(short.clip_ids).shape == (1, 64)
    assert not torch.equal(clip.encode(long.clip_ids), clip.encode(short.clip_ids))
    assert torch.equal(clip.encode(long.clip_ids), clip.encode(cut.clip_ids))
    assert not short.notes
    # and of many prompts, which
    assert long.notes[0].startswith("prompt '")
    assert long.notes[0].endswith(" ..': CLIP reads the first 75 of its 100 tokens; T5 reads all")


def test_clip_extras_of_other_exports_are_dropped(micro, tmp_path):
    state = load_file(micro / "clip_l.safetensors")
    extras = {
        "text_model.embeddings.position_ids": torch.arange(77)[None],
        "logit_scale": torch.ones(()),
        "text_projection.weight": torch.ones(64, 64),
    }
    save_file(state | extras, tmp_path / "clip.safetensors")
    ours = ClipText.load(read_header(tmp_path / "clip.safetensors"), torch.float32)
    plain = ClipText.load(read_header(micro / "clip_l.safetensors"), torch.float32)
    ids = clip_ids(micro / "tokenizer.json", "a")
    assert torch.equal(ours.encode(ids), plain.encode(ids))
    save_file(
        state | {"text_model.encoder.layers.0.extra": torch.ones(1)}, tmp_path / "clip.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"unknown .*layers\.0\.extra"):
        ClipText.load(read_header(tmp_path / "clip.safetensors"), torch.float32)
