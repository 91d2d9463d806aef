"""Who is in the picture: `--identity` as text, several embeddings as one person, several people."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from pulid_extract.shared.embedding_file import Embedding, encode_embedding
from pulid_generate.assembly.requests import Drawing
from pulid_generate.errors import IdentityError, RequestError
from pulid_generate.request.generation import GenerationRequest
from pulid_generate.request.job import Subject
from pulid_generate.request.people.id_schedule import IdSchedule
from pulid_generate.request.people.identities import (
    PersonSpec,
    assemble,
    fuse,
    parse_person,
    rename_files,
)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("me.pulidembd", PersonSpec("me.pulidembd")),
        ("-", PersonSpec("-")),
        # commas and = belong to the name until a part's name follows
        ("a,b=c.pulidembd", PersonSpec("a,b=c.pulidembd")),
        ("box=1.pulidembd,box=1,2,3,4", PersonSpec("box=1.pulidembd", box=(1, 2, 3, 4))),
        ("a.pulidembd,weight=0.5,box=0,-16,512,768,start=4,end=0.8", PersonSpec("a.pulidembd", 0.5, None, (0, -16, 512, 768), 4, 0.8)),
        ("a.pulidembd, weight = 0.5, start = 1", PersonSpec("a.pulidembd", 0.5, start=1)),
        ("a.pulidembd,box=0,0,512,768,weight=-1", PersonSpec("a.pulidembd", -1, box=(0, 0, 512, 768))),
        ("a.pulidembd,mask=left, the=half.png,start=0.25", PersonSpec("a.pulidembd", mask="left, the=half.png", start=0.25)),
    ],
)  # fmt: skip
def test_an_identity_reads_as_it_is_written(text, spec):
    assert parse_person(text) == spec
    assert type(parse_person(text).start) is type(spec.start)  # step 1 is not the share 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no file is named"),
        (",weight=1", "no file is named"),
        ("a.pulidembd,weight=much", r"identity a.pulidembd: weight 'much': expected a number"),
        ("a.pulidembd,weight=", "weight '': expected a number"),
        ("a.pulidembd,weight=nan", "weight: nan is not a weight"),
        ("a.pulidembd,weight=1e9", "expected a number from -1000 to 1000"),
        ("a.pulidembd,weight=1,weight=2", "weight is given twice"),
        ("a.pulidembd,wieght=1", "unknown part 'wieght'; expected weight, mask, box, start, end"),
        ("a.pulidembd,weight=1,boxes=1", "weight '1,boxes=1'"),
        ("a.pulidembd,mask=m.png,strat=4", "unknown part 'strat'"),
        ("a.pulidembd,mask=", "mask names no file"),
        ("a.pulidembd,mask=m.png,box=0,0,1,1", "has a mask and a box"),
        ("a.pulidembd,box=0,0,1", "box '0,0,1': expected X,Y,WIDTH,HEIGHT"),
        ("a.pulidembd,box=0,0,1.5,1", "whole pixels"),
        ("a.pulidembd,box=0,0,0,9", "must be at least 1"),
        ("a.pulidembd,start=1.5", r"start 1.5: expected a step number from 0"),
        ("a.pulidembd,end=-1", "end -1"),
        ("a.pulidembd,end=late", "end 'late'"),
    ],
)
def test_what_cannot_be_meant_is_refused_naming_the_part(text, message):
    with pytest.raises(RequestError, match=message):
        parse_person(text)


def identity(name, count=32, width=64, seed=0, uncond=True):
    rng = np.random.default_rng([seed, count])
    tokens, none = (rng.standard_normal((count, width)).astype(np.float32) for _ in range(2))
    return Embedding(tokens, none if uncond else None, source=name, sha256=f"{seed:064x}")


def test_mean_and_concat_are_what_they_say():
    a, b = identity("a", seed=1), identity("b", seed=2)
    mean, both = fuse([a, b], "mean"), fuse([a, b], "concat")
    np.testing.assert_allclose(mean.tokens, (a.tokens + b.tokens) / 2, rtol=1e-6)
    np.testing.assert_allclose(mean.uncond, (a.uncond + b.uncond) / 2, rtol=1e-6)
    assert np.array_equal(both.tokens, np.concatenate([a.tokens, b.tokens]))
    assert np.array_equal(both.uncond, np.concatenate([a.uncond, b.uncond]))
    assert mean.tokens.dtype == both.tokens.dtype == np.float32
    assert mean.source == "a + b"
    assert fuse([a], "mean") is a


def test_the_fused_hash_is_that_of_the_fused_file():
    a, b = identity("a", seed=1), identity("b", seed=2)
    hashes = {
        fuse(pair, how).sha256 for pair in ([a, b], [b, a], [a, a]) for how in ("mean", "concat")
    }
    assert len(hashes) == 5  # only the mean does not mind the order
    mean = fuse([a, b], "mean")
    assert (
        mean.sha256
        == hashlib.sha256(encode_embedding(mean.tokens, mean.uncond, dtype="f32")).hexdigest()
    )


def test_unconditional_tokens_are_there_only_if_everyone_has_them():
    assert fuse([identity("a"), identity("b", uncond=False)], "concat").uncond is None


@pytest.mark.parametrize(
    ("others", "how", "message"),
    [
        ([identity("b", width=32)], "concat", "b: has tokens of width 32, a of 64"),
        (
            [identity("b", count=64)],
            "mean",
            r"a \+ b: have 32, 64 tokens, which have no mean; use --identity-fusion concat",
        ),
        ([identity("b", count=1000)], "concat", "are 1032 tokens together, at most 1024"),
    ],
)
def test_what_does_not_fuse_is_refused_naming_the_files(others, how, message):
    with pytest.raises(IdentityError, match=message):
        fuse([identity("a"), *others], how)


def test_identities_of_different_recognisers_do_not_fuse():
    """Whose file does not say, goes with all; several people are drawn, and it is said."""
    own, other = (
        replace(identity(name), provenance={"recognizer.sha256": digit * 64})
        for name, digit in (("a", "1"), ("b", "2"))
    )
    with pytest.raises(IdentityError, match=r"a and b are of different face recognisers .*1111"):
        fuse([identity("old"), own, other], "mean")
    assert fuse([own, identity("old")], "mean").recognizer == "1" * 64
    assert fuse([identity("old"), identity("older")], "mean").recognizer is None
    request, people = GenerationRequest("a cat"), [Subject(own), Subject(other)]
    assert "one of them will look like a stranger" in Drawing(request, tuple(people)).notes()[0]
    assert Drawing(request, tuple(people[:1])).notes() == []


def test_other_counts_do_concatenate():
    assert fuse([identity("a"), identity("b", count=64)], "concat").tokens.shape == (96, 64)


def test_without_regions_all_are_one_person_and_with_regions_each_is_one():
    a, b = identity("a", seed=1), identity("b", seed=2)
    specs = [PersonSpec("a", 0.5, start=2), PersonSpec("b", 0.5, start=2)]
    ((spec, embedding),) = assemble(specs, [a, b], "mean")
    assert spec == specs[0]
    assert embedding.sha256 == fuse([a, b], "mean").sha256
    specs = [PersonSpec("a", box=(0, 0, 16, 16)), PersonSpec("b", 0.3, mask="m.png")]
    assert assemble(specs, [a, b]) == [(specs[0], a), (specs[1], b)]
    assert assemble([], []) == []


@pytest.mark.parametrize(
    ("text", "renamed"),
    [
        ("ada, 2024.pulidembd", "<ada, 2024.pulidembd>"),
        ("a.pulidembd, weight = 0.5", "<a.pulidembd>,weight= 0.5"),
        ("a,b.pulidembd,mask=l,r.png,start=1", "<a,b.pulidembd>,mask=<l,r.png>,start=1"),
    ],
)
def test_files_of_a_person_are_renamed_where_they_stand(text, renamed):
    assert rename_files(text, lambda name: f"<{name}>") == renamed


@pytest.mark.parametrize(
    ("specs", "message"),
    [
        (
            [PersonSpec("a", box=(0, 0, 9, 9)), PersonSpec("b")],
            "identity b: has no mask and no box while another has",
        ),
        ([PersonSpec("a"), PersonSpec("b", 0.5)], "identity b: its weight differs from a's"),
        ([PersonSpec("a"), PersonSpec("b", start=1)], "its start differs"),
        ([PersonSpec("a", end=3), PersonSpec("b", end=0.5)], "its end differs"),
    ],
)
def test_half_a_statement_about_regions_is_an_error_and_no_guess(specs, message):
    with pytest.raises(RequestError, match=message):
        assemble(specs, [identity("a"), identity("b")])


def test_a_persons_window_goes_before_everybodys():
    everybody = IdSchedule(start=2, end=8, double=0.5)
    assert PersonSpec("a").schedule(everybody) == everybody
    assert PersonSpec("a", start=0, end=0.5).schedule(everybody) == IdSchedule(
        start=0, end=0.5, double=0.5
    )
