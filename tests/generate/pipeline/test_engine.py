"""Which models stay, which go, and when: the engine under memory plans of our choice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from pulid_extract.shared.embedding_file import read_embedding
from pulid_generate import GenerationRequest, Pipeline, Placement
from pulid_generate.errors import CheckpointError, PlacementError, RequestError
from pulid_generate.files.fp8_layers import multiplies_in_fp8
from pulid_generate.files.model import Model
from pulid_generate.memory.plan import Measure, MeasureKind, Plan, Stage, Work
from pulid_generate.packed.fp8_products import use_fp8_products
from pulid_generate.pipeline import engine as engine_module
from pulid_generate.pipeline import loading, planning
from pulid_generate.pipeline.callers import Caller
from pulid_generate.pipeline.engine import Engine
from pulid_generate.pipeline.planning import IDENTITIES_KEPT, Residents
from pulid_generate.request.conditions.bundle import Conditions
from pulid_generate.request.conditions.reference_picture import ReferencePicture
from pulid_generate.request.job import StartPicture
from pulid_generate.request.passes.detail import DetailSettings
from pulid_generate.request.people.id_schedule import IdSchedule

ROOM = 935
SMALL, LARGE = (64, 48), (128, 96)
# Bytes of each model's weights; Flux takes a byte more for each image token of a batch
WEIGHTS = {Model.CLIP: 50, Model.T5: 300, Model.FLUX: 600, Model.VAE: 300}


def plan_for(files: object, work: Work, placement: Placement, available: dict[str, int]) -> Plan:
    """As `make_plan`, in a world of few bytes."""
    people = len(work.id_tokens)
    working = {
        Model.FLUX: work.extra
        + max(work.image_tokens, work.batch * work.shared_tokens)
        + 20 * people,
        Model.VAE: work.image_tokens,
    }
    stages = tuple(
        # what the plan's margin adds is taken off
        Stage(model, "cpu", int((weights + working.get(model, 0)) / 1.05), 0)
        for model, weights in WEIGHTS.items()
    )
    needed = max(stage.needs["cpu"] for stage in stages)
    problem = f"needs {needed} of {available['cpu']}" if needed > available["cpu"] else ""
    return Plan(stages, available, {}, None, problem)


@pytest.fixture
def loads(monkeypatch):
    """What was loaded, in order."""
    names: list[str] = []

    def watched(name: str, load: Callable) -> Callable:
        def run(*arguments, **options):
            names.append(name)
            return load(*arguments, **options)

        return run

    for name in ("load_flux", "load_vae"):
        monkeypatch.setattr(loading, name, watched(name, getattr(loading, name)))
    for kind in (loading.ClipText, loading.T5Text):
        monkeypatch.setattr(kind, "load", watched(kind.__name__, kind.load))
    monkeypatch.setattr(planning, "make_plan", plan_for)
    monkeypatch.setattr(planning, "available_on", lambda devices: {"cpu": ROOM})
    return names


@dataclass
class Wishes(Caller):
    """Wants every job of a list; keeps what failed."""

    jobs: list

    def __post_init__(self):
        self.wrong: list[tuple[int, str]] = []
        self.labels: list[tuple[int, ...]] = []

    def prompts(self, item):
        return self.jobs[item].prompts

    def job(self, item):
        return self.jobs[item]

    def label(self, items):
        self.labels.append(tuple(items))
        return "picture"

    def failed(self, item, error):
        self.wrong.append((item, str(error)))


def request(size=SMALL, **more) -> GenerationRequest:
    return GenerationRequest("a cat", width=size[0], height=size[1], steps=1, **more)


def draw(engine: Engine, *jobs, batches=None) -> list:
    """The pictures of jobs, each in a batch of its own unless told otherwise."""
    wishes = Wishes([engine.expect(job) for job in jobs])
    batches = batches or [[place] for place in range(len(jobs))]
    pictures = [denoised.decode() for denoised in engine.draw(batches, wishes)]
    assert not wishes.wrong
    return pictures


def test_what_fits_stays_until_a_larger_job_comes(pipeline, loads):
    with pipeline.engine(staying="autoencoder") as engine:
        first = draw(engine, pipeline.job(request()))
        assert loads == ["ClipText", "T5Text", "load_flux", "load_vae"]
        assert engine.decodes_beside
        assert not engine.encodes_beside
        # the same kind of job: nothing is loaded again
        draw(engine, pipeline.job(request(seed=5)))
        assert len(loads) == 4
        # a little larger, still side by side: the loaded ones stay
        draw(engine, pipeline.job(request((80, 48))))
        assert len(loads) == 4
        # the autoencoder does not fit beside this one: Flux leaves, comes, and leaves for it
        del loads[:]
        draw(engine, pipeline.job(request(LARGE)))
        assert not engine.decodes_beside
        assert loads == ["load_flux", "load_vae"]
        # room is kept for all kinds that were announced: the small one does not bring it back
        again = draw(engine, pipeline.job(request()))
        assert loads == ["load_flux", "load_vae"] * 2
    assert again[0].encode("PNG") == first[0].encode("PNG")


def test_a_worker_keeps_its_encoders_if_all_fit_together(pipeline, loads, monkeypatch):
    monkeypatch.setattr(planning, "available_on", lambda devices: {"cpu": 2 * ROOM})
    with pipeline.engine(staying="all") as engine:
        draw(engine, pipeline.job(request()))
        assert engine.encodes_beside
        assert engine.decodes_beside
        draw(engine, pipeline.job(replace(request(), prompt="a dog")))
        assert loads == ["ClipText", "T5Text", "load_flux", "load_vae"]
    with pipeline.engine() as engine:
        draw(engine, pipeline.job(request()))
        draw(engine, pipeline.job(replace(request(), prompt="a dog")))
        # nothing stays, whatever room there is
        assert loads[4:] == ["ClipText", "T5Text", "load_flux", "load_vae"] * 2
        assert "clip" not in vars(pipeline.fitting.reader)


def test_folded_identities_take_what_room_is_left(pipeline, loads, person):
    embedding = read_embedding(person)
    planner = pipeline.engine(staying="autoencoder").planner
    planner.expect(pipeline.job(request()))
    alone = planner.decide()
    assert (alone.beside, alone.identities) == ({Model.VAE}, IDENTITIES_KEPT)
    for number in range(IDENTITIES_KEPT):
        somebody = replace(embedding, sha256=f"{number}")
        planner.expect(pipeline.job(request(), somebody))
    assert planner.stale
    crowd = planner.decide()
    assert not planner.stale
    # 16 at 20 bytes do not fit beside the autoencoder, but alone with Flux
    assert (crowd.beside, crowd.identities) == (frozenset(), IDENTITIES_KEPT)
    planner.available["cpu"] = 600 + 12 + 8 * 20
    planner.stale = True
    assert planner.decide().identities == IDENTITIES_KEPT // 2
    assert crowd.loads_as(Residents(crowd.plan, frozenset(), 3))
    assert not crowd.loads_as(alone)
    assert not crowd.loads_as(None)


def test_what_cannot_fit_is_refused_before_anything_loads(pipeline, loads, monkeypatch):
    monkeypatch.setattr(planning, "available_on", lambda devices: {"cpu": 620})
    with pipeline.engine(staying="autoencoder", batch=4) as engine:
        with pytest.raises(PlacementError, match=r"needs 64\d of 620"):
            engine.expect(pipeline.job(request(LARGE)))
        # alone it fits, four at once do not
        engine.expect(pipeline.job(request()))
        with pytest.raises(PlacementError, match="--batch-size 4: needs"):
            _ = engine.decodes_beside
    assert not loads


def test_weights_that_are_widened_layer_by_layer_are_not_compiled(pipeline, loads, monkeypatch):
    """Said before anything loads."""

    def kept(files, work, placement, available):
        plan = plan_for(files, work, placement, available)
        measure = Measure(MeasureKind.SIXTEEN_BIT, "16-bit weights kept")
        stages = []
        for stage in plan.stages:
            here = (measure,) if stage.model is Model.FLUX else ()
            stages.append(replace(stage, measures=here))
        return replace(plan, stages=tuple(stages))

    monkeypatch.setattr(planning, "make_plan", kept)
    monkeypatch.setattr(pipeline, "compile", True)
    with pipeline.engine() as engine:
        engine.expect(pipeline.job(request()))
        with pytest.raises(PlacementError, match="take --dtype bfloat16, or leave --compile out"):
            _ = engine.decodes_beside
    assert not loads


def test_fp8_matrices_are_rounded_straight_from_the_file(pipeline, monkeypatch):
    """One by one, with no whole Flux in another arithmetic before; the rest is cast."""
    asked = []
    load = loading.load_flux

    def watched(header, dtype, device):
        asked.append((dtype, device))
        return load(header, dtype, device)

    monkeypatch.setattr(loading, "load_flux", watched)
    monkeypatch.setattr(loading, "reason_against", lambda device, dtype: "")
    models = loading.Models(pipeline.files, Placement.choose("cpu", "bfloat16"), compute="fp8")
    flux = models._flux_in_fp8(torch.device("cpu"), torch.device("cpu"))
    assert asked == [(None, "cpu")]
    assert {parameter.dtype for parameter in flux.parameters()} == {torch.bfloat16}
    expected = load(pipeline.files.flux.header, None, "cpu")
    assert use_fp8_products(expected, torch.device("cpu"), multiplies_in_fp8)
    for (name, found), (_, wanted) in zip(
        flux.named_buffers(), expected.named_buffers(), strict=True
    ):
        assert torch.equal(found.view(torch.uint8), wanted.view(torch.uint8)), name


def test_a_recording_has_its_memory_in_the_plan(pipeline, loads, monkeypatch):
    """Beside that of other forwards, for pictures that are recorded."""
    job = pipeline.job(request())
    planner = pipeline.engine().planner
    monkeypatch.setattr(planner.models, "records", lambda tokens=0: tokens <= 12)
    seen = []
    monkeypatch.setattr(planning, "make_plan", lambda _, work, *rest: seen.append(work.recorded))
    for batch in (1, 2):
        planner.batch = batch
        planner.plan([job], [])
    planner.plan([], [pipeline.job(request(LARGE))])
    # 64x48 is 12 tokens: two of them together are too many, one of them is recorded
    assert seen == [12 + 256, 12 + 256, 0]


def test_jobs_that_went_apart_are_drawn_one_by_one(pipeline, loads):
    """A row's file may change between judging and drawing."""
    with pipeline.engine(staying="autoencoder", batch=2) as engine:
        jobs = [pipeline.job(request()), pipeline.job(request(seed=7))]
        together, apart = Wishes(jobs), Wishes([jobs[0], pipeline.job(request((80, 48)))])
        for wishes in (together, apart):
            for job in wishes.jobs:
                engine.expect(job)
            assert len(list(engine.draw([[0, 1]], wishes))) == 2
    assert together.labels == [(0, 1)]
    assert apart.labels == [(0,), (1,)]


def test_one_that_fails_does_not_take_the_others_with_it(pipeline, loads, monkeypatch):
    latents = Engine._latents

    def fails_for_seed_7(self, jobs, label):
        if any(job.seed == 7 for job in jobs):
            raise CheckpointError("not this one")
        return latents(self, jobs, label)

    monkeypatch.setattr(Engine, "_latents", fails_for_seed_7)
    with pipeline.engine(staying="autoencoder", batch=3) as engine:
        wishes = Wishes([pipeline.job(request(seed=seed)) for seed in (6, 7, 8)])
        for job in wishes.jobs:
            engine.expect(job)
        drawn = [denoised.item for denoised in engine.draw([[0, 1, 2]], wishes)]
    assert drawn == [0, 2]
    assert wishes.wrong == [(1, "not this one")]
    # a library's caller has it raised
    with pytest.raises(CheckpointError, match="not this one"):
        list(pipeline.draw(wishes.jobs))


def test_nothing_to_draw_loads_nothing(pipeline, loads):
    assert list(pipeline.draw([])) == []
    assert not loads


def test_the_order_stops_where_its_caller_says(pipeline, loads):
    class Patience(Wishes):
        def stopping(self):
            return len(self.labels) >= 2

    with pipeline.engine(staying="autoencoder") as engine:
        wishes = Patience([pipeline.job(request(seed=seed)) for seed in range(5)])
        for job in wishes.jobs:
            engine.expect(job)
        assert [one.item for one in engine.draw([[0], [1], [2], [3]], wishes)] == [0, 1]


def test_a_request_that_would_do_nothing_is_no_job(pipeline):
    with pytest.raises(RequestError, match="id-start-step 4: there is only 1 step;"):
        pipeline.job(request(id_schedule=IdSchedule(start=4)))
    first = pipeline.job(request(seed=3, batch_count=3))
    assert [job.seed for job in pipeline.jobs(first.request)] == [3, 4, 5]
    assert first.numbered(2).seed == 5
    assert first.steps == 1
    assert first.t5_tokens == (256,)


def test_the_autoencoder_reads_all_at_once_and_goes_before_flux_comes(pipeline, loads, monkeypatch):
    """A picture to start from and a reference; then one that cannot be read."""
    ours = Pipeline(pipeline.files, pipeline.placement, kontext=True)
    black = np.zeros((LARGE[1], LARGE[0], 3), np.uint8)
    start, reference = StartPicture(black), Conditions((ReferencePicture(black),))
    asked = replace(request(LARGE, strength=0.4), steps=2)
    whole = ours.job(asked, start=start, conditions=reference)
    unread, plain = ours.job(asked, start=start), ours.job(asked)
    with ours.engine(staying="autoencoder") as engine:
        draw(engine, whole)
        assert loads == ["ClipText", "T5Text", "load_vae", "load_flux", "load_vae"]
        del loads[:]

        def failing(vae, job, start):
            raise CheckpointError("not this one")

        monkeypatch.setattr(engine_module, "encode_start", failing)
        wishes = Wishes([engine.expect(job) for job in (unread, plain)])
        flux = engine._loaded.denoiser

        def watched(loras):
            assert not engine._loaded.keeps_flux_away
            return flux(loras)

        monkeypatch.setattr(engine._loaded, "denoiser", watched)
        assert [one.item for one in engine.draw([[0], [1]], wishes)] == [1]
    assert wishes.wrong == [(0, "not this one")]


def test_room_for_what_finds_faces_forgets_nobody(pipeline, loads, monkeypatch):
    """The large picture without a detail pass, announced before the small one with it, counts."""
    monkeypatch.setattr(planning, "PROCESS_BYTES", 20)
    planner = pipeline.engine(staying="autoencoder").planner
    planner.expect(pipeline.job(request(LARGE)))
    before = planner.decide()
    assert before.beside == frozenset()
    planner.expect(pipeline.job(request(detail=DetailSettings(denoising_strength=0.0))))
    assert planner.available == {"cpu": ROOM - 20}
    after = planner.decide()
    assert after.beside == frozenset()
    assert after.plan.stages == before.plan.stages


def test_what_finds_faces_takes_no_room_from_what_was_announced(pipeline, loads, monkeypatch):
    """A job that leaves earlier ones, its own faces or itself no room is refused, and takes
    none.
    """
    faces = DetailSettings(denoising_strength=0.0)
    # the large picture and Flux: 648
    monkeypatch.setattr(planning, "PROCESS_BYTES", ROOM - 640)
    planner = pipeline.engine(staying="autoencoder").planner
    planner.expect(pipeline.job(request(LARGE)))
    for size in (SMALL, LARGE):
        with pytest.raises(PlacementError, match=r"an earlier picture would .*: needs 64\d of 640"):
            planner.expect(pipeline.job(request(size, detail=faces)))
        assert planner.available == {"cpu": ROOM}
        assert not planner.decide().plan.problem
    # nothing large before it: there is room, and it is kept
    planner = pipeline.engine(staying="autoencoder").planner
    with pytest.raises(PlacementError, match=r"^needs 64\d of 640"):
        planner.expect(pipeline.job(request(LARGE, detail=faces)))
    assert planner.available == {"cpu": ROOM}
    planner.expect(pipeline.job(request(detail=faces)))
    assert planner.available == {"cpu": 640}


def test_a_server_keeps_no_room_for_jobs_that_have_ended(pipeline, loads, monkeypatch):
    pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
    from pulid_generate.server.work.drawing import _expected

    monkeypatch.setattr(planning, "PROCESS_BYTES", ROOM - 640)
    small = pipeline.job(request(detail=DetailSettings(denoising_strength=0.0)))
    large = pipeline.job(request(LARGE))
    with pipeline.engine(staying="all") as engine:
        _expected(engine, engine.planner.expect, large)
        # the program that finds faces leaves the large one no room
        _expected(engine, engine.planner.expect, small)
        assert engine.planner.available == {"cpu": 640}
        # which is what a job is told that does not fit by itself
        with pytest.raises(PlacementError, match=r"^needs 64\d of 640"):
            _expected(engine, engine.planner.expect, large)
        _expected(engine, engine.planner.expect, small)
