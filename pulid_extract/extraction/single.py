"""One extraction of a command line, from checks to a result: what is wrong with pictures is said
before gigabytes are looked for, and what was made before is not made again.

Writes no output file. Imports torch only once there is work for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pulid_extract.extraction.job import Job, decoded, visible_part
from pulid_extract.extraction.opening import find_models, open_extractor
from pulid_extract.extraction.pictures import ExtractionPictures
from pulid_extract.extraction.result_cache import ResultCache
from pulid_extract.extraction.results import ExtractionResult
from pulid_extract.extraction.stages import crop_portraits, encode_identity
from pulid_extract.files.model_set import needed_roles
from pulid_extract.pictures.portrait import check_portrait
from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.heartbeat import Heartbeat
from pulid_extract.shared.cli.standard_output import quiet
from pulid_extract.shared.model_files import FoundFile
from pulid_extract.shared.writing import check_not_input


@dataclass(frozen=True)
class SingleExtraction:
    """What a command line asked for, nothing of it written yet."""

    result: ExtractionResult
    # role -> its file
    files: dict[str, FoundFile]
    # path -> PNG
    pictures: dict[str, bytes]


def extract_single(job: Job, outputs: Sequence[str]) -> SingleExtraction:
    """Both halves, or what an earlier run left. outputs: paths that will be written.

    Raises InputError, FaceError, WeightsError, and OutputError for an output that is one of the
    model files.
    """
    images = _checked_images(job)
    flags = job.flags
    roles = needed_roles(job.detects, flags.aligner, flags.parser)
    with quiet(), Heartbeat("looking for model files") as heartbeat:
        files = find_models(flags, roles)
        for output in outputs:
            check_not_input(output, [file.path for file in files.values()])
        cache = ResultCache(files, flags.device, flags.no_cache)
        pictures = ExtractionPictures(flags)
        result = None
        # a cached result has no pictures
        if cache.is_ready and not pictures.paths:
            result = cache.get(job, roles, console.log)
        if result is not None:
            console.log("made before: taken from the embedding cache; --no-cache makes it anew")
            return SingleExtraction(result, files, {})
        if flags.aligner != "retinaface":
            console.log(
                "aligned by antelopev2's landmarks, without RetinaFace: not quite the reference's "
                "crop, nor its tokens"
            )
        heartbeat.stage = "cutting out faces"
        extractor = open_extractor(flags, files=files)
        cropped = crop_portraits(job, images, extractor, console.log, pictures.add)
        heartbeat.stage = "encoding the identity"
        result = encode_identity(cropped, extractor, cache.provenance)
        cache.put(job, roles, result)
    return SingleExtraction(result, files, pictures.encoded())


def _checked_images(job: Job) -> Iterator[np.ndarray]:
    """The portraits, uint8 RGB (H, W, 3); what can be checked without a network is checked now.
    Raises InputError.
    """
    for source in job.sources:
        check_portrait(source.data, source.where)
    images = decoded(job)
    first = next(images)
    visible_part(job, job.sources[0], first)
    return itertools.chain([first], images)
