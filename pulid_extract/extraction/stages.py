"""The two halves of one extraction: portraits to faces, faces to the bytes of a file. Apart, so
that a batch can overlap them; the same for the single command.

Writes no file. Torch comes with the Extractor that is handed in, never from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pulid_extract.extraction.comparison import Comparison, Log, compare, say_quality
from pulid_extract.extraction.job import Job, visible_part
from pulid_extract.extraction.results import ExtractionResult, PortraitResult
from pulid_extract.flags.extract import ExtractFlags
from pulid_extract.networks import fusion
from pulid_extract.pictures.sources import Source
from pulid_extract.shared.embedding_file import encode_embedding
from pulid_extract.shared.errors import InputError
from pulid_extract.version import __version__

if TYPE_CHECKING:
    from pulid_extract.extraction.extractor import Extractor
    from pulid_extract.extraction.identity import FaceCrop

# what the provenance does not name
EXACT = "float32"
# Called with each portrait, uint8 RGB (H, W, 3), and its face.
OnCrop = Callable[[Source, np.ndarray, "FaceCrop"], None]


@dataclass(frozen=True)
class CroppedPortraits:
    """A job after its first half."""

    job: Job
    # one for each source
    crops: tuple[FaceCrop, ...]
    comparison: Comparison


def crop_portraits(
    job: Job,
    images: Iterable[np.ndarray],
    extractor: Extractor,
    log: Log,
    on_crop: OnCrop | None = None,
) -> CroppedPortraits:
    """Find, choose and cut out the face of every portrait, and judge whether they are one person.

    images: the portraits, uint8 RGB (H, W, 3), as `job.decoded` gives them. on_crop: is called with
    each portrait and its face. Raises InputError, WeightsError.
    """
    crops: list[FaceCrop] = []
    advice: list[list[str]] = []
    for source, image in zip(job.sources, images, strict=True):
        crop = _crop(job, source, image, extractor)
        crops.append(crop)
        advice.append([warning.advice for warning in crop.quality.warnings])
        say_quality(source.where, crop.quality.line(), advice[-1], log)
        if on_crop is not None:
            on_crop(source, image, crop)
    cosines = None
    if len(crops) > 1:
        cosines = fusion.cosines([crop.vector for crop in crops])
    names = [source.where for source in job.sources]
    comparison = compare(names, cosines, advice, job.flags, log)
    return CroppedPortraits(job, tuple(crops), comparison)


def _crop(job: Job, source: Source, image: np.ndarray, extractor: Extractor) -> FaceCrop:
    keep = visible_part(job, source, image)
    try:
        return extractor.crop(image, job.meant_on(source).choice, keep)
    except InputError as error:
        raise type(error)(f"{source.where}: {error}") from None


def encode_identity(
    cropped: CroppedPortraits,
    extractor: Extractor,
    hashes: Callable[[Path], Mapping[str, str]],
) -> ExtractionResult:
    """The file of faces that were cut out. Raises WeightsError.

    hashes: gives the SHA-256 of the weights, by their keys in a .pulidembd, for the file of the
    recogniser; it is called last, since it may have to wait. Provenance is hashes, choices and
    version, and no time, path or name, so that the same input gives the same bytes.
    """
    job, flags = cropped.job, cropped.job.flags
    kept: list[tuple[Source, FaceCrop]] = []
    for place, pair in enumerate(zip(job.sources, cropped.crops, strict=True)):
        if place not in cropped.comparison.dropped:
            kept.append(pair)
    # so that the same portraits give the same bytes, whatever order they come in
    kept.sort(key=lambda pair: pair[0].sha256)
    identity = extractor.fuse([crop for _, crop in kept], flags.fuse, flags.with_uncond)
    provenance = {
        "portrait.sha256": ",".join(source.sha256 for source, _ in kept),
        **hashes(extractor.recognizer),
        "face": kept[0][1].face,
        "tool": f"pulid_extract {__version__}",
        **_choices(job, [source for source, _ in kept]),
    }
    if extractor.arithmetic != EXACT:
        provenance["arithmetic"] = extractor.arithmetic
    data = encode_embedding(
        identity.tokens, identity.uncond, dtype=flags.dtype, provenance=provenance
    )
    portraits = []
    for source, crop in zip(job.sources, cropped.crops, strict=True):
        portraits.append(PortraitResult.of(source, crop))
    return ExtractionResult(
        data=data,
        portraits=tuple(portraits),
        cosines=cropped.comparison.cosines,
        shape=identity.tokens.shape,
        has_uncond=identity.uncond is not None,
        device=extractor.device,
        arithmetic=extractor.arithmetic,
    )


def _choices(job: Job, portraits: Sequence[Source]) -> dict[str, str]:
    """What was chosen otherwise than the reference does, for the provenance. portraits: those that
    are in it.
    """
    flags, choices = job.flags, {}
    for name in ("aligner", "parser"):
        if getattr(flags, name) != getattr(ExtractFlags, name):
            choices[name] = getattr(flags, name)
    region: list[str] = []
    for source in portraits:
        meant = job.meant_on(source)
        if meant.mask is not None:
            region.append(f"mask {meant.mask.sha256}")
        if meant.boxes:
            region.append("box")
    if region:
        # a folder of portraits with one box is one box
        choices["region"] = "+".join(dict.fromkeys(region))
    if len(portraits) > 1:
        choices["fuse"] = flags.fuse
    return choices
