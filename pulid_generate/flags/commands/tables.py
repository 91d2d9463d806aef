"""The flags of each command: which groups it takes. Names, aliases and meanings follow sd-cli
(stable-diffusion.cpp 97d29908); where a default differs, the help says so.

Knows no value that was typed. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Any

import typer

from pulid_extract.shared.cluster.flags import ClusterFlags
from pulid_generate.flags.commands.batch import AxesFlags, RowFlags, SeriesFlags, SheetFlags
from pulid_generate.flags.commands.likeness import BestOfFlags, LikenessFlags
from pulid_generate.flags.commands.pictures import GivenPicturesFlags
from pulid_generate.flags.commands.serve import ServingFlags
from pulid_generate.flags.commands.validation import ValidationFlags
from pulid_generate.flags.generation.caching import CachingFlags
from pulid_generate.flags.generation.conditions import ControlFlags, ReferenceFlags
from pulid_generate.flags.generation.detail import DetailFlags
from pulid_generate.flags.generation.drawing import DrawingFlags
from pulid_generate.flags.generation.hires import HiresFlags
from pulid_generate.flags.generation.identity import IdentityFlags
from pulid_generate.flags.generation.models import ModelFlags
from pulid_generate.flags.generation.output import OutputFlags
from pulid_generate.flags.generation.placement import PlacementFlags
from pulid_generate.flags.generation.preview import PreviewFlags
from pulid_generate.flags.generation.upscaling import UpscalingFlags
from pulid_generate.request.passes.detail import ANTELOPEV2


@dataclass(frozen=True, kw_only=True)
class Flags(
    OutputFlags,
    PreviewFlags,
    PlacementFlags,
    ModelFlags,
    CachingFlags,
    UpscalingFlags,
    DetailFlags,
    HiresFlags,
    ControlFlags,
    ReferenceFlags,
    IdentityFlags,
    DrawingFlags,
):
    """Every flag of one generation, as typed. The fields of its bases are the table, the last
    base's first; nothing else lists them.
    """


@dataclass(frozen=True, kw_only=True)
class DrawFlags(BestOfFlags, LikenessFlags, Flags):
    """Every flag of the command that draws one picture."""


@dataclass(frozen=True, kw_only=True)
class BatchFlags(LikenessFlags, Flags, SheetFlags, ClusterFlags, RowFlags):
    """Every flag of `batch`; those of a generation hold for every row that does not say
    otherwise.
    """

    @classmethod
    def of_command(cls, flags: Flags, **own: Any) -> BatchFlags:
        """For a command that makes its rows itself: its flags as far as `batch` has them, with
        `own` in place of some.
        """
        common = {}
        for field in fields(cls):
            if hasattr(flags, field.name):
                common[field.name] = getattr(flags, field.name)
        return cls(**common | own)


@dataclass(frozen=True, kw_only=True)
class SweepFlags(LikenessFlags, Flags, SeriesFlags, AxesFlags):
    """Every flag of `sweep`; those of a generation hold for every picture."""

    # the sheet, not a picture
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE.png",
            help="The sheet; FILE-2.png and so on if it gets too large.",
        ),
    ] = "sweep.png"


@dataclass(frozen=True, kw_only=True)
class VerifyFlags(Flags):
    """Every flag of `verify`."""

    HEADING = "Output"

    script: Annotated[
        bool,
        typer.Option(
            "--script",
            help="Print a shell script that does the same with three processes and sha256sum, and "
            "exit.",
        ),
    ] = False


@dataclass(frozen=True, kw_only=True)
class ValidateFlags(LikenessFlags, Flags, ValidationFlags):
    """Every flag of `validate`; those of a generation hold for every picture."""


@dataclass(frozen=True, kw_only=True)
class DetailCommandFlags(Flags, LikenessFlags, GivenPicturesFlags):
    """Every flag of `detail`; those of a generation hold for every face."""

    # it is what the command does
    ad_model: Annotated[
        str | None,
        typer.Option(
            "--ad-model",
            metavar="antelopev2|FOLDER",
            help="What finds faces: antelopev2 of the models folder, or its FOLDER.",
        ),
    ] = ANTELOPEV2


@dataclass(frozen=True, kw_only=True)
class ServeFlags(Flags, ClusterFlags, ServingFlags):
    """Every flag of `serve`; those of a generation hold for every request that does not say
    otherwise.
    """
