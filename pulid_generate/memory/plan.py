"""The memory plan: what each stage of a generation needs where, against what is there, before
anything loads.

It decides what the pipeline does on its own (16-bit weights on a CPU, tiles in the autoencoder,
which blocks stay on a device) and refuses what cannot fit, naming the flag that would make it fit.
Pure numbers; imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pulid_generate.errors import PlacementError
from pulid_generate.memory.footprint import (
    TOKEN_PIXELS,
)

if TYPE_CHECKING:
    pass

GIB = 2**30
CLIP, T5, FLUX, VAE = STAGES = ("CLIP-L", "T5", "Flux", "autoencoder")
MARGIN = 1.05  # what allocators waste
Q4_BYTES = 4.5 / 8  # per number of a Q4_0, Q4_K or IQ4_NL matrix


@dataclass(frozen=True)
class Work:
    """What decides the memory of a generation.

    width, height: pixels. t5_tokens: the longest prompt. id_tokens: tokens of every identity that
    is bound, the negative branch's too. tile: of --vae-tiling, columns and rows in latent cells,
    None without. init_image: whether a picture is encoded first. batch: pictures that go through
    Flux together. extra: bytes of LoRA matrices.
    """

    width: int
    height: int
    t5_tokens: int = 512
    id_tokens: tuple[int, ...] = ()
    tile: tuple[int, int] | None = None
    init_image: bool = False
    dequantize: bool = False
    batch: int = 1
    extra: int = 0

    @property
    def image_tokens(self) -> int:
        return (self.width // TOKEN_PIXELS) * (self.height // TOKEN_PIXELS)


@dataclass(frozen=True)
class Stage:
    """One stage. device: "cpu", "cuda:0", ..; weights and working: bytes there. waiting: bytes of
    main memory beside it.

    measures: what the plan chose so that it fits.
    """

    name: str
    device: str
    weights: int
    working: int
    waiting: int = 0
    measures: tuple[str, ...] = ()

    @property
    def needs(self) -> dict[str, int]:
        """Bytes by device."""
        here = int((self.weights + self.working) * MARGIN)
        return (
            {"cpu": here + self.waiting}
            if self.device == "cpu"
            else {self.device: here, "cpu": self.waiting}
        )


@dataclass(frozen=True)
class Plan:
    """available: bytes by device. narrow: stages that keep 16-bit weights. resident: numbers of
    Flux's and T5's blocks that stay on their device, where they stream. tile: the autoencoder's, in
    latent cells. problem: why it cannot fit, "" if it can.
    """

    stages: tuple[Stage, ...]
    available: Mapping[str, int]
    narrow: frozenset[str]
    resident: Mapping[str, frozenset[int]]
    tile: tuple[int, int] | None
    problem: str = ""

    @property
    def verdict(self) -> str:
        measures = [measure for stage in self.stages for measure in stage.measures]
        if self.problem:
            return "cannot fit"
        return "fits, with automatic measures" if measures else "fits"

    @property
    def peak(self) -> dict[str, int]:
        """The most that any stage needs, by device."""
        return {
            device: max(stage.needs.get(device, 0) for stage in self.stages)
            for device in self.available
        }

    def spare(self, name: str) -> int:
        """Bytes that a stage leaves free on its device: for widened weights that are worth
        keeping.
        """
        stage = next(stage for stage in self.stages if stage.name == name)
        return max(0, self.available[stage.device] - stage.needs[stage.device])

    def check(self) -> None:
        """Raise PlacementError if it cannot fit."""
        if self.problem:
            raise PlacementError(self.problem)

    def notes(self) -> list[str]:
        """What was chosen, a line each."""
        return [f"{stage.name}: {measure}" for stage in self.stages for measure in stage.measures]


def as_dict(plan: Plan) -> dict[str, Any]:
    """For --json."""
    return {
        "verdict": plan.verdict,
        "problem": plan.problem,
        "stages": [
            {
                "name": stage.name,
                "device": stage.device,
                "needs": stage.needs,
                "measures": list(stage.measures),
            }
            for stage in plan.stages
        ],
        "peak": plan.peak,
        "available": dict(plan.available),
    }


def as_table(plan: Plan) -> str:
    """Lines for `doctor`: each stage, the peak, what is there, the verdict."""
    rows = [("stage", "on", "weights", "working", "main memory", "")]
    for stage in plan.stages:
        beside = gib(stage.waiting) if stage.device != "cpu" else ""
        rows.append(
            (
                stage.name,
                stage.device,
                gib(stage.weights),
                gib(stage.working),
                beside,
                "; ".join(stage.measures),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)).rstrip()
        for row in rows
    ]
    lines += [
        f"{device}: {gib(need)} at most, {gib(plan.available[device])} free"
        for device, need in plan.peak.items()
    ]
    return "\n".join([*lines, f"{plan.verdict}{': ' if plan.problem else ''}{plan.problem}"])


# ------------------------------------------------------------------------------------------- stages


# ----------------------------------------------------------------------------------------- refusals


def gib(count: int) -> str:
    return f"{count / GIB:.1f} GiB"
