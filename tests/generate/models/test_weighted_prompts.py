"""Weighted prompts as sd-cli encodes them: tokens, chunks, states."""

from __future__ import annotations

import pytest
import torch
from support.models.vocabularies import vocabulary

from pulid_generate.models import weighted_prompts as weights
from pulid_generate.models.prompt_reader import PromptReader
from pulid_generate.models.weighted_prompts import (
    encode_chunks,
    t5_chunks,
    t5_ids,
    t5_weighted,
    weigh_states,
)
from pulid_generate.request.prompts.prompt_weights import parse_weights
from pulid_generate.request.prompts.tokens import Chunk

# ------------------------------------------------------------------------------------------- tokens


@pytest.fixture(scope="module")
def tokenizer():
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(vocabulary("tokenizer_2") / "tokenizer.json"))


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("a photo of a cat", [3, 9, 1202, 13, 3, 9, 1712]),
        ("a  photo   of a cat ", [3, 9, 1202, 13, 3, 9, 1712]),
        (" word", [3, 1448]),  # Hugging Face's: [1448]
        ("word", [1448]),
        ("", []),
        (" ", [3]),
        ("日本", [3, 2, 2]),  # Hugging Face's: one unknown
        ("a\nb", [3, 9, 2, 115]),  # Hugging Face's reads the line break as a space
        ("a</s>b", [3, 9, 1, 3, 115]),
    ],
)
def test_t5_ids_are_sd_clis(tokenizer, text, ids):
    assert t5_ids(tokenizer, text) == ids


def test_plain_prompts_have_the_same_ids_as_everywhere(tokenizer):
    for prompt in ("a red bicycle", "a lighthouse, oil on canvas", "UPPER lower's 1234 “quotes”"):
        assert [*t5_ids(tokenizer, prompt), 1] == tokenizer.encode(prompt).ids


def test_each_token_has_its_parts_weight(tokenizer):
    ids, found = t5_weighted(tokenizer, parse_weights("a (photo:1.5) of"))
    assert ids == [*t5_ids(tokenizer, "a "), *t5_ids(tokenizer, "photo"), *t5_ids(tokenizer, " of")]
    assert found == [1.0, 1.0, 1.5, 1.0, 1.0]


def test_clip_reads_the_parts_without_brackets_and_weights():
    from pulid_generate.models.tokenizers import clip_tokenizer

    clip = clip_tokenizer()
    ids = weights.clip_ids(clip, parse_weights("a (photo:1.5) of a cat"))
    start, *words, end = clip.encode("a photo of a cat").ids
    assert ids == [start, *words, *[end] * (76 - len(words))]
    assert ids[: len(words) + 1] != clip.encode("a (photo:1.5) of a cat").ids[: len(words) + 1]
    long = weights.clip_ids(clip, parse_weights("(cat) " * 100))
    assert long == [start, *clip.encode("cat " * 75).ids[1:-1], end]


@pytest.mark.parametrize(
    ("count", "ends"),
    [(0, [0]), (1, [1]), (255, [255]), (256, [255, 1]), (510, [255, 255]), (511, [255, 255, 1])],
)
def test_long_prompts_come_in_chunks_each_with_an_end(count, ends):
    ids = list(range(100, 100 + count))
    chunks = t5_chunks(ids, [2.0] * count)
    assert (
        [len(chunk.ids) for chunk in chunks]
        == [len(chunk.weights) for chunk in chunks]
        == [256] * len(ends)
    )
    assert [chunk.ids.index(1) for chunk in chunks] == ends
    assert [i for chunk, end in zip(chunks, ends, strict=True) for i in chunk.ids[:end]] == ids
    for chunk, end in zip(chunks, ends, strict=True):
        assert chunk.weights == (2.0,) * end + (1.0,) * (256 - end)
        assert set(chunk.ids[end + 1 :]) <= {0}


# ------------------------------------------------------------------------------------------- states


def test_states_are_weighed_and_scaled_back_to_their_mean():
    states = torch.tensor([[[1.0, 3.0], [2.0, 2.0]]])  # mean 2
    ours = weigh_states(states, [2.0, 1.0])  # [[2, 6], [2, 2]]: mean 3, so times 2 / 3
    torch.testing.assert_close(ours, torch.tensor([[[4 / 3, 4.0], [4 / 3, 4 / 3]]]))
    assert ours.mean().item() == pytest.approx(2)


def test_weights_of_one_change_no_bit_and_a_mean_of_zero_is_left():
    states = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert weigh_states(states, [1.0] * 4) is states
    assert weigh_states(states, [1.0, 1.0, 1.0, 1.5]).dtype == torch.float32
    balanced = torch.tensor([[[1.0, -1.0], [2.0, -2.0]]])
    torch.testing.assert_close(
        weigh_states(balanced, [3.0, 1.0]), torch.tensor([[[3.0, -3.0], [2.0, -2.0]]])
    )


def test_chunks_are_encoded_and_weighed_each_by_itself():
    seen = []

    def encode(ids):
        seen.append(ids.tolist())
        return torch.stack([ids.float(), ids.float() + 1], dim=-1)

    chunks = [Chunk((5, 1), (2.0, 1.0)), Chunk((7, 1), (1.0, 1.0))]
    states = encode_chunks(encode, chunks)
    assert seen == [[[5, 1]], [[7, 1]]]
    assert states.shape == (1, 4, 2)
    assert torch.equal(states[:, 2:], encode(torch.tensor([[7, 1]])))
    torch.testing.assert_close(
        states[:, :2], weigh_states(encode(torch.tensor([[5, 1]])), [2.0, 1.0])
    )
    assert not torch.equal(states[:, :2], encode(torch.tensor([[5, 1]])))


def test_a_plain_prompt_gives_the_states_of_the_plain_way(micro):
    """What --prompt-weights changes: nothing, where there are no brackets."""
    from pulid_extract.shared.model_files import read_header
    from pulid_generate.models.t5 import T5Text

    t5 = T5Text.load(read_header(micro / "t5xxl_fp16.safetensors"), torch.float32)
    reader = PromptReader(micro / "tokenizer.json")
    [chunk] = reader.read("a red cat", 256).t5_chunks
    plain = t5.encode(torch.tensor([chunk.ids]))

    def ours(prompt):
        return t5.encode_chunks(reader.read(prompt, 256, weighted=True).t5_chunks)

    assert torch.equal(ours("a red cat"), plain)
    assert not torch.allclose(ours("a (red:1.5) cat"), plain, rtol=0.01)
