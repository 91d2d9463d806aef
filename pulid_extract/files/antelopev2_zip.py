"""antelopev2 out of InsightFace's own archive instead of fetched. Knows files, and no network."""

from __future__ import annotations

import contextlib
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO

from pulid_extract.files.kits import KITS
from pulid_extract.shared.cli import console
from pulid_extract.shared.errors import WeightsError
from pulid_extract.shared.model_files import ANTELOPEV2_NETWORKS
from pulid_extract.shared.model_files.pulling import (
    START,
    PullOutcome,
    PullStatus,
    check_room,
    check_start,
)
from pulid_extract.shared.writing import make_folder, write_atomically


def fill_from_zip(
    outcomes: Sequence[PullOutcome], archive: Path, folder: Path, dry_run: bool
) -> list[PullOutcome]:
    """The outcomes of a plan, with what was missing of antelopev2 unpacked instead of left to be
    fetched. folder: the models folder. Raises as `unpack_antelopev2`.
    """
    lacking = {item.path_in(folder) for item in KITS["antelopev2"]}
    lacking &= {outcome.path for outcome in outcomes if outcome.status == "missing"}
    if not lacking:
        console.log(f"note: antelopev2 is there already; {archive} is not used")
        return list(outcomes)
    if not dry_run:
        unpack_antelopev2(archive, folder)
    status: PullStatus = "missing" if dry_run else "fetched"
    filled = []
    for outcome in outcomes:
        if outcome.path in lacking:
            outcome = replace(outcome, status=status, why=f"from {archive}")
        filled.append(outcome)
    return filled


def unpack_antelopev2(archive: Path, models_dir: Path) -> list[Path]:
    """The two networks that are used out of InsightFace's antelopev2.zip, into
    models_dir/antelopev2/, without its own folder.

    FaceAnalysis unpacks it to antelopev2/antelopev2/ and then does not find it (insightface issue
    2517). Raises WeightsError, OutputError.
    """
    folder = models_dir / "antelopev2"
    with _readable(archive), zipfile.ZipFile(archive) as opened:
        members = {Path(name).name: name for name in opened.namelist()}
        lacking = [name for name in ANTELOPEV2_NETWORKS if name not in members]
        if lacking:
            raise WeightsError(
                f"{archive}: holds no {' and no '.join(lacking)}; expected InsightFace's "
                "antelopev2.zip"
            )
        for name in ANTELOPEV2_NETWORKS:
            with opened.open(members[name]) as member:
                check_start(f"{archive}: {name}", member.read(START))
        make_folder(folder, advice="name another --models-dir")
        needed = sum(opened.getinfo(members[name]).file_size for name in ANTELOPEV2_NETWORKS)
        check_room(models_dir, needed, "unpacked")
        for name in ANTELOPEV2_NETWORKS:
            with opened.open(members[name]) as member:
                write_atomically(folder / name, _chunks(member, archive))
    return [folder / name for name in ANTELOPEV2_NETWORKS]


def _chunks(member: IO[bytes], archive: Path) -> Iterator[bytes]:
    """Reading to the end checks the CRC."""
    with _readable(archive):
        while chunk := member.read(1 << 20):
            yield chunk


@contextlib.contextmanager
def _readable(archive: Path) -> Iterator[None]:
    try:
        yield
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        RuntimeError,
        NotImplementedError,
        EOFError,
        ValueError,
    ) as error:
        raise WeightsError(
            f"{archive}: cannot be unpacked ({error}); expected InsightFace's antelopev2.zip"
        ) from None
