"""Where kernels meet what they replace: PuLID's terms and packed layers, behind a trial, and what
is said when a trial fails.
"""

from __future__ import annotations

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from support.distances import relative
from torch import Tensor

from pulid_generate.injection import fused
from pulid_generate.injection.attention import FoldedAttention, PerceiverAttentionCA, PlainAttention
from pulid_generate.injection.terms import Term
from pulid_generate.kernels import availability, trials
from pulid_generate.packed import ggml as packed
from pulid_generate.packed.ggml import QuantizedLinear, QuantizedWeight, multiply_single_tokens

identity = pytest.importorskip("pulid_generate.kernels.identity")
identity_check = pytest.importorskip("pulid_generate.kernels.identity_check")
products = pytest.importorskip("pulid_generate.kernels.products")
products_check = pytest.importorskip("pulid_generate.kernels.products_check")
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

WIDTH, TOKENS, HEADS, LENGTH = 128, 4, 2, 6


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """No note of another test, and trials of few tokens, which the interpreter takes one by one."""
    monkeypatch.setattr(trials, "_notes", {})
    monkeypatch.setattr(identity_check, "MANY", 5)
    fused._trusted_kernels.cache_clear()
    yield
    fused._trusted_kernels.cache_clear()


@pytest.fixture
def layer(kernel_device) -> PerceiverAttentionCA:
    torch.manual_seed(3)
    made = PerceiverAttentionCA(WIDTH, 64, HEADS)
    return made.requires_grad_(False)


def folded(layer, device, dtype=torch.float32) -> FoldedAttention:
    return FoldedAttention(layer, 3 * torch.randn(TOKENS, 64), dtype, device)


def served(monkeypatch, device) -> None:
    """As if this device were a card that runs the kernels."""
    monkeypatch.setattr(fused, "serves", lambda asked: asked.type == device.type)
    monkeypatch.setattr(packed, "serves", lambda asked: asked.type == device.type)


REGION = torch.tensor([0.0, 0.3, 1.0, 1.0, 0.0, 0.5])


@pytest.mark.parametrize(
    ("region", "rows"), [(None, None), (REGION, None), (None, (1,)), (REGION, (0, 2))]
)
def test_terms_add_by_the_kernels_what_they_add_without(
    kernel_device, monkeypatch, layer, region, rows
):
    img_tokens = torch.randn(3, LENGTH, WIDTH, device=kernel_device)
    total = torch.randn(3, LENGTH, WIDTH, device=kernel_device)
    term = Term([folded(layer, kernel_device)], region=region, rows=rows)
    plain = term.add(total.clone(), img_tokens, 0, 0.7)
    launched = []
    sound = identity.add_identity

    def watched(*arguments) -> Tensor:
        launched.append(arguments)
        return sound(*arguments)

    monkeypatch.setattr(identity, "add_identity", watched)
    served(monkeypatch, kernel_device)
    found = term.add(total, img_tokens, 0, 0.7)
    assert launched
    assert relative(found.cpu(), plain.cpu()) < 1e-5
    assert relative(found.cpu(), total.cpu()) > 1e-3
    untouched = torch.ones(3, LENGTH, dtype=torch.bool)
    of_region = torch.ones(LENGTH, dtype=torch.bool) if region is None else region > 0
    for row in range(3):
        if rows is None or row in rows:
            untouched[row] &= ~of_region
    assert torch.equal(found.cpu()[untouched], total.cpu()[untouched])
    assert not trials.take_notes()


def test_what_is_not_folded_or_wants_gradients_goes_the_plain_way(
    kernel_device, monkeypatch, layer
):
    served(monkeypatch, kernel_device)
    img_tokens = torch.randn(1, LENGTH, WIDTH, device=kernel_device)
    plain = PlainAttention(layer, torch.randn(TOKENS, 64))
    assert fused.kernels_for(plain, img_tokens) is None
    assert fused.kernels_for(folded(layer, kernel_device), img_tokens) is identity
    assert fused.kernels_for(folded(layer, kernel_device), img_tokens.bfloat16()) is None
    img_tokens.requires_grad_(True)
    assert fused.kernels_for(folded(layer, kernel_device), img_tokens) is None
    monkeypatch.undo()
    assert fused.kernels_for(folded(layer, "cpu"), torch.randn(1, LENGTH, WIDTH)) is None


def test_a_card_that_adds_something_else_is_not_trusted(kernel_device, monkeypatch, layer):
    served(monkeypatch, kernel_device)
    sound = identity.add_identity
    monkeypatch.setattr(
        identity, "add_identity", lambda total, img, *rest: sound(total, img.roll(1, 1), *rest)
    )
    img_tokens = torch.randn(1, LENGTH, WIDTH, device=kernel_device)
    term = Term([folded(layer, kernel_device)])
    found = term.add(img_tokens, img_tokens, 0, 1.0)
    assert torch.equal(found, img_tokens + term.layers[0](img_tokens))
    [note] = trials.take_notes()
    assert note.startswith("PuLID's layers: torch's own operations run on ")
    assert "other numbers there than torch" in note
    # said once
    assert trials.take_notes() == []


def test_a_kernel_that_does_not_fit_the_card_is_a_note(kernel_device, monkeypatch, layer):
    def fails(*arguments):
        raise RuntimeError("out of resource: shared memory\nmore of it")

    monkeypatch.setattr(identity, "add_identity", fails)
    assert not identity_check.passes(kernel_device, torch.float32, WIDTH, HEADS, TOKENS)
    [note] = trials.take_notes()
    assert note.endswith("because the kernel fails there: out of resource: shared memory")


def quantised(kind: Kind, device) -> QuantizedLinear:
    weight = gguf.quantize(torch.randn(24, 64).numpy(), kind)
    layer = QuantizedLinear(QuantizedWeight(torch.from_numpy(weight), kind), bias=True)
    layer.bias = torch.nn.Parameter(torch.randn(24), requires_grad=False)
    return layer.to(device)


def test_a_single_token_is_multiplied_from_the_bytes(kernel_device, monkeypatch):
    model = torch.nn.Sequential(quantised(Kind.Q8_0, kernel_device))
    one, two = (torch.randn(count, 64, device=kernel_device) for count in (1, 2))
    plain = model(one)
    assert multiply_single_tokens(model, torch.device("meta"), torch.float32) == 0
    served(monkeypatch, kernel_device)
    assert multiply_single_tokens(model, kernel_device, torch.float32) == 1
    launched = []
    sound = products.multiply_ggml
    monkeypatch.setattr(
        products, "multiply_ggml", lambda *given: launched.append(given) or sound(*given)
    )
    assert relative(model(one).cpu(), plain.cpu()) < 1e-6
    assert len(launched) == 1
    # more tokens, and another arithmetic, are multiplied by the widened matrix
    model(two)
    model(one.bfloat16())
    assert len(launched) == 1


@pytest.mark.parametrize("kind", [Kind.Q4_K, Kind.Q6_K, Kind.Q5_0], ids=lambda kind: kind.name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_trial_of_products(kernel_device, monkeypatch, kind, dtype):
    assert products_check.passes(kernel_device, dtype, int(kind))
    sound = products.multiply_ggml
    monkeypatch.setattr(
        products, "multiply_ggml", lambda x, *rest: sound(x.roll(1, dims=-1), *rest)
    )
    assert not products_check.passes(kernel_device, dtype, int(kind))


def test_a_card_without_kernels_is_a_note_and_a_cpu_is_none(monkeypatch):
    monkeypatch.setattr(availability, "available", lambda device: "the package triton is missing")
    availability.ask(torch.device("cpu"))
    assert not trials.take_notes()
    availability.ask(torch.device("cuda"))
    assert trials.take_notes() == [
        "GPU kernels: torch's own operations run instead, because the package triton is missing"
    ]
