"""What an identity is validated with, and what it must reach. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from pulid_generate.flags.commands.batch import SeriesFlags


@dataclass(frozen=True, kw_only=True)
class ValidationFlags(SeriesFlags):
    """What `validate` has for itself."""

    HEADING = "Validation"

    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            metavar="FILE|small-world",
            help="Your own, one in each line; small-world: seven that the demo's models know. "
            "Default: twelve of ours, of pose, light, age, style, occlusion and crowd.",
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
    truth: Annotated[
        list[str] | None,
        typer.Option(
            "--truth",
            metavar="PICTURE",
            help="Another photograph of the person: says whether faces are nearer to the reference "
            "than to the person (copy_paste). Repeat for more.",
        ),
    ] = None
    prompt_judge: Annotated[
        str | None,
        typer.Option(
            "--prompt-judge",
            metavar="FILE.onnx",
            help="A CLIP that says whether pictures show their prompts. Default: the EVA02-CLIP "
            "file of the extraction, if it is there and has its text tower.",
        ),
    ] = None
    eva_clip: Annotated[
        str | None,
        typer.Option(
            "--eva-clip",
            metavar="FILE",
            help="That EVA02-CLIP file, EVA02_CLIP_L_336_psz14_s6B.pt.",
        ),
    ] = None
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            metavar="MEASURE>=N,..",
            help="Exit 1 unless all of it is so, such as "
            "'mean_likeness>=0.5,copy_paste<=0.2,prompt>=-1'. Measures: docs/validation.md.",
        ),
    ] = None
    min_similarity: Annotated[
        float | None,
        typer.Option(
            "--min-similarity",
            metavar="C",
            min=-1,
            max=1,
            help="The same as --require 'mean_likeness>=C': the mean over all pictures of the "
            "person, one without a face counting 0.",
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
