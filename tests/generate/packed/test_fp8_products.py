"""Products in 8-bit floating point, by torch's own arithmetic: their numbers, which layers, which
files and cards.
"""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from support.distances import relative
from support.models.flux_files import scaled_fp8, widened
from support.models.golden_flux import fewer_blocks, inputs, tensors, velocity
from support.models.micro_flags import micro_files, model_flags

from pulid_extract.shared.model_files import read_header
from pulid_generate.errors import PlacementError, RequestError
from pulid_generate.files.fp8_layers import multiplies_in_fp8
from pulid_generate.files.model import Model
from pulid_generate.kernels import trials
from pulid_generate.memory.footprint import Footprint
from pulid_generate.memory.placement import Placement
from pulid_generate.models.flux import load_flux
from pulid_generate.packed import fp8_products
from pulid_generate.packed.fp8_products import (
    Fp8ProductLinear,
    multiply,
    quantize_rows,
    reason_against,
    use_fp8_products,
)
from pulid_generate.pipeline.loading import Models

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def files(golden_shapes, tmp_path_factory):
    """name -> a small Flux of two blocks of each kind."""
    folder = tmp_path_factory.mktemp("fp8")
    state = tensors(fewer_blocks(golden_shapes("flux")["schnell"], 2, 2))
    states = {"plain": state, "one": scaled_fp8(state), "rows": scaled_fp8(state, per_row=True)}
    states["wide"] = widened(states["rows"])
    found = {}
    for name, tensors_of in states.items():
        save_file(tensors_of, folder / f"{name}.safetensors")
        found[name] = read_header(folder / f"{name}.safetensors")
    return found


def predict(model):
    given = inputs()
    return velocity(model, given["latent"], 0.5, given["txt"], given["vec"])


def test_a_product_is_that_of_the_rounded_numbers():
    random = torch.Generator().manual_seed(1)
    x, weight = (torch.randn(count, 64, generator=random) for count in (5, 32))
    bias = torch.randn(32, generator=random)
    x[2] = 0
    (rows, row_scales), (data, scales) = quantize_rows(x), quantize_rows(weight)
    assert rows.float().abs().amax(1).tolist() == [448, 448, 0, 448, 448]
    found = multiply(rows, row_scales, data, scales, bias, torch.float32)
    exact = (rows.double() * row_scales) @ (data.double() * scales).T + bias
    assert relative(found, exact.float()) < 1e-6
    # three bits after the point: 2 to 4 % a number, both sides
    assert 0.01 < relative(found, x @ weight.T + bias) < 0.06


def test_the_blocks_matrices_multiply_so_and_the_rest_keeps_its_bits(files):
    model = load_flux(files["plain"], torch.float32)
    plain = predict(model)
    assert use_fp8_products(model, CPU, multiplies_in_fp8) == 2 * 12 + 2 * 5
    kept = [name for name, module in model.named_modules() if type(module) is torch.nn.Linear]
    assert all("norm" in name for name in kept if "blocks" in name)
    assert {"x_embedder", "context_embedder", "proj_out", "norm_out.linear"} <= {*kept}
    distance = relative(predict(model), plain)
    assert 1e-3 < distance < 0.1


@pytest.mark.parametrize("name", ["one", "rows"])
def test_a_file_in_fp8_is_multiplied_as_it_is(files, name):
    model = load_flux(files[name], torch.float32)
    stored = model.transformer_blocks[0].attn.to_q.data
    predicted = predict(model)
    use_fp8_products(model, CPU, multiplies_in_fp8)
    layer = model.transformer_blocks[0].attn.to_q
    assert isinstance(layer, Fp8ProductLinear)
    assert layer.data.data_ptr() == stored.data_ptr()
    # only the activations are rounded now
    assert 1e-4 < relative(predict(model), predicted) < 0.1


def test_the_plan_counts_what_is_loaded(files):
    for name in ("plain", "rows"):
        model = load_flux(files[name], torch.bfloat16)
        use_fp8_products(model, CPU, multiplies_in_fp8)
        loaded = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))
        planned = Footprint.of(files[name], Model.FLUX.marker).in_fp8().bytes(2)
        # a file's own scales are counted in the width of the plain numbers
        assert loaded <= planned + 1000
        assert planned <= 1.02 * loaded


@pytest.mark.parametrize(
    ("layer", "shape", "multiplies"),
    [
        ("double_blocks.3.img_attn.qkv", (384, 128), True),
        ("model.diffusion_model.single_blocks.0.linear1", (896, 128), True),
        ("transformer_blocks.0.ff_context.net.0.proj", (512, 128), True),
        ("single_transformer_blocks.9.proj_out", (128, 640), True),
        ("double_blocks.3.txt_mod.lin", (768, 128), False),
        ("single_blocks.3.modulation.lin", (384, 128), False),
        ("transformer_blocks.0.norm1_context.linear", (768, 128), False),
        ("single_transformer_blocks.0.norm.linear", (384, 128), False),
        ("proj_out", (64, 128), False),
        ("img_in", (128, 64), False),
        ("double_blocks.3.img_attn.qkv", (384, 120), False),
        ("double_blocks.3.img_attn.norm.query_norm", (128,), False),
    ],
)
def test_which_layers(layer, shape, multiplies):
    assert multiplies_in_fp8(layer, shape) is multiplies


def test_which_cards(monkeypatch):
    cuda = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert "needs a GPU of compute capability 8.9, this one has 8.6" in reason_against(
        cuda, torch.bfloat16
    )
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert reason_against(cuda, torch.bfloat16) == ""
    assert "take --dtype bfloat16 instead of float16" in reason_against(cuda, torch.float16)
    assert "the device is mps" in reason_against(torch.device("mps"), torch.bfloat16)
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "AMD" in reason_against(cuda, torch.bfloat16)


def test_a_card_that_multiplies_wrongly_is_refused(monkeypatch):
    monkeypatch.setattr(trials, "_notes", {})
    fp8_products.check_products(CPU)
    sound = fp8_products.multiply
    monkeypatch.setattr(
        fp8_products, "multiply", lambda rows, *rest: sound(rows.float().roll(1, 1), *rest)
    )
    with pytest.raises(PlacementError, match="did not multiply e4m3 as it should"):
        fp8_products.check_products(CPU)


def test_what_cannot_be_so_is_one_line(generate, micro, monkeypatch, tmp_path):
    ran = generate(*model_flags(micro), "-p", "a", "--compute", "fp8", "-o", tmp_path / "never.png")
    assert ran.code == 2
    assert "compute fp8: is for NVIDIA GPUs; the device is cpu; or leave it out" in ran.err
    # as on a card that can
    monkeypatch.setattr("pulid_generate.pipeline.loading.reason_against", lambda *_: "")
    files = micro_files(micro)
    place = Placement.choose("cpu", "bfloat16")
    with pytest.raises(RequestError, match="leave one out"):
        Models(files, place, compute="fp8", dequantize=True)
    assert Models(files, place, compute="fp8").compute == "fp8"
    monkeypatch.setattr(type(files.flux.header), "format", "gguf", raising=False)
    object.__setattr__(files.flux.header, "format", "gguf")
    with pytest.raises(RequestError, match="holds ggml's types"):
        Models(files, place, compute="fp8")


def test_the_command_draws_with_it(generate, micro, monkeypatch, tmp_path):
    """Emulated: the same rounding, by a CPU."""
    monkeypatch.setattr("pulid_generate.pipeline.loading.reason_against", lambda *_: "")
    drawn = []
    for compute in ("float", "fp8"):
        out = tmp_path / f"{compute}.png"
        size = ("-W", 64, "-H", 48, "--steps", 1, "--dtype", "bfloat16")
        ran = generate(*model_flags(micro), *size, "-p", "a", "--compute", compute, "-o", out)
        assert ran.code == 0, ran.err
        drawn.append(out.read_bytes())
    assert drawn[0] != drawn[1]
    assert b"bfloat16 fp8" in drawn[1]
