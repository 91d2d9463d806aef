"""Every flag that the commands of pulid-extract share, as frozen dataclasses: the fields are the
table. Imports no torch.

A command's flags are a dataclass that inherits the groups it takes; `takes_flags` makes the command
line of it. Knows nothing of what the flags do.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

from pulid_extract.shared.model_files import MODELS_DIR_VARIABLE
from pulid_extract.version import __version__


def _threshold(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"{value:g} is not above 0 and below 1")
    return value


def _index(value: int | None) -> int | None:
    if value is not None and value < 0:
        raise typer.BadParameter(f"{value} is below 0; faces are counted from 0")
    return value


def show_version(asked: bool) -> None:
    """A typer callback: print the version and exit, if --version was given."""
    if asked:
        typer.echo(f"pulid-extract {__version__}")
        raise typer.Exit


@dataclass(frozen=True, kw_only=True)
class SayFlags:
    """What is said on standard error."""

    HEADING = "Output"

    verbose: Annotated[
        bool,
        typer.Option("--verbose", "-v", help="Say also which files are read, and by which rule."),
    ] = False
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Say nothing but results and errors.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class AntelopeFlags:
    """The one pack that finds and recognises faces, for commands that need no more."""

    HEADING = "Model files"

    antelopev2: Annotated[
        str | None,
        typer.Option(
            "--antelopev2",
            metavar="FOLDER",
            help="InsightFace's antelopev2 pack (non-commercial licence).",
        ),
    ] = None
    models_dir: Annotated[
        str | None,
        typer.Option(
            "--models-dir",
            metavar="FOLDER",
            envvar=MODELS_DIR_VARIABLE,
            help="Folder of model files, told apart by what is in them; flags for single files "
            "come first, the Hugging Face cache and download last.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TowerFlags:
    """The one CLIP, and where networks of torch run."""

    HEADING = "Model files"

    eva_clip: Annotated[
        str | None,
        typer.Option(
            "--eva-clip",
            metavar="FILE",
            help="EVA02_CLIP_L_336_psz14_s6B.pt, or timm's or open_clip's safetensors.",
        ),
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        typer.Option("--device", help="Where the networks run."),
    ] = "auto"


@dataclass(frozen=True, kw_only=True)
class ModelFlags(TowerFlags, AntelopeFlags):
    """Where all the networks come from and where they run."""

    HEADING = "Model files"

    pulid_weights: Annotated[
        str | None,
        typer.Option("--pulid-weights", metavar="FILE", help="pulid_flux_v0.9.1.safetensors."),
    ] = None
    retinaface: Annotated[
        str | None,
        typer.Option(
            "--retinaface", metavar="FILE", help="detection_Resnet50_Final.pth (facexlib)."
        ),
    ] = None
    bisenet: Annotated[
        str | None,
        typer.Option("--bisenet", metavar="FILE", help="parsing_bisenet.pth (facexlib)."),
    ] = None
    fast: Annotated[
        bool,
        typer.Option(
            "--fast",
            help="EVA-CLIP and IDFormer in bfloat16, as the reference has them, where the device "
            "multiplies it: sooner done, and tokens that are about 1 % from the exact ones. The "
            "file says so.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class DetectFlags:
    """How faces are found and counted."""

    HEADING = "Which face"

    face_order: Annotated[
        Literal["largest", "left", "right", "top", "bottom", "center"] | None,
        typer.Option(
            "--face-order", help="How faces are counted; the first is taken. Default: largest."
        ),
    ] = None
    det_threshold: Annotated[
        float | None,
        typer.Option(
            "--det-threshold",
            metavar="S",
            callback=_threshold,
            help="Score from which something is a face, 0 to 1. Default: 0.5, insightface's.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class FaceFlags(DetectFlags):
    """Which face is meant; `face_choice` reads them."""

    HEADING = "Which face"

    face_index: Annotated[
        int | None,
        typer.Option(
            "--face-index",
            metavar="N",
            callback=_index,
            help="Take face N, counted from 0 in --face-order; `faces` lists them.",
        ),
    ] = None
    face_at: Annotated[
        str | None,
        typer.Option(
            "--face-at",
            metavar="X,Y",
            help="Take the face at this point of the upright portrait (pixels).",
        ),
    ] = None
    face_box: Annotated[
        str | None,
        typer.Option(
            "--face-box",
            metavar="X,Y,W,H",
            help="Use this region of the upright portrait (pixels) and no face detector.",
        ),
    ] = None
    landmarks: Annotated[
        str | None,
        typer.Option(
            "--landmarks",
            metavar="X,Y,..",
            help="Align by these five points (eyes, nose tip, mouth corners; left ones first) and "
            "use no face detector.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class CropFlags:
    """How the face is cut out; the defaults are the reference's."""

    HEADING = "Crop"

    aligner: Annotated[
        Literal["retinaface", "antelopev2"],
        typer.Option(
            "--aligner",
            help="Whose landmarks align the crop. antelopev2 saves loading and running RetinaFace; "
            "the crop shifts by some pixels against the reference's, and the tokens with it.",
        ),
    ] = "retinaface"
    parser: Annotated[
        Literal["bisenet", "none"],
        typer.Option(
            "--parser",
            help="What removes the background. none: EVA-CLIP sees the whole crop in grey, unlike "
            "the reference.",
        ),
    ] = "bisenet"


@dataclass(frozen=True, kw_only=True)
class EncodeFlags:
    """What goes into the file."""

    HEADING = "Identity file"

    with_uncond: Annotated[
        bool,
        typer.Option(
            "--with-uncond",
            help="Also store the zero-condition tokens; --cfg-scale above 1 needs them.",
        ),
    ] = False
    dtype: Annotated[
        Literal["f16", "bf16", "f32"], typer.Option("--dtype", help="How the tokens are stored.")
    ] = "f16"
