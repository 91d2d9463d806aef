"""T5 in GGUF: quantised while it runs, and its tokenizer rebuilt from the metadata."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import load_file, save_file
from support.distances import relative
from support.models.flux_files import t5_gguf, write_gguf
from support.models.vocabularies import PROMPTS, vocabulary
from support.tokens import t5_ids

from pulid_extract.shared.model_files import find, kind_of, read_gguf, read_header
from pulid_generate.errors import CheckpointError
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.files.roles import T5XXL
from pulid_generate.files.t5_vocabulary import find_t5_tokenizer
from pulid_generate.models.t5 import T5Text, t5_name
from pulid_generate.models.tokenizers import read_t5_tokenizer
from pulid_generate.packed.ggml import QuantizedLinear
from pulid_generate.packed.layers import PackedEmbedding


@pytest.fixture(scope="module")
def quantised(micro, tmp_path_factory):
    return t5_gguf(micro, tmp_path_factory.mktemp("t5") / "t5-v1_1-xxl-encoder-Q8_0.gguf")


@pytest.fixture(scope="module")
def t5(quantised):
    return T5Text.load(read_header(quantised), torch.float32)


def test_the_tokenizer_of_the_metadata_gives_the_real_ids(quantised, tmp_path):
    from transformers import T5Tokenizer

    header = read_header(quantised)
    assert header.metadata["tokenizer.ggml.model"] == "t5"
    assert "tokenizer.ggml.tokens" not in header.metadata  # 32,128 strings stay in the file
    found = find_t5_tokenizer(None, [tmp_path], header)
    assert found == quantised
    ours, reference = (
        read_t5_tokenizer(found),
        T5Tokenizer.from_pretrained(vocabulary("tokenizer_2")),
    )
    assert ours.encode("a photo of a cat").ids == [3, 9, 1202, 13, 3, 9, 1712, 1]
    for prompt in [*PROMPTS, "<extra_id_0> and </s>", "ﬁ ligature, ① and Å"]:
        assert ours.encode(prompt).ids == reference(prompt)["input_ids"], prompt


def test_a_vocabulary_that_was_given_wins_and_one_that_is_not_there_is_looked_for(
    quantised, micro, tmp_path
):
    header = read_header(quantised)
    assert find_t5_tokenizer(micro / "tokenizer.json", [], header) == micro / "tokenizer.json"
    bare = t5_gguf(micro, tmp_path / "bare.gguf", tokenizer=False)
    assert find_t5_tokenizer(None, [micro], read_header(bare)) == micro / "tokenizer.json"
    with pytest.raises(CheckpointError, match=r"no tokenizer\.ggml\.model"):
        read_t5_tokenizer(bare)
    other = write_gguf(
        tmp_path / "other.gguf", {}, "t5encoder", lambda writer: writer.add_tokenizer_model("gpt2")
    )
    with pytest.raises(CheckpointError, match="its vocabulary is for 'gpt2'"):
        read_t5_tokenizer(other)


def test_matrices_and_the_embedding_stay_quantised(t5):
    kept = [module for module in t5.model.modules() if isinstance(module, QuantizedLinear)]
    assert len(kept) == 2 * 7 + 1  # two blocks, and the table
    assert isinstance(t5.model.shared, PackedEmbedding)
    assert sum(p.numel() for p in t5.model.parameters()) < 2000  # norms and the position bias


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, None])
def test_states_are_those_of_the_dequantised_numbers(t5, quantised, micro, tmp_path, dtype):
    header = read_header(quantised)
    plain = {}
    data = np.fromfile(quantised, np.uint8)
    for name, entry in read_gguf(quantised).tensors.items():
        block, size = gguf.GGML_QUANT_SIZES[Q[entry.kind]]
        rows = data[entry.offset : entry.offset + entry.size].reshape(
            -1, entry.shape[-1] // block * size
        )
        plain[t5_name(name)] = (
            torch.from_numpy(gguf.dequantize(rows, Q[entry.kind])).reshape(entry.shape).clone()
        )
    save_file(plain, tmp_path / "plain.safetensors")
    wide = T5Text.load(
        read_header(tmp_path / "plain.safetensors"),
        dtype or torch.float32,
    )
    ours = t5 if dtype == torch.float32 else T5Text.load(header, dtype)
    ids = t5_ids(quantised, "a photo of a cat, (word:1.3)", 32)
    truth = wide.encode(ids)
    assert ours.encode(ids).dtype == truth.dtype
    assert relative(ours.encode(ids).float(), truth.float()) < (
        1e-2 if dtype == torch.bfloat16 else 1e-6
    )
    original = T5Text.load(read_header(micro / "t5xxl_fp16.safetensors"), torch.float32).encode(ids)
    assert 1e-4 < relative(truth.float(), original) < 0.1  # the numbers did change


def test_huggingface_names_in_a_gguf_are_read_too(micro, tmp_path, t5):
    """sd-cli converts T5 under its own names, with or without the all-in-one's prefix."""
    state = load_file(micro / "t5xxl_fp16.safetensors")
    del state["encoder.embed_tokens.weight"]
    tensors = {
        f"text_encoders.t5xxl.transformer.{name}": (
            value.float().numpy(),
            Q.Q8_0 if value.shape[-1] % 32 == 0 and value.ndim == 2 else Q.F32,
        )
        for name, value in state.items()
    }
    header = read_header(write_gguf(tmp_path / "sd.gguf", tensors))
    ours = T5Text.load(header, torch.float32)
    ids = t5_ids(micro / "tokenizer.json", "a cat", 16)
    assert torch.equal(ours.encode(ids), t5.encode(ids))


def test_it_needs_no_tokenizer_file(micro, quantised, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("flux1-schnell", "ae", "clip_l"):
        (tmp_path / f"{name}.safetensors").symlink_to(micro / f"{name}.safetensors")
    (tmp_path / quantised.name).symlink_to(quantised)
    files = ModelFiles.find(models_dir=tmp_path, with_pulid=False)
    assert files.t5_tokenizer == files.t5xxl.path == tmp_path / quantised.name
    (tmp_path / quantised.name).unlink()
    t5_gguf(micro, tmp_path / "bare.gguf", tokenizer=False)
    with pytest.raises(CheckpointError, match="give --t5-tokenizer FILE"):
        ModelFiles.find(models_dir=tmp_path, with_pulid=False)


def test_what_is_no_t5_encoder_is_refused(micro, tmp_path):
    # the tensors say what it is, and not the name that its writer gave the architecture
    llama = t5_gguf(micro, tmp_path / "llama.gguf", architecture="llama")
    assert find(T5XXL, llama).header.metadata["general.architecture"] == "llama"
    part = write_gguf(
        tmp_path / "part.gguf",
        {"enc.blk.0.attn_q.weight": (np.zeros((64, 64), np.float32), Q.F16)},
        "t5encoder",
    )
    assert kind_of(read_header(part)).name == "T5 encoder in GGUF"
    with pytest.raises(CheckpointError, match=r"missing shared\.weight"):
        T5Text.load(read_header(part), torch.float32)
