"""An identity on a stock model whose steps diffusers caches: it is there once, at a step that is
computed and at one that is not.
"""

from __future__ import annotations

import pytest
import torch
from support.distances import relative
from support.models.golden_flux import Counting, first_layers, inputs, load_fewer_blocks, velocity
from support.models.stock_models import stock_flux

from pulid_generate.errors import IdentityError
from pulid_generate.injection import host_caches
from pulid_generate.injection.hooks import inject

# blocks, and layers of PuLID: 3 after double blocks, 2 after single blocks
DOUBLES, SINGLES, LAYERS = 5, 6, 5

# what a pipeline's timestep is: FasterCache begins outside of its range; and the step, for SeaCache
CLOCK = {"timestep": 2000, "step": -1}
STEPS = 20


def config(name: str):
    """Each skips from the second or third forward on, whatever comes."""
    from diffusers import hooks

    ranges = {
        "spatial_attention_block_skip_range": 5,
        "spatial_attention_timestep_skip_range": (-1, 1001),
        "current_timestep_callback": lambda: CLOCK["timestep"],
    }
    taylor = {
        "cache_interval": 5,
        "disable_cache_before_step": 2,
        "max_order": 1,
        "taylor_factors_dtype": torch.float32,
    }
    blocks = [r"transformer_blocks\.\d+", r"single_transformer_blocks\.\d+"]
    made = {
        "first block": lambda: hooks.FirstBlockCacheConfig(threshold=1e6),
        "mag": lambda: hooks.MagCacheConfig(
            threshold=1e6,
            max_skip_steps=100,
            retention_ratio=0,
            num_inference_steps=4,
            mag_ratios=[1.0] * 4,
        ),
        "pyramid attention": lambda: hooks.PyramidAttentionBroadcastConfig(**ranges),
        "faster": lambda: hooks.FasterCacheConfig(
            **ranges,
            is_guidance_distilled=True,
            attention_weight_callback=lambda _: 0.5,
            tensor_format="BCHW",
        ),
        "taylorseer": lambda: hooks.TaylorSeerCacheConfig(**taylor),
        "taylorseer, lite": lambda: hooks.TaylorSeerCacheConfig(**taylor, use_lite_mode=True),
        "taylorseer, of blocks": lambda: hooks.TaylorSeerCacheConfig(
            **taylor, cache_identifiers=blocks
        ),
        "sea": lambda: hooks.SeaCacheConfig(
            threshold=1e6,
            residual_order=0,
            max_consecutive_cached=0,
            raw_vision_callback=lambda _model, _arguments, named: [
                named["hidden_states"].transpose(1, 2).reshape(64, 1, 4, 4)
            ],
        ),
        "text": hooks.TextKVCacheConfig,
    }
    return made[name]()


NAMES = (
    "first block",
    "mag",
    "pyramid attention",
    "faster",
    "taylorseer",
    "taylorseer, lite",
    "taylorseer, of blocks",
    "sea",
    "text",
)
# Those that leave blocks out: name -> PuLID layers that a skipped step still runs
BLOCKS_LEFT_OUT = {
    "first block": 1,
    "mag": 0,
    "taylorseer, lite": 0,
    "taylorseer, of blocks": 0,
    "sea": 0,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory, golden_shapes):
    """A stock transformer: the golden Flux, with fewer blocks."""
    folder = tmp_path_factory.mktemp("flux")
    shapes = golden_shapes("flux")["schnell"]
    return stock_flux(load_fewer_blocks(folder, shapes, DOUBLES, SINGLES))


@pytest.fixture(scope="module")
def adapter(golden_shapes):
    return first_layers(golden_shapes("flux")["pulid_ca"], LAYERS)


def at(model, t: float = 0.7, context: str = "cond"):
    x = inputs()
    CLOCK["step"] += 1
    clock = {"step_index": CLOCK["step"], "num_inference_steps": STEPS, "sigma": t}
    with model.cache_context(context, **clock):
        return velocity(model, x["latent"], t, x["txt"], x["vec"])


@pytest.fixture
def cached(model, request):
    """The model, with this cache on."""
    CLOCK.update(timestep=2000, step=-1)
    model.enable_cache(config(request.param))
    yield model
    model.disable_cache()


@pytest.mark.parametrize(
    ("cached", "name"), [(name, name) for name in NAMES], indirect=["cached"], ids=NAMES
)
def test_the_identity_is_there_once_whether_a_step_is_computed_or_not(cached, name, adapter):
    """What a cache remembers of equal inputs is what was computed of them."""
    plain = at(cached, context="nobody")
    cached._reset_stateful_cache()
    CLOCK["step"] = -1
    with inject(cached, adapter, inputs()["id"]) as injection:
        counting = [Counting(layer) for layer in injection.layers]
        injection.layers = counting
        first, second = at(cached), at(cached)
        CLOCK["timestep"] = 500
        before = sum(layer.calls for layer in counting)
        third = at(cached)
        if name in BLOCKS_LEFT_OUT:
            calls = sum(layer.calls for layer in counting) - before
            assert calls == BLOCKS_LEFT_OUT[name]
    assert relative(first, plain) > 0.01
    assert relative(second, first) < 1e-5
    assert relative(third, first) < 1e-5
    # nothing of it stays
    CLOCK.update(timestep=2000, step=-1)
    assert relative(at(cached, context="nobody"), plain) < 1e-6


@pytest.mark.parametrize("cached", ["first block"], indirect=True)
def test_a_skipped_step_is_the_first_block_with_the_identity_and_the_rest_remembered(
    cached, adapter
):
    """By hand: tokens after block 0 and its layer, plus what all blocks after them had added."""
    stages = {}

    def keep(name):
        def hook(_module, _arguments, output):
            stages[name] = output

        return hook

    x = inputs()
    with inject(cached, adapter, x["id"], id_weight=1.5):
        last = cached.single_transformer_blocks[-1]
        handles = [
            cached.transformer_blocks[0].register_forward_hook(keep("head")),
            last.register_forward_hook(keep("tail")),
        ]
        at(cached, 0.9)
        computed = dict(stages)
        skipped = at(cached, 0.6)
        for handle in handles:
            handle.remove()
    cached.disable_cache()
    with inject(cached, adapter, x["id"], id_weight=1.5):
        # the same step without a cache, and its last block's tokens replaced
        head = {}
        handle = cached.transformer_blocks[0].register_forward_hook(
            lambda _m, _a, output: head.setdefault("output", output)
        )

        def remembered(_module, _arguments, _output):
            return tuple(
                now + tail - then
                for now, tail, then in zip(
                    head["output"], computed["tail"], computed["head"], strict=True
                )
            )

        replaced = last.register_forward_hook(remembered)
        expected = velocity(cached, x["latent"], 0.6, x["txt"], x["vec"])
        handle.remove()
        replaced.remove()
        whole = velocity(cached, x["latent"], 0.6, x["txt"], x["vec"])
    cached.enable_cache(config("first block"))
    assert relative(skipped, expected) < 1e-5
    assert relative(skipped, whole) > 1e-4


def test_every_cache_of_this_diffusers_is_tried_and_another_is_refused_by_name(model, adapter):
    import inspect

    from diffusers import hooks, models

    text = inspect.getsource(models.cache_utils.CacheMixin.enable_cache)
    there = {name for name in vars(hooks) if name.endswith("Config") and name in text}
    tried = {type(config(name)).__name__ for name in NAMES}
    assert there == tried == set(host_caches.KNOWN)

    class NextCacheConfig:
        pass

    model._cache_config = NextCacheConfig()
    with (
        pytest.raises(IdentityError, match="NextCacheConfig: where an identity"),
        inject(model, adapter, inputs()["id"]),
    ):
        pass
    model._cache_config = None


def test_a_cache_that_was_applied_without_enable_cache_forgets_as_well(model, adapter):
    from diffusers import hooks

    x = inputs()
    with inject(model, adapter, x["id"], id_weight=0.3):
        wanted = at(model)
    hooks.apply_first_block_cache(model, config("first block"))
    try:
        with inject(model, adapter, x["id"]) as injection:
            at(model)
            at(model)
            injection.weight = 0.3
            assert relative(at(model), wanted) < 1e-6
    finally:
        registry = hooks.HookRegistry.check_if_exists_or_initialize(model)
        for name in ("fbc_leader_block_hook", "fbc_block_hook"):
            registry.remove_hook(name, recurse=True)


CHANGES = ("first block", "mag", "pyramid attention", "taylorseer, of blocks", "sea")


@pytest.mark.parametrize("cached", CHANGES, indirect=True, ids=CHANGES)
def test_another_weight_or_person_is_drawn_at_once(cached, adapter):
    x = inputs()
    with inject(cached, adapter, x["id"], id_weight=0.3):
        wanted = at(cached)
    with inject(cached, adapter, x["uncond_id"]):
        other = at(cached)
    with inject(cached, adapter, x["id"]) as injection:
        at(cached)
        CLOCK["timestep"] = 500
        at(cached)
        at(cached)
        injection.weight = 0.3
        assert relative(at(cached), wanted) < 1e-6
        injection.weight = 1.0
        injection.layers = adapter.bind(x["uncond_id"], torch.float32, "cpu")
        assert relative(at(cached), other) < 1e-6
    assert relative(wanted, other) > 1e-3


def test_a_cache_that_comes_later_is_refused_and_one_that_goes_leaves_nothing(model, adapter):
    x = inputs()
    plain = at(model)
    with inject(model, adapter, x["id"]):
        with_id = at(model)
        model.enable_cache(config("first block"))
        with pytest.raises(IdentityError, match="call it before inject"):
            at(model)
        model.disable_cache()
        assert torch.equal(at(model), with_id)
    model.enable_cache(config("first block"))
    with inject(model, adapter, x["id"]):
        at(model)
        model.disable_cache()
        assert torch.equal(at(model), with_id)
    assert torch.equal(at(model), plain)
