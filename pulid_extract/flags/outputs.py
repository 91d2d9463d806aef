"""Outputs that the flags name, refused before any work is done if they could not be written or
would overwrite an input. Knows nothing of what is written.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from pulid_extract.shared.errors import OutputError, OutputNameError
from pulid_extract.shared.writing import check_writable


def check_outputs(
    outputs: Mapping[str, str], inputs: Sequence[str], pipes: Collection[str] = ("--out",)
) -> None:
    """Raise OutputError now for what could not be written after minutes of work, and for what would
    overwrite an input.

    outputs: flag -> path; all but --out are PNG files. pipes: the flags for which "-" is standard
    output.
    """
    flag_of: dict[Path, str] = {}
    for flag, path in outputs.items():
        if path == "-" and flag in pipes:
            if sys.stdout.isatty():
                raise OutputError(
                    f"{flag} -: standard output is a terminal; redirect it to a file or a pipe"
                )
            continue
        if flag != "--out" and Path(path).suffix.lower() != ".png":
            raise OutputNameError(f"{flag} {path}: expected a name that ends in .png")
        check_writable(path)
        real = Path(path).resolve()
        # twice is allowed for /dev/null
        if real in flag_of and (real.is_file() or not real.exists()):
            raise OutputNameError(
                f"{path}: is both {flag_of[real]} and {flag}; give each its own file"
            )
        flag_of.setdefault(real, flag)
        for source in inputs:
            if _is_same_file(path, source):
                raise OutputError(f"{path}: {flag} would overwrite an input; give another name")


def _is_same_file(output: str, source: str) -> bool:
    if not (os.path.exists(output) and os.path.exists(source)):
        return False
    return os.path.samefile(output, source) and Path(output).is_file()
