"""The detail pass through the engine: whose face is redrawn with whom, what stays to the bit, and
which models come how often.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from support.models.micro_flags import micro_files

from pulid_extract.shared.embedding_file import read_embedding
from pulid_generate import GenerationRequest, Pipeline, Placement
from pulid_generate.detail.faces import FoundFace
from pulid_generate.errors import ScoringError
from pulid_generate.pictures.description import parse_description
from pulid_generate.pictures.face_finder import FaceFinder
from pulid_generate.pipeline import loading, planning
from pulid_generate.pipeline.pipeline import JobsInOrder
from pulid_generate.request.job import Subject
from pulid_generate.request.passes.detail import DetailSettings
from pulid_generate.request.passes.hires import HiresSettings
from pulid_generate.request.people.id_schedule import IdSchedule
from pulid_generate.request.people.regions import box_region
from pulid_generate.sampling.guidance import Inpaint

WIDTH, HEIGHT = 96, 64
LEFT, RIGHT = (8, 16, 20, 24), (64, 16, 24, 28)
SETTINGS = DetailSettings(
    mask_blur=1, inpaint_padding=8, denoising_strength=0.7, inpaint_width=48, inpaint_height=48
)


class KnownFaces(FaceFinder):
    """Finds what it is told to."""

    def __init__(self, *boxes):
        super().__init__()
        self.boxes = boxes

    def find(self, pixels, detector, threshold, people):
        return [FoundFace(box, 0.9) for box in self.boxes]


@pytest.fixture(scope="module")
def files(micro):
    return micro_files(micro)


@pytest.fixture
def pipeline(files):
    """pipeline(box, ..) -> a pipeline in whose pictures these faces are found; `notes` of it is
    what the user is told.
    """

    def make(*boxes) -> Pipeline:
        notes: list[str] = []
        made: Any = Pipeline(
            files, Placement.choose("cpu", "float32"), note=notes.append, finder=KnownFaces(*boxes)
        )
        made.notes = notes
        return made

    return make


@pytest.fixture
def people(kept):
    return [read_embedding(path) for path in (kept.me, kept.you)]


def request(detail: DetailSettings | None = SETTINGS, **more) -> GenerationRequest:
    return GenerationRequest("a cat", width=WIDTH, height=HEIGHT, steps=2, detail=detail, **more)


def changed(ours, other) -> np.ndarray:
    return (ours.pixels != other.pixels).any(-1)


def around(box, reach: int = 6) -> np.ndarray:
    x, y, width, height = box
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[max(y - reach, 0) : y + height + reach, max(x - reach, 0) : x + width + reach] = True
    return inside


def test_a_face_is_redrawn_and_all_around_it_stays_to_the_bit(pipeline, people):
    ours = pipeline(RIGHT, LEFT)
    [plain] = ours.draw([ours.job(request(None), people[0])])
    [detailed] = ours.draw([ours.job(request(), people[0])])
    difference = changed(detailed, plain)
    assert difference[around(RIGHT, 0)].mean() > 0.5
    assert not difference[~around(RIGHT)].any()
    assert ours.notes == ["denoise: the face at 8,16,20,24 is nobody's, it stays"]
    facts = parse_description(detailed.parameters)
    assert facts["detail"]["denoising_strength"] == 0.7
    assert facts["detail"]["inpaint_width"] == 48
    assert {name for name in facts if facts[name] != parse_description(plain.parameters).get(name)}
    assert "detail" not in parse_description(plain.parameters)


def test_towards_its_edge_a_face_is_free_later_and_a_hard_edge_stays_possible(
    pipeline, people, monkeypatch
):
    held, hold = [], Inpaint.hold

    def watched(self, velocity, latent, t):
        held.append((self, t))
        return hold(self, velocity, latent, t)

    monkeypatch.setattr(Inpaint, "hold", watched)
    shares = {}
    for blur in (0, 3):
        held.clear()
        ours = pipeline(RIGHT)
        [_] = ours.draw([ours.job(request(replace(SETTINGS, mask_blur=blur)), people[0])])
        inpaint, first = held[0]
        assert inpaint.first == first
        assert len({id(one) for one, _ in held}) == 1
        shares[blur] = set(inpaint.mask.flatten().tolist())
    assert {0.0, 1.0} <= shares[3]
    assert len(shares[3]) > 3
    # cells that the box's edge cuts through
    assert max(shares[0]) == 1.0
    assert len(shares[0]) < len(shares[3])


def test_faces_of_a_larger_pass_are_found_and_redrawn_in_its_size(pipeline, people):
    box, hires = (112, 24, 40, 48), HiresSettings(scale=1.5, steps=3)
    region = box_region((48, 0, 48, HEIGHT), WIDTH, HEIGHT)
    ours, subjects = pipeline(box), [Subject(people[0], region=region)]
    plain, detailed = ours.draw(
        [ours.job(request(detail, hires=hires), subjects) for detail in (None, SETTINGS)]
    )
    assert detailed.pixels.shape == (96, 144, 3)
    assert not ours.notes
    difference = (detailed.pixels != plain.pixels).any(-1)
    assert difference[30:66, 118:146].mean() > 0.5
    assert not difference[:, :100].any()


def test_each_of_two_people_has_the_own_face(pipeline, people):
    def draw(*chosen):
        ours = pipeline(LEFT, RIGHT)
        subjects = [
            Subject(chosen[0], region=box_region((0, 0, 48, HEIGHT), WIDTH, HEIGHT)),
            Subject(chosen[1], region=box_region((48, 0, 48, HEIGHT), WIDTH, HEIGHT)),
        ]
        job = ours.job(request(), subjects)
        plain = replace(job, faces=(), request=replace(job.request, detail=None))
        return next(ours.draw([job])), next(ours.draw([plain])), ours

    both, before, ours = draw(*people)
    assert not ours.notes
    difference = changed(both, before)
    assert difference[around(LEFT, 0)].any()
    assert difference[around(RIGHT, 0)].any()
    assert not difference[~(around(LEFT) | around(RIGHT))].any()

    # the left face alone, with the first person and no region: the very pixels of it
    for box, place in ((LEFT, 0), (RIGHT, 1)):
        alone = pipeline(box)
        job = alone.job(request(), people[place])
        seed = 42 + place
        faces = tuple(replace(face, request=replace(face.request, seed=seed)) for face in job.faces)
        picture = replace(before, job=replace(job, faces=faces, seed=seed))
        with alone.engine() as engine:
            engine.expect_faces(job)
            [done] = engine.redraw_faces([(0, picture)], JobsInOrder([job]))
            redrawn = done.decode()
        assert np.array_equal(redrawn.pixels[around(box)], both.pixels[around(box)])
        # .. and not those of the other
        other = alone.job(request(), people[1 - place])
        picture = replace(before, job=replace(other, faces=faces, seed=seed))
        with alone.engine() as engine:
            engine.expect_faces(other)
            [done] = engine.redraw_faces([(0, picture)], JobsInOrder([other]))
        assert not np.array_equal(done.decode().pixels[around(box)], both.pixels[around(box)])


def test_weight_0_and_nobody_are_the_same_picture(pipeline, people):
    ours = pipeline(LEFT, RIGHT)
    [nobody] = ours.draw([ours.job(request())])
    zero = [Subject(people[0], weight=0.0)]
    [weightless] = ours.draw([ours.job(request(id_weight=0.0), zero)])
    [plain] = ours.draw([ours.job(request(None))])
    # of a picture with nobody in it every face is redrawn, as sd-cli does
    assert changed(nobody, plain)[around(LEFT, 0) | around(RIGHT, 0)].all(-1).any()
    assert nobody.encode("PNG") == weightless.encode("PNG")
    assert nobody.encode("PNG") != plain.encode("PNG")


def test_what_waits_in_the_picture_is_there_in_the_face(pipeline, people):
    """A late start, a window, true CFG that begins later: the face has all of it at once."""
    ours = pipeline(LEFT)
    late = Subject(people[0], schedule=IdSchedule(start=1, end=2, double=0.5))
    job = ours.job(request(cfg_scale=2.0, cfg_start_step=1), [late])
    [pattern] = job.faces
    assert (pattern.request.cfg_start_step, pattern.request.cfg_scale) == (0, 2.0)
    close = late.close_up()
    assert close.weights_at(0, 2) == (0.5, 1.0)
    [skipped] = ours.job(request(replace(SETTINGS, prompt="[SKIP]")), people[0]).faces
    assert skipped is None
    [picture] = ours.draw([ours.job(request(replace(SETTINGS, prompt="[SKIP]")), people[0])])
    [plain] = ours.draw([ours.job(request(None), people[0])])
    assert np.array_equal(picture.pixels, plain.pixels)


def test_models_stay_between_the_passes_where_they_fit(pipeline, people, monkeypatch):
    loaded: list[str] = []
    for name in ("load_flux", "load_vae"):
        load = getattr(loading, name)

        def watched(*arguments, name=name, load=load, **options):
            loaded.append(name)
            return load(*arguments, **options)

        monkeypatch.setattr(loading, name, watched)
    ours = pipeline(LEFT, RIGHT)
    jobs = [ours.job(request(seed=seed), people[0]) for seed in (1, 2)]
    pictures = [picture.encode("PNG") for picture in ours.draw(jobs)]
    assert loaded == ["load_flux", "load_vae"]
    # side by side they do not fit: each comes once for each half, whatever the pictures
    monkeypatch.setitem(planning.BESIDE_FLUX, "autoencoder", (planning.NOTHING,))
    loaded.clear()
    assert [picture.encode("PNG") for picture in ours.draw(jobs)] == pictures
    assert loaded == ["load_flux", "load_vae"] * 2


def test_the_plan_has_room_for_the_program_that_finds_faces(pipeline):
    ours = pipeline(LEFT)
    planner = ours.engine().planner
    free = planner.available["cpu"]
    planner.expect(ours.job(request(None)))
    assert planner.available["cpu"] == free
    planner.expect(ours.job(request()))
    planner.expect(ours.job(request(seed=5)))
    assert planner.available["cpu"] == free - planning.PROCESS_BYTES


def test_a_picture_whose_faces_cannot_be_found_fails_alone(pipeline, people):
    ours = pipeline(LEFT)

    def broken(pixels, detector, threshold, people):
        raise ScoringError("the program is gone")

    job = ours.job(request(), people[0])
    with ours.engine() as engine:
        expected = engine.expect(job)
        ours.finder.find = broken
        with pytest.raises(ScoringError, match="the program is gone"):
            list(ours.draw([expected]))
    ours.finder.find = lambda *arguments: []
    ours.notes.clear()
    [picture] = ours.draw([job])
    assert ours.notes == ["denoise: no face was found, nothing is redrawn"]
    [plain] = ours.draw([ours.job(request(None), people[0])])
    assert np.array_equal(picture.pixels, plain.pixels)
