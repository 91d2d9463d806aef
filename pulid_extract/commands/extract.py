"""`pulid-extract --portrait ... --out ...`: parse, check, call the Extractor, write, print. Imports
torch only once it has work to do.

Standard output carries the result (the file's path, one JSON line, or the file itself), standard
error everything else. Everything is computed before the first output is written.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from pulid_extract.extraction.job import (
    Job,
    Made,
    cut,
    decide,
    decoded,
    kept_of,
    make,
    portraits_of,
    read_job,
    together_of,
)
from pulid_extract.extraction.memory import Memory
from pulid_extract.extraction.opening import (
    PACKAGES,
    STDOUT,
    check_outputs,
    find_models,
    open_extractor,
    quiet,
)
from pulid_extract.extraction.sources import Source, expand
from pulid_extract.files.model_set import needed_roles
from pulid_extract.shared.cli import console
from pulid_extract.shared.errors import require_packages
from pulid_extract.shared.model_files import Found
from pulid_extract.shared.writing import check_not_input, write_atomically

if TYPE_CHECKING:
    import numpy as np

    from pulid_extract.extraction.extractor import Extractor
    from pulid_extract.extraction.identity import FaceCrop
    from pulid_extract.pictures.preview import Shown
from pulid_extract.flags.extract import ONE_PICTURE, SEVERAL, Flags


@dataclass(frozen=True)
class _Shown:
    """What the pictures of one portrait are made of. preview: its row of the sheet, if one was
    asked for.
    """

    crop: FaceCrop
    preview: Shown | None


def run(context: typer.Context, flags: Flags) -> None:
    """Make the identity that the flags describe. Raises PulidError; wrong usage ends in exit code
    2.
    """
    if not flags.portrait or flags.out is None:
        context.fail(f"Missing option '{'--out' if flags.portrait else '--portrait'}'.")
    out = "-" if flags.out in STDOUT else flags.out
    choice, boxes = decide(flags, context.fail)
    require_packages(PACKAGES, "extract")
    from pulid_extract.pictures.portrait import check_portrait

    paths = expand(flags.portrait, console.log)
    _check_count(context, flags, len(paths))
    images = {
        "--face-image": flags.face_image,
        "--crop-image": flags.crop_image,
        "--preview": flags.preview,
    }
    pictures = {name: path for name, path in images.items() if path is not None}
    given = [
        *paths,
        flags.mask,
        flags.pulid_weights,
        flags.eva_clip,
        flags.retinaface,
        flags.bisenet,
    ]
    check_outputs({"--out": out, **pictures}, [path for path in given if path and path != "-"])
    job = read_job(paths, flags, choice, boxes, console.log)
    for source in job.sources:  # what is no picture is said before gigabytes are looked for
        check_portrait(source.data, source.where)
    portraits = decoded(job)
    first = next(portraits)
    kept_of(job, job.sources[0], first)
    with quiet():
        roles = needed_roles(choice.detects, flags.aligner, flags.parser)
        found = find_models(flags, roles)
        for output in (out, *pictures.values()):
            check_not_input(output, [file.path for file in found.values()])
        memory = Memory(found, flags.device, flags.no_cache)
        shown: list[_Shown] = []
        # A cached result has no pictures; and gigabytes that are not hashed yet are hashed beside
        # the work, not before it.
        made = (
            memory.recall(job, memory.key(job, roles), console.log)
            if memory.is_ready and not pictures
            else None
        )
        if made is None:
            made = _make(
                job,
                itertools.chain([first], portraits),
                open_extractor(flags, found=found),
                memory,
                shown,
            )
            memory.keep(memory.key(job, roles), made)
        else:
            console.log("made before: taken from the embedding cache; --no-cache makes it anew")
    for path, picture in _pictures(flags, shown).items():
        # a face and its fingerprint are their owner's business
        write_atomically(path, picture, mode=0o600)
    if out != "-":
        write_atomically(out, made.data, mode=0o600)
    report = json.dumps(_report(out, job, made, found)) if flags.as_json else out
    if out != "-":
        console.write_line(report)
    else:
        console.write_result(made.data)
        if flags.as_json:
            typer.echo(report, err=True)


def _make(
    job: Job,
    images: Iterable[np.ndarray],
    extractor: Extractor,
    memory: Memory,
    shown: list[_Shown],
) -> Made:
    """Both halves of the work; into `shown` goes what pictures are made of."""
    if job.flags.aligner != "retinaface":
        console.log(
            "aligned by antelopev2's landmarks, without RetinaFace: not quite the reference's crop, nor its tokens"
        )

    def seen(source: Source, image: np.ndarray, crop: FaceCrop) -> None:
        shown.append(
            _Shown(
                crop,
                _preview_of(source.where, image, crop, job.flags.parser != "none")
                if job.flags.preview is not None
                else None,
            )
        )

    return make(cut(job, images, extractor, console.log, seen), extractor, memory.provenance)


def _check_count(context: typer.Context, flags: Flags, count: int) -> None:
    if count > 1:
        for name in ONE_PICTURE:
            if getattr(flags, name):
                context.fail(
                    f"--{name.replace('_', '-')} is about the pixels of one portrait; {count} were given."
                )
        return
    for name in SEVERAL:
        if console.was_given(context, name):
            console.log(f"--{name.replace('_', '-')} changes nothing: there is one portrait")


def _preview_of(where: str, image: np.ndarray, crop: FaceCrop, is_parsed: bool) -> Shown:
    from pulid_extract.pictures.drawing import Mark
    from pulid_extract.pictures.portrait import Photo
    from pulid_extract.pictures.preview import Shown

    photo, box = Photo.of(image), crop.box
    (sx, sy) = photo.scale
    mark = Mark(
        (box.x / sx, box.y / sy, (box.x + box.width) / sx, (box.y + box.height) / sy),
        None if crop.landmarks is None else crop.landmarks / photo.scale,
        crop.face,
        chosen=True,
    )
    lines = [where, crop.quality.line(), *(warning.advice for warning in crop.quality.warnings)]
    return Shown(
        "\n".join(lines),
        photo.rgb,
        mark,
        crop.crop,
        crop.labels if is_parsed else None,
        crop.grey_face,
    )


def _pictures(flags: Flags, shown: Sequence[_Shown]) -> dict[str, bytes]:
    """path -> PNG, of the pictures that were asked for."""
    from pulid_extract.pictures.drawing import encode_png
    from pulid_extract.pictures.preview import preview_sheet

    written = {}
    if flags.face_image is not None:
        written[flags.face_image] = encode_png(shown[0].crop.grey_face)
    if flags.crop_image is not None:
        written[flags.crop_image] = encode_png(shown[0].crop.crop)
    if flags.preview is not None:
        written[flags.preview] = encode_png(
            preview_sheet([one.preview for one in shown if one.preview is not None])
        )
    return written


def _report(out: str, job: Job, made: Made, found: Mapping[str, Found]) -> dict[str, Any]:
    portraits = portraits_of(job, made)
    one = (
        {name: portraits[0][name] for name in ("face", "box", "score", "faces", "quality")}
        if len(portraits) == 1
        else {}
    )
    return {
        "output": out,
        "sha256": hashlib.sha256(made.data).hexdigest(),
        **one,
        "portraits": portraits,
        **together_of(job, made),
        **{name: made.facts[name] for name in ("tokens", "uncond")},
        "dtype": job.flags.dtype,
        "device": made.facts["device"],
        "cached": made.cached,
        "files": {
            name: {"path": str(file.path), "rule": file.rule} for name, file in found.items()
        },
    }
