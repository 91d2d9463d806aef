"""Steps that reuse what an earlier one computed. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer


@dataclass(frozen=True, kw_only=True)
class CachingFlags:
    """Steps that are not computed in full."""

    HEADING = "Cached steps"

    cache_mode: Annotated[
        str | None,
        typer.Option(
            "--cache-mode",
            metavar="easycache|dbcache|taylorseer|cache-dit",
            help="Reuse what earlier steps computed, the identity in it, and be faster: the whole "
            "model's output (easycache, sd-cli's), or what the middle blocks added (dbcache), "
            "forecast on a schedule (taylorseer), or both (cache-dit). docs/caching.md says "
            "what each costs.",
        ),
    ] = None
    cache_option: Annotated[
        str,
        typer.Option(
            "--cache-option",
            metavar="KEY=VALUE,..",
            help="easycache: threshold (0.2), start (0.15), end (0.95). The others: Fn (8) and Bn "
            "(0) blocks that run at every step, threshold (0.08), warmup (8), max and "
            "continuous reused steps (-1: any), order of the forecast (1); taylorseer: "
            "interval (3).",
        ),
    ] = ""
    scm_mask: Annotated[
        str,
        typer.Option(
            "--scm-mask",
            metavar="1,1,0,..",
            help="For the block modes, one number a step: 1 is computed, 0 may be reused.",
        ),
    ] = ""
    scm_policy: Annotated[
        str,
        typer.Option(
            "--scm-policy",
            metavar="dynamic|static",
            help="Whether the threshold decides the steps that --scm-mask leaves open, or all of "
            "them are reused.",
        ),
    ] = "dynamic"
