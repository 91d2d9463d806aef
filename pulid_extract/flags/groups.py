"""Every flag that the commands of pulid-extract share, as frozen dataclasses: the fields are the table. Imports no torch.

A command's flags are a dataclass that inherits the groups it takes; `takes_flags` makes the command line of it. Knows nothing of what
the flags do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from pulid_extract.shared.model_files import MODELS_DIR_VARIABLE
from pulid_extract.version import __version__

if TYPE_CHECKING:
    from pulid_extract.faces.choice import FaceChoice

Kind = TypeVar("Kind")


def numbers(text: str, form: str, flag: str, kind: type[int] | type[float] = int) -> tuple[Any, ...]:
    """The numbers of "1,2,3", as many as `form` ("X,Y,W,H") names. Wrong usage for anything else."""
    try:
        values = tuple(kind(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != form.count(",") + 1 or not all(abs(value) < 1e6 for value in values):  # NaN is not below either
        what = "whole numbers" if kind is int else "numbers"
        raise typer.BadParameter(f"{text!r} is not {form}: {form.count(',') + 1} {what} of pixels", param_hint=f"'{flag}'")
    return values


def _threshold(value: float | None) -> float | None:
    if value is not None and not 0 < value < 1:
        raise typer.BadParameter(f"{value:g} is not above 0 and below 1")
    return value


def _index(value: int | None) -> int | None:
    if value is not None and value < 0:
        raise typer.BadParameter(f"{value} is below 0; faces are counted from 0")
    return value


def show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"pulid-extract {__version__}")
        raise typer.Exit


@dataclass(frozen=True, kw_only=True)
class AntelopeFlags:
    """The one pack that finds and recognises faces, for commands that need no more."""

    antelopev2: Annotated[
        str | None,
        typer.Option("--antelopev2", metavar="FOLDER", help="InsightFace's antelopev2 pack (non-commercial licence)."),
    ] = None
    models_dir: Annotated[
        str | None,
        typer.Option(
            "--models-dir",
            metavar="FOLDER",
            envvar=MODELS_DIR_VARIABLE,
            help="Folder of model files, told apart by their headers. Asked after the flags for single files, "
            "before the Hugging Face cache and download.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ModelFlags(AntelopeFlags):
    """Where all the networks come from and where they run."""

    pulid_weights: Annotated[
        str | None, typer.Option("--pulid-weights", metavar="FILE", help="pulid_flux_v0.9.1.safetensors.")
    ] = None
    eva_clip: Annotated[
        str | None,
        typer.Option("--eva-clip", metavar="FILE", help="EVA02_CLIP_L_336_psz14_s6B.pt, or timm's or open_clip's safetensors."),
    ] = None
    retinaface: Annotated[
        str | None, typer.Option("--retinaface", metavar="FILE", help="detection_Resnet50_Final.pth (facexlib).")
    ] = None
    bisenet: Annotated[str | None, typer.Option("--bisenet", metavar="FILE", help="parsing_bisenet.pth (facexlib).")] = None
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option("--device", help="Where the networks run.")] = "auto"


@dataclass(frozen=True, kw_only=True)
class DetectFlags:
    """How faces are found and counted."""

    face_order: Annotated[
        Literal["largest", "left", "right", "top", "bottom", "center"] | None,
        typer.Option("--face-order", help="How faces are counted; the first is taken. Default: largest."),
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

    face_index: Annotated[
        int | None,
        typer.Option(
            "--face-index", metavar="N", callback=_index, help="Take face N, counted from 0 in --face-order; `faces` lists them."
        ),
    ] = None
    face_at: Annotated[
        str | None,
        typer.Option("--face-at", metavar="X,Y", help="Take the face at this point of the upright portrait (pixels)."),
    ] = None
    face_box: Annotated[
        str | None,
        typer.Option(
            "--face-box", metavar="X,Y,W,H", help="Use this region of the upright portrait (pixels) and no face detector."
        ),
    ] = None
    landmarks: Annotated[
        str | None,
        typer.Option(
            "--landmarks",
            metavar="X,Y,..",
            help="Align by these five points (eyes, nose tip, mouth corners; left ones first) and use no face detector.",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class CropFlags:
    """How the face is cut out; the defaults are the reference's."""

    aligner: Annotated[
        Literal["retinaface", "antelopev2"],
        typer.Option(
            "--aligner",
            help="Whose landmarks align the crop. antelopev2 saves loading and running RetinaFace; the crop shifts by some pixels "
            "against the reference's, and the tokens with it.",
        ),
    ] = "retinaface"
    parser: Annotated[
        Literal["bisenet", "none"],
        typer.Option(
            "--parser", help="What removes the background. none: EVA-CLIP sees the whole crop in grey, unlike the reference."
        ),
    ] = "bisenet"


@dataclass(frozen=True, kw_only=True)
class EncodeFlags:
    """What goes into the file."""

    with_uncond: Annotated[
        bool, typer.Option("--with-uncond", help="Also store the zero-condition tokens; --cfg-scale above 1 needs them.")
    ] = False
    dtype: Annotated[Literal["f16", "bf16", "f32"], typer.Option("--dtype", help="How the tokens are stored.")] = "f16"


def takes_flags(kind: type[Kind]) -> Callable[[Callable[[typer.Context, Kind], None]], Callable[..., None]]:
    """A decorator: a command with every field of `kind` as an option, for a function that takes them as one object."""
    hints = get_type_hints(kind, include_extras=True)
    parameters = [inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)]
    for field in fields(kind):  # type: ignore[arg-type]
        default = inspect.Parameter.empty if field.default is MISSING else field.default
        parameters.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hints[field.name])
        )

    def decorate(function: Callable[[typer.Context, Kind], None]) -> Callable[..., None]:
        def command(context: typer.Context, **values: Any) -> None:
            function(context, kind(**values))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return decorate


def face_choice(context: typer.Context, flags: FaceFlags) -> FaceChoice:
    """The face that the flags mean. Wrong usage for flags that exclude each other, or that would change nothing."""
    from pulid_extract.faces.choice import FaceChoice
    from pulid_extract.pictures.portrait import FaceBox

    directly = {"--face-at": flags.face_at, "--face-box": flags.face_box, "--landmarks": flags.landmarks}
    ways = [flag for flag, value in directly.items() if value is not None]
    counted = {"--face-index": flags.face_index, "--face-order": flags.face_order}
    ways += [flag for flag, value in counted.items() if value is not None][: 1 if ways else 0]
    if len(ways) > 1:
        context.fail(f"{ways[0]} and {ways[1]} both choose the face; give one of them.")
    if flags.face_box is not None or flags.landmarks is not None:
        by_hand = "--face-box" if flags.face_box is not None else "--landmarks"
        if flags.det_threshold is not None:
            context.fail(f"--det-threshold changes nothing with {by_hand}, which needs no detector.")
    if flags.face_at is not None:
        x, y = numbers(flags.face_at, "X,Y", "--face-at", float)
        return FaceChoice(at=(x, y))
    if flags.face_box is not None:
        return FaceChoice(box=FaceBox(*numbers(flags.face_box, "X,Y,W,H", "--face-box")))
    if flags.landmarks is not None:
        flat = numbers(flags.landmarks, "X,Y,X,Y,X,Y,X,Y,X,Y", "--landmarks", float)
        return FaceChoice(landmarks=tuple(zip(flat[::2], flat[1::2], strict=True)))
    return FaceChoice(index=flags.face_index or 0, order=flags.face_order or "largest")
