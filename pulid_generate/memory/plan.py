"""The memory plan as values: what is to be drawn, what each stage needs where, what was chosen so
that it fits; and how a plan is shown.

Pure numbers; imports no torch. How a plan is made: stages and planning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from pulid_generate.errors import PlacementError
from pulid_generate.files.layouts import TOKEN_PIXELS
from pulid_generate.files.model import Model
from pulid_generate.memory.footprint import gib

# what allocators waste
MARGIN = 1.05


@dataclass(frozen=True)
class Work:
    """What decides the memory of a generation."""

    # pixels
    width: int
    height: int
    # of the longest prompt
    t5_tokens: int = 512
    # tokens of every identity that is bound, the negative branch's too
    id_tokens: tuple[int, ...] = ()
    # of --vae-tiling, columns and rows in latent cells; None without
    tile: tuple[int, int] | None = None
    # whether a picture is encoded first
    init_image: bool = False
    # of the pictures that Kontext reads beside it
    reference_tokens: int = 0
    # whether packed matrices are widened once, when they load
    dequantize: bool = False
    # whether Flux multiplies in 8-bit floating point
    fp8: bool = False
    # pictures that go through Flux together
    batch: int = 1
    # pixels of the largest of those; None where it is the largest of all
    together: tuple[int, int] | None = None
    # image and text tokens of the largest forward that is recorded; 0 for none
    recorded: int = 0
    # bytes of LoRA matrices
    extra: int = 0

    @property
    def image_tokens(self) -> int:
        """Tokens of the largest picture."""
        return _tokens(self.width, self.height)

    @property
    def shared_tokens(self) -> int:
        """Tokens of the largest of those that go through Flux together."""
        return _tokens(*self.together) if self.together else self.image_tokens

    @property
    def forward_tokens(self) -> int:
        """Tokens of the largest forward of Flux, the prompt's among them: of the largest picture
        by itself, with what it refers to, or of those that go through together.
        """
        alone = self.image_tokens + self.reference_tokens + self.t5_tokens
        return max(alone, self.batch * (self.shared_tokens + self.t5_tokens))


def _tokens(width: int, height: int) -> int:
    """Of one picture."""
    return (width // TOKEN_PIXELS) * (height // TOKEN_PIXELS)


class MeasureKind(Enum):
    """What the plan may choose on its own."""

    # weights keep the 16 bits of their file and are widened layer by layer
    SIXTEEN_BIT = auto()
    # blocks wait in main memory and pass through the device
    STREAMED = auto()
    # the autoencoder decodes in tiles
    TILED = auto()


@dataclass(frozen=True)
class Measure:
    """Something the plan chose so that a stage fits."""

    kind: MeasureKind
    # for the person at the terminal
    text: str


@dataclass(frozen=True)
class Stage:
    """What one model needs while it runs."""

    model: Model
    # "cpu", "cuda:0", ..
    device: str
    # bytes on that device
    weights: int
    working: int
    # bytes of main memory beside it
    waiting: int = 0
    measures: tuple[Measure, ...] = ()

    def has(self, kind: MeasureKind) -> bool:
        """Whether a measure of this kind was chosen."""
        return any(measure.kind is kind for measure in self.measures)

    @property
    def needs(self) -> dict[str, int]:
        """Bytes by device."""
        own = int((self.weights + self.working) * MARGIN)
        if self.device == "cpu":
            return {"cpu": own + self.waiting}
        return {self.device: own, "cpu": self.waiting}


@dataclass(frozen=True)
class Plan:
    """The stages of a generation against the memory that is free."""

    stages: tuple[Stage, ...]
    # bytes by device
    available: Mapping[str, int]
    # numbers of the blocks that stay on their device, of the models that stream
    resident: Mapping[Model, frozenset[int]]
    # the autoencoder's tile, columns and rows in latent cells; None decodes whole pictures
    tile: tuple[int, int] | None
    # why it cannot fit, "" if it can
    problem: str = ""

    @property
    def sixteen_bit(self) -> frozenset[Model]:
        """The models that keep the 16 bits of their files."""
        return frozenset(stage.model for stage in self.stages if stage.has(MeasureKind.SIXTEEN_BIT))

    @property
    def verdict(self) -> str:
        """One of "fits", "fits, with automatic measures" and "cannot fit"."""
        if self.problem:
            return "cannot fit"
        if any(stage.measures for stage in self.stages):
            return "fits, with automatic measures"
        return "fits"

    @property
    def peak(self) -> dict[str, int]:
        """The most that any stage needs, by device."""
        return {
            device: max(stage.needs.get(device, 0) for stage in self.stages)
            for device in self.available
        }

    def stage(self, model: Model) -> Stage:
        """The stage of a model."""
        return next(stage for stage in self.stages if stage.model is model)

    def check(self) -> None:
        """Raise PlacementError if it cannot fit."""
        if self.problem:
            raise PlacementError(self.problem)

    def notes(self) -> list[str]:
        """What was chosen, a line each."""
        return [
            f"{stage.model}: {measure.text}" for stage in self.stages for measure in stage.measures
        ]


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan for --json."""
    stages = [
        {
            "name": str(stage.model),
            "device": stage.device,
            "needs": stage.needs,
            "measures": [measure.text for measure in stage.measures],
        }
        for stage in plan.stages
    ]
    return {
        "verdict": plan.verdict,
        "problem": plan.problem,
        "stages": stages,
        "peak": plan.peak,
        "available": dict(plan.available),
    }


def as_table(plan: Plan) -> str:
    """Lines for `doctor`: each stage, the peak, what is free, the verdict."""
    rows = [("stage", "on", "weights", "working", "main memory", "")]
    for stage in plan.stages:
        waiting = "" if stage.device == "cpu" else gib(stage.waiting)
        measures = "; ".join(measure.text for measure in stage.measures)
        weights, working = gib(stage.weights), gib(stage.working)
        rows.append((str(stage.model), stage.device, weights, working, waiting, measures))
    # the last column is not padded
    widths = [*(max(len(row[column]) for row in rows) for column in range(5)), 0]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
        lines.append("  ".join(cells).rstrip())
    for device, need in plan.peak.items():
        lines.append(f"{device}: {gib(need)} at most, {gib(plan.available[device])} free")
    lines.append(f"{plan.verdict}: {plan.problem}" if plan.problem else plan.verdict)
    return "\n".join(lines)
