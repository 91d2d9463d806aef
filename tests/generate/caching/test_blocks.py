"""Middle blocks that are reused: against the forward written out by hand, and when they are not."""

from __future__ import annotations

import pytest
import torch
from support.distances import relative
from support.models.golden_flux import Counting, first_layers, inputs, load_fewer_blocks, velocity

from pulid_generate.caching.blocks import BlockCache
from pulid_generate.caching.evaluation import Evaluation
from pulid_generate.caching.forecast import Forecast
from pulid_generate.injection.hooks import attach
from pulid_generate.injection.layer_skip import skip_layers
from pulid_generate.injection.terms import Term
from pulid_generate.request.step_cache import StepCache

# blocks; and the layers of PuLID on them: after double 0, 2, 4 and single 0, 4
DOUBLES, SINGLES, LAYERS = 5, 6, 5
BLOCKS = DOUBLES + SINGLES
FIRST, LAST = 3, 2


@pytest.fixture(scope="module")
def flux(tmp_path_factory, golden_shapes):
    """The golden Flux (dev), with fewer blocks."""
    folder = tmp_path_factory.mktemp("flux")
    return load_fewer_blocks(folder, golden_shapes("flux")["dev"], DOUBLES, SINGLES)


@pytest.fixture(scope="module")
def adapter(golden_shapes):
    return first_layers(golden_shapes("flux")["pulid_ca"], LAYERS)


@pytest.fixture(scope="module")
def people(adapter):
    """Two people's layers."""
    x = inputs()
    return [adapter.bind(x[name], torch.float32, "cpu") for name in ("id", "uncond_id")]


def always(mode="dbcache", **more):
    """Reuses whatever may be reused, from the second step on."""
    option = f"Fn={FIRST},Bn={LAST},warmup=1," + ",".join(f"{k}={v}" for k, v in more.items())
    if mode != "taylorseer":
        option += ",threshold=1e6"
    return StepCache.parse(mode, option)


def at(flux, t):
    x = inputs()
    return velocity(flux, x["latent"], t, x["txt"], x["vec"])


def run(flux, cache, t, step, branch="positive", added=None):
    return cache.evaluate(Evaluation(torch.zeros(1), t, step, branch, added), lambda: at(flux, t))


def test_a_computed_step_is_the_plain_one_to_the_last_bit(flux):
    plain = at(flux, 0.7)
    before = [*flux.transformer_blocks, *flux.single_transformer_blocks]
    cache = BlockCache(StepCache.parse("dbcache", f"Fn={FIRST},Bn={LAST},warmup=9"), BLOCKS)
    with cache.attached(flux):
        assert torch.equal(run(flux, cache, 0.7, 0), plain)
        assert torch.equal(run(flux, cache, 0.7, 1), plain)
        assert torch.equal(at(flux, 0.7), plain)  # nobody asks the cache
    assert [*flux.transformer_blocks, *flux.single_transformer_blocks] == before
    assert not any(block._forward_hooks or block._forward_pre_hooks for block in before)
    assert (cache.asked, cache.reused) == (2, 0)


def test_a_reused_step_is_the_forward_by_hand(flux, people):
    """First blocks with their layers, what the middle added before, last blocks with theirs."""
    blocks = [*flux.transformer_blocks, *flux.single_transformer_blocks]
    seen: list[tuple] = []
    cache = BlockCache(always(), BLOCKS)
    with attach(flux) as injection:
        injection.terms = (Term(people[0], double=0.7, single=1.3),)
        handles = [
            block.register_forward_hook(lambda _m, _a, output: seen.append(output))
            for block in blocks
        ]
        at(flux, 0.9)
        computed = seen[:BLOCKS]
        for handle in handles:
            handle.remove()
        with cache.attached(flux):
            run(flux, cache, 0.9, 0)
            reused = run(flux, cache, 0.6, 1)
        # by hand: the whole forward, but that the last middle block gives what was remembered
        seen.clear()

        def remembered(_module, _arguments, _output):
            return tuple(
                now + after - before
                for now, after, before in zip(
                    seen[0], computed[BLOCKS - LAST - 1], computed[FIRST - 1], strict=True
                )
            )

        handles = [
            blocks[FIRST - 1].register_forward_hook(lambda _m, _a, output: seen.append(output)),
            blocks[BLOCKS - LAST - 1].register_forward_hook(remembered),
        ]
        expected = at(flux, 0.6)
        for handle in handles:
            handle.remove()
        whole = at(flux, 0.6)
    assert relative(reused, expected) < 1e-5
    assert relative(reused, whole) > 1e-4


def test_an_identity_is_added_once_computed_or_reused(flux, people):
    """Equal inputs: what is remembered is what would be computed."""
    counting = [Counting(layer) for layer in people[0]]
    with attach(flux) as injection:
        injection.terms = (Term(counting),)
        whole = at(flux, 0.7)
        cache = BlockCache(always("cache-dit"), BLOCKS)
        with cache.attached(flux):
            for step in range(4):
                calls = [layer.calls for layer in counting]
                assert relative(run(flux, cache, 0.7, step), whole) < 1e-5
        added = [layer.calls - before for layer, before in zip(counting, calls, strict=True)]
    # double 0 and 2 are first blocks; double 4, single 0 are in the middle, and single 4 is last
    assert added == [1, 1, 0, 0, 1]
    assert cache.reused == 3


def test_what_changes_the_identity_is_computed_anew(flux, people):
    def velocities(cached):
        """A weight, another person, a region, a window's end, each alone; each twice."""
        region = torch.zeros(16)
        region[:8] = 1
        one, other, placed = Term(people[0]), Term(people[1]), Term(people[1], region=region)
        made = []
        with attach(flux) as injection:
            cache = BlockCache(always(), BLOCKS)
            with cache.attached(flux):
                for step, (terms, weight) in enumerate(
                    [
                        *[((one,), 1.0)] * 2,
                        *[((one,), 0.4)] * 2,
                        *[((other,), 0.4)] * 2,
                        *[((placed,), 0.4)] * 2,
                        *[((), 0.4)] * 2,
                    ]
                ):
                    injection.terms, injection.weight = terms, weight
                    if cached:
                        made.append(run(flux, cache, 0.7, step, added=injection.state()))
                    else:
                        made.append(at(flux, 0.7))
            return made, cache.reused

    plain, _ = velocities(False)
    cached, reused = velocities(True)
    assert reused == 5
    for one, other in zip(cached, plain, strict=True):
        assert relative(one, other) < 1e-5
    assert all(relative(plain[i], plain[i + 2]) > 1e-4 for i in range(0, 8, 2))


def test_a_weight_that_becomes_nothing_is_nobody(people):
    """Weight 0 with a late start must draw what nobody draws."""
    with attach(_Nothing()) as injection:
        nobody = injection.state()
        injection.terms = (Term(people[0]),)
        somebody = injection.state()
        injection.weight = 0.0
        assert injection.state() == nobody != somebody


class _Nothing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.transformer_blocks = torch.nn.ModuleList()
        self.single_transformer_blocks = torch.nn.ModuleList()


def test_branches_have_memories_of_their_own_and_skipped_layers_are_computed(flux, people):
    with attach(flux) as injection, skip_layers(flux, [4]) as skip:
        cache = BlockCache(always(), BLOCKS)
        negative = (Term(people[1]),)
        with cache.attached(flux):
            for step in range(3):
                injection.terms = (Term(people[0]),)
                positive = run(flux, cache, 0.7, step, added="a")
                injection.terms = negative
                other = run(flux, cache, 0.7, step, "negative", added="b")
                skip.active = True
                skipped = at(flux, 0.7)
                skip.active = False
        assert cache.reused == 4
        assert relative(other, at(flux, 0.7)) < 1e-5
        injection.terms = (Term(people[0]),)
        assert relative(positive, at(flux, 0.7)) < 1e-5
        skip.active = True
        injection.terms = negative
        assert torch.equal(skipped, at(flux, 0.7))


@pytest.mark.parametrize(
    ("asked", "computed"),
    [
        (StepCache.parse("dbcache", "Fn=3,warmup=4,threshold=1e6"), "1111000000"),
        (StepCache.parse("dbcache", "Fn=3,warmup=4,threshold=1e-9"), "1111111111"),
        (StepCache.parse("dbcache", "Fn=3,warmup=2,threshold=9,continuous=2"), "1100100100"),
        (StepCache.parse("dbcache", "Fn=3,warmup=2,threshold=9,max=3"), "1100011111"),
        (StepCache.parse("taylorseer", "Fn=3,warmup=3"), "1110010010"),
        (StepCache.parse("taylorseer", "Fn=3,warmup=2,interval=4,order=2"), "1100010001"),
        (StepCache.parse("cache-dit", "Fn=3,threshold=9", "1,1,0,0,1,0,1,0,0,1"), "1100101001"),
        (StepCache.parse("dbcache", "threshold=1e-9", "1,1,0,0,1,0,1,0,0,1"), "1111111111"),
        (
            StepCache.parse("dbcache", "threshold=1e-9", "0,1,0,0,1,0,1,0,0,1", "static"),
            "1100101001",
        ),
    ],
)
def test_which_steps_are_computed(flux, asked, computed):
    """cache-dit's rules; the model changes a little from step to step."""
    cache = BlockCache(asked, BLOCKS)
    pattern = ""
    with cache.attached(flux):
        for step in range(10):
            before = cache.reused
            run(flux, cache, 0.9 - 0.05 * step, step)
            pattern += "0" if cache.reused > before else "1"
    assert pattern == computed


class Adds(torch.nn.Module):
    """A block that adds what it is told."""

    amount = 0.0

    def forward(self, hidden_states, encoder_hidden_states):
        return encoder_hidden_states, hidden_states + self.amount


class Three(torch.nn.Module):
    """Two double blocks and a single one."""

    def __init__(self):
        super().__init__()
        self.transformer_blocks = torch.nn.ModuleList([Adds(), Adds()])
        self.single_transformer_blocks = torch.nn.ModuleList([Adds()])

    def forward(self):
        img = txt = torch.ones(1, 4, 2)
        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            txt, img = block(hidden_states=img, encoder_hidden_states=txt)
        return img


@pytest.mark.parametrize(
    ("threshold", "first", "computed"),
    [
        # against the last step that was computed: 0.05, 0.09 of 1; 0.04, 0.09 of 1.09; 0.045 of 1.0
        (0.08, (1.0, 1.05, 1.09, 1.05, 1.0, 1.045), "101010"),
        (0.1, (1.0, 1.05, 1.09, 1.05, 1.0, 1.045), "100000"),
        # nine times as much, and the other way round: below 1 a change, from 1 on none
        (0.99, (1.0, 10.0, -1.0, -1.5), "1110"),
        (1.0, (1.0, 10.0, -1.0, -1.5), "1000"),
    ],
)
def test_what_the_first_block_adds_decides(threshold, first, computed):
    model, pattern = Three(), ""
    head, body = model.transformer_blocks
    cache = BlockCache(StepCache.parse("dbcache", f"Fn=1,warmup=1,threshold={threshold}"), 3)
    remembered = 0.0
    with cache.attached(model):
        for step, amount in enumerate(first):
            before = cache.reused
            head.amount, body.amount = amount, 100.0 * step
            found = cache.evaluate(Evaluation(torch.zeros(1), 0.5, step, "positive"), model)
            pattern += "0" if cache.reused > before else "1"
            if pattern[-1] == "1":
                remembered = body.amount
            assert torch.allclose(found, torch.full_like(found, 1 + amount + remembered))
    assert pattern == computed


def test_the_second_evaluation_of_a_step_is_computed(flux):
    cache = BlockCache(always(), BLOCKS)
    with cache.attached(flux):
        run(flux, cache, 0.9, 0)
        run(flux, cache, 0.8, 1)
        assert torch.equal(run(flux, cache, 0.7, 1), at(flux, 0.7))


def test_a_forecast_follows_its_derivatives():
    """Against sums written out; cache-dit's differences over steps."""
    values = {0: 1.0, 1: 2.0, 2: 4.0, 5: 13.0}
    first, second, none = Forecast(1), Forecast(2), Forecast(0)
    for step, value in values.items():
        for forecast in (first, second, none):
            forecast.update(torch.tensor(value), step)
    slope, before = (13 - 4) / 3, (4 - 2) / 1
    bend = (slope - before) / 3
    assert float(none.at(7)) == 13
    assert float(first.at(7)) == pytest.approx(13 + 2 * slope)
    assert float(second.at(7)) == pytest.approx(13 + 2 * slope + 4 / 2 * bend)
