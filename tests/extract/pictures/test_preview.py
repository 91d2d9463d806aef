"""Pictures for people: marks on a photograph, captioned sheets, the preview of an extraction."""

from __future__ import annotations

import io
import stat
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.models.portrait_models import models
from support.pictures.coloured_faces import GREEN, RED, picture, png
from support.programs.commands import call

from pulid_extract.networks import bisenet
from pulid_extract.pictures import drawing
from pulid_extract.pictures.drawing import Mark, draw_faces, encode_png, sheet
from pulid_extract.pictures.preview import (
    LABELS,
    PreviewRow,
    colour_labels,
    named_labels,
    preview_sheet,
)
from pulid_extract.shared import captions

GREY = np.full((200, 300, 3), 90, np.uint8)


def test_a_mark_draws_its_box_points_and_caption_and_leaves_the_rest():
    mark = Mark((50.0, 60.0, 150.0, 160.0), np.array([[80.0, 90.0]] * 5), "0  0.98")
    drawn = draw_faces(GREY, [mark])
    assert drawn.shape == GREY.shape
    assert tuple(drawn[160, 100]) == drawing.BOX
    assert tuple(drawn[90, 80]) == drawing.POINT
    # the caption's patch, above the box
    assert (drawn[45:60, 50:90] == drawing.BOX).all(axis=2).any()
    assert (drawn[170:] == 90).all()
    assert (drawn[70:85, 90:140] == 90).all()  # the face itself stays to be seen
    assert (GREY == 90).all()
    assert (
        tuple(draw_faces(GREY, [Mark((50.0, 60.0, 150.0, 160.0), chosen=True)])[160, 100])
        == drawing.CHOSEN
    )
    np.testing.assert_array_equal(drawn, draw_faces(GREY, [mark]))


@pytest.mark.parametrize(
    "box", [(-80.0, -80.0, 20.0, 20.0), (290.0, 190.0, 400.0, 300.0), (-9.0, -9.0, 999.0, 999.0)]
)
def test_marks_beyond_the_border_keep_their_caption_inside(box):
    def ink(box, caption="12  1.00"):
        return int((draw_faces(GREY, [Mark(box, None, caption)]).max(axis=2) < 60).sum())

    assert ink(box) == ink((100.0, 100.0, 160.0, 160.0)) > 10 > ink(box, "") == 0


def test_a_sheet_has_its_tiles_in_rows():
    red, blue = (np.full((50, 100, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255)))
    picture_ = sheet([[("a", red), ("b " * 200, blue)], [("", blue)]], height=100)
    margin = drawing.MARGIN
    assert tuple(picture_[margin + 50, margin + 100]) == (255, 0, 0)
    assert tuple(picture_[margin + 50, 2 * margin + 200 + 100]) == (0, 0, 255)
    assert picture_.shape[1] == 2 * 200 + 3 * margin
    blue_rows = np.flatnonzero((picture_[:, margin + 10] == (0, 0, 255)).all(axis=1))
    assert len(blue_rows) == 100
    assert blue_rows[0] > margin + 100 + 200  # under the wrapped caption
    panorama = sheet([[("", np.zeros((10, 500, 3), np.uint8))]], height=100)
    assert panorama.shape[1] == 300 + 2 * margin


def test_a_word_wider_than_its_tile_is_broken_and_hides_no_other_tile():
    tile = np.full((100, 100, 3), 90, np.uint8)
    with_path, without = (
        sheet([[(caption, tile), ("", tile)]], height=100) for caption in ("x/" * 60, "")
    )
    right = drawing.MARGIN + 100 + 2
    assert (
        (with_path[:, right:].min(axis=2) < 60).sum()
        == (without[:, right:].min(axis=2) < 60).sum()
        == 0
    )
    # all of it is there, below each other
    assert (with_path[115:, :right].min(axis=2) < 60).sum() > 500
    assert "".join(captions.short_words("ab/" * 90, 100, captions.font_of())) == "ab/" * 90


def test_details_are_drawn_where_the_face_is_large_enough():
    def ink(side, details):
        return int(
            (
                draw_faces(
                    GREY, [Mark((20.0, 60.0, 20.0 + side, 60.0 + side), None, "0", details=details)]
                ).max(axis=2)
                < 60
            ).sum()
        )

    assert ink(120, "93 px") > ink(120, "") > 0
    assert ink(8, "93 px") == ink(8, "")


def test_many_portraits_make_low_rows_and_no_parse_map_without_a_parser():
    blank = np.zeros((512, 512, 3), np.uint8)
    one = PreviewRow(
        "", blank, Mark((0.0, 0.0, 9.0, 9.0)), blank, np.zeros((512, 512), np.uint8), blank
    )
    heights = [preview_sheet([one] * count).shape[0] / count for count in (1, 40)]
    assert heights[0] > 384 > 300 > heights[1] > 240
    assert (
        preview_sheet([one]).shape[1] - preview_sheet([replace(one, labels=None)]).shape[1]
        == 384 + drawing.MARGIN
    )


def test_every_label_has_a_name_and_only_pairs_share_a_colour():
    assert list(LABELS) == list(range(bisenet.CLASSES))
    for label, (name, colour) in LABELS.items():
        assert [other for other in LABELS if LABELS[other][1] == colour] == [
            other for other in LABELS if LABELS[other][0] == name
        ]
        assert label in LABELS
    labels = np.zeros((512, 512), np.uint8)
    labels[:256], labels[256:, :128] = 1, 17
    assert named_labels(labels) == "skin 50%, background 38%, hair 12%"
    coloured = colour_labels(labels, np.full((512, 512, 3), 100, np.uint8))
    assert tuple(coloured[0, 0]) == tuple(round(0.6 * value + 40) for value in LABELS[1][1])
    assert len(np.unique(coloured.reshape(-1, 3), axis=0)) == 3


def test_the_sheet_shows_what_the_tower_sees():
    grey_face = np.full((512, 512, 3), 200, np.uint8)
    shown = PreviewRow(
        "me.jpg",
        GREY,
        Mark((5, 5, 50, 50)),
        np.full((512, 512, 3), 30, np.uint8),
        np.zeros((512, 512), np.uint8),
        grey_face,
    )
    one, two = preview_sheet([shown]), preview_sheet([shown, shown])
    assert two.shape[0] > 1.9 * one.shape[0] - 40
    middle = drawing.MARGIN + 192
    assert tuple(one[middle, one.shape[1] - drawing.MARGIN - 192]) == (200, 200, 200)
    assert Image.open(io.BytesIO(encode_png(one))).size == one.shape[1::-1]


def test_the_command_writes_the_sheet_and_the_same_embedding(tmp_path, capfd, monkeypatch):
    photo, out, preview = tmp_path / "me.png", tmp_path / "me.pulidembd", tmp_path / "sheet.png"
    photo.write_bytes(png(picture((5, 5, RED), (15, 15, GREEN))))
    written = []
    for extra in ([], ["--preview", str(preview)]):
        code, _, stderr = call(
            capfd,
            monkeypatch,
            "--portrait",
            str(photo),
            "-o",
            str(out),
            *models(),
            "--face-order",
            "right",
            *extra,
        )
        assert code == 0, stderr
        written.append(out.read_bytes())
    assert written[0] == written[1]
    assert stat.S_IMODE(preview.stat().st_mode) == stat.S_IMODE(out.stat().st_mode) == 0o600
    pixels = np.asarray(Image.open(preview))
    box = [
        round(drawing.MARGIN + (value * 384 / 640)) for value in (480 + 16 - 32, 480 + 16)
    ]  # left edge, middle, of the green face
    near = pixels[box[1] - 3 : box[1] + 4, box[0] - 4 : box[0] + 5].reshape(-1, 3).astype(int)
    assert (np.abs(near - drawing.CHOSEN).sum(axis=1) < 120).any()
