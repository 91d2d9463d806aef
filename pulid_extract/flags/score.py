"""The flags of `pulid-extract score`. Knows nothing of what they do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from pulid_extract.flags.groups import AntelopeFlags, DetectFlags, SayFlags, TowerFlags


@dataclass(frozen=True, kw_only=True)
class ComparisonFlags:
    """Who is compared with whom, what counts as alike, and what is written."""

    HEADING = "Comparison"

    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGES...|-",
            help="Pictures and folders of pictures; - reads one picture from standard input.",
            show_default=False,
        ),
    ]
    reference: Annotated[
        list[str] | None,
        typer.Option(
            "--reference",
            metavar="PICTURE",
            help="Picture of the person, whose largest face counts; repeat for more. May be left "
            "out with --prompt.",
        ),
    ] = None
    truth: Annotated[
        list[str] | None,
        typer.Option(
            "--truth",
            metavar="PICTURE",
            help="Another photograph of the person: says whether the face is nearer to the "
            "reference than to the person (copy_paste, above 0). Repeat for more.",
        ),
    ] = None
    stranger: Annotated[
        list[str] | None,
        typer.Option(
            "--stranger",
            metavar="PICTURE",
            help="Picture of somebody else, as a control: the pictures must be less like it.",
        ),
    ] = None
    recognizer: Annotated[
        list[str] | None,
        typer.Option(
            "--recognizer",
            metavar="FILE.onnx",
            help="Another ArcFace-shaped network (3x112x112 in, one vector out), because the one "
            "that PuLID is conditioned on flatters itself; repeat for more, the first one counts. "
            "'antelopev2' stands for the pack's own, the default.",
        ),
    ] = None
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            metavar="TEXT",
            help="Also say how well each picture shows it: 100 times the cosine of CLIP's vectors, "
            "by the EVA02-CLIP file of the extraction.",
        ),
    ] = None
    prompts: Annotated[
        str | None,
        typer.Option(
            "--prompts",
            metavar="FILE",
            help="The same, with a prompt for each picture: one in each line, in their order.",
        ),
    ] = None
    prompt_judge: Annotated[
        str | None,
        typer.Option(
            "--prompt-judge",
            metavar="FILE.onnx",
            help="Another CLIP (pixel_values and input_ids in, image_embeds and text_embeds out) "
            "for --prompt and --prompts.",
        ),
    ] = None
    face_index: Annotated[
        int | None,
        typer.Option(
            "--face-index",
            metavar="N",
            min=0,
            help="Score face N of each picture, counted from 0 in --face-order. Default: the most "
            "alike.",
        ),
    ] = None
    minimum: Annotated[
        float | None,
        typer.Option(
            "--min",
            metavar="C",
            min=-1,
            max=1,
            help="Exit 1 if any picture's likeness is below, or has no face.",
        ),
    ] = None
    min_mean: Annotated[
        float | None,
        typer.Option(
            "--min-mean",
            metavar="C",
            min=-1,
            max=1,
            help="Exit 1 if mean_likeness is below: the mean over all pictures, one without a face "
            "counting 0.",
        ),
    ] = None
    require: Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            metavar="MEASURE>=N,..",
            help="Exit 1 unless all of it is so, such as 'mean_likeness>=0.5,copy_paste<=0.2'. "
            "Measures: mean_likeness, lowest_likeness, with_face, to_stranger, truth_likeness, "
            "copy_paste, prompt_score.",
        ),
    ] = None
    sheet: Annotated[
        str | None,
        typer.Option(
            "--sheet",
            metavar="FILE.png",
            help="Also write a contact sheet: references, then pictures, best first.",
        ),
    ] = None
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Print one line of JSON for each picture instead of a table."),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ScoreFlags(SayFlags, TowerFlags, AntelopeFlags, DetectFlags, ComparisonFlags):
    """Every flag of `score`."""
