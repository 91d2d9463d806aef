"""The flags that most commands of these tests begin with."""

from __future__ import annotations

import pytest
from support.models.micro_flags import model_flags, pulid_flags

STEPS = ("--steps", 2)


@pytest.fixture
def base(micro):
    """The model flags and a small picture; enough for run A."""
    return (
        *model_flags(micro),
        *("-p", "a photo of a cat", "-W", 64, "-H", 48, *STEPS),
    )


@pytest.fixture
def identity(micro, person):
    return *pulid_flags(micro), "--pulid-id-embedding", person
