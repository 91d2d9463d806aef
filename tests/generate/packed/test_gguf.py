"""Flux in GGUF: every quantised type against gguf-py, and pictures that sd-cli drew from quantised
files.
"""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import load_file, save_file
from support.distances import psnr, relative
from support.models.gguf_copy import SAMPLE, write_gguf
from support.models.micro_flags import bare_picture, encoder_flags
from support.pictures.micro_drawing import drawn_kept_and_streamed

from pulid_extract.shared.model_files import read_header
from pulid_generate.models.flux import flux_shape, load_flux
from pulid_generate.packed.ggml import QuantizedLinear, QuantizedWeight

TYPES = [
    kind for kind in Q if kind in gguf.quants._type_traits and kind not in (Q.BF16, Q.F16, Q.F32)
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # random bytes are also infinite scales
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
def test_every_type_gives_gguf_pys_numbers(kind):
    block, size = gguf.GGML_QUANT_SIZES[kind]
    # more rows than one slice holds
    data = np.random.default_rng(kind).integers(0, 256, (260, 2 * size), np.uint8)
    with np.errstate(all="ignore"):
        truth = gguf.dequantize(data, kind)
    ours = QuantizedWeight(torch.from_numpy(data), kind)
    assert ours.shape == (260, 2 * block)
    np.testing.assert_allclose(
        ours.dequantize(torch.float32).numpy(), truth, rtol=1e-6, equal_nan=True
    )


def test_a_layer_computes_with_the_dequantised_weight():
    weight = np.random.default_rng(0).standard_normal((300, 64), np.float32)
    quantised = QuantizedWeight(torch.from_numpy(gguf.quantize(weight, Q.Q8_0)), Q.Q8_0)
    layer = QuantizedLinear(quantised, bias=True)
    layer.bias = torch.nn.Parameter(torch.ones(300), requires_grad=False)
    x = torch.randn(2, 5, 64)
    assert torch.allclose(layer(x), x @ quantised.dequantize(torch.float32).T + 1, atol=1e-5)
    assert relative(layer(x), x @ torch.from_numpy(weight).T + 1) < 0.01
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    parts = quantised.split([100, 200])
    assert torch.equal(
        parts[1].dequantize(torch.float32), quantised.dequantize(torch.float32)[100:]
    )


def test_sd_clis_own_file_is_read_and_stays_quantised():
    header = read_header(SAMPLE)
    shape = flux_shape(header)
    assert (shape.width, shape.double, shape.single, shape.guidance) == (256, 1, 2, True)
    model = load_flux(header, torch.float32)
    kept = [module for module in model.modules() if isinstance(module, QuantizedLinear)]
    # linear layers of one double and two single blocks, fused rows split
    assert len(kept) == 14 + 2 * 6
    assert all(module.data.dtype == torch.uint8 for module in kept)
    assert (
        model.transformer_blocks[0].norm1.linear.bias.dtype == torch.float32
    )  # BF16 one-dimensional tensors are bytes in gguf-py
    plain = load_flux(header, torch.float32, dequantize=True)
    assert not any(isinstance(module, QuantizedLinear) for module in plain.modules())
    assert torch.equal(plain.proj_out.weight, model.proj_out.weight)


@pytest.fixture
def base(micro):
    return *encoder_flags(micro), *bare_picture(steps=2)


@pytest.mark.parametrize(
    ("prefix", "architecture"), [("", "flux"), ("model.diffusion_model.", "pig")]
)
def test_quantised_pictures_are_near_and_dequantize_changes_nothing(
    generate, base, micro, person, tmp_path, prefix, architecture
):
    flux = micro / "flux1-schnell.safetensors"
    quantised = write_gguf(flux, tmp_path / "q8.gguf", Q.Q8_0, Q.F16, prefix, architecture)
    identity = (
        "--pulid-weights",
        micro / "pulid_flux_v0.9.1.safetensors",
        "--pulid-id-embedding",
        person,
    )
    runs = {"file": flux, "kept": quantised, "widened": quantised}
    for name, path in runs.items():
        flags = ("--dequantize",) if name == "widened" else ()
        result = generate(
            *base, *identity, *flags, "--diffusion-model", path, "-o", tmp_path / f"{name}.png"
        )
        assert result.code == 0, result.err
    assert (tmp_path / "kept.png").read_bytes() == (tmp_path / "widened.png").read_bytes()
    assert (tmp_path / "kept.png").read_bytes() != (tmp_path / "file.png").read_bytes()
    assert psnr(tmp_path / "kept.png", tmp_path / "file.png") > 30


def test_offloading_and_verify_work_with_quantised_weights(micro, person, tmp_path):
    from pulid_generate import ModelFiles

    quantised = write_gguf(micro / "flux1-schnell.safetensors", tmp_path / "q8.gguf", Q.Q8_0)
    files = ModelFiles.find(models_dir=micro, flux=quantised, t5_tokenizer=micro / "tokenizer.json")
    kept, streamed = drawn_kept_and_streamed(files, person)
    assert kept == streamed


def test_what_is_no_usable_gguf_is_refused_by_name(generate, base, micro, person, tmp_path):
    whole = SAMPLE.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[:-5000])
    (tmp_path / "cut-header.gguf").write_bytes(whole[:300])
    (tmp_path / "me.gguf").write_bytes(person.read_bytes())
    write_gguf(
        micro / "flux1-schnell.safetensors",
        tmp_path / "sd3.gguf",
        Q.Q8_0,
        prefix="x.",
        architecture="sd3",
    )
    for name, flag, message in (
        ("cut.gguf", "--diffusion-model", "truncated GGUF"),
        ("cut-header.gguf", "--diffusion-model", "truncated GGUF"),
        ("me.gguf", "--diffusion-model", "--pulid-id-embedding"),
        ("sd3.gguf", "--diffusion-model", "GGUF of architecture 'sd3'"),
        ("sd3.gguf", "--t5xxl", "GGUF of architecture 'sd3'"),
    ):
        error = generate(
            *base, "--diffusion-model", SAMPLE, flag, tmp_path / name, "-o", tmp_path / "o.png"
        ).error
        assert message in error
        assert name in error


def test_a_quantised_final_modulation_is_swapped_like_a_plain_one(micro, tmp_path):
    """BFL stores shift, scale; diffusers wants scale, shift. No public file quantises it, some tool
    will.
    """
    name = "final_layer.adaLN_modulation.1.weight"
    weight = load_file(micro / "flux1-schnell.safetensors")[name].float()
    writer = gguf.GGUFWriter(tmp_path / "q8.gguf", arch="flux")
    for other, tensor in load_file(micro / "flux1-schnell.safetensors").items():
        kind = Q.Q8_0 if other == name else Q.BF16
        writer.add_tensor(other, gguf.quantize(tensor.float().numpy(), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    layer = load_flux(read_header(tmp_path / "q8.gguf"), torch.bfloat16).norm_out.linear
    shift, scale = weight.chunk(2)
    assert (
        relative(
            QuantizedWeight(layer.data, layer.kind).dequantize(torch.float32),
            torch.cat([scale, shift]),
        )
        < 0.01
    )
    assert layer(torch.randn(1, weight.shape[1]).bfloat16()).dtype == torch.bfloat16


def test_a_quantised_file_with_one_matrix_missing_is_refused(generate, base, micro, tmp_path):
    state = load_file(micro / "flux1-schnell.safetensors")
    del state["single_blocks.5.linear2.weight"]
    save_file(state, tmp_path / "less.safetensors")
    quantised = write_gguf(tmp_path / "less.safetensors", tmp_path / "less.gguf", Q.Q8_0)
    assert (
        "missing single_transformer_blocks.5.proj_out.weight"
        in generate(*base, "--diffusion-model", quantised, "-o", tmp_path / "o.png").error
    )
