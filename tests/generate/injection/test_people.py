"""Several people in the hooks of a small Flux: regions, batch rows, weights by kind of block,
skipped blocks, compiled blocks.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from seeded.tensors import seeded, seeded_state
from support.distances import relative

from pulid_generate.errors import IdentityError, PlacementError, RequestError
from pulid_generate.files.layouts import DOUBLE_INTERVAL, SINGLE_INTERVAL
from pulid_generate.injection.adapter import PulidAdapter
from pulid_generate.injection.compiling import check_compiler, compile_blocks
from pulid_generate.injection.hooks import attach, hook_points, inject
from pulid_generate.injection.layer_skip import skip_layers
from pulid_generate.injection.terms import Injection, Term
from pulid_generate.request.id_schedule import IdSchedule
from pulid_generate.request.people import fuse
from pulid_generate.request.regions import box_region, share_overlaps
from pulid_generate.sampling.packing import position_ids

DOUBLE, SINGLE, HOOKS = 5, 9, 6  # hooks after double blocks 0, 2, 4 and single blocks 0, 4, 8
SIZE, TOKENS, TEXT, WIDTH, TOKEN_WIDTH = 96, 36, 8, 128, 96


@pytest.fixture(scope="module")
def flux():
    from diffusers import FluxTransformer2DModel

    model = FluxTransformer2DModel(
        in_channels=64,
        num_layers=DOUBLE,
        num_single_layers=SINGLE,
        attention_head_dim=128,
        num_attention_heads=1,
        joint_attention_dim=48,
        pooled_projection_dim=32,
        axes_dims_rope=(16, 56, 56),
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(
        {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    )
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def adapter():
    shapes = {
        "norm1.weight": (TOKEN_WIDTH,),
        "norm1.bias": (TOKEN_WIDTH,),
        "norm2.weight": (WIDTH,),
        "norm2.bias": (WIDTH,),
    }
    shapes |= {
        "to_q.weight": (256, WIDTH),
        "to_kv.weight": (512, TOKEN_WIDTH),
        "to_out.weight": (WIDTH, 256),
    }
    state = seeded_state(
        {f"pulid_ca.{i}.{name}": shape for i in range(HOOKS) for name, shape in shapes.items()}
    )
    return PulidAdapter(
        [
            {name: torch.from_numpy(state[f"pulid_ca.{i}.{name}"]) for name in shapes}
            for i in range(HOOKS)
        ]
    )


@pytest.fixture(scope="module")
def people(adapter):
    """Three identities, bound."""
    return [adapter.bind(tokens(name), torch.float32, "cpu") for name in "abc"]


def tokens(name):
    return seeded(f"identity {name}", (32, TOKEN_WIDTH))


def arguments(batch=1):
    return {
        "hidden_states": torch.from_numpy(seeded("latent", (2, TOKENS, 64)))[:batch],
        "encoder_hidden_states": torch.from_numpy(seeded("text", (2, TEXT, 48)))[:batch],
        "pooled_projections": torch.from_numpy(seeded("pooled", (2, 32)))[:batch],
        "timestep": torch.full((batch,), 0.7),
        "img_ids": position_ids(SIZE, SIZE),
        "txt_ids": torch.zeros(TEXT, 3),
    }


def velocity(model, **changes):
    with torch.inference_mode():
        return model(**(arguments() | changes), return_dict=False)[0]


def watched(model, terms):
    """[(image tokens as the block gave them, image tokens as the hook left them)] for every hook of
    one forward.
    """
    before, after = [], []
    handles = [
        b.register_forward_hook(lambda _b, _a, out: before.append((out[0], out[1].clone())))
        for b in hook_points(model)
    ]
    with attach(model) as injection:
        injection.terms = terms
        handles += [
            block.register_forward_hook(lambda _b, _a, out: after.append(out))
            for block in hook_points(model)
        ]
        velocity(model)
    for handle in handles:
        handle.remove()
    assert len(before) == len(after) == HOOKS
    # text untouched
    assert all(torch.equal(old[0], new[0]) for old, new in zip(before, after, strict=True))
    return [(old[1], new[1]) for old, new in zip(before, after, strict=True)]


LEFT = torch.from_numpy(box_region((0, 0, 40, SIZE), SIZE, SIZE))  # columns 0, 1 and half of 2
RIGHT = torch.from_numpy(box_region((48, 0, 48, SIZE), SIZE, SIZE))  # columns 3 to 5


def test_outside_the_region_nothing_is_added_at_any_hook(flux, people):
    for weight in (1.0, 7.5):
        for old, new in watched(flux, [Term(people[0], weight, weight, region=LEFT)]):
            difference = new - old
            assert not difference[:, LEFT == 0].any()  # not small: zero
            assert difference[:, LEFT > 0].abs().amin(dim=-1).shape[1] == 18
            assert (difference[:, LEFT > 0].norm(dim=-1) > 0).all()
    everywhere = watched(flux, [Term(people[0])])
    assert all((new - old)[:, LEFT == 0].any() for old, new in everywhere)  # the check can fail


def test_two_people_side_by_side_do_not_leak_into_each_other(flux, people):
    seen = watched(flux, [Term(people[0], 1.0, 0.5, LEFT), Term(people[1], 0.8, 0.9, RIGHT)])
    neither = (LEFT == 0) & (RIGHT == 0)
    assert not neither.any()
    for index, (old, new) in enumerate(seen):
        double = index < 3
        for region, person, weight in (
            (LEFT, people[0], 1.0 if double else 0.5),
            (RIGHT, people[1], 0.8 if double else 0.9),
        ):
            inside = region > 0
            alone = weight * region[inside, None] * person[index](old[:, inside])
            assert relative((new - old)[:, inside], alone) <= 1e-5
    # at the first hook, before attention mixes tokens, another neighbour changes not one bit
    other = watched(flux, [Term(people[0], 1.0, 0.5, LEFT), Term(people[2], 0.8, 0.9, RIGHT)])
    assert torch.equal(seen[0][1][:, LEFT > 0], other[0][1][:, LEFT > 0])
    assert not torch.equal(seen[0][1][:, RIGHT > 0], other[0][1][:, RIGHT > 0])


def test_the_order_of_people_does_not_matter_where_they_overlap(flux, people):
    whole, part = share_overlaps([np.ones(TOKENS, np.float32), RIGHT.numpy()])
    terms = [Term(people[0], region=whole), Term(people[1], region=part), Term(people[2], 0.1, 0.1)]
    for (_, one), (_, other) in zip(watched(flux, terms), watched(flux, terms[::-1]), strict=True):
        assert relative(one, other) <= 1e-5


def test_a_region_of_ones_is_the_whole_picture(flux, people):
    for (_, one), (_, other) in zip(
        watched(flux, [Term(people[0], region=torch.ones(TOKENS))]),
        watched(flux, [Term(people[0])]),
        strict=True,
    ):
        assert relative(one, other) <= 1e-6


def test_only_the_regions_tokens_are_computed(people):
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, img):
            seen.append(tuple(img.shape))
            return torch.zeros_like(img)

    img = torch.zeros(2, TOKENS, WIDTH)
    for options in ({"region": LEFT}, {"rows": [1]}, {"region": LEFT, "rows": [1]}, {}):
        Injection([Term([Spy()], **options)]).add(img, 0, double=True)
    assert seen == [(2, 18, WIDTH), (1, TOKENS, WIDTH), (1, 18, WIDTH), (2, TOKENS, WIDTH)]


def test_weight_zero_in_a_region_adds_nothing_and_still_runs(flux, adapter):
    bound = adapter.bind(tokens("a"), torch.float32, "cpu")
    plain = velocity(flux)
    with attach(flux) as injection:
        injection.terms = [Term(bound, region=LEFT, rows=[0])]
        assert not torch.equal(velocity(flux), plain)
        injection.weight = 0.0
        assert torch.equal(velocity(flux), plain)
        bound[2].b.fill_(float("nan"))
        assert velocity(flux).isnan().all()


def test_what_the_block_returned_is_not_written_to(people):
    img = torch.from_numpy(seeded("img", (1, TOKENS, WIDTH)))
    kept = img.clone()
    Injection([Term(people[0], region=LEFT), Term(people[1]), Term(people[2], rows=[0])]).add(
        img, 0, double=True
    )
    assert torch.equal(img, kept)


def test_a_batch_of_two_people_is_two_batches_of_one(flux, people):
    with attach(flux) as injection:
        injection.terms = [Term(people[0], rows=[0]), Term(people[1], 0.5, 0.5, LEFT, [1])]
        both = velocity(flux, **arguments(2))
        injection.terms = [Term(people[1], rows=[0]), Term(people[0], 0.5, 0.5, LEFT, [1])]
        swapped = velocity(flux, **arguments(2))
        for row, term in ((0, Term(people[0])), (1, Term(people[1], 0.5, 0.5, LEFT))):
            injection.terms = [term]
            one = {
                name: value[row : row + 1]
                for name, value in arguments(2).items()
                if not name.endswith("_ids")
            }
            alone = velocity(flux, **one)
            assert relative(both[row : row + 1], alone) <= 1e-5
            assert relative(swapped[row : row + 1], alone) > 1e-3


def test_double_and_single_blocks_have_their_own_weights(flux, people):
    for index, (old, new) in enumerate(watched(flux, [Term(people[0], double=0.0, single=1.0)])):
        assert torch.equal(old, new) == (index < 3)
    double, single = IdSchedule(double=2.0, single=0.0).weight_at(0, 4)
    for index, (old, new) in enumerate(watched(flux, [Term(people[0], double, single)])):
        assert torch.equal(old, new) == (index >= 3)


def test_inject_takes_a_region(flux, adapter, people):
    with inject(flux, adapter, tokens("a"), 0.7, region=LEFT.numpy()):
        ours = velocity(flux)
    with attach(flux) as injection:
        injection.terms = [Term(people[0], 0.7, 0.7, LEFT)]
        assert torch.equal(ours, velocity(flux))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"region": torch.zeros(TOKENS)}, "covers no image token"),
        ({"region": torch.full((TOKENS,), 1.5)}, "one number from 0 to 1"),
        ({"region": torch.full((TOKENS,), float("nan"))}, "one number from 0 to 1"),
        ({"region": torch.ones(6, 6)}, r"shape \(6, 6\)"),
        ({"rows": []}, "rows"),
        ({"rows": [0, 0]}, "each once"),
        ({"rows": [-1]}, "from 0"),
    ],
)
def test_terms_that_cannot_be_meant_are_refused(people, options, message):
    with pytest.raises(IdentityError, match=message):
        Term(people[0], **options)


def test_a_region_of_another_picture_is_refused(flux, people):
    for term, message in (
        (Term(people[0], region=torch.ones(64)), "region of 64 tokens: the picture has 36"),
        (Term(people[0], rows=[1]), "the batch has 1 elements"),
    ):
        with attach(flux) as injection:
            injection.terms = [term]
            with pytest.raises(IdentityError, match=message):
                velocity(flux)


def test_fused_tokens_go_through_the_form_that_is_smaller(flux, adapter):
    from pulid_extract.shared.embedding_file import Embedding
    from pulid_generate.injection.attention import FoldedAttention, PlainAttention

    parts = [Embedding(tokens(name), source=name) for name in "abcd"]
    for how, count, form in (
        ("mean", 4, FoldedAttention),
        ("concat", 3, FoldedAttention),
        ("concat", 4, PlainAttention),
    ):
        layers = adapter.bind(fuse(parts[:count], how).tokens, torch.float32, "cpu")
        assert type(layers[0]) is form
        assert torch.isfinite(layers[0](torch.ones(1, 3, WIDTH))).all()
    # a portrait given twice is the same person as given once, in either way
    img = torch.from_numpy(seeded("img", (1, TOKENS, WIDTH)))
    once = adapter.bind(tokens("a"), torch.float32, "cpu")[0](img)
    for how in ("mean", "concat"):
        assert (
            relative(
                adapter.bind(fuse([parts[0]] * 2, how).tokens, torch.float32, "cpu")[0](img), once
            )
            <= 1e-5
        )


# ----------------------------------------------------------------------------------- skipped blocks


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


# ---------------------------------------------------------------------------------- compiled blocks


def has_compiler():
    try:
        check_compiler(torch.device("cpu"))
    except PlacementError:
        return False
    return True


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler on the CPU")
def test_compiled_blocks_agree_and_no_weight_or_person_compiles_anew(flux, people, generated_code):
    from torch._dynamo.utils import counters

    plan = [
        (),
        (Term(people[0]),),
        (Term(people[0], 0.3, 0.7),),
        (Term(people[1], region=LEFT), Term(people[0], region=RIGHT)),
    ]
    with skip_layers(flux, [3, 9]) as skip, attach(flux) as injection:

        def run():
            outputs, graphs = [], []
            for terms in plan:
                for skip.active in (False, True):
                    injection.terms = terms
                    outputs.append(velocity(flux))
                    graphs.append(counters["stats"]["unique_graphs"])
            return outputs, graphs

        plain, _ = run()
        torch._dynamo.reset()
        counters.clear()
        with compile_blocks(flux):
            compiled, graphs = run()
    assert graphs[0] == graphs[-1] <= 4
    assert all(relative(ours, truth) <= 1e-5 for ours, truth in zip(compiled, plain, strict=True))
    assert not torch.equal(compiled[2], compiled[4])
    assert not any("forward" in block.__dict__ for block in flux.modules())
    assert torch.equal(velocity(flux), plain[0])


def test_without_a_compiler_compile_is_refused(flux, monkeypatch):
    from torch._inductor import cpp_builder
    from torch._inductor.exc import InvalidCxxCompiler

    def nothing():
        raise InvalidCxxCompiler

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", nothing)
    with (
        pytest.raises(PlacementError, match=r"install g\+\+, or leave --compile out"),
        compile_blocks(flux),
    ):
        pass
