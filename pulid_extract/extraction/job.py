"""One extraction before any network is loaded: portraits that were read, the face that is meant,
and everything that decides the bytes of the result.

Writes nothing. The same for the single command and for every row of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from pulid_extract.extraction.embedding_cache import Key, key_of
from pulid_extract.faces.choice import FaceChoice
from pulid_extract.flags.extract import SEVERAL_PORTRAITS, ExtractFlags
from pulid_extract.pictures.portrait import decode_portrait
from pulid_extract.pictures.regions import FaceBox, check_box, keep_of
from pulid_extract.pictures.sources import Source, read_sources
from pulid_extract.shared.errors import InputError, UsageError
from pulid_extract.version import __version__

LIBRARIES = (
    "insightface",
    "numpy",
    "onnxruntime",
    "opencv-contrib-python-headless",
    "pillow",
    "torch",
)
# flags that decide the bytes; of several portraits SEVERAL_PORTRAITS as well
DECIDING_FLAGS = ("aligner", "parser", "det_threshold", "with_uncond", "dtype", "fast")
# raised by hand when the last bits or the provenance change: 1 was torch's own float32 products on
# a CPU, 2 were oneDNN's, 3 names the recogniser, 4 has the face networks' norms in their
# convolutions
ARITHMETIC = 4


@dataclass(frozen=True)
class OwnChoice:
    """What is meant on one of several portraits, in place of what the job says for all."""

    choice: FaceChoice
    mask: Source | None = None
    boxes: tuple[FaceBox, ...] = ()

    def settings(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "choice": asdict(self.choice),
            "boxes": [asdict(box) for box in self.boxes],
            "mask": None if self.mask is None else self.mask.sha256,
        }


@dataclass(frozen=True)
class Job:
    """What is to be extracted."""

    # the portraits, each once
    sources: tuple[Source, ...]
    choice: FaceChoice
    # what EVA-CLIP may see of the one portrait: the lighter half of a picture, and boxes
    mask: Source | None
    boxes: tuple[FaceBox, ...]
    flags: ExtractFlags
    # SHA-256 of a portrait -> what is meant on it
    own: Mapping[str, OwnChoice] = field(default_factory=dict)

    def meant_on(self, source: Source) -> OwnChoice:
        """The face, and what may be seen, of one portrait."""
        return self.own.get(source.sha256) or OwnChoice(self.choice, self.mask, self.boxes)

    @property
    def detects(self) -> bool:
        """Whether a detector is needed."""
        return any(self.meant_on(source).choice.detects for source in self.sources)

    def settings(self, hashes: Mapping[str, Sequence[str]], device: str) -> dict[str, Any]:
        """Everything but the portraits that decides the bytes, as JSON values. hashes: role ->
        SHA-256 of its files.
        """
        settings: dict[str, Any] = {
            "tool": __version__,
            "arithmetic": ARITHMETIC,
            "libraries": {name: _version(name) for name in LIBRARIES},
            "weights": {role: list(files) for role, files in sorted(hashes.items())},
            "device": device,
            **OwnChoice(self.choice, self.mask, self.boxes).settings(),
        }
        if self.own:
            settings["own"] = {sha256: own.settings() for sha256, own in sorted(self.own.items())}
        deciding = list(DECIDING_FLAGS)
        if len(self.sources) > 1:
            deciding += SEVERAL_PORTRAITS
        for name in deciding:
            settings[name] = getattr(self.flags, name)
        return settings

    def key(self, hashes: Mapping[str, Sequence[str]], device: str) -> Key:
        """The key of its result in the embedding cache; see `settings`."""
        return key_of([source.data for source in self.sources], self.settings(hashes, device))


def read_job(
    paths: Sequence[str],
    flags: ExtractFlags,
    choice: FaceChoice,
    boxes: tuple[FaceBox, ...],
    log: Callable[[str], None],
) -> Job:
    """Read the portraits, each once. paths: what `flags.portrait` comes to, folders expanded.
    Raises InputError, UsageError.
    """
    if flags.mask == "-" and "-" in paths:
        raise UsageError("--mask -: standard input is the portrait; it holds one picture")
    sources = read_sources(paths, log)
    mask = None
    if flags.mask is not None:
        [mask] = read_sources([flags.mask], log, "--mask")
    return Job(tuple(sources), choice, mask, boxes, flags)


def decoded(job: Job) -> Iterator[np.ndarray]:
    """The portraits, uint8 RGB (H, W, 3), one after the other: thirty photographs of a phone would
    not fit into memory. Raises InputError.
    """
    for source in job.sources:
        yield decode_portrait(source.data, source.where)


def visible_part(job: Job, source: Source, image: np.ndarray) -> np.ndarray | None:
    """What --mask and --box leave of a portrait, bool (H, W), None for all of it; checks a
    --face-box as well. image: uint8 RGB (H, W, 3). Raises InputError.
    """
    size = (image.shape[1], image.shape[0])
    meant = job.meant_on(source)
    mask, mask_name = None, ""
    if meant.mask is not None:
        mask, mask_name = decode_portrait(meant.mask.data, meant.mask.where), meant.mask.where
    try:
        if meant.choice.box is not None:
            check_box("--face-box", meant.choice.box, size)
        return keep_of(size, mask, meant.boxes, mask_name)
    except InputError as error:
        raise InputError(f"{source.where}: {error}") from None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
