"""One row: the options that it gives, over the command's own. Knows not where it came from. Imports
no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pulid_extract.shared.records import Problem
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.flags.generation.caching import CachingFlags
from pulid_generate.flags.generation.conditions import ControlFlags, ReferenceFlags
from pulid_generate.flags.generation.detail import DetailFlags
from pulid_generate.flags.generation.drawing import DrawingFlags
from pulid_generate.flags.generation.hires import HiresFlags
from pulid_generate.flags.generation.identity import IdentityFlags

# Fields that may differ from row to row. The rest is loaded, placed or said once for all of them
BY_ROW = (
    *(item.name for item in fields(DrawingFlags)),
    *(item.name for item in fields(IdentityFlags)),
    *(item.name for item in fields(CachingFlags)),
    *(item.name for item in fields(DetailFlags)),
    *(item.name for item in fields(HiresFlags)),
    *(item.name for item in fields(ControlFlags)),
    *(item.name for item in fields(ReferenceFlags) if item.name != "kontext"),
    *("lora", "lora_model_dir", "vae_tiling", "vae_tile_size", "vae_tile_overlap"),
    *("output", "output_begin_idx", "disable_image_metadata", "reference"),
)
# A row that gives one of these takes the place of a common flag for the other
EITHER = (("prompt", "prompt_file"), ("negative_prompt", "negative_prompt_file"))


@dataclass(frozen=True)
class Row:
    """One generation of a batch."""

    # of the rows, from 1
    number: int
    # where it starts in the manifest; None of a row that no file holds
    line: int | None
    # for messages
    where: str
    # field of BatchFlags -> its value
    values: Mapping[str, Any] = field(default_factory=dict)
    # fields that go back to their own default (null in JSON), whatever the command says
    unset: frozenset[str] = frozenset()

    def merged(
        self, common: BatchFlags, given: Collection[str]
    ) -> tuple[BatchFlags, frozenset[str]]:
        """The flags of this row, with the command's own as defaults, and which of them were
        given.
        """
        values = {name: getattr(BatchFlags, name) for name in self.unset}
        values |= self.values
        for one, other in (*EITHER, *(pair[::-1] for pair in EITHER)):
            if one in self.values and other not in self.values:
                values[other] = getattr(BatchFlags, other)
        kept = frozenset(given) - values.keys()
        return replace(common, **values), kept | self.values.keys()

    def problem(self, error: object) -> Problem:
        """What is wrong with this row."""
        return Problem(f"{self.where}: {error}", self.line or self.number)
