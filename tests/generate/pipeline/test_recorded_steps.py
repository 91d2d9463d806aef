"""Steps that are recorded and replayed draw what steps draw: whoever is in the picture, whoever was
in the last one. The recorder writes torch's operations down, with the tensors they read.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.models.golden_flux import GUIDANCE, Person, first_layers, inputs, load_fewer_blocks
from support.programs.tape import Tape, same

from pulid_generate.kernels import trials
from pulid_generate.kernels.recording import Recordings
from pulid_generate.memory import placement
from pulid_generate.memory.placement import Placement
from pulid_generate.pipeline.denoiser import Denoiser
from pulid_generate.pipeline.texts import Texts, TextStates
from pulid_generate.request.generation import GenerationRequest
from pulid_generate.request.job import Job, Subject
from pulid_generate.request.people.id_schedule import IdSchedule
from pulid_generate.request.skip_guidance import SkipGuidance
from pulid_generate.request.step_cache import StepCache

CPU = torch.device("cpu")
STEPS = 4


class Named(Person):
    def __init__(self, name: str, seed: int):
        tokens = np.random.default_rng(seed).standard_normal((32, 256)).astype(np.float32)
        super().__init__(tokens)
        self.uncond = tokens[::-1] * 0.5
        self.sha256 = self.source = name


ADA, BOB, EVE = (Named(name, seed) for seed, name in enumerate(("ada", "bob", "eve")))


@pytest.fixture(scope="module")
def flux(tmp_path_factory, golden_shapes):
    return load_fewer_blocks(tmp_path_factory.mktemp("flux"), golden_shapes("flux")["dev"], 1, 2)


@pytest.fixture(scope="module")
def adapter(golden_shapes):
    return first_layers(golden_shapes("flux")["pulid_ca"], 2)


@pytest.fixture
def tape():
    return Tape()


@pytest.fixture
def drawn(flux, adapter, tape, monkeypatch):
    """drawn(job, ..) -> whether they are drawn as without recordings, one after the other."""
    monkeypatch.setattr(trials, "_notes", {})
    recording = Denoiser(
        flux, adapter, CPU, torch.float32, True, recordings=Recordings(lambda: tape), kept=2
    )

    def draw(*jobs: Job, alike: bool = True, **more) -> torch.Tensor:
        plain = Denoiser(flux, adapter, CPU, torch.float32, True)
        x = inputs()
        texts = Texts(TextStates(x["txt"], x["vec"]), TextStates(x["neg_txt"], x["neg_vec"]))
        given = (jobs, [texts] * len(jobs), [None] * len(jobs))
        with torch.inference_mode():
            expected = plain.latents(*given, **more)
            found = recording.latents(*given, **more)
        assert same(found, expected) is alike
        return found

    draw.denoiser = recording
    return draw


def job(*subjects: Subject | Person, seed: int = 3, **more) -> Job:
    request = GenerationRequest(
        "x", width=64, height=64, guidance=GUIDANCE, seed=seed, steps=STEPS, **more
    )
    people = tuple(one if isinstance(one, Subject) else Subject(one) for one in subjects)
    times = tuple(1 - step / STEPS for step in range(STEPS + 1))
    return Job(request, seed, times, prompts=(), subjects=people)


REGION = np.array([0.0] * 8 + [1.0, 0.5] * 4, np.float32)
# what is drawn twice, and how often it is recorded
CASES = {
    "nobody": (lambda: job(), 1),
    "one person": (lambda: job(ADA), 1),
    "weight 0": (lambda: job(Subject(ADA, weight=0.0)), 1),
    "two people": (lambda: job(ADA, Subject(BOB, weight=0.4)), 1),
    "a region": (lambda: job(Subject(ADA, region=REGION)), 1),
    "two people in their places": (
        lambda: job(Subject(ADA, region=REGION), Subject(BOB, region=REGION[::-1].copy())),
        1,
    ),
    "a region, true CFG": (lambda: job(Subject(ADA, region=REGION), cfg_scale=2.0), 2),
    "twice the same person in one place": (
        lambda: job(
            Subject(ADA, weight=0.5, region=REGION), Subject(ADA, weight=0.2, region=REGION)
        ),
        1,
    ),
    "true CFG": (lambda: job(ADA, cfg_scale=2.0), 2),
    "true CFG, nobody in it": (lambda: job(ADA, cfg_scale=2.0, negative_id="none"), 2),
    "a window": (lambda: job(Subject(ADA, schedule=IdSchedule(2))), 2),
    "skipped layers": (
        lambda: job(ADA, skip_guidance=SkipGuidance(scale=2.0, layers=(1,), start=0.0, end=1.0)),
        2,
    ),
    # another weight at each step
    "a schedule": (
        lambda: job(Subject(ADA, schedule=IdSchedule(points=((0, 0.1), (1, 0.5), (2, 0.9))))),
        0,
    ),
    "two evaluations a step": (lambda: job(ADA, sampling_method="heun"), 1),
}


@pytest.mark.parametrize("name", CASES)
def test_recorded_steps_draw_what_steps_draw(drawn, tape, name):
    make, recorded = CASES[name]
    first, second = drawn(make()), drawn(replace(make(), seed=9))
    assert not same(first, second)
    assert sum(line.startswith("record") for line in tape.log) == recorded
    assert ("replay" in tape.log) is bool(recorded)
    assert not trials.take_notes()


def test_the_next_person_is_drawn_not_the_last_one(drawn, tape):
    """As on a server: people, weights and places change from request to request."""
    pictures = []
    for subjects in (
        [ADA],
        [BOB],
        [ADA],
        [],
        [Subject(BOB, weight=0.3)],
        [Subject(BOB, weight=0.3, region=REGION)],
        [Subject(BOB, weight=0.3, region=REGION[::-1].copy())],
        # a third person: of two that stay folded the one longest unused goes, with its recordings
        [EVE],
        [ADA],
        [BOB],
        [ADA, BOB],
        [BOB, ADA],
    ):
        pictures.append(drawn(job(*subjects)))
    assert tape.log.count("replay") > 2 * len(pictures)
    assert "wait" in tape.log
    assert same(pictures[0], pictures[2])
    assert same(pictures[0], pictures[8])
    different = [pictures[place] for place in (0, 1, 3, 4, 5, 6, 7, 10)]
    for place, picture in enumerate(different):
        assert not any(same(picture, other) for other in different[:place])


def test_a_recording_that_is_not_told_draws_the_last_person(drawn, monkeypatch):
    """The twin of the test above, so that it can fail."""
    monkeypatch.setattr("pulid_generate.injection.terms.Injection.reads", lambda self: "people")
    drawn(job(ADA))
    drawn(job(BOB), alike=False)


def test_pictures_that_go_together(drawn, tape):
    for seed in (4, 6):
        drawn(job(ADA), job(BOB, seed=seed), job(seed=5))
    assert tape.log.count("record first") == 1
    # the first of two is another place than the first of three
    drawn(job(ADA), job(seed=5))
    drawn(job(ADA), job(BOB, seed=4), job(seed=5))


def test_a_schedule_is_recorded_where_its_weights_come_often_enough(drawn, tape):
    """Three weights, one after the other, a step of each picture with each or four."""

    def scheduled(points, steps: int, **more) -> Job:
        one = job(Subject(ADA, schedule=IdSchedule(points=points)), **more)
        times = tuple(1 - step / steps for step in range(steps + 1))
        return replace(one, times=times)

    drawn(scheduled(((0, 0.1), (4, 1.0), (8, 0.6)), 12))
    assert sum(line.startswith("record") for line in tape.log) == 3
    assert tape.log.count("replay") >= 6
    tape.log.clear()
    # five weights in two branches are more recordings than are kept
    often = tuple((4 * number, 0.1 + number / 10) for number in range(5))
    drawn(scheduled(often, 20, cfg_scale=2.0))
    # three steps of each weight: a third finds a recording
    drawn(scheduled(((0, 0.1), (3, 1.0), (6, 0.6)), 9))
    assert not tape.log


def test_what_is_put_on_flux_is_in_the_next_picture(drawn, flux):
    before = drawn(job(ADA))

    @contextmanager
    def changed():
        handle = flux.x_embedder.register_forward_hook(lambda *given: given[2] * 1.5)
        try:
            yield drawn.denoiser.changed()
        finally:
            handle.remove()
            drawn.denoiser.changed()

    with changed():
        assert not same(drawn(job(ADA)), before)
    assert same(drawn(job(ADA)), before)


def test_what_python_decides_at_each_step_is_not_recorded(drawn, tape):
    """Blocks that are reused; a whole forward that is reused is recorded like any other."""
    drawn(job(ADA, step_cache=StepCache("taylorseer", None, first_blocks=1, last_blocks=1)))
    assert not tape.log
    drawn(job(ADA, step_cache=StepCache.parse("easycache", "threshold=0.001")))
    assert tape.log


def test_large_pictures_are_not_recorded_unless_asked(monkeypatch):
    small, large = 48 * 48, 64 * 64
    card = replace(Placement.choose("cpu", "bfloat16"), device=torch.device("cuda"))
    for asked, tokens, records in (
        ("auto", small, True),
        ("auto", large, False),
        ("on", large, True),
        ("off", small, False),
    ):
        assert card.records(asked, tokens) is records
    assert not Placement.choose("cpu").records("on", small)
    # weights that stream are copied by Python
    assert not replace(card, max_vram={"": 4.0}).records("on", small)
    monkeypatch.setattr(placement, "has_cuda_graphs", lambda device: False)
    assert not card.records("on", small)
