"""The kernels of PuLID's folded layer, against the torch code and against float64."""

from __future__ import annotations

import pytest
import torch
from support.bits import DTYPES
from torch import Tensor

from pulid_generate.injection.attention import FoldedAttention, PerceiverAttentionCA
from pulid_generate.injection.terms import Term

identity = pytest.importorskip("pulid_generate.kernels.identity")
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # numpy's, of tokens that are NaN
]

WIDTH, TOKEN_WIDTH = 192, 96
ROUNDING = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12}


def folded(tokens: int, dtype: torch.dtype, heads: int = 3, width: int = WIDTH) -> FoldedAttention:
    """A seeded layer for seeded identity tokens, in torch, on the CPU."""
    with torch.random.fork_rng():
        torch.manual_seed(tokens)
        layer = PerceiverAttentionCA(width, TOKEN_WIDTH, heads)
        for norm in (layer.norm1, layer.norm2):
            torch.nn.init.normal_(norm.weight, 1, 0.2)
            torch.nn.init.normal_(norm.bias, 0, 0.2)
        id_tokens = 3 * torch.randn(tokens, TOKEN_WIDTH)
    return FoldedAttention(layer.requires_grad_(False), id_tokens, dtype, "cpu")


def image(batch: int, length: int, dtype: torch.dtype, width: int = WIDTH) -> Tensor:
    """(batch, length, width), with a mean and a scale of its own for every token."""
    generator = torch.Generator().manual_seed(length)
    numbers = torch.randn(batch, length, width + 2, generator=generator, dtype=torch.float64)
    return (numbers[..., 2:] * numbers[..., :1].exp() + numbers[..., 1:2]).to(dtype)


def exact(layer: FoldedAttention, img_tokens: Tensor) -> Tensor:
    """CA(img_tokens) in float64, of the layer's own rounded matrices."""
    x = img_tokens.double()
    rstd = (x.var(-1, keepdim=True, correction=0) + 1e-5).rsqrt()
    logits = rstd * (x @ layer.a.double().T) + layer.c.double()
    weights = logits.unflatten(-1, (layer.heads, -1)).softmax(-1).flatten(-2)
    return weights @ layer.b.double().T


def run(device, layer, total, img_tokens, weight, share=None) -> Tensor:
    """The kernels' result, on the CPU."""
    folded = (x.to(device) for x in (layer.a, layer.c, layer.b))
    img_on_device = img_tokens.to(device)
    total = img_on_device if total is img_tokens else total.to(device)
    weight = torch.tensor([weight], device=device)
    share = None if share is None else share.to(device)
    return identity.add_identity(total, img_on_device, *folded, layer.heads, weight, share).cpu()


def error(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("tokens", [1, 5, 32, 33, 100])
def test_as_exact_as_the_torch_code(kernel_device, tokens, dtype):
    """70 image tokens: one tile and a bit."""
    layer, img_tokens = folded(tokens, dtype), image(1, 70, dtype)
    expected = img_tokens.double() + 0.7 * exact(layer, img_tokens)
    found = run(kernel_device, layer, img_tokens, img_tokens, 0.7)
    in_torch = Term([layer]).add(img_tokens, img_tokens, 0, 0.7)
    assert found.dtype == dtype
    assert error(found, expected) < max(1.02 * error(in_torch, expected), 4 * ROUNDING[dtype])
    # what is added, alone: not hidden behind the image tokens
    added = run(kernel_device, layer, torch.zeros_like(img_tokens), img_tokens, 1.0)
    assert error(added, exact(layer, img_tokens)) < 8 * ROUNDING[dtype]


@pytest.mark.parametrize("heads", [1, 2, 16])
def test_heads_and_an_odd_width(kernel_device, heads):
    layer, img_tokens = folded(32, torch.float16, heads, width=200), image(1, 9, torch.float16, 200)
    expected = img_tokens.double() + exact(layer, img_tokens)
    found = run(kernel_device, layer, img_tokens, img_tokens, 1.0)
    assert error(found, expected) < 2**-11


def test_many_image_tokens_take_other_tiles(kernel_device):
    layer, img_tokens = folded(7, torch.bfloat16), image(2, 1100, torch.bfloat16)
    expected = img_tokens.double() - exact(layer, img_tokens)
    assert error(run(kernel_device, layer, img_tokens, img_tokens, -1.0), expected) < 2**-8


def test_results_do_not_move(kernel_device):
    """A kernel that reads what another part of it is writing gives other numbers now and then."""
    layer, img_tokens = folded(32, torch.bfloat16), image(1, 300, torch.bfloat16)
    first = run(kernel_device, layer, img_tokens, img_tokens, 1.0)
    for _ in range(20 if kernel_device.type == "cuda" else 1):
        assert torch.equal(run(kernel_device, layer, img_tokens, img_tokens, 1.0), first)


def test_image_part_of_a_sequence(kernel_device):
    """Single blocks hand over a view of the text's and the image's tokens."""
    layer, sequence = folded(32, torch.bfloat16), image(2, 60, torch.bfloat16)
    view = sequence.to(kernel_device)[:, 23:]
    plain = view.contiguous()
    arguments = [x.to(kernel_device) for x in (layer.a, layer.c, layer.b)]
    weight = torch.tensor([1.0], device=kernel_device)
    found = identity.add_identity(view, view, *arguments, layer.heads, weight)
    assert torch.equal(found, identity.add_identity(plain, plain, *arguments, layer.heads, weight))
    assert error(found.cpu(), plain.cpu().double() + exact(layer, plain.cpu())) < 2**-8


@pytest.mark.parametrize("region", ["part", "soft", "none of a tile"])
@pytest.mark.parametrize("rows", [None, [1, 2]], ids=["all rows", "two rows"])
def test_regions_and_rows(kernel_device, region, rows):
    """As Term computes them; and where a person is not, not a bit changes."""
    length, dtype = 150, torch.bfloat16
    places = torch.arange(length)
    region = {
        "part": (places % 7 < 3).float(),
        "soft": (places.float() / length - 0.2).clamp(0, 1),
        "none of a tile": (places > 140).float(),
    }[region]
    layer, img_tokens = folded(32, dtype), image(3, length, dtype)
    total = image(3, length, dtype).flip(0)
    share = region.expand(3, length)
    if rows is not None:
        there = torch.zeros(3)
        there[rows] = 1
        share = there[:, None] * region
    before, original = total.clone(), img_tokens.clone()
    found = run(kernel_device, layer, total, img_tokens, 1.3, share)
    in_torch = Term([layer], region=region, rows=rows).add(total.clone(), img_tokens, 0, 1.3)
    expected = total.double() + 1.3 * share[..., None] * exact(layer, img_tokens)
    assert torch.equal(total, before)
    assert torch.equal(img_tokens, original)
    outside = share == 0
    assert torch.equal(found[outside], total[outside])
    assert not torch.equal(found[~outside], total[~outside])
    assert error(found, expected) < 1.02 * error(in_torch, expected)


def test_several_people_are_a_sum(kernel_device):
    dtype = torch.float32
    img_tokens = image(1, 40, dtype)
    first, second = folded(32, dtype), folded(12, dtype)
    region = torch.linspace(0, 1, 40)
    total = run(kernel_device, first, img_tokens, img_tokens, 0.8)
    total = run(kernel_device, second, total, img_tokens, 0.5, region.expand(1, 40))
    expected = img_tokens.double() + 0.8 * exact(first, img_tokens)
    expected += 0.5 * region[:, None] * exact(second, img_tokens)
    assert error(total, expected) < 2**-22


@pytest.mark.parametrize("name", ["a", "c", "b", "img_tokens"])
def test_nan_shows_at_weight_0(kernel_device, name):
    layer, img_tokens = folded(32, torch.float16), image(1, 20, torch.float16)
    # total has no NaN of its own
    total = img_tokens.clone()
    assert torch.equal(run(kernel_device, layer, total, img_tokens, 0.0), total)
    tensor = img_tokens[0] if name == "img_tokens" else getattr(layer, name)
    tensor[3] = float("nan")
    assert run(kernel_device, layer, total, img_tokens, 0.0).isnan().any()


def test_nan_stays_within_its_region(kernel_device):
    layer, img_tokens = folded(32, torch.float16), image(1, 20, torch.float16)
    layer.b[:] = float("nan")
    share = (torch.arange(20) < 4).float().expand(1, 20)
    found = run(kernel_device, layer, img_tokens, img_tokens, 1.0, share)
    assert found[:, :4].isnan().all()
    assert torch.equal(found[:, 4:], img_tokens[:, 4:])


def test_infinite_tokens_become_nan(kernel_device):
    """As in the torch code: the variance of such a token is not a number."""
    layer, img_tokens = folded(4, torch.float16), image(1, 3, torch.float16)
    img_tokens[0, 1, 5] = float("inf")
    found = run(kernel_device, layer, img_tokens, img_tokens, 0.0)
    in_torch = Term([layer]).add(img_tokens, img_tokens, 0, 0.0)
    assert torch.equal(found.isnan(), in_torch.isnan())
    assert found[0, 1].isnan().all()


def test_refused():
    layer, img_tokens = folded(4, torch.float16), image(1, 3, torch.float16)
    weight = torch.ones(1)
    arguments = (layer.a, layer.c, layer.b, layer.heads, weight)
    with pytest.raises(ValueError, match="expected bfloat16"):
        identity.add_identity(img_tokens.double(), img_tokens.double(), *arguments)
    with pytest.raises(ValueError, match="total, a, c, b of shapes"):
        identity.add_identity(img_tokens[:, :2], img_tokens, *arguments)
    with pytest.raises(ValueError, match="share of shape"):
        identity.add_identity(img_tokens, img_tokens, *arguments, torch.ones(3))
    with pytest.raises(ValueError, match="12 folded rows for 5 heads"):
        identity.add_identity(img_tokens, img_tokens, layer.a, layer.c, layer.b, 5, weight)
