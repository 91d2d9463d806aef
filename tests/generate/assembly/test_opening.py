"""What opening a pipeline says of flags that have no effect."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from pulid_generate.assembly.opening import _why_steps_are_not_recorded
from pulid_generate.kernels import recording
from pulid_generate.memory.placement import Placement


@pytest.mark.parametrize(
    ("device", "changes", "flags", "reason"),
    [
        ("cuda", {}, {}, ""),
        ("cuda", {}, {"cache_mode": "easycache"}, ""),
        ("cuda", {"max_vram": {"": 4.0}}, {}, "weights stream"),
        ("cuda", {}, {"control_net": ["a"]}, "with --control-net"),
        ("cuda", {}, {"cache_mode": "dbcache"}, "with --cache-mode dbcache"),
        ("cpu", {}, {}, "on cpu: they are for NVIDIA GPUs"),
    ],
)
def test_why_steps_are_not_recorded(device, changes, flags, reason, monkeypatch):
    monkeypatch.setattr(recording, "has_cuda_graphs", lambda device: device.type == "cuda")
    placement = replace(Placement.choose("cpu"), device=torch.device(device), **changes)
    given = SimpleNamespace(**({"cache_mode": None, "control_net": None} | flags))
    found = _why_steps_are_not_recorded(given, placement)
    assert found == reason or (reason and reason in found)
