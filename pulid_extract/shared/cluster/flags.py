"""The flags --ray and --cpus-per-worker, of both programs' `batch` and of `serve`: a table, wrong
usage, and a command whose --ray may stand without an address. Knows no Ray.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from pulid_extract.shared.cli.help import HelpCommand

LOCAL = "local"
ADDRESS = re.compile(r"local|auto|ray://\S+|[^\s/\\]+:\d{1,5}")


@dataclass(frozen=True, kw_only=True)
class ClusterFlags:
    """Whether workers on a Ray cluster do the work."""

    HEADING = "Cluster"

    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Share the work out to workers on a Ray cluster, one for each GPU. Without an "
            "address: on this machine. ADDRESS: HOST:PORT, ray://HOST:PORT, or auto for the "
            "cluster that this machine belongs to. See docs/scaling.md.",
        ),
    ] = None
    cpus_per_worker: Annotated[
        int | None,
        typer.Option(
            "--cpus-per-worker",
            metavar="N",
            min=1,
            help="With --ray: workers on processors, so many cores and threads for each, instead "
            "of on GPUs.",
        ),
    ] = None


def usage_error(flags: ClusterFlags, device: str) -> str | None:
    """What is wrong with the usage, None if nothing is. device: the value of --device."""
    if flags.ray is None:
        if flags.cpus_per_worker is not None:
            return "--cpus-per-worker means nothing without --ray."
        return None
    if not ADDRESS.fullmatch(flags.ray):
        return (
            f"--ray {flags.ray}: expected an address (HOST:PORT, ray://HOST:PORT, auto or local), "
            "or nothing."
        )
    if ":" in device:
        return f"--device {device}: with --ray each worker sees one GPU; write --device cuda."
    if flags.cpus_per_worker is not None and device not in ("auto", "cpu"):
        return (
            f"--cpus-per-worker makes workers on processors, --device {device} does not; "
            "leave out one of them."
        )
    return None


class BatchCommand(HelpCommand):
    """A command whose --ray may stand without an address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click's; `args` as typed."""
        return super().parse_args(ctx, with_address(args))


def with_address(args: Sequence[str]) -> list[str]:
    """`--ray rows.jsonl` -> `--ray local rows.jsonl`: only what looks like an address is taken for
    one.
    """
    done: list[str] = []
    for place, word in enumerate(args):
        done.append(word)
        if word == "--":
            return [*done, *args[place + 1 :]]
        following = args[place + 1] if place + 1 < len(args) else ""
        if word == "--ray" and not ADDRESS.fullmatch(following):
            done.append(LOCAL)
    return done
