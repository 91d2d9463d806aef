"""What peft says beside its matrices: alpha, for all layers and for some, and how it is meant. Its
values come from anywhere and are checked here, once.

Imports no torch. Source: huggingface/peft src/peft/tuners/lora/config.py and model.py
(lora_alpha, alpha_pattern, use_rslora, use_dora), src/peft/utils/other.py
(get_pattern_key: how a pattern meets a name); diffusers 0.42.1 loaders/lora_base.py
(lora_adapter_metadata).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pulid_extract.shared.json_text import read_object
from pulid_extract.shared.records import number
from pulid_generate.errors import WeightsError
from pulid_generate.files.model import Model
from pulid_generate.files.patterns import MAX_CHARACTERS, check_pattern, is_repeating
from pulid_generate.lora.names import split_prefix

METADATA = "lora_adapter_metadata"
# peft's save_pretrained writes both
PEFT_FILE, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
MAX_CONFIG_BYTES = 8 << 20
# patterns that meet names of any length
MAX_REPEATING = 16
MAX_DOTS = 24


@dataclass(frozen=True)
class AlphaPattern:
    """Layers with an alpha of their own. Raises ValueError for a pattern that could take long."""

    # a regular expression: of a whole name with "^" before it, else of a name's last parts
    text: str
    alpha: float

    def __post_init__(self) -> None:
        check_pattern(self.text)

    def fits(self, layer: str) -> bool:
        """As peft: re.match(r"(.*\\.)?(PATTERN)$", layer), part by part."""
        if self.text.startswith("^"):
            return re.match(self.text, layer) is not None
        parts = layer.split(".")
        ends = (".".join(parts[first:]) for first in range(len(parts)))
        return any(re.fullmatch(self.text, end) for end in ends)


@dataclass(frozen=True)
class PeftSettings:
    """Of one model."""

    # of all layers; None for the rank
    alpha: float | None = None
    patterns: tuple[AlphaPattern, ...] = ()
    # divide by the root of the rank
    is_rank_stabilised: bool = False
    is_dora: bool = False

    def alpha_of(self, layer: str) -> float | None:
        """Of one layer, by its name without the model's prefix."""
        if self.patterns and (len(layer) > MAX_CHARACTERS or layer.count(".") > MAX_DOTS):
            # of no model here
            return self.alpha
        for pattern in self.patterns:
            if pattern.fits(layer):
                return pattern.alpha
        return self.alpha


def read_peft(path: Path, metadata: Mapping[str, str]) -> dict[Model, PeftSettings]:
    """Of each model that is described: in the file's metadata, or in the file that peft writes next
    to it. Raises WeightsError for a description that means nothing.
    """
    try:
        text = _description(path, metadata)
        if text is None:
            return {}
        by_model: dict[Model, dict[str, Any]] = {}
        for key, value in read_object(text).items():
            # "transformer.lora_alpha"
            model, name = split_prefix(key)
            by_model.setdefault(model, {})[name] = value
        return {model: _settings(values) for model, values in by_model.items()}
    except (ValueError, OSError) as error:
        raise WeightsError(
            f"{path}: the description of its alphas cannot be read ({error}); download it again"
        ) from None


def _description(path: Path, metadata: Mapping[str, str]) -> str | bytes | None:
    if METADATA in metadata:
        return metadata[METADATA]
    config = path.with_name(PEFT_CONFIG)
    if path.name != PEFT_FILE or not config.is_file():
        return None
    with open(config, "rb") as file:
        text = file.read(MAX_CONFIG_BYTES + 1)
    if len(text) > MAX_CONFIG_BYTES:
        raise ValueError(f"{config.name} is larger than {MAX_CONFIG_BYTES >> 20} MiB")
    return text


def _settings(values: Mapping[str, Any]) -> PeftSettings:
    """Raises ValueError, naming what is of another type."""
    alpha, patterns = values.get("lora_alpha"), values.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise ValueError("alpha_pattern is not an object")
    read = [AlphaPattern(text, _number("alpha_pattern", one)) for text, one in patterns.items()]
    if sum(is_repeating(pattern.text) for pattern in read) > MAX_REPEATING:
        raise ValueError(f"more than {MAX_REPEATING} of its patterns repeat something")
    return PeftSettings(
        alpha=None if alpha is None else _number("lora_alpha", alpha),
        patterns=tuple(read),
        is_rank_stabilised=bool(values.get("use_rslora")),
        is_dora=bool(values.get("use_dora")),
    )


def _number(name: str, value: Any) -> float:
    try:
        return number(value)
    except (ValueError, OverflowError):
        raise ValueError(f"{name} is {str(value)[:40]!r}, expected a number") from None
