"""Prompts for the small world: within what its Flux has learnt, and the note about longer ones."""

from __future__ import annotations

import pytest
from micro_world.prompts import T5_LENGTH
from support.paths import ROOT

from pulid_generate.demo.scenes import PROMPTS
from pulid_generate.models.prompt_reader import PromptReader
from pulid_generate.pipeline.fitting import SMALL_WORLD_TOKENS
from pulid_generate.validation.prompts import SMALL_WORLD_TRIALS, TRIALS

VOCABULARY = ROOT / "scripts/micro_world/models/tokenizer.json"


@pytest.fixture(scope="module")
def reader():
    return PromptReader(VOCABULARY, SMALL_WORLD_TOKENS)


def test_what_is_offered_for_the_small_world_is_what_it_has_learnt(reader):
    assert SMALL_WORLD_TOKENS == T5_LENGTH
    for text in (*PROMPTS, *(trial.text for trial in SMALL_WORLD_TRIALS)):
        assert reader.read(text, SMALL_WORLD_TOKENS).notes == ()
    assert len({trial.name for trial in SMALL_WORLD_TRIALS}) == len(SMALL_WORLD_TRIALS)


def test_a_longer_prompt_is_named_and_noted(reader):
    note, *_ = reader.read(TRIALS[0].text, 256).notes
    assert note.startswith("prompt 'studio photograph of a person looking ..'")
    assert "has learnt 32 at most" in note
    # the real Flux has no such limit
    assert PromptReader(VOCABULARY).read(TRIALS[0].text, 256).notes == ()
