"""`pulid-extract --portrait ... --out ...`: parse, check, call the Extractor, write, print. Imports torch only once it has work to do.

Standard output carries the result (the file's path, one JSON line, or the file itself), standard error everything else. Everything is
computed before the first output is written.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pulid_extract import __version__, console
from pulid_extract.commands.portraits import Source, expand, read_sources
from pulid_extract.commands.session import PACKAGES, STDOUT, Beside, check_outputs, open_extractor, quiet
from pulid_extract.errors import FaceError, InputError, require_packages
from pulid_extract.flags import CropFlags, EncodeFlags, FaceFlags, ModelFlags, face_choice, numbers, show_version
from pulid_extract.model_files import check_not_input, write_atomically

if TYPE_CHECKING:
    import numpy as np

    from pulid_extract.choice import FaceChoice
    from pulid_extract.extractor import Extractor
    from pulid_extract.identity import FaceCrop, Identity
    from pulid_extract.portrait import FaceBox
    from pulid_extract.preview import Shown

ONE_PICTURE = (
    "face_at",
    "face_box",
    "landmarks",
    "mask",
    "box",
    "face_image",
    "crop_image",
)  # flags about the pixels of one portrait
SEVERAL = ("fuse", "drop_outliers", "mix_people")  # flags about several portraits


@dataclass(frozen=True, kw_only=True)
class PictureFlags:
    """Pictures for the eye, and what is printed."""

    preview: Annotated[
        str | None,
        typer.Option(
            "--preview", metavar="FILE.png", help="Also write a sheet: photo with the chosen face, crop, parse map, grey face."
        ),
    ] = None
    face_image: Annotated[
        str | None,
        typer.Option("--face-image", metavar="FILE.png", help="Also write the grey face on white that EVA-CLIP sees."),
    ] = None
    crop_image: Annotated[
        str | None, typer.Option("--crop-image", metavar="FILE.png", help="Also write the aligned 512x512 crop.")
    ] = None
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail (exit 1) on any warning about a portrait, before anything is written.")
    ] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of the output's path.")] = False
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class RegionFlags:
    """What EVA-CLIP may see of the face."""

    mask: Annotated[
        str | None,
        typer.Option(
            "--mask", metavar="FILE", help="Picture as large as the upright portrait: EVA-CLIP sees only what is white in it."
        ),
    ] = None
    box: Annotated[
        list[str] | None,
        typer.Option("--box", metavar="X,Y,W,H", help="EVA-CLIP sees only this region of the portrait; repeat for more."),
    ] = None


@dataclass(frozen=True, kw_only=True)
class FuseFlags:
    """Several portraits of one person."""

    fuse: Annotated[
        Literal["encoder", "mean", "concat", "weighted"],
        typer.Option(
            "--fuse",
            help="How several portraits become one identity. encoder: in one pass of IDFormer (the reference). mean, weighted (by "
            "quality): average of their tokens. concat: all tokens, 32 for each portrait.",
        ),
    ] = "encoder"
    drop_outliers: Annotated[
        bool,
        typer.Option("--drop-outliers", help="Leave out portraits that are unlike the others (mean ArcFace cosine below 0.35)."),
    ] = False
    mix_people: Annotated[
        bool,
        typer.Option("--mix-people", help="Fuse portraits even if two of them are different people (ArcFace cosine below 0.25)."),
    ] = False


@dataclass(frozen=True, kw_only=True)
class PortraitFlags:
    portrait: Annotated[
        list[str] | None,
        typer.Option(
            "--portrait",
            metavar="FILE|FOLDER|-",
            help="Picture of the person: JPEG, PNG or WebP (HEIC with pillow-heif); - reads standard input. Several of one person "
            "are fused: repeat it, name a folder, or write --portrait *.jpg.",
        ),
    ] = None
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE|-", help="The .pulidembd to write; - writes standard output.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class Flags(PictureFlags, ModelFlags, CropFlags, RegionFlags, FaceFlags, EncodeFlags, FuseFlags, PortraitFlags):
    """Every flag of one extraction. Dataclasses list the fields of the last base first."""


@dataclass(frozen=True)
class _Portrait:
    """One portrait that was read and cut. shown: its row of the preview, if one was asked for."""

    source: Source
    crop: FaceCrop
    shown: Shown | None


def run(context: typer.Context, flags: Flags) -> None:
    """Make the identity that the flags describe. Raises PulidError; wrong usage ends in exit code 2."""
    if not flags.portrait or flags.out is None:
        context.fail(f"Missing option '{'--out' if flags.portrait else '--portrait'}'.")
    out = "-" if flags.out in STDOUT else flags.out
    choice, boxes = face_choice(context, flags), _boxes(flags.box or [])
    if flags.aligner != "retinaface" and not choice.detects:
        context.fail("--aligner changes nothing for a face that is given by hand.")
    require_packages(PACKAGES, "extract")
    paths = expand(flags.portrait, console.log)
    _check_count(context, flags, len(paths))
    images = {"--face-image": flags.face_image, "--crop-image": flags.crop_image, "--preview": flags.preview}
    pictures = {name: path for name, path in images.items() if path is not None}
    given = [*paths, flags.mask, flags.pulid_weights, flags.eva_clip, flags.retinaface, flags.bisenet]
    check_outputs({"--out": out, **pictures}, [path for path in given if path and path != "-"])
    sources = read_sources(paths, console.log)
    mask = read_sources([flags.mask], console.log)[0] if flags.mask is not None else None
    decoded = _decoded(sources)
    first = next(decoded)  # a picture that is none is said before gigabytes are looked for
    with quiet():
        extractor = open_extractor(flags, detect=choice.detects)
        for output in (out, *pictures.values()):
            check_not_input(output, [found.path for found in extractor.found.values()])
        hashes = Beside(extractor.provenance)
        if flags.aligner != "retinaface":
            console.log("aligned by antelopev2's landmarks, without RetinaFace: not quite the reference's crop, nor its tokens")
        cut = [
            _cut(extractor, source, image, choice, mask, boxes, flags.preview is not None)
            for source, image in zip(sources, itertools.chain([first], decoded), strict=True)
        ]
        together = _compare(cut, flags)
        kept = [part for part in cut if part.source.where not in together["dropped"]]
        # In the order of their hashes, so that the same portraits give the same bytes whatever order they come in.
        kept.sort(key=lambda part: part.source.sha256)
        identity = extractor.fuse([part.crop for part in kept], flags.fuse, flags.with_uncond)
        result = _encode(identity, kept, mask, boxes, flags, hashes.result())
    written = _pictures(flags, cut)
    for path, picture in written.items():
        write_atomically(path, picture)
    if out != "-":
        write_atomically(out, result, mode=0o600)  # a face's fingerprint is its owner's business
    report = json.dumps(_report(out, result, identity, cut, together, extractor, flags)) if flags.as_json else out
    if out != "-":
        console.write_line(report)
    else:
        console.write_result(result)
        if flags.as_json:
            typer.echo(report, err=True)


def _boxes(texts: Sequence[str]) -> list[FaceBox]:
    from pulid_extract.portrait import FaceBox

    return [FaceBox(*numbers(text, "X,Y,W,H", "--box")) for text in texts]


def _check_count(context: typer.Context, flags: Flags, count: int) -> None:
    if count > 1:
        for name in ONE_PICTURE:
            if getattr(flags, name):
                context.fail(f"--{name.replace('_', '-')} is about the pixels of one portrait; {count} were given.")
        return
    for name in SEVERAL:
        if console.was_given(context, name):
            console.log(f"--{name.replace('_', '-')} changes nothing: there is one portrait")


def _decoded(sources: Sequence[Source]) -> Iterator[np.ndarray]:
    """One after the other: thirty photographs of a phone would not fit into memory."""
    from pulid_extract.portrait import decode_portrait

    for source in sources:
        yield decode_portrait(source.data, source.where)


def _cut(
    extractor: Extractor,
    source: Source,
    image: np.ndarray,
    choice: FaceChoice,
    mask: Source | None,
    boxes: Sequence[FaceBox],
    preview: bool,
) -> _Portrait:
    """Cut out one portrait's face; what is wrong with it is said with its name."""
    from pulid_extract.portrait import decode_portrait, keep_of

    size = (image.shape[1], image.shape[0])
    keep = keep_of(size, decode_portrait(mask.data, mask.where) if mask else None, boxes, mask.where if mask else source.where)
    try:
        crop = extractor.crop(image, choice, keep)
    except InputError as error:
        raise type(error)(f"{source.where}: {error}") from None
    console.log(f"{source.where}: {crop.quality.line()}")
    for warning in crop.quality.warnings:
        console.log(f"{source.where}: warning: {warning.advice}")
    return _Portrait(source, crop, _shown(source.where, image, crop) if preview else None)


def _shown(where: str, image: np.ndarray, crop: FaceCrop) -> Shown:
    from pulid_extract.drawing import Mark
    from pulid_extract.portrait import Photo
    from pulid_extract.preview import Shown

    photo, box = Photo.of(image), crop.box
    (sx, sy) = photo.scale
    mark = Mark(
        (box.x / sx, box.y / sy, (box.x + box.width) / sx, (box.y + box.height) / sy),
        None if crop.landmarks is None else crop.landmarks / photo.scale,
        crop.face,
        chosen=True,
    )
    lines = [where, crop.quality.line(), *(warning.advice for warning in crop.quality.warnings)]
    return Shown("\n".join(lines), photo.rgb, mark, crop.crop, crop.labels, crop.grey_face)


def _compare(cut: Sequence[_Portrait], flags: Flags) -> dict[str, Any]:
    """Whether the portraits are one person: cosines, names of outliers and of what is dropped. Raises FaceError if they are not."""
    from pulid_extract import fusion

    names = [part.source.where for part in cut]
    warned = [f"{part.source.where}: {warning.advice}" for part in cut for warning in part.crop.quality.warnings]
    together: dict[str, Any] = {"cosines": None, "outliers": [], "dropped": []}
    if len(cut) > 1:
        pairs = fusion.cosines([part.crop.vector for part in cut])
        for line in fusion.cosine_table(names, pairs):
            console.log(line)
        places, means = fusion.outliers(pairs), fusion.mean_to_others(pairs)
        for place in places:
            what = f"{names[place]}: unlike the other portraits (mean ArcFace cosine {means[place]:.2f}, below {fusion.OUTLIER})"
            console.log(f"{what}: dropped" if flags.drop_outliers else f"{what}: warning: leave it out, or give --drop-outliers")
            warned += [] if flags.drop_outliers else [what]
        together["cosines"] = [[round(float(cosine), 4) for cosine in row] for row in pairs]
        together["outliers"] = [names[place] for place in places]
        together["dropped"] = together["outliers"] if flags.drop_outliers else []
        left = [place for place in range(len(cut)) if names[place] not in together["dropped"]]
        pair = fusion.strangers(pairs[left][:, left])
        if pair is not None:
            one, other = names[left[pair[0]]], names[left[pair[1]]]
            what = f"{one} and {other} are two people by ArcFace (cosine {pair[2]:.2f}, below {fusion.STRANGER})"
            if not flags.mix_people:
                advice = "leave one out" if len(left) < 3 else "leave one out, or give --drop-outliers"
                raise FaceError(f"{what}; {advice}; --mix-people fuses them all the same")
            console.log(f"{what}: fused all the same, as --mix-people says")
    if flags.strict and warned:
        raise FaceError(f"--strict: {len(warned)} warning{'s' * (len(warned) != 1)}, nothing was written: {'; '.join(warned)}")
    return together


def _encode(
    identity: Identity,
    kept: Sequence[_Portrait],
    mask: Source | None,
    boxes: Sequence[FaceBox],
    flags: Flags,
    hashes: dict[str, str],
) -> bytes:
    """The file. Provenance: hashes, choices and version, and no time, path or name, so that the same input gives the same bytes."""
    from pulid_extract.embedding_file import encode_embedding

    changed = {name: getattr(flags, name) for name in ("aligner", "parser") if getattr(flags, name) != getattr(Flags, name)}
    region = "+".join(([f"mask {mask.sha256}"] if mask else []) + (["box"] if boxes else []))
    provenance = {
        "portrait.sha256": ",".join(part.source.sha256 for part in kept),
        **hashes,
        "face": kept[0].crop.face,
        "tool": f"pulid_extract {__version__}",
        **changed,
        **({"region": region} if region else {}),
        **({"fuse": flags.fuse} if len(kept) > 1 else {}),
    }
    return encode_embedding(identity.tokens, identity.uncond, dtype=flags.dtype, provenance=provenance)


def _pictures(flags: Flags, cut: Sequence[_Portrait]) -> dict[str, bytes]:
    """path -> PNG, of the pictures that were asked for."""
    from pulid_extract.drawing import encode_png
    from pulid_extract.preview import preview_sheet

    written = {}
    if flags.face_image is not None:
        written[flags.face_image] = encode_png(cut[0].crop.grey_face)
    if flags.crop_image is not None:
        written[flags.crop_image] = encode_png(cut[0].crop.crop)
    if flags.preview is not None:
        written[flags.preview] = encode_png(preview_sheet([part.shown for part in cut if part.shown is not None]))
    return written


def _report(
    out: str,
    result: bytes,
    identity: Identity,
    cut: Sequence[_Portrait],
    together: dict[str, Any],
    extractor: Extractor,
    flags: Flags,
) -> dict[str, Any]:
    portraits = [_facts(part) for part in cut]
    one = {name: portraits[0][name] for name in ("face", "box", "score", "faces", "quality")} if len(portraits) == 1 else {}
    return {
        "output": out,
        "sha256": hashlib.sha256(result).hexdigest(),
        **one,
        "portraits": portraits,
        **({"fuse": flags.fuse, **together} if len(portraits) > 1 else {}),
        "tokens": list(identity.tokens.shape),
        "uncond": identity.uncond is not None,
        "dtype": flags.dtype,
        "device": extractor.device,
        "files": {name: {"path": str(found.path), "rule": found.rule} for name, found in extractor.found.items()},
    }


def _facts(part: _Portrait) -> dict[str, Any]:
    crop, box = part.crop, part.crop.box
    return {
        "portrait": part.source.path,
        "sha256": part.source.sha256,
        "face": crop.face,
        "box": [box.x, box.y, box.width, box.height],
        "landmarks": None if crop.landmarks is None else [[round(float(x), 2) for x in point] for point in crop.landmarks],
        "score": crop.score,
        "faces": crop.faces_found,
        "quality": crop.quality.as_dict(),
    }
