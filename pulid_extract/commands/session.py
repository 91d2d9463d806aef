"""What the commands that run networks do alike: load the Extractor, keep libraries quiet, refuse outputs that cannot be.

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

from pulid_extract import console
from pulid_extract.errors import InputError, OutputError
from pulid_extract.flags import AntelopeFlags, CropFlags, DetectFlags, ModelFlags
from pulid_extract.model_files import check_writable

if TYPE_CHECKING:
    from pulid_extract.extractor import Extractor

PACKAGES = ("cv2", "facexlib", "insightface", "onnxruntime", "timm", "torchvision")  # what the extra [extract] brings
STDOUT = ("/dev/stdout", "/dev/fd/1")  # or a result line would follow the file's own bytes


def open_extractor(flags: AntelopeFlags, *, roles: Collection[str] | None = None, detect: bool = True) -> Extractor:
    """The Extractor of a command line. flags may also be ModelFlags, CropFlags and DetectFlags. Call it within `quiet`.

    roles: the files that are needed, if not all. detect: False if the face is given by hand.
    """
    from pulid_extract.extractor import Extractor

    options: dict[str, Any] = {}
    if isinstance(flags, ModelFlags):
        options |= {name: getattr(flags, name) for name in ("pulid_weights", "eva_clip", "retinaface", "bisenet", "device")}
    if isinstance(flags, CropFlags):
        options |= {"aligner": flags.aligner, "parser": flags.parser}
    if isinstance(flags, DetectFlags) and flags.det_threshold is not None:
        options["det_threshold"] = flags.det_threshold
    extractor = Extractor.load(
        antelopev2=flags.antelopev2, models_dir=flags.models_dir or None, detect=detect, roles=roles, log=console.log, **options
    )
    for name in ("retinaface", "bisenet"):
        if options.get(name) is not None and name not in extractor.found:
            console.log(f"--{name} {options[name]}: is not used; nothing here needs it")
    return extractor


def check_outputs(outputs: Mapping[str, str], inputs: Sequence[str], pipes: Collection[str] = ("--out",)) -> None:
    """Raise OutputError now for what could not be written after minutes of work, and for what would overwrite an input.

    outputs: flag -> path; all but --out are PNG files. pipes: the flags for which "-" is standard output.
    """
    seen: dict[Path, str] = {}
    for flag, path in outputs.items():
        if path == "-" and flag in pipes:
            if sys.stdout.isatty():
                raise OutputError(f"{flag} -: standard output is a terminal; redirect it to a file or a pipe")
            continue
        if flag != "--out" and Path(path).suffix.lower() != ".png":
            raise OutputError(f"{flag} {path}: expected a name that ends in .png")
        check_writable(path)
        real = Path(path).resolve()
        if real in seen and (real.is_file() or not real.exists()):  # not for /dev/null
            raise OutputError(f"{path}: is both {seen[real]} and {flag}; give each its own file")
        seen.setdefault(real, flag)
        for source in inputs:
            if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source) and Path(path).is_file():
                raise OutputError(f"{path}: {flag} would overwrite an input; give another name")


class Beside(threading.Thread):
    """Run a function beside the work. A daemon, so that a failed run does not wait for gigabytes to be hashed."""

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
            raise InputError(f"a model file cannot be read ({self.error})") if isinstance(self.error, OSError) else self.error
        return self.value


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the libraries out of standard output, at the level of file descriptors, and their warnings out of standard error."""
    sys.stdout.flush()
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)  # without any handler, logging prints warnings by itself
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
