"""Several portraits of one person: cosines, outliers, strangers, and the four ways to fuse."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from support.distances import relative
from support.pictures.extractions import extractor
from support.pictures.similar_people import ONE, TWO, vectors

from pulid_extract.networks.fusion import (
    OUTLIER,
    STRANGER,
    cosines,
    fuse_tokens,
    outliers,
    strangers,
)
from pulid_extract.shared.errors import FaceError, InputError

# -------------------------------------------------------------------------------------- one person?


def test_cosines_ignore_length():
    pairs = cosines(vectors(0, 60, 90))
    np.testing.assert_allclose(
        pairs, [[1, 0.5, 0], [0.5, 1, np.cos(np.pi / 6)], [0, np.cos(np.pi / 6), 1]], atol=1e-6
    )
    assert cosines([np.zeros(512), np.ones(512)])[0, 1] == 0


@pytest.mark.parametrize(
    ("angles", "found"),
    [
        ((0, 10, 20), []),
        ((0, 10, 20, 85), [3]),
        ((0, 10, 85, 180), [3, 2]),  # the worst first, and the rest without it
        ((0, 85), []),  # of two, nothing says which
        ((0,), []),
    ],
)
def test_outliers_are_named_worst_first(angles, found):
    assert outliers(cosines(vectors(*angles))) == found


@pytest.mark.parametrize(
    ("cosine", "is_outlier"), [(OUTLIER - 0.01, True), (OUTLIER + 0.01, False)]
)
def test_the_limit_of_an_outlier(cosine, is_outlier):
    pairs = np.ones((3, 3))
    pairs[2, :2] = pairs[:2, 2] = cosine
    assert outliers(pairs) == [2] * is_outlier


@pytest.mark.parametrize(
    ("cosine", "two_people"), [(STRANGER - 0.01, True), (STRANGER + 0.01, False)]
)
def test_the_limit_of_two_people(cosine, two_people):
    pairs = np.ones((3, 3))
    pairs[0, 2] = pairs[2, 0] = cosine
    assert strangers(pairs) == ((0, 2, pytest.approx(cosine)) if two_people else None)


def test_the_limits_are_those_of_the_issue():
    assert (OUTLIER, STRANGER) == (0.35, 0.25)
    assert strangers(np.ones((1, 1))) is None


# ------------------------------------------------------------------------------------- token fusion


@functools.cache
def tokens() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.normal(size=(32, 8)).astype(np.float32) for _ in range(3)]


def test_token_fusions():
    a, b, c = tokens()
    np.testing.assert_allclose(fuse_tokens(tokens(), "mean"), (a + b + c) / 3, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        fuse_tokens(tokens(), "weighted", [1, 0.5, 0.5]), (2 * a + b + c) / 4, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(fuse_tokens(tokens(), "concat"), np.concatenate(tokens()))
    assert all(
        fuse_tokens(tokens(), way, [1, 1, 1]).dtype == np.float32
        for way in ("mean", "weighted", "concat")
    )


def test_weights_of_nothing_are_equal_and_a_useless_portrait_counts_a_hundredth():
    a, b, _ = tokens()
    np.testing.assert_allclose(
        fuse_tokens([a, b], "weighted", [0, 0]), (a + b) / 2, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        fuse_tokens([a, b], "weighted", [1, 0]), (a + 0.01 * b) / 1.01, rtol=1e-5, atol=1e-6
    )


def test_fusions_that_cannot_be_are_refused():
    assert len(fuse_tokens(tokens()[:1] * 32, "concat")) == 1024
    with pytest.raises(FaceError, match="33 portraits give 1056 tokens"):
        fuse_tokens(tokens()[:1] * 33, "concat")
    with pytest.raises(InputError, match="one value for each"):
        fuse_tokens(tokens(), "weighted", [1.0])
    with pytest.raises(InputError, match="expected mean"):
        fuse_tokens(tokens(), "encoder")


# ------------------------------------------------------------------------------------ the extractor


@functools.cache
def crops():
    return tuple(extractor().crop(image) for image in (ONE, TWO))


def test_encoder_fusion_is_one_pass_over_all_images():
    """As the reference stacks them; tests/golden has the encoder's own numbers for two images."""
    import torch

    features = [extractor().features(one) for one in crops()]
    (a, hidden_a), (b, hidden_b) = ((one.condition, one.hidden_states) for one in features)
    with torch.no_grad():
        want = (
            extractor()
            ._idformer(
                torch.stack([a, b], 1),
                [torch.cat(pair, 1) for pair in zip(hidden_a, hidden_b, strict=True)],
            )[0]
            .numpy()
        )
    ours = extractor().tokens(features)
    np.testing.assert_array_equal(ours, want)
    assert ours.shape == (32, 2048)
    singles = [extractor().tokens([one]) for one in features]
    assert all(relative(ours, one) > 1e-3 for one in singles)
    np.testing.assert_allclose(
        extractor().tokens(features, "mean"), (singles[0] + singles[1]) / 2, rtol=1e-4, atol=1e-5
    )
    np.testing.assert_array_equal(extractor().tokens(features, "concat"), np.concatenate(singles))
    assert relative(extractor().tokens(features, "weighted", [1, 0.1]), singles[0]) < relative(
        extractor().tokens(features, "mean"), singles[0]
    )
    np.testing.assert_array_equal(
        extractor().tokens(features[:1], "mean"), singles[0]
    )  # of one portrait there is nothing to fuse


def test_uncond_is_of_zeros_for_as_many_images_as_the_encoder_saw():
    one = extractor().fuse(crops()[:1], with_uncond=True).uncond
    two = extractor().fuse(crops(), with_uncond=True).uncond
    mean = extractor().fuse(crops(), "mean", with_uncond=True).uncond
    np.testing.assert_array_equal(one, mean)
    assert not np.array_equal(one, two)


# -------------------------------------------------------------------------------------- the command


# ---------------------------------------------------------------------- what a shell makes of *.jpg
