"""What an identity is validated with, and what it must reach. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from pulid_generate.flags.batch import SeriesFlags


@dataclass(frozen=True, kw_only=True)
class ValidationFlags(SeriesFlags):
    """What `validate` has for itself."""

    HEADING = "Validation"

    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="Your own, one in each line. Default: twelve of ours, of pose, light, age, style, "
            "occlusion and crowd.",
        ),
    ] = None
    seeds: Annotated[
        str, typer.Option("--seeds", metavar="N-M,..", help="Each of them, with every prompt.")
    ] = "1-2"
    stranger_embedding: Annotated[
        str | None,
        typer.Option(
            "--stranger-embedding",
            metavar="FILE",
            help="A .pulidembd of somebody else, as a control: every prompt and seed is drawn with "
            "it too, and compared with --reference.",
        ),
    ] = None
    min_similarity: Annotated[
        float | None,
        typer.Option(
            "--min-similarity",
            metavar="C",
            min=-1,
            max=1,
            help="Exit 1 if the mean cosine over all pictures of the person is below; a picture "
            "without a face counts 0.",
        ),
    ] = None
    output_dir: Annotated[
        str,
        typer.Option(
            "--output-dir",
            metavar="FOLDER",
            help="Where report.html, report.json, sheet.png and pictures/ go; made if need be.",
        ),
    ] = "validation"
