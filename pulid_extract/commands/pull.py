"""`pulid-extract pull [PART..]`: parse, plan, fetch, print."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pulid_extract.files.antelopev2_zip import fill_from_zip
from pulid_extract.files.kits import KITS
from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.pull_options import AsJson, DryRun, Force, ModelsDir
from pulid_extract.shared.cli.settings import takes_settings
from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.model_files.pulling import KitItem, PullOutcome, carry_out, plan


@takes_settings
def pull(
    context: typer.Context,
    parts: Annotated[
        list[str] | None,
        typer.Argument(metavar="PART", help=f"Which: {', '.join(KITS)}. Default: all."),
    ] = None,
    models_dir: ModelsDir = "models",
    antelopev2_zip: Annotated[
        str | None,
        typer.Option(
            "--antelopev2-zip",
            metavar="FILE.zip",
            help="Take antelopev2 out of InsightFace's own archive instead.",
        ),
    ] = None,
    dry_run: DryRun = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Fetch the model files of an extraction into one folder. What is there already stays.

    An interrupted download is resumed; SHA-256 hashes are checked. antelopev2 is for non-commercial
    research only.
    """
    chosen = list(dict.fromkeys(parts or KITS))
    unknown = [part for part in chosen if part not in KITS]
    if unknown:
        context.fail(f"Invalid value for PART: {unknown[0]!r} is not one of {', '.join(KITS)}.")
    if antelopev2_zip is not None and "antelopev2" not in chosen:
        context.fail("--antelopev2-zip: antelopev2 is not among the parts that were named.")
    folder = path_of(models_dir)
    items: list[KitItem] = []
    for part in chosen:
        items += KITS[part]
    outcomes = plan(items, folder, force)
    if antelopev2_zip is not None:
        outcomes = fill_from_zip(outcomes, path_of(antelopev2_zip), folder, dry_run)

    def tell(outcome: PullOutcome) -> None:
        console.write_line(json.dumps(outcome.as_dict()) if as_json else outcome.line())

    carry_out(outcomes, folder, dry_run, console.log, tell)
