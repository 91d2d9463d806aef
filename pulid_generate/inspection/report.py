"""What was found out about a file, as values, and how it is shown: JSON, or a paragraph for people.

Knows no file and no header. Imports no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pulid_extract.shared.errors import printable
from pulid_extract.shared.model_files.meter import size_text

# facts whose numbers are one size
SIZES = ("size", "tokens", "uncond")


@dataclass(frozen=True)
class Part:
    """One model of a file."""

    kind: str
    # why it cannot be used here, "" if it can
    refusal: str
    # what its shapes say
    facts: dict[str, Any]
    # parameters by type, as the file spells it; empty where only the names are known (a pickle)
    dtypes: dict[str, int]
    # bytes of its tensors
    stored: int | None

    @property
    def parameters(self) -> int | None:
        """How many numbers it has, None where that is not known."""
        return sum(self.dtypes.values()) if self.dtypes else None

    @property
    def memory(self) -> dict[str, int] | None:
        """Bytes when loaded: kept as stored, in 16 bits, in 32 bits."""
        if self.parameters is None or self.stored is None:
            return None
        return {"stored": self.stored, "bf16": 2 * self.parameters, "f32": 4 * self.parameters}


@dataclass(frozen=True)
class Inspection:
    """What one file or folder is."""

    path: Path
    kind: str
    layout: str
    # bytes on disk
    size: int
    # the models in it
    parts: list[Part] = field(default_factory=list)
    # of files that are not models: an identity, a picture, a LoRA
    facts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The inspection for --json."""
        parts = [
            {
                "kind": part.kind,
                "refusal": part.refusal or None,
                **part.facts,
                "parameters": part.parameters,
                "dtypes": part.dtypes,
                "memory": part.memory,
            }
            for part in self.parts
        ]
        return {
            "path": str(self.path),
            "kind": self.kind,
            "layout": self.layout,
            "bytes": self.size,
            **self.facts,
            "parts": parts,
        }

    def as_text(self) -> str:
        """A paragraph for people."""
        rows: list[tuple[str, str]] = [("kind", self.kind), ("layout", self.layout)]
        rows += [(name, _fact_text(value, name)) for name, value in self.facts.items()]
        for part in self.parts:
            if len(self.parts) > 1:
                rows.append(("part", part.kind))
            rows += [(name, _fact_text(value, name)) for name, value in part.facts.items()]
            rows += _number_rows(part)
            if part.refusal:
                rows.append(("refused", part.refusal))
        memories = [part.memory for part in self.parts if part.memory is not None]
        if len(self.parts) > 1 and len(memories) == len(self.parts):
            rows.append(("together", _memory_text(_total(memories))))
        rows.append(("on disk", size_text(self.size)))
        width = max(len(name) for name, _ in rows)
        lines = [str(self.path)]
        for name, value in rows:
            lines.append(f"  {name.replace('_', ' '):<{width}}  {value}")
        # names and texts out of files may hold line breaks and escape codes
        return "\n".join(printable(line, "\N{REPLACEMENT CHARACTER}") for line in lines)


def _fact_text(value: Any, name: str = "") -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_fact_text(part, key)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        texts = [_fact_text(one) for one in value]
        return (" x " if name in SIZES else ", ").join(texts)
    return str(value)


def _number_rows(part: Part) -> list[tuple[str, str]]:
    if part.stored is None:
        return []
    if part.parameters is None or part.memory is None:
        return [("parameters", "not known: a pickle is not opened here")]
    if not part.parameters:
        return [("parameters", "0"), ("in memory", _memory_text(part.memory))]
    shares = sorted(part.dtypes.items(), key=lambda entry: -entry[1])
    mix = ", ".join(f"{100 * count / part.parameters:.1f} % {name}" for name, count in shares)
    return [("parameters", f"{part.parameters:,}: {mix}"), ("in memory", _memory_text(part.memory))]


def _memory_text(memory: Mapping[str, int]) -> str:
    stored, half, full = (size_text(memory[name]) for name in ("stored", "bf16", "f32"))
    return f"{stored} as stored, {half} in 16 bits, {full} in 32 bits"


def _total(memories: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for memory in memories:
        total.update(memory)
    return dict(total)
