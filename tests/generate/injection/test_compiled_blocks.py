"""Compiled blocks with hooks: the same numbers, and nothing compiled anew."""

from __future__ import annotations

import pytest
import torch
from support.distances import relative
from support.models.seeded_flux import LEFT, RIGHT, velocity

from pulid_generate.errors import PlacementError
from pulid_generate.injection.compiling import check_compiler, compile_blocks
from pulid_generate.injection.hooks import attach
from pulid_generate.injection.layer_skip import skip_layers
from pulid_generate.injection.terms import Term


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
