"""Several people in the hooks of a small Flux: regions, batch rows, weights by kind of block."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from seeded.tensors import seeded
from support.distances import relative
from support.models.seeded_flux import (
    HOOKS,
    LEFT,
    RIGHT,
    TOKENS,
    WIDTH,
    arguments,
    tokens,
    velocity,
)

from pulid_generate.errors import IdentityError
from pulid_generate.injection.hooks import attach, hook_points, inject
from pulid_generate.injection.terms import Injection, Term
from pulid_generate.request.people.id_schedule import IdSchedule
from pulid_generate.request.people.identities import fuse
from pulid_generate.request.people.regions import share_overlaps


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
