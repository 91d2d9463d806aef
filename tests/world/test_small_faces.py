"""The detail pass on the small world: a small face becomes its person, and nobody gets the other's
face. docs/detail.md has the same on more people.
"""

from __future__ import annotations

import numpy as np
import pytest
from micro_world.measuring import judges, preservation, small_faces
from micro_world.measuring.seams import step_across

PEOPLE, SCENES = 3, 2


@pytest.fixture(scope="module")
def eyes():
    return judges.Eyes()


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    folder = tmp_path_factory.mktemp("identities")
    preservation.write_portraits(folder / "portraits", PEOPLE)
    preservation.extract(judges.MODELS, folder / "portraits", folder)
    return sorted(folder.glob("*.pulidembd"))


@pytest.fixture(scope="module")
def gallery(eyes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery")
    return judges.Gallery(eyes, preservation.write_portraits(folder, PEOPLE, series=1))


@pytest.mark.slow
def test_a_small_face_becomes_its_person(eyes, gallery, identities, tmp_path):
    wanted = small_faces.far_scenes(SCENES)
    keys = [(person, scene) for person in range(PEOPLE) for scene in range(SCENES)]
    rows = []
    for detail in (False, True):
        rows += [
            small_faces.row_of(wanted[scene], scene, identities[person], detail)
            for person, scene in keys
        ]
    pictures = [judges.read(path) for path in preservation.generate(judges.MODELS, rows, tmp_path)]
    before, after = pictures[: len(keys)], pictures[len(keys) :]
    judged = []
    for drawn in (before, after):
        with_keys = [
            (pixels, person, wanted[scene])
            for pixels, (person, scene) in zip(drawn, keys, strict=True)
        ]
        judged.append(small_faces.Judged.of(eyes, gallery, with_keys))
    assert judged[1].cosine >= judged[0].cosine + 0.1
    assert judged[1].picked >= judged[0].picked
    assert judged[1].obeyed >= judged[0].obeyed - 0.02
    steps = []
    for one, other in zip(before, after, strict=True):
        box = small_faces.face_box(eyes, one)
        assert not small_faces.changed_outside(one, other, box)
        assert not np.array_equal(one, other)
        edges = small_faces.mask_edges(box)
        hard = one.copy()
        left, top, right, bottom = edges
        # the same face by a hard edge, as far apart as the pass makes it or further
        hard[top:bottom, left:right] = np.clip(other[top:bottom, left:right] + 24.0, 0, 255)
        for picture in (one, other, hard):
            lines = (-2, 0, 1, small_faces.FEATHER, small_faces.FEATHER + 1)
            steps.append([step_across(picture, edges, line) for line in lines])
    drawn, mended, hard = np.array(steps).reshape(-1, 3, 5).mean(0)
    # at the mask's edge, beside the step a pixel further out, and where the feather ends, beside
    # the untouched one: as before the pass
    assert mended[1] - mended[2] <= drawn[1] - drawn[2] + 0.2
    assert mended[3] - mended[4] <= drawn[3] - drawn[4] + 0.15
    assert hard[1] > hard[0] + 0.5


def test_two_people_are_put_in_and_the_third_stays(eyes, gallery, identities, tmp_path):
    strangers = tmp_path / "strangers"
    preservation.write_portraits(strangers, 3, first=small_faces.FIRST_STRANGER)
    before, after = (
        judges.read(path) for path in small_faces.put_two_in(tmp_path, identities[:2], strangers)
    )
    assert np.array_equal(small_faces.third(before, 1), small_faces.third(after, 1))
    for place, person in ((0, 0), (2, 1)):
        face = eyes.who(small_faces.third(after, place))
        assert gallery.vectors[person] @ face > 0.6
        assert gallery.vectors[1 - person] @ face < 0.5
