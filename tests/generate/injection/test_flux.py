"""Flux with PuLID against the reference: velocities, whole denoise loops, and the hooks'
manners.
"""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support.distances import relative
from support.models.golden_flux import inputs, tensors, velocity
from support.models.stock_models import stock_autoencoder, stock_flux
from support.paths import GOLDEN

from pulid_extract.shared.model_files import read_header
from pulid_generate.errors import IdentityError, WeightsError
from pulid_generate.injection.adapter import PulidAdapter
from pulid_generate.injection.hooks import attach, check_fit, hook_points, inject
from pulid_generate.models.flux import load_flux
from pulid_generate.sampling.denoise import denoise
from pulid_generate.sampling.guidance import Guidance
from pulid_generate.sampling.noise import make_noise, philox_randn
from pulid_generate.sampling.packing import pack, position_ids, unpack
from pulid_generate.sampling.schedules import make_schedule, resolution_mu

GUIDANCE, STEPS, TOKENS = 3.5, 6, 16


@pytest.fixture(scope="module")
def adapter(golden_files):
    return PulidAdapter.load(golden_files / "pulid.safetensors")


@pytest.fixture(scope="module", params=["dev", "schnell"])
def flux(request, golden_files):
    return request.param, load_flux(
        read_header(golden_files / f"{request.param}.safetensors"), torch.float32
    )


@pytest.mark.parametrize("case", ["no_id", "weight_0", "weight_0.7", "weight_1"])
@pytest.mark.parametrize("folded", [True, False])
def test_velocities_are_the_reference(flux, adapter, golden, case, folded):
    name, model = flux
    x = inputs()
    with attach(model) as injection:
        if case != "no_id":
            injection.layers = adapter.bind(x["id"], torch.float32, "cpu", folded=folded)
            injection.weight = float(case.split("_")[1])
        ours = velocity(model, x["latent"], 0.7, x["txt"], x["vec"])
    # 7e-7 on the machine that made the golden files. Elsewhere float32 exp() of the 128 timestep
    # frequencies may round the other way, and the guidance input multiplies that by 3,500: 1.4e-5
    # for dev on an AMD EPYC, for the reference's own formula as well as for ours
    assert relative(ours, golden("flux")[f"{name}.velocity.{case}"]) <= (
        2e-5 if name == "dev" else 1e-5
    )


def test_a_stock_model_is_injected_alike(flux, adapter):
    """diffusers' transformer and ours: the same velocities to the last bit, with an identity."""
    _, ours = flux
    x = inputs()
    with inject(ours, adapter, x["id"]):
        expected = velocity(ours, x["latent"], 0.7, x["txt"], x["vec"])
    stock = stock_flux(ours)
    with inject(stock, adapter, x["id"]):
        found = velocity(stock, x["latent"], 0.7, x["txt"], x["vec"])
    assert torch.equal(found, expected)
    with inject(stock, adapter, x["id"], id_weight=0.5):
        assert not torch.equal(velocity(stock, x["latent"], 0.7, x["txt"], x["vec"]), expected)


LOOPS = {
    "no_id": {"weight": None},
    "weight_1": {"weight": 1.0},
    "start_step_2": {"weight": 1.0, "id_start_step": 2},
    "true_cfg_3_from_step_1": {"weight": 1.0, "cfg_scale": 3.0, "cfg_start_step": 1},
    "true_cfg_3_from_step_3_start_2": {
        "weight": 1.0,
        "cfg_scale": 3.0,
        "cfg_start_step": 3,
        "id_start_step": 2,
    },
}


@pytest.mark.parametrize("case", LOOPS)
def test_denoise_loops_are_the_reference(flux, adapter, golden, case):
    name, model = flux
    x, options = inputs(), dict(LOOPS[case])
    weight = options.pop("weight")
    times = make_schedule("flux", STEPS, resolution_mu(TOKENS) if name == "dev" else None)
    id_start_step, guidance = options.pop("id_start_step", 0), Guidance(**options)
    with attach(model) as injection:
        bound = (
            {n: adapter.bind(x[n], torch.float32, "cpu") for n in ("id", "uncond_id")}
            if weight is not None
            else {}
        )
        injection.weight = weight or 0.0

        def predict(latent, t, *, step, branch):
            negative = branch == "negative"
            injection.layers = (
                bound.get("uncond_id" if negative else "id") if step >= id_start_step else None
            )
            return velocity(
                model,
                latent,
                t,
                x["neg_txt" if negative else "txt"],
                x["neg_vec" if negative else "vec"],
            )

        ours = denoise(predict, x["latent"], times, guidance=guidance)
    assert relative(ours, golden("flux")[f"{name}.latent.{case}"]) <= 1e-4


def test_schedules_are_the_reference():
    for key, truth in json.loads((GOLDEN / "schedule.json").read_text()).items():
        options = dict(part.split("=") for part in key.split())
        mu = resolution_mu(int(options["tokens"])) if options["shift"] == "True" else None
        np.testing.assert_allclose(
            make_schedule("flux", int(options["steps"]), mu), truth, rtol=0, atol=1e-7
        )


def test_pack_is_flux_order_and_unpack_its_inverse():
    x = torch.arange(16 * 4 * 6, dtype=torch.float32).reshape(1, 16, 4, 6)
    packed = pack(x)
    assert packed.shape == (1, 6, 64)
    # token 1 is row 0, column 1: cells (0..1, 2..3), channel slowest
    assert packed[0, 1, :4].tolist() == [x[0, 0, 0, 2], x[0, 0, 0, 3], x[0, 0, 1, 2], x[0, 0, 1, 3]]
    assert torch.equal(unpack(packed, width=48, height=32), x)
    assert position_ids(48, 32).tolist() == [[0, r, c] for r in range(2) for c in range(3)]


def test_philox_is_sd_clis():
    assert philox_randn(42, 4).tolist() == pytest.approx(
        [0.19401887, 2.1613739, -0.17205060, 0.84906012], abs=5e-7
    )
    assert not np.allclose(philox_randn(42, 4, offset=1), philox_randn(42, 4))
    # the seed has 64 bits
    assert not np.allclose(philox_randn(42 + (1 << 32), 4), philox_randn(42, 4))


def test_noise_is_float32_and_repeats():
    for rng in ("cpu", "cuda"):
        noise = make_noise(7, 64, 32, rng)
        assert noise.shape == (1, 16, 4, 8)
        assert noise.dtype == torch.float32
        assert torch.equal(noise, make_noise(7, 64, 32, rng))
        assert abs(float(noise.std()) - 1) < 0.1
    assert not torch.equal(make_noise(7, 64, 32, "cpu"), make_noise(7, 64, 32, "cuda"))


# ---------------------------------------------------------------------------------------- the hooks


def test_inject_leaves_the_model_bit_for_bit_as_it_was(flux, adapter):
    _, model = flux
    x = inputs()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = velocity(model, x["latent"], 0.7, x["txt"], x["vec"])
    with inject(model, adapter, x["id"][0].numpy(), id_weight=1.0) as injection:
        with_id = velocity(model, x["latent"], 0.7, x["txt"], x["vec"])
        injection.weight = 0.0
        at_zero = velocity(model, x["latent"], 0.7, x["txt"], x["vec"])
    with pytest.raises(RuntimeError, match="stop"), inject(model, adapter, x["id"]):
        raise RuntimeError("stop")
    assert not torch.equal(plain, with_id)
    assert torch.equal(plain, at_zero)
    assert torch.equal(plain, velocity(model, x["latent"], 0.7, x["txt"], x["vec"]))
    assert not any(block._forward_hooks for block in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_weight_zero_still_runs_the_hooks(flux, adapter):
    """A NaN in PuLID's layers must show at weight 0, or run B of the three-way check would prove
    nothing.
    """
    _, model = flux
    x = inputs()
    with inject(model, adapter, x["id"], id_weight=0.0) as injection:
        injection.layers[3].b.fill_(float("nan"))
        assert velocity(model, x["latent"], 0.7, x["txt"], x["vec"]).isnan().all()


class Nothing(torch.nn.Module):
    def forward(self, img):
        return torch.zeros_like(img)


def test_layers_belong_to_block_numbers_and_to_image_tokens_only(flux, adapter):
    _, model = flux
    x = inputs()
    assert [model.transformer_blocks[i] for i in range(0, 19, 2)] == hook_points(model)[:10]
    assert [model.single_transformer_blocks[i] for i in range(0, 38, 4)] == hook_points(model)[10:]
    seen, handles = {}, []
    for name, block in model.named_modules():
        if name in ("transformer_blocks.2", "single_transformer_blocks.4"):
            handles.append(
                block.register_forward_hook(
                    lambda _m, _i, out, name=name: seen.setdefault(name, out)
                )
            )
    bound = adapter.bind(x["id"], torch.float32, "cpu")
    with attach(model) as injection:
        injection.layers = [Nothing()] * 20
        injection.layers[1] = bound[1]  # after double block 2
        injection.layers[11] = bound[11]  # after single block 4
        after = {}
        for name in ("transformer_blocks.2", "single_transformer_blocks.4"):
            block = model.get_submodule(name)
            handles.append(
                block.register_forward_hook(
                    lambda _m, _i, out, name=name: after.setdefault(name, out)
                )
            )
        velocity(model, x["latent"], 0.7, x["txt"], x["vec"])
    for handle in handles:
        handle.remove()
    for name, layer in (
        ("transformer_blocks.2", bound[1]),
        ("single_transformer_blocks.4", bound[11]),
    ):
        assert torch.equal(after[name][0], seen[name][0])  # text untouched
        assert torch.equal(after[name][1], seen[name][1] + layer(seen[name][1]))


def test_inject_composes_with_layerwise_casting(golden_files, adapter):
    """diffusers keeps fp8 weights and computes in float32: the identity must be folded in the
    compute dtype, not in the storage's.
    """
    model = stock_flux(load_flux(read_header(golden_files / "schnell.safetensors"), torch.float32))
    model.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
    x = inputs()
    with inject(model, adapter, x["id"]) as injection:
        assert injection.layers[0].a.dtype == torch.float32
        assert torch.isfinite(velocity(model, x["latent"], 0.7, x["txt"], x["vec"])).all()


def test_inject_composes_with_a_stock_pipeline(golden_files, adapter, micro):
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline

    from pulid_generate.models.autoencoder import load_vae

    flux = stock_flux(load_flux(read_header(golden_files / "schnell.safetensors"), torch.float32))
    pipe = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=stock_autoencoder(load_vae(read_header(micro / "ae.safetensors"), torch.float32)),
        text_encoder=None,
        tokenizer=None,
        text_encoder_2=None,
        tokenizer_2=None,
        transformer=flux,
    )
    pipe.set_progress_bar_config(disable=True)
    x = inputs()

    def draw():
        text = {"prompt_embeds": x["txt"], "pooled_prompt_embeds": x["vec"], "output_type": "np"}
        return pipe(
            **text,
            width=32,
            height=32,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(0),
        ).images

    before = draw()
    with inject(pipe.transformer, adapter, x["id"], id_weight=1.0):
        during = draw()
    assert before.shape == (1, 32, 32, 3)
    assert not np.array_equal(before, during)
    assert np.array_equal(before, draw())


def test_inject_composes_with_sequential_offload(golden_files, adapter):
    """Under accelerate's offload the weights are on meta between forwards."""
    from accelerate import cpu_offload

    model = stock_flux(load_flux(read_header(golden_files / "schnell.safetensors"), torch.float32))
    x = inputs()
    with inject(model, adapter, x["id"]):
        plain = velocity(model, x["latent"], 0.7, x["txt"], x["vec"])
    cpu_offload(model, execution_device=torch.device("cpu"))
    assert model.device.type == "meta"
    with inject(model, adapter, x["id"]):
        assert torch.equal(velocity(model, x["latent"], 0.7, x["txt"], x["vec"]), plain)


def test_layers_follow_the_tokens_device(flux, adapter):
    """A stock pipeline with CPU offload has its weights elsewhere when `inject` is entered."""
    _, model = flux
    x = inputs()

    class Elsewhere(Nothing):
        moved = 0

        def to(self, device):
            Elsewhere.moved += device == x["latent"].device
            return self

    with attach(model) as injection:
        injection.layers = [Elsewhere()] * 20
        velocity(model, x["latent"], 0.7, x["txt"], x["vec"])
    assert Elsewhere.moved == 20


def test_swapped_layers_would_be_noticed(flux, adapter, golden):
    name, model = flux
    x = inputs()
    with inject(model, adapter, x["id"]) as injection:
        injection.layers = (*injection.layers[10:], *injection.layers[:10])
        ours = velocity(model, x["latent"], 0.7, x["txt"], x["vec"])
    assert relative(ours, golden("flux")[f"{name}.velocity.weight_1"]) > 1e-3


def test_what_does_not_fit_is_refused(adapter):
    with pytest.raises(IdentityError, match=r"are 32x128, .*rows of 256; extract it again"):
        adapter.bind(np.zeros((32, 128), np.float32), torch.float32, "cpu")
    with pytest.raises(IdentityError, match="NaN"):
        adapter.bind(np.full((32, 256), np.nan, np.float32), torch.float32, "cpu")
    with pytest.raises(IdentityError, match="made for a Flux of width 128"):
        check_fit(adapter, 3072, 19, 38)
    with pytest.raises(IdentityError, match="pruned"):
        check_fit(adapter, 128, 19, 10)


def test_a_damaged_adapter_is_refused(golden_files, tmp_path, golden_shapes):
    shapes = golden_shapes("flux")["pulid_ca"]
    for change, message in (
        ({"pulid_ca.3.to_q.weight": None}, "pulid_ca.3: missing"),
        ({"pulid_ca.3.to_q.weight": [256, 64]}, r"to_q.weight \(256, 64\)"),
        ({name: None for name in shapes if name.startswith("pulid_ca.7.")}, "without gaps"),
    ):
        left = {name: change.get(name, shape) for name, shape in shapes.items()}
        save_file(
            tensors({name: shape for name, shape in left.items() if shape}),
            tmp_path / "bad.safetensors",
        )
        with pytest.raises(WeightsError, match=message):
            PulidAdapter.load(tmp_path / "bad.safetensors")
