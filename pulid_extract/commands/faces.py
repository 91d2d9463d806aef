"""`pulid-extract faces PHOTO`: every face of a photograph, as a table, as JSON, or drawn."""

from __future__ import annotations

import json

import typer

from pulid_extract.flags.faces import FacesFlags
from pulid_extract.shared.cli import console
from pulid_extract.shared.cli.flags import takes_flags
from pulid_extract.shared.errors import FaceError, InputError, require_packages
from pulid_extract.shared.writing import check_not_input, write_atomically


@takes_flags(FacesFlags)
def faces(context: typer.Context, flags: FacesFlags) -> None:
    """List every face of a photograph: index, box, landmarks, score, head pose and sharpness; draw
    them with --draw.

    The index is what --face-index takes, counted in --face-order; the number in another order
    stands beside it. Needs antelopev2 only.
    """
    from pulid_extract.extraction.opening import PACKAGES, open_extractor

    require_packages(PACKAGES, "extract")
    from pulid_extract.flags.outputs import check_outputs
    from pulid_extract.pictures.drawing import encode_png
    from pulid_extract.pictures.portrait import decode_portrait, read_portrait_bytes
    from pulid_extract.shared.cli.standard_output import quiet

    draw = flags.draw
    if draw is not None:
        inputs = [flags.photo] if flags.photo != "-" else []
        check_outputs({"--draw": draw}, inputs, pipes=("--draw",))
    data, where = read_portrait_bytes(flags.photo)
    image = decode_portrait(data, where)
    with quiet():
        from pulid_extract.faces.antelopev2 import sorted_faces
        from pulid_extract.faces.listing import draw_listed, list_faces, table

        extractor = open_extractor(flags, roles=("antelopev2",))
        if draw is not None:
            check_not_input(draw, [file.path for file in extractor.files.values()])
        try:
            detected = extractor.detect(image)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if not detected:
            raise FaceError(
                f"{where}: no face found; a lower --det-threshold than 0.5 finds less clear ones"
            )
        order = flags.face_order or "largest"
        ordered = sorted_faces(detected, order, image)
        listed = list_faces(detected, image, order)
    lines = table(listed)
    if flags.as_json:
        report = {
            "portrait": flags.photo,
            "width": image.shape[1],
            "height": image.shape[0],
            "faces": [face.to_json() for face in listed],
            "drawn": draw,
        }
        lines = [json.dumps(report)]
    if draw is None:
        _print(lines)
        return
    picture = encode_png(draw_listed(image, ordered, listed))
    if draw != "-":
        write_atomically(draw, picture, mode=0o600)
        _print(lines)
        return
    console.write_result(picture)
    # the table is a result as well, and standard output is taken
    for line in lines:
        console.complain(line)


def _print(lines: list[str]) -> None:
    for line in lines:
        console.write_line(line)
