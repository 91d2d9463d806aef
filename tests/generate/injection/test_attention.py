"""PuLID's cross-attention, plain and folded, against the reference's outputs and against each
other.
"""

from __future__ import annotations

import pytest
import torch
from seeded.tensors import seeded, seeded_state
from support.distances import relative

from pulid_generate.injection.attention import (
    HEAD_WIDTH,
    FoldedAttention,
    PerceiverAttentionCA,
    PlainAttention,
    _exact_device,
)


@pytest.fixture(scope="module")
def world(golden, golden_shapes):
    """The full-size layer of tests/golden/README.md: layer, identity (32, 2048), image tokens (1,
    64, 3072), outputs.
    """
    shapes = golden_shapes("pulid_ca")
    state = seeded_state({f"pulid_ca.0.{name}": tuple(shape) for name, shape in shapes.items()})
    layer = PerceiverAttentionCA.from_state(
        {name[11:]: torch.from_numpy(value) for name, value in state.items()}
    )
    img = seeded("in.img_tokens", (1, 64, 3072), 2.0, 0.3)
    img[..., 100] += 60
    img[..., 7] -= 40
    return (
        layer,
        torch.from_numpy(seeded("in.id_tokens", (1, 32, 2048)))[0],
        torch.from_numpy(img),
        golden("pulid_ca"),
    )


def test_plain_form_is_the_reference(world):
    layer, tokens, img, truth = world
    assert relative(PlainAttention(layer, tokens)(img), truth["out_float32"]) <= 1e-6


def test_folded_form_is_the_reference(world):
    layer, tokens, img, truth = world
    out = FoldedAttention(layer, tokens, torch.float32, "cpu")(img)
    assert out.shape == (1, 64, 3072)
    assert out.dtype == torch.float32
    assert relative(out, truth["out_float32"]) <= 1e-5
    assert relative(out, truth["out_float64_as_float32"]) <= 1e-5


def test_folding_runs_where_the_layer_will(world):
    """No tensor of a layer comes back to main memory on the way: on `meta`, which has no numbers,
    that would be an error. Apple's MPS has no float64.
    """
    layer, tokens, _, _ = world
    folded = FoldedAttention(layer, tokens, torch.bfloat16, "meta")
    assert {tensor.device.type for tensor in folded.buffers()} == {"meta"}
    assert _exact_device(torch.device("cuda:1")) == torch.device("cuda:1")
    assert _exact_device(torch.device("mps")) == torch.device("cpu")


def test_folded_bfloat16_is_closer_to_the_truth_than_the_reference_layer(world):
    layer, tokens, img, truth = world
    folded = FoldedAttention(layer, tokens, torch.bfloat16, "cpu")(img.bfloat16())
    half = PerceiverAttentionCA.from_state(
        {name: value.bfloat16() for name, value in layer.state_dict().items()}
    )
    reference = PlainAttention(half, tokens.bfloat16())(img.bfloat16())
    ours, theirs = (
        relative(out.float(), truth["out_float64_as_float32"]) for out in (folded, reference)
    )
    assert 0.005 < theirs < 0.010  # the reference layer's 0.0076
    assert ours <= 0.65 * theirs


def test_a_large_mean_over_channels_does_not_spoil_the_folded_norm(world):
    layer, tokens, img, _ = world
    shifted = img + 100.0  # norm2 takes the mean away, whatever it is
    exact = PlainAttention(layer.double(), tokens.double())(shifted.double())
    layer.float()
    assert relative(FoldedAttention(layer, tokens, torch.float32, "cpu")(shifted), exact) <= 1e-3


@pytest.mark.parametrize("count", [1, 5, 64, 127, 128, 200])
def test_both_forms_agree_for_any_number_of_tokens_and_any_batch(count):
    shapes = {
        "norm1.weight": (96,),
        "norm1.bias": (96,),
        "norm2.weight": (128,),
        "norm2.bias": (128,),
    }
    shapes |= {
        "to_q.weight": (2 * HEAD_WIDTH, 128),
        "to_kv.weight": (4 * HEAD_WIDTH, 96),
        "to_out.weight": (128, 2 * HEAD_WIDTH),
    }
    layer = PerceiverAttentionCA.from_state(
        {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    )
    tokens = torch.from_numpy(seeded("tokens", (count, 96)))
    img = torch.from_numpy(seeded("img", (3, 10, 128)))
    plain, folded = (
        PlainAttention(layer, tokens)(img),
        FoldedAttention(layer, tokens, torch.float32, "cpu")(img),
    )
    assert plain.shape == img.shape
    assert relative(folded, plain) <= 1e-5
    assert (
        relative(folded[:1], FoldedAttention(layer, tokens, torch.float32, "cpu")(img[:1])) <= 1e-6
    )


def test_one_identity_keeps_at_most_130_mb_in_bfloat16(world):
    layer, tokens, _, _ = world
    folded = FoldedAttention(layer, tokens, torch.bfloat16, "cpu")
    assert 20 * sum(buffer.numel() * buffer.element_size() for buffer in folded.buffers()) <= 130e6
    assert folded.c.dtype == torch.float32


def test_a_swapped_key_and_value_would_be_noticed(world):
    layer, tokens, img, truth = world
    state = dict(layer.state_dict())
    state["to_kv.weight"] = torch.cat(state["to_kv.weight"].chunk(2)[::-1])
    assert (
        relative(
            FoldedAttention(PerceiverAttentionCA.from_state(state), tokens, torch.float32, "cpu")(
                img
            ),
            truth["out_float32"],
        )
        > 0.1
    )
