"""The flags of `pulid-extract doctor`: those that name files, as an extraction takes them. Knows
nothing of what they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from pulid_extract.flags.groups import CropFlags, ModelFlags


@dataclass(frozen=True, kw_only=True)
class DoctorFlags(ModelFlags, CropFlags):
    """Every flag of `doctor`."""

    HEADING = "Report"

    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False
