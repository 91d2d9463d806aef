"""peft's description of its alphas: read as peft reads it, and refused where it is of another type,
or could take for ever.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pulid_generate.errors import WeightsError
from pulid_generate.files.model import Model
from pulid_generate.lora.peft import METADATA, PeftSettings, read_peft

LAYER = "single_transformer_blocks.1.attn.to_q"


def settings_of(values, path=Path("l.safetensors")) -> PeftSettings:
    text = values if isinstance(values, str) else json.dumps(values)
    return read_peft(path, {METADATA: text}).get(Model.FLUX, PeftSettings())


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("to_q", True),
        ("attn.to_q", True),
        ("tn.to_q", False),
        (r"^single.*attn\.to_[qk]", True),
        ("^attn", False),
        (r"single_transformer_blocks\.\d+\.attn\.(to_q|to_k)", True),
        ("to_k", False),
    ],
)
def test_patterns_meet_names_as_pefts_do(pattern, fits):
    settings = settings_of({"transformer.lora_alpha": 6, "transformer.alpha_pattern": {pattern: 2}})
    assert settings.alpha_of(LAYER) == (2 if fits else 6)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ("[" * 100_000, "nested more than 64 deep"),
        ("[1]", "not an object"),
        ({"lora_alpha": [6]}, "lora_alpha is '\\[6\\]', expected a number"),
        ({"lora_alpha": True}, "lora_alpha is 'True'"),
        ({"lora_alpha": "nan"}, "lora_alpha is 'nan'"),
        ('{"lora_alpha": 1e999}', "too large"),
        ({"alpha_pattern": ["to_q"]}, "alpha_pattern is not an object"),
        ({"alpha_pattern": {"to_q": {}}}, "alpha_pattern is '{}'"),
        ({"alpha_pattern": {"(": 1}}, "is none"),
        ({"alpha_pattern": {"(a+)+b": 1}}, "longer or richer"),
        ({"alpha_pattern": {r"(a|b)\1": 1}}, "longer or richer"),
        ({"alpha_pattern": {"(?=a)": 1}}, "longer or richer"),
        ({"alpha_pattern": {"a" * 5000: 1}}, "longer or richer"),
        ({"alpha_pattern": {"a*a*a*b": 1}}, "repeats too much"),
        ({"alpha_pattern": {f"a{place}*": 1 for place in range(17)}}, "more than 16 of its"),
    ],
    ids=range(15),
)
def test_what_means_nothing_is_one_error(values, reason):
    with pytest.raises(WeightsError, match=f"description of its alphas cannot be read .*{reason}"):
        settings_of(values)


def test_a_name_of_no_model_is_not_looked_at():
    settings = settings_of({"lora_alpha": 3, "alpha_pattern": {".*a.*b": 1}})
    assert settings.alpha_of("a" * 1_000_000) == 3
    assert settings.alpha_of("a." * 60 + "b") == 3
    assert settings.alpha_of("a.b") == 1
