"""The second, larger pass: what it starts from and along which steps, who is in it and where, and
what becomes of it in batches, in memory and in the metadata.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.models.control_files import write_control

from pulid_extract.shared.embedding_file import read_embedding
from pulid_generate import GenerationRequest
from pulid_generate.assembly.requests import read_request
from pulid_generate.assembly.usage import idle_flags, usage_error
from pulid_generate.errors import RequestError
from pulid_generate.flags.commands.tables import Flags
from pulid_generate.memory.plan import Plan
from pulid_generate.pictures.description import parse_description
from pulid_generate.pipeline import planning
from pulid_generate.pipeline.denoiser import Denoiser
from pulid_generate.pipeline.larger_pass import enlarged_latent
from pulid_generate.pipeline.pipeline import JobsInOrder
from pulid_generate.pipeline.pixels import reference_key
from pulid_generate.request.conditions.bundle import Conditions
from pulid_generate.request.conditions.control_picture import ControlUse
from pulid_generate.request.conditions.reference_picture import ReferencePicture
from pulid_generate.request.job import StartPicture, Subject
from pulid_generate.request.passes.enlarging import enlarged_conditions, enlarged_region
from pulid_generate.request.passes.hires import (
    LATENT_UPSCALERS,
    HiresSettings,
    find_model,
    upscaler_named,
)
from pulid_generate.request.people.regions import box_region
from pulid_generate.request.step_cache import StepCache
from pulid_generate.rows.columns import COLUMNS

WIDTH, HEIGHT = 48, 32
TWICE = HiresSettings()
SIGMAS = (0.8, 0.6, 0.4, 0.2, 0.0)
EASY = StepCache.parse("easycache")


@pytest.fixture(scope="module")
def people(kept):
    return [read_embedding(path) for path in (kept.me, kept.you)]


def request(hires: HiresSettings | None = TWICE, **more) -> GenerationRequest:
    return GenerationRequest(
        "a cat", **{"width": WIDTH, "height": HEIGHT, "steps": 4, "hires": hires, **more}
    )


def draw(pipeline, *jobs):
    return list(pipeline.draw(jobs))


def test_controls_and_tiles_follow_the_size(pipeline):
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:, 16:] = 255
    controls = Conditions(controls=(ControlUse(Path("a"), picture),))
    [use] = enlarged_conditions(controls, 96, 64).controls
    assert use.pixels.shape == (64, 96, 3)
    assert not use.pixels[:, :24].any()
    assert (use.pixels[:, 40:] == 255).all()
    tiled = pipeline.job(request(vae_tiling=True))
    assert tiled.larger.tiling == tiled.tiling is not None


def test_a_control_that_no_step_of_the_larger_pass_sees_is_refused(pipeline, tmp_path):
    """As in the first pass, whose four steps have one in the share."""
    sizes = pipeline.fitting.shape
    shape = {"width": sizes.width, "context": sizes.context, "pooled": sizes.pooled}
    net = write_control(tmp_path / "edges.safetensors", **shape)
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    conditions = Conditions(controls=(ControlUse(net, picture, end=0.25),))
    four, two = (request(HiresSettings(sigmas=times)) for times in (SIGMAS, SIGMAS[2:]))
    assert pipeline.job(four, conditions=conditions).larger.steps == 4
    with pytest.raises(RequestError, match=r"^hires: control-start 0, control-end 0\.25: no step"):
        pipeline.job(two, conditions=conditions)


def test_steps_and_times_are_sd_clis(pipeline):
    job = pipeline.job(request(steps=20))
    assert (job.larger.request.width, job.larger.request.height) == (96, 64)
    # int(20 / .7) = 28 times of the larger size, of them the last int(28 * .7) + 1
    whole = pipeline.job(request(None, width=96, height=64, steps=28)).times
    assert job.larger.times == whole[-21:]
    assert job.larger.steps == 20
    assert pipeline.job(request(replace(TWICE, steps=4))).larger.steps == 4
    # from a picture: as many as --strength has left of the first pass
    start = StartPicture(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    cut = pipeline.job(request(steps=20, strength=0.5), start=start)
    assert (cut.steps, cut.larger.steps) == (11, 11)
    by_hand = replace(TWICE, sigmas=(0.5, 0.25, 0.0))
    assert pipeline.job(request(by_hand)).larger.times == (0.5, 0.25, 0.0)


def test_it_is_the_first_pass_enlarged_and_drawn_over(pipeline, people):
    """By hand: the first latent, interpolated, as what image to image starts from."""
    job = pipeline.job(request(), people[0])
    with pipeline.engine() as engine:
        job = engine.expect(job)
        engine.encode(job.all_prompts)
        [small] = engine._latents([replace(job, larger=None)], "")
        wanted = engine._drawn_again(
            job.larger, torch.nn.functional.interpolate(small, scale_factor=2, mode="bilinear"), ""
        )
        decoded = engine._decode(engine._loaded.autoencoder(), wanted, job)
    [ours] = draw(pipeline, job)
    assert ours.pixels.shape == (64, 96, 3)
    assert (ours.pixels == decoded.pixels).all()
    [plain] = draw(pipeline, pipeline.job(request(None, width=96, height=64), people[0]))
    assert (ours.pixels != plain.pixels).mean() > 0.3


def test_the_identity_is_in_the_second_pass(pipeline, people):
    whole = pipeline.job(request(), people[0])
    nobody = pipeline.job(request())
    first_only = replace(whole, larger=replace(whole.larger, subjects=()))
    pictures = draw(pipeline, whole, nobody, first_only)
    assert (pictures[0].pixels != pictures[1].pixels).any()
    assert (pictures[0].pixels != pictures[2].pixels).any()


def test_at_weight_0_it_is_the_picture_without_a_person(pipeline, people):
    hires = replace(TWICE, upscaler="Lanczos")
    at_zero = pipeline.job(request(hires), [Subject(people[0], weight=0.0)])
    nobody, again = draw(pipeline, pipeline.job(request(hires)), at_zero)
    assert (nobody.pixels == again.pixels).all()
    assert nobody.parameters == again.parameters


def test_regions_grow_with_the_picture(pipeline, people):
    left = box_region((0, 0, 16, HEIGHT), WIDTH, HEIGHT)
    job = pipeline.job(request(), [Subject(people[0], region=left)])
    grown = job.larger.subjects[0].region.reshape(4, 6)
    small = left.reshape(2, 3)
    assert (grown == small.repeat(2, axis=0).repeat(2, axis=1)).all()
    uneven = enlarged_region(left, (48, 32), (80, 48)).reshape(3, 5)
    assert not uneven[:, 2:].any()
    assert uneven[:, 0].all()


def test_the_encoders_sample_is_the_pictures_own_and_the_steps_go_on_from_it(pipeline):
    """sd-cli's order: the seed anew for each picture, the encoder's draw, then the steps'."""
    lanczos = request(replace(TWICE, upscaler="Lanczos"), seed=3)
    alone, second = pipeline.job(replace(lanczos, seed=4)), pipeline.job(lanczos).numbered(1)
    assert (pipeline.job(request()).larger.draws_before, second.larger.draws_before) == (0, 1)
    again = replace(second, larger=replace(second.larger, draws_before=0))
    pictures = draw(pipeline, alone, second, again)
    assert (pictures[0].pixels == pictures[1].pixels).all()
    assert (pictures[0].pixels != pictures[2].pixels).any()


def test_references_are_those_of_the_first_pass_whatever_it_starts_from(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline.fitting, "kontext", True)
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    conditions = Conditions(references=(ReferencePicture(picture),))
    keys = []
    for start in (None, StartPicture(picture)):
        for upscaler in ("Latent", "Lanczos"):
            asked = request(replace(TWICE, upscaler=upscaler), steps=8)
            job = pipeline.job(asked, start=start, conditions=conditions)
            assert reference_key(job.larger) == reference_key(job)
            keys.append(reference_key(job))
    assert keys[0] == keys[1] != keys[2] == keys[3]


def test_pictures_of_a_batch_are_those_drawn_alone(pipeline, people):
    job = pipeline.job(request(batch_count=2), people[0])
    jobs = [job, job.numbered(1)]
    assert jobs[1].larger.seed == 43
    with pipeline.engine() as engine:
        engine.batch = 2
        expected = [engine.expect(one) for one in jobs]
        together = [one.decode() for one in engine.draw([[0, 1]], JobsInOrder(expected))]
    for picture, alone in zip(together, draw(pipeline, *jobs), strict=True):
        assert np.abs(picture.pixels.astype(int) - alone.pixels).max() <= 1


@pytest.mark.parametrize("upscaler", list(LATENT_UPSCALERS))
def test_every_latent_upscaler_keeps_a_flat_latent(upscaler):
    flat = torch.full((1, 16, 4, 6), 0.5)
    larger = enlarged_latent(flat, 80, 64, upscaler)
    assert larger.shape == (1, 16, 8, 10)
    assert torch.allclose(larger, torch.tensor(0.5))
    assert upscaler_named(upscaler.lower()) == upscaler


def test_the_metadata_say_it(pipeline):
    [picture] = draw(pipeline, pipeline.job(request()))
    facts = parse_description(picture.parameters)
    assert (facts["width"], facts["height"]) == (WIDTH, HEIGHT)
    assert (facts["hires"]["width"], facts["hires"]["height"]) == (96, 64)
    assert facts["hires"]["denoising_strength"] == 0.7
    assert facts["hires"]["steps"] == 4
    assert "Hires resize: 96x64, Hires steps: 4, Hires upscaler: Latent" in picture.parameters


def test_the_memory_plan_knows_the_larger_size(pipeline, monkeypatch):
    seen = []

    def noted(files, work, placement, available) -> Plan:
        seen.append((work.width, work.height, work.init_image))
        return make_plan(files, work, placement, available)

    make_plan = planning.make_plan
    monkeypatch.setattr(planning, "make_plan", noted)
    with pipeline.engine() as engine:
        engine.expect(pipeline.job(request(replace(TWICE, upscaler="Nearest"))))
        engine.planner.decide()
    assert (96, 64, True) in seen
    assert seen[-1][:2] == (96, 64)


def test_a_batch_shares_the_first_pass_alone_and_so_does_its_plan(pipeline, people, monkeypatch):
    seen = []

    def noted(files, work, placement, available) -> Plan:
        seen.append(work)
        return make_plan(files, work, placement, available)

    make_plan = planning.make_plan
    monkeypatch.setattr(planning, "make_plan", noted)
    together = []
    latents = Denoiser.latents

    def counted(self, jobs, *arguments, **options):
        together.append((len(jobs), jobs[0].request.width))
        return latents(self, jobs, *arguments, **options)

    monkeypatch.setattr(Denoiser, "latents", counted)
    jobs = [pipeline.job(request(seed=seed), people[0]) for seed in (1, 2, 3)]
    with pipeline.engine(batch=3) as engine:
        everyone = JobsInOrder([engine.expect(job) for job in jobs])
        drawn = [denoised.decode() for denoised in engine.draw([[0, 1, 2]], everyone)]
    assert together == [(3, WIDTH), (1, 96), (1, 96), (1, 96)]
    work = seen[-1]
    assert (work.batch, work.together, (work.width, work.height)) == (3, (WIDTH, HEIGHT), (96, 64))
    # one picture of 24 tokens is more than three of 6; text is read with each
    assert work.forward_tokens == max(24 + work.t5_tokens, 3 * (6 + work.t5_tokens))
    assert replace(work, batch=1).forward_tokens == 24 + work.t5_tokens
    assert len({picture.encode("PNG") for picture in drawn}) == 3
    # what is drawn alone in any case is no batch
    alone = replace(jobs[0], request=replace(jobs[0].request, step_cache=EASY))
    with pipeline.engine(batch=3) as engine:
        engine.expect(replace(alone, larger=None))
        engine.planner.decide()
    assert seen[-1].batch == 1


def test_models_are_found_by_their_names_in_one_folder(tmp_path):
    for name in ("tiny.pth", "other.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    assert find_model("tiny", tmp_path) == find_model("tiny.pth", tmp_path)
    flags = Flags(hires=True, hires_upscaler="other", hires_upscalers_dir=str(tmp_path))
    asked = read_request(flags, "a cat", 64, 64).hires
    assert (asked.upscaler, asked.model) == ("other.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(RequestError, match=r"hires-upscaler ../x: expected the name of a file in"):
        find_model("../x", tmp_path)
    with pytest.raises(RequestError, match=r"not found in .*, which has other.safetensors, tiny"):
        find_model("4x", tmp_path)
    named = replace(flags, hires_upscaler="latent", hires_upscale_tile_size=64)
    told = list(idle_flags(named, ("hires_upscalers_dir", "hires_upscale_tile_size"), dev=True))
    assert [line.split()[0] for line in told] == [
        "--hires-upscalers-dir",
        "--hires-upscale-tile-size",
    ]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"upscaler": "4x.pth"}, "hires-upscaler 4x.pth: expected one of Latent, "),
        ({"tile": 8}, "hires-upscale-tile-size 8: expected 32 to 4096"),
        ({"scale": 0.5}, "hires-scale 0.5: expected 1 to 16"),
        ({"denoising_strength": 0}, "hires-denoising-strength 0: expected 0.01 "),
        ({"width": -16}, "hires-width -16: expected 0 "),
        ({"width": 40}, "hires: width 40: expected a multiple of 16"),
        ({"sigmas": (0.5, 0.6, 0.0)}, "hires: sigmas 0.5,0.6,0: each must be smaller"),
        ({"denoising_strength": 1}, "hires: it starts from nothing but noise, at 1,"),
        ({"sigmas": (1.0, 0.0)}, "hires: it starts from nothing but noise, at 1,"),
        ({"denoising_strength": 0.01, "steps": 5000}, "hires: 5000 steps at strength 0.01 "),
    ],
)
def test_refusals(pipeline, settings, told):
    with pytest.raises(RequestError) as refusal:
        pipeline.job(request(HiresSettings(**settings)))
    assert str(refusal.value).startswith(told)
    assert "\n" not in str(refusal.value)


def test_flags_and_columns_of_rows():
    flags = Flags(prompt="a cat", hires=True, hires_width=1024, hires_sigmas="[0.5,0]")
    # the option's callback takes the brackets away
    flags = replace(flags, hires_sigmas=COLUMNS["hires_sigmas"].value([0.5, 0], Path()))
    asked = read_request(flags, "a cat", 512, 512)
    assert asked.hires == HiresSettings(width=1024, sigmas=(0.5, 0.0))
    assert asked.final_size == (1024, 1024)
    assert HiresSettings(scale=1.3).size_of(512, 768) == (672, 1008)
    given = ("hires", "hires_scale", "hires_steps", "hires_width")
    told = list(idle_flags(flags, given, dev=True))
    assert [line.split()[0] for line in told] == ["--hires-scale", "--hires-steps"]
    alone = Flags(prompt="a cat", hires_width=64)
    assert usage_error(alone, ("hires_width",)) == "--hires-width needs '--hires'."
    assert COLUMNS["hires"].value("yes", Path()) is True


def test_a_mask_is_refused(pipeline):
    blank = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    start = StartPicture(blank, np.full((HEIGHT, WIDTH), 255, np.uint8))
    with pytest.raises(RequestError, match="hires: with --mask the second pass"):
        pipeline.job(request(), start=start)
