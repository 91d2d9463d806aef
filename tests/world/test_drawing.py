"""The small world before any network: people, scenes, the truth beside a drawing, prompts; and the
analysis that the autoencoder starts from.
"""

from __future__ import annotations

import dataclasses
import os
from functools import partial

import numpy as np
import pytest
import torch
from micro_world import dataset, people, prompts, scenes
from micro_world.drawing import draw
from micro_world.networks import autoencoder
from micro_world.people import FIRST_TEST_PERSON, Person
from micro_world.scenes import Scene
from seeded.unigram import END
from support.distances import relative

TEST_PEOPLE = range(FIRST_TEST_PERSON, FIRST_TEST_PERSON + 40)


def test_a_seed_is_one_person_and_one_picture():
    scene = Scene.of(np.random.default_rng(3))
    first, again = draw(Person.of(5), scene), draw(Person.of(5), scene)
    assert Person.of(5) == Person.of(5) != Person.of(6)
    assert (first.pixels == again.pixels).all()
    assert (first.pixels != draw(Person.of(6), scene).pixels).any()


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Person)])
def test_every_attribute_can_be_seen(name):
    """A person with another value of it is drawn otherwise, in a plain scene."""
    person = dataclasses.replace(Person.of(0), hair_style=1, freckles=0, beard=0)
    value = getattr(person, name)
    low, high = people.RANGES.get(name, (0, 1))
    other = (
        (value + 1) % people.KINDS[name]
        if name in people.KINDS
        else (low if value > (low + high) / 2 else high)
    )
    assert (
        draw(person, Scene()).pixels
        != draw(dataclasses.replace(person, **{name: other}), Scene()).pixels
    ).any()


def test_siblings_differ_in_a_few_attributes():
    for seed in range(0, 40, 2):
        one, other = dataclasses.asdict(Person.of(seed)), dataclasses.asdict(Person.sibling(seed))
        assert 1 <= sum(one[name] != other[name] for name in one) <= 4


@pytest.mark.parametrize("side", [96, 192])
def test_the_truth_is_where_the_head_is(side):
    """Both eyes are white and dark where the landmarks say; the box holds the skin."""
    for seed in TEST_PEOPLE:
        person, scene = Person.of(seed), Scene.of(np.random.default_rng(seed), glasses=0)
        portrait = draw(person, scene, side)
        x1, y1, x2, y2 = portrait.box
        assert 0.2 * side < x2 - x1 < 0.75 * side
        for x, y in portrait.landmarks:
            assert x1 < x < x2
            assert y1 < y < y2
        for x, y in portrait.landmarks[:2]:
            pupil = portrait.pixels[round(float(y)), round(float(x))]
            # dark, or of the iris where it is small
            assert np.abs(pupil.astype(int) - (20, 18, 18)).max() < 130
        assert portrait.landmarks[0, 0] < portrait.landmarks[1, 0]
        assert portrait.landmarks[3, 0] < portrait.landmarks[4, 0]


def test_the_same_picture_larger_has_the_same_truth():
    scene = Scene.of(np.random.default_rng(1))
    small, large = draw(Person.of(1), scene, 96), draw(Person.of(1), scene, 192)
    assert large.landmarks == pytest.approx(2 * small.landmarks, abs=1e-3)
    shrunk = large.pixels.reshape(96, 2, 96, 2, 3).mean((1, 3))
    assert np.abs(shrunk - small.pixels).mean() < 3


def test_people_to_train_on_are_not_people_to_test_on():
    used = [range(autoencoder.PEOPLE)]
    from micro_world.networks import detector, recognisers

    used += [
        range(kind.first, kind.first + kind.people)
        for kind in (recognisers.GLINT, recognisers.JUDGE)
    ]
    used.append(range(detector.PEOPLE, detector.PEOPLE + 50_000))
    assert all(one.stop <= FIRST_TEST_PERSON for one in used)
    # nor does the judge know those that the other recogniser learnt from
    assert not set(used[1]) & set(used[2])


def test_prompts_say_what_the_scene_is():
    rng = np.random.default_rng(2)
    for _ in range(300):
        scene = Scene.of(rng)
        prompt = prompts.prompt_of(scene, rng)
        told = [word for word in scenes.COLOUR_NAMES if word in prompt.replace(",", "").split()]
        assert set(told) <= {
            scenes.COLOUR_NAMES[scene.background],
            scenes.COLOUR_NAMES[scene.clothes],
        }
        assert (scenes.HATS[scene.hat] in prompt) == (scene.hat > 0)


def test_the_tokenizer_knows_every_word(tmp_path):
    from pulid_generate.models.tokenizers import read_t5_tokenizer

    count = prompts.write_tokenizer(tmp_path / "tokenizer.json")
    tokenizer = read_t5_tokenizer(tmp_path / "tokenizer.json")
    words = prompts.vocabulary()
    assert count > len(words)
    rng = np.random.default_rng(4)
    for _ in range(300):
        prompt = prompts.prompt_of(Scene.of(rng), rng)
        ids = tokenizer.encode(prompt).ids
        assert len(ids) == len(prompt.replace(",", "").split()) + 1 <= prompts.T5_LENGTH
        spelled = [tokenizer.id_to_token(one).removeprefix("\u2581") for one in ids[:-1]]
        assert " ".join(spelled) == prompt.replace(",", "")
    assert tokenizer.encode("smiling, calm").ids == tokenizer.encode("smiling calm").ids
    assert tokenizer.encode("éclair").ids[-1] == tokenizer.token_to_id(END)  # any text has ids


def test_a_crop_has_its_landmarks_in_the_template():
    """Aligned, the eyes are where ArcFace wants them, whatever the scene."""
    eyes = []
    for seed in TEST_PEOPLE:
        portrait = draw(
            Person.of(seed), Scene.of(np.random.default_rng(seed), glasses=0, hat=0), 192
        )
        crop = dataset.aligned(portrait, dataset.ARCFACE, dataset.ARCFACE_SIDE)
        eyes.append(crop[50:54, 36:41].mean((0, 1)))
        assert crop.shape == (112, 112, 3)
    assert np.std(eyes, axis=0).mean() < 60


@pytest.fixture(scope="module")
def fit():
    rng = np.random.default_rng(0)
    pixels = np.stack([draw(Person.of(seed), Scene.of(rng)).pixels for seed in range(60)])
    return pixels, *autoencoder.components(pixels)


def test_the_encoder_computes_the_analysis(fit):
    """BFL's encoder with these weights is a linear map of patches."""
    pixels, mean, directions = fit
    torch.manual_seed(0)
    model = autoencoder.build().eval()
    autoencoder.write_encoder(model.encoder, mean, directions)
    batch = autoencoder.pixels_of(pixels[:2])
    with torch.no_grad():
        moments = model.encoder(batch)
    ours = (moments[:, :16] - autoencoder.SHIFT) * autoencoder.SCALE
    assert relative(ours, autoencoder.encode(batch, mean, directions)) < 1e-2
    assert (moments[:, 16:] < -20).all()  # and it is certain


def test_latents_have_unit_spread_and_tell_the_picture(fit):
    pixels, mean, directions = fit
    batch = autoencoder.pixels_of(pixels)
    latents = autoencoder.encode(batch, mean, directions)
    assert latents.square().mean() == pytest.approx(1, abs=0.35)
    back = torch.linalg.pinv(directions.flatten(1))
    again = latents.permute(0, 2, 3, 1) @ back.T + mean.flatten()
    patches = batch.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(3)
    assert relative(again, patches) < 0.25


def test_the_decoder_begins_with_mean_colours(fit):
    pixels, mean, directions = fit
    torch.manual_seed(0)
    model = autoencoder.build().eval()
    autoencoder.start_decoder(model.decoder, mean, directions)
    batch = autoencoder.pixels_of(pixels[:2])
    latents = autoencoder.encode(batch, mean, directions) / autoencoder.SCALE + autoencoder.SHIFT
    with torch.no_grad():
        painted = model.decoder(latents)
    means = torch.nn.functional.avg_pool2d(batch, 8)
    assert (torch.nn.functional.avg_pool2d(painted, 8) - means).abs().mean() < 0.1


def _shades(seed: int, shade: int) -> tuple[np.ndarray, ...]:
    return (np.full(4, seed * shade, np.uint8),)


def test_kept_drawings_are_compared_with_what_is_drawn_today(tmp_path, capsys):
    """Older drawings beside new portraits would teach that a portrait says nothing."""
    first = np.array(dataset.made(tmp_path, "shades", 3, partial(_shades, shade=1))[0])
    assert "drawing shades" in capsys.readouterr().err
    derived = tmp_path / "derived.pt"
    derived.touch()
    assert np.array_equal(dataset.made(tmp_path, "shades", 3, partial(_shades, shade=1))[0], first)
    assert capsys.readouterr().err == ""
    assert dataset.is_current(derived, "shades")
    changed = dataset.made(tmp_path, "shades", 3, partial(_shades, shade=2))[0]
    assert np.array_equal(changed, 2 * first)
    assert "delete the checkpoints" in capsys.readouterr().err
    os.utime(tmp_path / "shades.ready")
    os.utime(derived, (1, 1))
    assert not dataset.is_current(derived, "shades")
    assert len(dataset.made(tmp_path, "shades", 4, partial(_shades, shade=2))[0]) == 4
