"""What the commands that run networks do alike: load the Extractor, keep libraries quiet, refuse
outputs that cannot be.

Torch is imported inside `open_extractor`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulid_extract.files.model_set import find_files, needed_roles
from pulid_extract.files.roles import ROLES
from pulid_extract.flags.groups import AntelopeFlags, CropFlags, DetectFlags, ModelFlags
from pulid_extract.shared.cli import console
from pulid_extract.shared.errors import InputError, OutputError
from pulid_extract.shared.model_files import Found
from pulid_extract.shared.writing import check_writable

if TYPE_CHECKING:
    from pulid_extract.extraction.extractor import Extractor

# what the extra [extract] brings
PACKAGES = ("cv2", "facexlib", "insightface", "onnxruntime", "timm", "torchvision")
STDOUT = ("/dev/stdout", "/dev/fd/1")  # or a result line would follow the file's own bytes


def find_models(flags: AntelopeFlags, roles: Collection[str]) -> dict[str, Found]:
    """The files of these roles, by flag, models folder, Hugging Face cache or download; says where
    each is. Imports no torch, unless a device is named that may not be there: that is said before
    anything is fetched.

    Raises WeightsError for a file that is missing or of the wrong kind, InputError for a device.
    """
    if isinstance(flags, ModelFlags) and flags.device not in ("auto", "cpu"):
        from pulid_extract.extraction.extractor import choose_device

        choose_device(flags.device)
    explicit = {name: getattr(flags, name, None) for name in ROLES}
    found = find_files(explicit, flags.models_dir or None, roles, console.log)
    for name in ("retinaface", "bisenet"):
        if explicit[name] is not None and name not in found:
            console.log(f"--{name} {explicit[name]}: is not used; nothing here needs it")
    return found


def open_extractor(
    flags: AntelopeFlags,
    *,
    found: dict[str, Found] | None = None,
    roles: Collection[str] | None = None,
    detect: bool = True,
) -> Extractor:
    """The Extractor of a command line. flags may also be ModelFlags, CropFlags and DetectFlags.
    Call it within `quiet`.

    found: from `find_models`, if it was called. roles: the files that are needed, if not all.
    detect: False if the face is given by hand.
    """
    from pulid_extract.extraction.extractor import Extractor
    from pulid_extract.extraction.identity import Options

    options: dict[str, Any] = {}
    if isinstance(flags, CropFlags):
        options |= {"aligner": flags.aligner, "parser": flags.parser}
    if isinstance(flags, DetectFlags) and flags.det_threshold is not None:
        options["det_threshold"] = flags.det_threshold
    device = flags.device if isinstance(flags, ModelFlags) else "auto"
    if found is None:
        needed = needed_roles(
            detect, options.get("aligner", "retinaface"), options.get("parser", "bisenet")
        )
        found = find_models(flags, needed if roles is None else needed & set(roles))
    return Extractor(found, device, Options(**options), console.log)


def check_outputs(
    outputs: Mapping[str, str], inputs: Sequence[str], pipes: Collection[str] = ("--out",)
) -> None:
    """Raise OutputError now for what could not be written after minutes of work, and for what would
    overwrite an input.

    outputs: flag -> path; all but --out are PNG files. pipes: the flags for which "-" is standard
    output.
    """
    seen: dict[Path, str] = {}
    for flag, path in outputs.items():
        if path == "-" and flag in pipes:
            if sys.stdout.isatty():
                raise OutputError(
                    f"{flag} -: standard output is a terminal; redirect it to a file or a pipe"
                )
            continue
        if flag != "--out" and Path(path).suffix.lower() != ".png":
            raise OutputError(f"{flag} {path}: expected a name that ends in .png")
        check_writable(path)
        real = Path(path).resolve()
        if real in seen and (real.is_file() or not real.exists()):  # not for /dev/null
            raise OutputError(f"{path}: is both {seen[real]} and {flag}; give each its own file")
        seen.setdefault(real, flag)
        for source in inputs:
            if (
                os.path.exists(path)
                and os.path.exists(source)
                and os.path.samefile(path, source)
                and Path(path).is_file()
            ):
                raise OutputError(f"{path}: {flag} would overwrite an input; give another name")


class Beside(threading.Thread):
    """Run a function beside the work. A daemon, so that a failed run does not wait for gigabytes to
    be hashed.
    """

    def __init__(self, function: Callable[[], Any]):
        super().__init__(daemon=True)
        self.function, self.value = function, None
        self.error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self.value = self.function()
        except Exception as error:
            self.error = error

    def result(self) -> Any:
        self.join()
        if self.error is not None:
            raise (
                InputError(f"a model file cannot be read ({self.error})")
                if isinstance(self.error, OSError)
                else self.error
            )
        return self.value


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries out of standard output, at the level of file descriptors, and their
    warnings out of standard error.

    Raises OutputError if there is no standard output: a result could not be said, and its
    descriptor may be any file's by now.
    """
    if sys.stdout is None:
        raise OutputError("standard output: is closed; redirect it to a file or a pipe")
    sys.stdout.flush()
    handler = logging.NullHandler()
    # without any handler, logging prints warnings by itself
    logging.getLogger().addHandler(handler)
    saved = None
    with contextlib.suppress(OSError):
        saved = os.dup(1)
        os.dup2(2, 1)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().removeHandler(handler)
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)
