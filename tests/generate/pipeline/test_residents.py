"""Which models stay side by side, on several devices."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(
    ("vae_device", "main_memory", "extra", "fits"),
    [("cuda:0", 10, 30, True), ("cpu", 100, 0, True), ("cpu", 10, 0, False)],
)
def test_what_stays_beside_flux(vae_device, main_memory, extra, fits):
    from pulid_generate.files.model import Model
    from pulid_generate.memory.plan import Plan, Stage
    from pulid_generate.pipeline.planning import _bytes_on_flux_device, _fits_elsewhere

    stages = (Stage(Model.FLUX, "cuda:0", 100, 0, waiting=5), Stage(Model.VAE, vae_device, 20, 10))
    plan = Plan(stages, {"cuda:0": 1000, "cpu": main_memory}, {}, None)
    assert _bytes_on_flux_device(plan, frozenset({Model.VAE})) == int(extra * 1.05)
    assert _fits_elsewhere(plan, frozenset({Model.VAE})) is fits
    assert _fits_elsewhere(plan, frozenset())
