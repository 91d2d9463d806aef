"""fp8 weights stay fp8 in memory, and give what the widened ones give."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.distances import relative
from support.models.flux_files import scaled_fp8, widened
from support.models.golden_flux import inputs, tensors, velocity
from support.tokens import t5_ids

from pulid_extract.shared.model_files import read_header
from pulid_generate.errors import CheckpointError
from pulid_generate.files.model import Model
from pulid_generate.files.storage import quality_notes
from pulid_generate.memory.footprint import Footprint
from pulid_generate.models.flux import load_flux
from pulid_generate.models.t5 import T5Text
from pulid_generate.packed.fp8 import Fp8Linear, Fp8Weight
from pulid_generate.packed.layers import PackedEmbedding, swap_halves
from pulid_generate.packed.widening import widen_while_running

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2


@pytest.fixture(scope="module")
def schnell(golden_shapes):
    """A Flux of two blocks of each kind."""
    shapes = golden_shapes("flux")["schnell"]
    small = {
        name: shape
        for name, shape in shapes.items()
        if not name.startswith(("double", "single")) or int(name.split(".")[1]) < 2
    }
    return tensors(small)


def stored(kind: str, state):
    """One of the forms in which fp8 files come."""
    if kind in ("e4m3", "e5m2"):  # ComfyUI's plain files: everything, biases and norms too
        return {name: value.to(E4M3 if kind == "e4m3" else E5M2) for name, value in state.items()}
    if kind == "scaled":
        return scaled_fp8(state) | {"scaled_fp8": torch.zeros(2).to(E4M3)}
    if kind == "weight_scale":
        made = scaled_fp8(state, scale_name="weight_scale")
        return made | {
            name.replace("weight_scale", "input_scale"): torch.ones(())
            for name in made
            if name.endswith("weight_scale")
        }
    if kind == "per row":
        return scaled_fp8(state, per_row=True, scale_name="weight_scale")
    made = scaled_fp8(state, scale_name="weight_scale")  # comfy_quant
    said = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    return made | {
        name.replace("weight_scale", "comfy_quant"): said.clone()
        for name in made
        if name.endswith("weight_scale")
    }


@pytest.mark.parametrize(
    "kind", ["e4m3", "e5m2", "scaled", "weight_scale", "per row", "comfy_quant"]
)
def test_velocities_are_those_of_the_widened_model(schnell, tmp_path, kind):
    state = stored(kind, schnell)
    save_file(state, tmp_path / "fp8.safetensors")
    save_file(widened(state), tmp_path / "wide.safetensors")
    kept = load_flux(read_header(tmp_path / "fp8.safetensors"), torch.float32)
    wide = load_flux(read_header(tmp_path / "wide.safetensors"), torch.float32)
    early = load_flux(read_header(tmp_path / "fp8.safetensors"), torch.float32, dequantize=True)
    layers = [module for module in kept.modules() if isinstance(module, Fp8Linear)]
    assert len(layers) == 2 * 14 + 2 * 6 + 8  # every linear layer
    assert all(layer.data.dtype in (E4M3, E5M2) for layer in layers)
    # biases and norms stay plain
    assert all(parameter.dtype == torch.float32 for parameter in kept.parameters())
    assert not any(isinstance(module, Fp8Linear) for module in early.modules())
    for name, layer in kept.named_modules():
        if isinstance(layer, Fp8Linear):  # bit for bit
            assert torch.equal(
                layer.weight.dequantize(torch.float32), wide.get_submodule(name).weight
            ), name
            assert torch.equal(
                layer.weight.dequantize(torch.float32), early.get_submodule(name).weight
            ), name
    x = inputs()
    ours, truth, widened_early, original = (
        velocity(model, x["latent"], 0.7, x["txt"], x["vec"])
        for model in (kept, wide, early, load_flux_of(schnell, tmp_path / "original.safetensors"))
    )
    assert relative(ours, truth) < 1e-6  # products of equal numbers; sums may run in another order
    assert relative(widened_early, truth) < 1e-6
    assert relative(truth, original) > 0.005  # rounding to 8 bits shows


def load_flux_of(state, path):
    save_file(state, path)
    return load_flux(read_header(path), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [None, torch.tensor(0.37), torch.rand(300, 1)])
def test_each_number_is_rounded_once(dtype, scale):
    data = torch.randn(300, 64).to(E4M3)
    truth = data.double() * (1 if scale is None else scale.double())
    weight = Fp8Weight(data, scale)
    assert torch.equal(weight.dequantize(dtype), truth.float().to(dtype))
    first, second = weight.split([100, 200])
    assert torch.equal(
        torch.cat([first.dequantize(dtype), second.dequantize(dtype)]), weight.dequantize(dtype)
    )
    assert torch.equal(swap_halves(weight).dequantize(dtype), weight.dequantize(dtype).roll(150, 0))
    ids = torch.tensor([[3, 299], [0, 3]])
    assert torch.equal(PackedEmbedding(weight, dtype)(ids), weight.dequantize(dtype)[ids])


def test_a_layer_computes_in_the_dtype_of_its_input():
    layer = Fp8Linear(Fp8Weight(torch.randn(6, 4).to(E4M3), torch.tensor(2.0)), bias=True)
    layer.bias = torch.nn.Parameter(torch.ones(6), requires_grad=False)
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.randn(2, 3, 4).to(dtype)
        assert torch.equal(
            layer(x),
            torch.nn.functional.linear(
                x, (layer.data.float() * 2).to(dtype), torch.ones(6, dtype=dtype)
            ),
        )


@pytest.mark.parametrize("kind", ["e4m3", "scaled", "per row"])
def test_t5_stays_fp8_and_its_feed_forward_keeps_its_precision(micro, tmp_path, kind):
    """transformers casts activations to wo.weight.dtype before wo: with fp8 there, states would be
    garbage without an error.
    """
    state = load_file(micro / "t5xxl_fp16.safetensors")
    del state["encoder.embed_tokens.weight"]
    made = stored(kind, state)
    save_file(made, tmp_path / "fp8.safetensors")
    save_file(widened(made), tmp_path / "wide.safetensors")
    ours, wide = (
        T5Text.load(read_header(tmp_path / f"{name}.safetensors"), torch.float32)
        for name in ("fp8", "wide")
    )
    assert sum(isinstance(module, Fp8Linear) for module in ours.model.modules()) == 2 * 7 + 1
    ids = t5_ids(micro / "tokenizer.json", "a photo of a cat", 24)
    assert torch.equal(ours.encode(ids), wide.encode(ids))
    half = T5Text.load(
        read_header(tmp_path / "fp8.safetensors"), None
    )  # 16 bits kept, widened per layer
    widen_while_running(half.model)
    assert half.encode(ids).dtype == torch.float32
    assert relative(half.encode(ids), wide.encode(ids)) < 1e-6


def test_memory_is_counted_as_it_will_be(schnell, tmp_path, micro):
    plain = Footprint.of(read_header(micro / "t5xxl_fp16.safetensors"), Model.T5.marker).bytes(4)
    assert plain == 4 * sum(
        value.numel() for value in load_file(micro / "t5xxl_fp16.safetensors").values()
    )
    save_file(stored("e4m3", schnell), tmp_path / "fp8.safetensors")
    header = read_header(tmp_path / "fp8.safetensors")
    matrices = sum(value.numel() for value in schnell.values() if value.ndim == 2)
    rest = sum(value.numel() for value in schnell.values() if value.ndim != 2)
    assert Footprint.of(header, Model.FLUX.marker).bytes(4) == matrices + 4 * rest
    assert Footprint.of(header, Model.FLUX.marker).bytes(4, dequantize=True) == 4 * (
        matrices + rest
    )


def test_e5m2_is_noted_and_e4m3_is_not(schnell, tmp_path):
    for kind, count in (("e4m3", 0), ("e5m2", 1)):
        save_file(stored(kind, schnell), tmp_path / f"{kind}.safetensors")
        notes = quality_notes(read_header(tmp_path / f"{kind}.safetensors"), Model.FLUX.marker)
        assert len(notes) == count
        assert all("e5m2" in note and "e4m3 or a Q8_0 GGUF" in note for note in notes)


NAME = "double_blocks.0.img_mlp.0"


def metadata_of(said: str) -> dict[str, str]:
    return {"_quantization_metadata": json.dumps({"layers": {NAME: {"format": said}}})}


@pytest.mark.parametrize("said", ["float8_e4m3fn", "nvfp4", "mxfp8", "int8_tensorwise"])
@pytest.mark.parametrize("where", ["tensor", "metadata"])
def test_comfyuis_formats_are_read_or_refused_by_name(schnell, tmp_path, said, where):
    state = scaled_fp8(schnell, scale_name="weight_scale")
    blob = torch.tensor(list(json.dumps({"format": said}).encode()), dtype=torch.uint8)
    extra = {f"{NAME}.comfy_quant": blob} if where == "tensor" else {}
    save_file(
        state | extra,
        tmp_path / "f.safetensors",
        metadata_of(said) if where == "metadata" else None,
    )
    header = read_header(tmp_path / "f.safetensors")
    if said == "float8_e4m3fn":
        load_flux(header, torch.float32)
        return
    with pytest.raises(
        CheckpointError,
        match=f"stored as {said}, which cannot be read; use the bfloat16, fp8 or GGUF file",
    ):
        load_flux(header, torch.float32)


def test_damaged_descriptions_are_one_line(schnell, tmp_path):
    save_file(
        schnell | {f"{NAME}.comfy_quant": torch.zeros(3, dtype=torch.uint8)},
        tmp_path / "f.safetensors",
    )
    with pytest.raises(CheckpointError, match=r"comfy_quant is damaged"):
        load_flux(read_header(tmp_path / "f.safetensors"), torch.float32)
    save_file(schnell, tmp_path / "f.safetensors", {"_quantization_metadata": "{"})
    with pytest.raises(CheckpointError, match="_quantization_metadata is damaged"):
        load_flux(read_header(tmp_path / "f.safetensors"), torch.float32)
