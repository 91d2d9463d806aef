"""`pulid-generate pull KIT`: parse, plan, fetch, print. Imports no torch."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.pull_options import AsJson, DryRun, Force, ModelsDir
from pulid_extract.shared.cli.settings import takes_settings
from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.model_files.pulling import carry_out, plan
from pulid_generate.files.kits import KITS, Kit


@takes_settings
def pull(
    kit: Annotated[Kit, typer.Argument(metavar="KIT", help=f"Which files: {', '.join(KITS)}.")],
    models_dir: ModelsDir = "models",
    dry_run: DryRun = False,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Fetch the model files of a kit into one folder: Flux, autoencoder, text encoders, PuLID. What
    is there already stays.

    An interrupted download is resumed; SHA-256 hashes are checked. schnell-q4 and dev-q8 need no
    account. schnell, dev and krea-dev are gated: accept the terms on their page,
    then run 'hf auth login'. dev, dev-q8 and krea-dev are for non-commercial use.
    """
    folder = path_of(models_dir)
    outcomes = plan(KITS[kit], folder, force)
    carry_out(
        outcomes,
        folder,
        dry_run,
        console.log,
        lambda o: console.write_line(json.dumps(o.as_dict()) if as_json else o.line()),
    )
