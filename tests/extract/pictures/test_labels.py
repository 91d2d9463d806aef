"""Captions on a photograph: over no face, over no other caption, never out of the picture."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pulid_extract.pictures.drawing import Mark, _overlap, draw_faces, place_labels
from pulid_extract.shared.captions import font_of

WIDTH, HEIGHT = 640, 480
boxes = st.tuples(
    st.integers(-60, WIDTH - 20),
    st.integers(-60, HEIGHT - 20),
    st.integers(20, 400),
    st.integers(20, 400),
).map(lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3]))


@given(st.lists(boxes, min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_no_label_covers_a_face_or_another_or_leaves_the_picture(places):
    marks = [Mark(place, caption=f"{number}  0.98") for number, place in enumerate(places)]
    texts = [[f"{mark.caption}\nyaw 3  pitch 4", mark.caption] for mark in marks]
    labels = place_labels(texts, marks, (WIDTH, HEIGHT), font_of(14))
    assert [label.text.split("\n")[0] for label in labels] == [mark.caption for mark in marks]
    for number, label in enumerate(labels):
        assert label.place[0] >= 0
        assert label.place[2] <= WIDTH
        assert label.place[1] >= 0
        below = label.place[1] >= HEIGHT
        assert below or label.place[3] <= HEIGHT
        assert below or not any(_overlap(label.place, mark.box) for mark in marks)
        for other in labels[:number]:
            apart = [*label.place[:2], label.place[2] - 1, label.place[3] - 1]
            assert not _overlap(tuple(apart), other.place)


def test_a_face_that_fills_the_picture_has_its_caption_below():
    image = np.full((200, 200, 3), 90, np.uint8)
    drawn = draw_faces(image, [Mark((0, 0, 199, 199), caption="0  0.98")])
    assert drawn.shape[0] > 200
    assert drawn.shape[1] == 200
    # the photograph itself has its box and nothing else
    np.testing.assert_array_equal(drawn[10:190, 10:190], image[10:190, 10:190])
    roomy = draw_faces(image, [Mark((60, 60, 120, 120), caption="0")])
    assert roomy.shape == image.shape
    assert (roomy != image).any()
