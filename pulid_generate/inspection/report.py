"""TODO"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pulid_extract.shared.model_files.transfer import size_text


@dataclass(frozen=True)
class Part:
    """One model of a file.

    refusal: why it cannot be used here, "" if it can. facts: what its shapes say. dtypes:
    parameters by type, as the file spells it; empty where only the names are known (a pickle).
    stored: bytes of its tensors. parameters: None where they are not known.
    """

    kind: str
    refusal: str
    facts: dict[str, Any]
    dtypes: dict[str, int]
    stored: int | None

    @property
    def parameters(self) -> int | None:
        return sum(self.dtypes.values()) if self.dtypes else None

    @property
    def memory(self) -> dict[str, int] | None:
        """Bytes when loaded: kept as stored, in 16 bits, in 32 bits."""
        if self.parameters is None or self.stored is None:
            return None
        return {"stored": self.stored, "bf16": 2 * self.parameters, "f32": 4 * self.parameters}


@dataclass(frozen=True)
class Inspection:
    """What one file or folder is. size: bytes on disk. facts: of files that are no models."""

    path: Path
    kind: str
    layout: str
    size: int
    parts: list[Part] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "kind": self.kind,
            "layout": self.layout,
            "bytes": self.size,
            **self.facts,
            "parts": [
                {
                    "kind": part.kind,
                    "refusal": part.refusal or None,
                    **part.facts,
                    "parameters": part.parameters,
                    "dtypes": part.dtypes,
                    "memory": part.memory,
                }
                for part in self.parts
            ],
        }

    def as_text(self) -> str:
        """A paragraph for people."""
        rows: list[tuple[str, str]] = [("kind", self.kind), ("layout", self.layout)]
        rows += [(name, _fact(value)) for name, value in self.facts.items()]
        for part in self.parts:
            if len(self.parts) > 1:
                rows.append(("part", part.kind))
            rows += [(name, _fact(value)) for name, value in part.facts.items()]
            rows += _numbers(part)
            if part.refusal:
                rows.append(("refused", part.refusal))
        if len(self.parts) > 1 and all(part.memory for part in self.parts):
            rows.append(("together", _memory(_sum(part.memory or {} for part in self.parts))))
        rows.append(("on disk", size_text(self.size)))
        width = max(len(name) for name, _ in rows)
        return "\n".join(
            [
                str(self.path),
                *(f"  {name.replace('_', ' '):<{width}}  {value}" for name, value in rows),
            ]
        )


def _fact(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_fact(part)}" for name, part in value.items())
    return " x ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _numbers(part: Part) -> list[tuple[str, str]]:
    if part.parameters is None or part.memory is None:
        return (
            []
            if part.stored is None
            else [("parameters", "not known: a pickle is not opened here")]
        )
    shares = sorted(part.dtypes.items(), key=lambda entry: -entry[1])
    mix = ", ".join(f"{100 * count / part.parameters:.1f} % {name}" for name, count in shares)
    return [("parameters", f"{part.parameters:,}: {mix}"), ("in memory", _memory(part.memory))]


def _memory(memory: Mapping[str, int]) -> str:
    stored, half, full = (size_text(memory[name]) for name in ("stored", "bf16", "f32"))
    return f"{stored} as stored, {half} in 16 bits, {full} in 32 bits"


def _sum(memories: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for memory in memories:
        total.update(memory)
    return dict(total)
