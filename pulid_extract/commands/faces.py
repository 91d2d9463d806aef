"""`pulid-extract faces PHOTO`: every face of a photograph, as a table, as JSON, or drawn. Imports
torch only once it has work to do.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pulid_extract.extraction.opening import PACKAGES, STDOUT, check_outputs, open_extractor, quiet
from pulid_extract.shared.cli import console
from pulid_extract.shared.errors import FaceError, InputError, require_packages
from pulid_extract.shared.writing import check_not_input, write_atomically

if TYPE_CHECKING:
    import numpy as np

    from pulid_extract.faces.antelopev2 import Face
from pulid_extract.flags.faces import FacesFlags

COLUMNS = ("face", "x,y,w,h", "size", "score", "yaw", "pitch", "roll", "sharpness", "landmarks")


def run(flags: FacesFlags) -> None:
    """Print and draw the faces. Raises PulidError; FaceError if there is no face."""
    from pulid_extract.pictures.drawing import encode_png
    from pulid_extract.pictures.portrait import decode_portrait, read_portrait_bytes

    require_packages(PACKAGES, "extract")
    draw = "-" if flags.draw in STDOUT else flags.draw
    if draw is not None:
        check_outputs(
            {"--draw": draw}, [flags.photo] if flags.photo != "-" else [], pipes=("--draw",)
        )
    data, where = read_portrait_bytes(flags.photo)
    image = decode_portrait(data, where)
    with quiet():
        extractor = open_extractor(flags, roles=("antelopev2",))
        if draw is not None:
            check_not_input(draw, [found.path for found in extractor.found.values()])
        try:
            found = extractor.detect(image)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if not found:
            raise FaceError(
                f"{where}: no face found; a lower --det-threshold than 0.5 finds less clear ones"
            )
        found = _sorted(found, flags, image)
        facts = [_facts(place, face, image) for place, face in enumerate(found)]
    picture = encode_png(_drawn(image, found, facts)) if draw is not None else b""
    if draw is not None and draw != "-":
        write_atomically(draw, picture, mode=0o600)
    report = {
        "portrait": flags.photo,
        "width": image.shape[1],
        "height": image.shape[0],
        "faces": facts,
        "drawn": draw,
    }
    lines = [json.dumps(report)] if flags.as_json else _table(facts)
    if draw == "-":
        console.write_result(picture)
    for line in lines:
        console.log(line) if draw == "-" else console.write_line(line)


def _sorted(found: Sequence[Face], flags: FacesFlags, image: np.ndarray) -> list[Face]:
    """As --face-index counts them."""
    from pulid_extract.faces.choice import in_order

    size = (image.shape[1], image.shape[0])
    return [
        found[place]
        for place in in_order([face.box for face in found], flags.face_order or "largest", size)
    ]


def _facts(index: int, face: Face, image: np.ndarray) -> dict[str, Any]:
    """One face, numbers rounded: what --json prints."""
    from pulid_extract.faces import crop as face_crop
    from pulid_extract.faces import quality
    from pulid_extract.faces.head_pose import head_pose
    from pulid_extract.pictures.portrait import Photo

    photo = Photo.of(image)
    box = photo.in_portrait(face.mapped((1 / photo.scale[0], 1 / photo.scale[1])).box)
    pose = head_pose(face.landmarks)
    try:
        sharpness = quality.sharpness(face_crop.align(photo.bgr, face.landmarks / photo.scale))
    except FaceError:  # landmarks without extent: still a face to be listed
        sharpness = 0.0
    return {
        "index": index,
        "box": [box.x, box.y, box.width, box.height],
        "landmarks": [[round(float(x), 1), round(float(y), 1)] for x, y in face.landmarks],
        "score": round(face.score, 4),
        "size": round(min(face.box[2] - face.box[0], face.box[3] - face.box[1]), 1),
        "pose": None
        if pose is None
        else {name: round(angle, 1) for name, angle in asdict(pose).items()},
        "sharpness": round(sharpness, 4),
    }


def _drawn(image: np.ndarray, found: Sequence[Face], facts: Sequence[dict[str, Any]]) -> np.ndarray:
    from pulid_extract.pictures.drawing import Mark, draw_faces

    marks = [
        Mark(
            face.box,
            face.landmarks,
            f"{fact['index']}  {face.score:.2f}",
            fact["index"] == 0,
            _details(fact),
        )
        for face, fact in zip(found, facts, strict=True)
    ]
    return draw_faces(image, marks)


def _details(fact: dict[str, Any]) -> str:
    pose = fact["pose"]
    turned = (
        f"\nyaw {pose['yaw']:.0f}  pitch {pose['pitch']:.0f}  roll {pose['roll']:.0f}"
        if pose
        else ""
    )
    return f"{fact['size']:.0f} px  sharp {fact['sharpness']:.3f}{turned}"


def _table(facts: Sequence[dict[str, Any]]) -> list[str]:
    """Lines for people, in columns."""
    rows: list[tuple[str, ...]] = [COLUMNS]
    for fact in facts:
        pose = fact["pose"] or {}
        rows.append(
            (
                str(fact["index"]),
                ",".join(map(str, fact["box"])),
                f"{fact['size']:.0f}",
                f"{fact['score']:.2f}",
                *(f"{pose[angle]:.0f}" if pose else "-" for angle in ("yaw", "pitch", "roll")),
                f"{fact['sharpness']:.3f}",
                # as --landmarks takes them
                ",".join(f"{value:.0f}" for point in fact["landmarks"] for value in point),
            )
        )
    wide = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    return [
        "  ".join(f"{text:<{width}}" for text, width in zip(row, wide, strict=True)).rstrip()
        for row in rows
    ]
