"""The flags of one extraction, `pulid-extract --portrait ... --out ...`, in groups that `batch`
takes as well. Knows nothing of what they do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from pulid_extract.flags.groups import (
    CropFlags,
    EncodeFlags,
    FaceFlags,
    ModelFlags,
    SayFlags,
    show_version,
)
from pulid_extract.shared.cli.standard_output import dash_for_stdout

# flags about the pixels of one portrait
ONE_PORTRAIT = ("face_at", "face_box", "landmarks", "mask", "box", "face_image", "crop_image")
# flags about several portraits
SEVERAL_PORTRAITS = ("fuse", "drop_outliers", "mix_people")


@dataclass(frozen=True, kw_only=True)
class PictureFlags:
    """Pictures for the eye, and what is printed."""

    HEADING = "Output"

    preview: Annotated[
        str | None,
        typer.Option(
            "--preview",
            metavar="FILE.png",
            help="Also write a sheet: photo with the chosen face, crop, parse map, grey face.",
        ),
    ] = None
    face_image: Annotated[
        str | None,
        typer.Option(
            "--face-image",
            metavar="FILE.png",
            help="Also write the grey face on white that EVA-CLIP sees.",
        ),
    ] = None
    crop_image: Annotated[
        str | None,
        typer.Option(
            "--crop-image", metavar="FILE.png", help="Also write the aligned 512x512 crop."
        ),
    ] = None
    strict: Annotated[
        bool,
        typer.Option(
            "--strict",
            help="Fail (exit 1) on any warning about a portrait, before anything is written.",
        ),
    ] = False
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON instead of the output's path.")
    ] = False
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=show_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class RegionFlags:
    """What EVA-CLIP may see of the face."""

    HEADING = "What of the face"

    mask: Annotated[
        str | None,
        typer.Option(
            "--mask",
            metavar="FILE",
            help="Picture as large as the upright portrait: EVA-CLIP sees only what is white in "
            "it.",
        ),
    ] = None
    box: Annotated[
        list[str] | None,
        typer.Option(
            "--box",
            metavar="X,Y,W,H",
            help="EVA-CLIP sees only this region of the portrait; repeat for more.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class FuseFlags:
    """Several portraits of one person."""

    HEADING = "Several portraits"

    fuse: Annotated[
        Literal["encoder", "mean", "concat", "weighted"],
        typer.Option(
            "--fuse",
            help="How several portraits become one identity. encoder: in one pass of IDFormer (the "
            "reference). mean, weighted (by quality): average of their tokens. concat: all tokens, "
            "32 for each portrait.",
        ),
    ] = "encoder"
    drop_outliers: Annotated[
        bool,
        typer.Option(
            "--drop-outliers",
            help="Leave out portraits that are unlike the others (mean ArcFace cosine below 0.35).",
        ),
    ] = False
    mix_people: Annotated[
        bool,
        typer.Option(
            "--mix-people",
            help="Fuse portraits even if two of them are different people (ArcFace cosine below "
            "0.25).",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class CacheFlags:
    """Whether results are remembered."""

    HEADING = "Cache"

    no_cache: Annotated[
        bool,
        typer.Option(
            "--no-cache",
            envvar="PULID_NO_CACHE",
            help="Neither read nor write the embedding cache; see `pulid-extract cache`.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class PortraitFlags:
    """Portraits in, one file out."""

    HEADING = "Portraits"

    portrait: Annotated[
        list[str] | None,
        typer.Option(
            "--portrait",
            metavar="FILE|FOLDER|-",
            help="Picture of the person: JPEG, PNG or WebP (HEIC with pillow-heif); - reads "
            "standard input. Several of one person are fused: repeat it, name a folder, or write "
            "--portrait *.jpg.",
        ),
    ] = None
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE|-",
            callback=dash_for_stdout,
            help="The .pulidembd to write; - writes standard output.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ExtractFlags(
    SayFlags,
    PictureFlags,
    CacheFlags,
    ModelFlags,
    CropFlags,
    RegionFlags,
    FaceFlags,
    EncodeFlags,
    FuseFlags,
    PortraitFlags,
):
    """Every flag of one extraction. Dataclasses list the fields of the last base first."""
