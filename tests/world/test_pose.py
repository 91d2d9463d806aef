"""How freely heads turn, on drawn portraits whose tilt is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from micro_world.dataset import PORTRAIT
from micro_world.drawing import draw
from micro_world.measuring.judges import MODELS
from micro_world.people import FIRST_TEST_PERSON, Person
from micro_world.scenes import PLAIN, Scene
from micro_world.train import PACK

from pulid_extract.faces.antelopev2 import Antelope
from pulid_extract.faces.head_pose import Pose, head_pose
from pulid_generate.pictures.score_lines import Judges
from pulid_generate.validation.measures import MEASURES, angle_between
from pulid_generate.validation.prompts import Trial
from pulid_generate.validation.report import PERSON, WITHOUT, Report, Shot, ValidatedIdentity

PEOPLE = 2
TILTS = (-18.0, -9.0, 9.0, 18.0)
POSE = Trial("tilted", "pose", "a portrait with a tilted head")


@pytest.fixture(scope="module")
def turned():
    """turned(person, degrees): from the upright portrait of the same person, as it is measured."""
    pack = Antelope(MODELS / PACK)

    def pose(person: int, degrees: float) -> Pose:
        scene = Scene.of(np.random.default_rng((6, person)), **PLAIN, distance=0)
        scene = replace(scene, degrees=degrees)
        pixels = draw(Person.of(FIRST_TEST_PERSON + person), scene, PORTRAIT).pixels
        [face] = pack.detect(np.ascontiguousarray(pixels[..., ::-1]))
        found = head_pose(face.landmarks)
        assert found is not None
        return found

    poses = {
        (person, degrees): pose(person, degrees)
        for person in range(PEOPLE)
        for degrees in (0.0, *TILTS)
    }
    return lambda person, degrees: angle_between(poses[person, degrees], poses[person, 0.0])


def test_a_measured_turn_follows_the_drawn_tilt(turned):
    for person in range(PEOPLE):
        for degrees in TILTS:
            assert turned(person, degrees) == pytest.approx(abs(degrees), abs=5)
        far = np.mean([turned(person, degrees) for degrees in (-18.0, 18.0)])
        near = np.mean([turned(person, degrees) for degrees in (-9.0, 9.0)])
        assert far / near == pytest.approx(2, abs=0.35)


@pytest.mark.parametrize(
    ("held", "freedom"),
    [
        ((18.0, -18.0), 1.0),  # as far as without the identity
        ((9.0, -9.0), 0.5),
        ((0.0, 0.0), 0.0),  # always the portrait's pose
    ],
)
def test_pose_freedom_is_the_share_of_the_turn_that_is_left(turned, held, freedom):
    """Weight 0 tilts heads by 18 degrees, the person by what is given."""
    shots = []
    for person in range(PEOPLE):
        for seed, (free, kept) in enumerate(zip((18.0, -18.0), held, strict=True)):
            of_run = {WITHOUT: free, PERSON: kept}
            for run, degrees in of_run.items():
                name = f"{person}-{seed}-{run}.png"
                angle = turned(person, degrees)
                shots.append(Shot(POSE, seed, run, name, "s", "ok", 0.5, turned=angle))
    report = Report(
        tool="test",
        created="2026-11-29T16:00:00+00:00",
        command="test",
        identity=ValidatedIdentity("me", "id", 1.0),
        references=[],
        strangers=[],
        judges=Judges(()),
        settings={},
        shots=shots,
    )
    assert MEASURES["pose_freedom"].of(report) == pytest.approx(freedom, abs=0.1)
