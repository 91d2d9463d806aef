"""Blocks that a forward leaves out: what hangs on the others stays with them."""

from __future__ import annotations

import pytest
import torch
from support.distances import relative
from support.models.seeded_flux import DOUBLE, arguments, velocity

from pulid_generate.errors import RequestError
from pulid_generate.files.layouts import DOUBLE_INTERVAL, SINGLE_INTERVAL
from pulid_generate.injection.hooks import attach
from pulid_generate.injection.layer_skip import skip_layers
from pulid_generate.injection.terms import Term


def by_hand(model, layers, weight, skipped, counted=False):
    """The forward of FluxTransformer2DModel, written out. counted: assign layers by the count of
    blocks that ran, which is wrong.
    """
    x = arguments()
    with torch.inference_mode():
        img, txt = (
            model.x_embedder(x["hidden_states"]),
            model.context_embedder(x["encoder_hidden_states"]),
        )
        temb = model.time_text_embed(x["timestep"] * 1000, x["pooled_projections"])
        rotary = model.pos_embed(torch.cat([x["txt_ids"], x["img_ids"]]))
        count = 0
        for blocks, interval, first, offset in (
            (model.transformer_blocks, DOUBLE_INTERVAL, 0, 0),
            (model.single_transformer_blocks, SINGLE_INTERVAL, 3, DOUBLE),
        ):
            for number, block in enumerate(blocks):
                if number + offset in skipped:
                    continue
                txt, img = block(
                    hidden_states=img, encoder_hidden_states=txt, temb=temb, image_rotary_emb=rotary
                )
                if number % interval == 0:
                    layer = layers[count if counted else first + number // interval]
                    img = img + weight * layer(img)
                    count += 1
        return model.proj_out(model.norm_out(img, temb))


@pytest.mark.parametrize("skipped", [(1,), (2,), (5,), (3, 4, 9), (0, 2, 4, 5, 9, 13)])
def test_the_other_layers_stay_with_their_blocks(flux, people, skipped):
    """2 is a double block with a hook, 5 single block 0, 9 single block 4: what follows must not
    move up.
    """
    with skip_layers(flux, skipped) as skip, attach(flux) as injection:
        injection.terms, injection.weight = [Term(people[0])], 0.8
        skip.active = True
        ours = velocity(flux)
    assert relative(ours, by_hand(flux, people[0], 0.8, skipped)) <= 1e-6
    hooked = {0, 2, 4, 5, 9, 13}
    if hooked & set(skipped) and not hooked <= set(skipped):
        assert relative(ours, by_hand(flux, people[0], 0.8, skipped, counted=True)) > 1e-3


def test_the_switch_alternates_between_forwards_and_leaves_no_trace(flux, people):
    before = dict(flux.named_modules())
    plain = velocity(flux)
    with skip_layers(flux, [7, 2]) as skip, attach(flux) as injection:
        injection.terms = [Term(people[0])]
        with_all = velocity(flux)
        for _ in range(2):
            skip.active = True
            without = velocity(flux)
            skip.active = skip.active  # twice is once
            assert torch.equal(without, velocity(flux))
            skip.active = False
            assert torch.equal(with_all, velocity(flux))
        assert not torch.equal(with_all, without)
    with pytest.raises(TypeError), skip_layers(flux, [0]) as skip:  # noqa: PT012
        skip.active = True
        flux("no tensors")
    assert dict(flux.named_modules()) == before
    assert torch.equal(velocity(flux), plain)


def test_a_hook_is_not_hung_on_a_gap(flux):
    with skip_layers(flux, [2]) as skip:
        skip.active = True
        with pytest.raises(RuntimeError, match="not active"), attach(flux):
            pass
        skip.active = False
    assert not any(block._forward_hooks for block in flux.modules())


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([14], "there is no layer 14; this Flux has layers 0 to 13, double blocks first"),
        ([3, -1], "there is no layer -1"),
        ([3, 3], "names a layer twice"),
        ([], "not none of them"),
        (range(14), "not all of them"),
    ],
)
def test_layers_that_are_not_there_are_refused(flux, layers, message):
    with pytest.raises(RequestError, match=message), skip_layers(flux, layers):
        pass
