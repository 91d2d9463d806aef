"""Whether the face is preserved: tests about people, with the small world's trained models and
people they were never trained on.

A second recogniser, which never conditioned anything, picks who is in a picture out of a gallery of
other portraits. What breaks the injection breaks the faces: the second half breaks it on purpose.
"""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from micro_world.measuring import judges, preservation
from micro_world.train import CLIP_JUDGE, JUDGE

PEOPLE, SCENES = 8, 3
# what an option does to a likeness, and that there is none, is seen on half of them
FEW = 4


@pytest.fixture(scope="module")
def eyes():
    return judges.Eyes()


@pytest.fixture(scope="module")
def gallery(eyes, tmp_path_factory):
    """Other portraits of the same people than those the identities come from."""
    return judges.Gallery(
        eyes, preservation.write_portraits(tmp_path_factory.mktemp("gallery"), PEOPLE, series=1)
    )


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    """identities["one"][person]: the file of one portrait, unconditional tokens included; of two
    portraits of each of the few under "two".
    """
    folder = tmp_path_factory.mktemp("identities")
    portraits = preservation.write_portraits(folder / "portraits", PEOPLE, views=2)
    lines = []
    for person in range(PEOPLE):
        both = [str(path) for path in portraits[2 * person : 2 * person + 2]]
        lines.append({"portrait": both[0], "out": f"{person}.pulidembd"})
        if person < FEW:
            lines.append({"portraits": both, "out": f"{person}-two.pulidembd"})
    (folder / "rows.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    preservation.extract(judges.MODELS, folder / "rows.jsonl", folder, "--with-uncond")
    one = [folder / f"{person}.pulidembd" for person in range(PEOPLE)]
    return {"one": one, "two": [folder / f"{person}-two.pulidembd" for person in range(FEW)]}


@pytest.fixture(scope="module")
def known():
    """What was drawn and judged already: several tests compare with the same pictures."""
    return {}


@pytest.fixture
def likeness(generate, gallery, known, eyes, tmp_path):
    """likeness(identities, flag, ..) -> (share of pictures in which the right one of 8 is picked,
    mean cosine), over the first `people`.
    """

    def mean(files, *flags, row=None, afresh=False, people=PEOPLE):
        key = (tuple(files or ()), flags)
        if afresh or row is not None:
            seen = draw(files, flags, row, people)
        else:
            if len(known.get(key, ())) < people * SCENES:
                known[key] = draw(files, flags, row, people)
            # of fewer people, the first pictures of more
            seen = known[key][: people * SCENES]
        picked = np.mean([gallery.picked(one) for one in seen])
        return float(picked), float(np.mean([gallery.cosine(one) for one in seen]))

    def draw(files, flags, row, people):
        rows, keys = [], []
        for person in range(people):
            for number, scene in enumerate(preservation.scenes(SCENES)):
                own = {"pulid-id-embedding": str(files[person])} if row is None else row(person)
                rows.append(
                    {
                        "prompt": preservation.plain_prompt(scene),
                        "seed": number,
                        "output": f"{len(rows)}.png",
                    }
                    | own
                )
                keys.append(person)
        manifest = tmp_path / "rows.jsonl"
        manifest.write_text("".join(json.dumps(one) + "\n" for one in rows))
        folder = tmp_path / "pictures"
        run = generate(
            *("batch", manifest, "--output-dir", folder, "--models-dir", judges.MODELS),
            *("--batch-size", 9, *preservation.DRAW, *flags),
        )
        assert run.code == 0, run.err
        seen = []
        for number, person in enumerate(keys):
            vector = eyes.who(judges.read(folder / f"{number}.png"))
            seen.append(judges.Seen(person, 0, 1.0, vector, {}))
        return seen

    return mean


@pytest.fixture
def few(likeness):
    """`likeness` over fewer people."""
    return partial(likeness, people=FEW)


# Of 24 pictures a sound injection picks the right one of 8 people in 24, mean cosine 0.880;
# docs/micro_world.md has what broken ones do, of which the best has 24 and 0.844. On the first 12
# it is 0.891 and 0.849. Whatever an option does to a likeness, nearly all are picked, and 0.7 is
# the goal of the small world.
SOUND, SOUND_OF_FEW = 0.862, 0.87
PICKED, LIKE = 22 / 24, 0.7
CHANCE, UNLIKE = 0.25, 0.2


# ----------------------------------------------------------------------------------------- likeness


def test_the_right_person_is_drawn(likeness, few, identities):
    picked, cosine = likeness(identities["one"])
    assert picked >= PICKED
    assert cosine >= SOUND
    assert few(identities["one"])[1] >= SOUND_OF_FEW


def test_at_weight_0_it_is_anybody(few, identities):
    picked, cosine = few(identities["one"], "--pulid-id-weight", 0)
    assert picked <= CHANCE
    assert cosine <= UNLIKE


@pytest.mark.slow
def test_the_more_weight_the_more_alike(few, identities):
    none, half = (few(identities["one"], "--pulid-id-weight", weight)[1] for weight in (0, 0.5))
    assert none <= half <= few(identities["one"])[1]


@pytest.mark.slow
def test_two_portraits_are_no_worse_than_one(few, identities):
    one, two = few(identities["one"]), few(identities["two"])
    assert two[0] >= one[0] - 0.09  # one picture of 12
    assert two[1] >= one[1] - 0.03


def test_somebody_else_is_somebody_else(few, identities):
    """The check can fail: with the next person's file the wrong one is picked."""
    picked, cosine = few(identities["one"][1:] + identities["one"][:1])
    assert picked <= CHANCE
    assert cosine <= UNLIKE


# ----------------------------------------------------------------------------------------- features


@pytest.mark.slow
def test_the_later_it_begins_the_less_alike(few, identities):
    at_once = few(identities["one"])[1]
    later, last = (few(identities["one"], "--id-start-step", step)[1] for step in (3, 6))
    assert at_once >= later >= last
    assert at_once > last + 0.1


@pytest.mark.slow
def test_the_earlier_it_ends_the_less_alike(few, identities):
    to_the_end = few(identities["one"])[1]
    earlier, first = (few(identities["one"], "--id-end-step", step)[1] for step in (3, 1))
    assert to_the_end >= earlier >= first
    assert to_the_end > first + 0.1


@pytest.mark.slow
def test_a_schedule_of_weights(few, identities):
    """Off and on again is between nothing and all; all the time is the same as no schedule."""
    none = few(identities["one"], "--pulid-id-weight", 0)[1]
    some = few(identities["one"], "--id-weight-schedule", "0:1,2:0")[1]
    full = few(identities["one"], "--id-weight-schedule", "0:1")[1]
    assert none < some < full
    assert full == pytest.approx(few(identities["one"])[1], abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("first", [True, False])
def test_whose_region_has_the_face_is_seen(few, identities, first):
    """Two people in one picture: the middle, where the face is, belongs to one, the upper rim to
    the other.
    """
    face, rim = "box=0,16,96,96", "box=0,0,96,16"

    def row(person):
        mine, other = str(identities["one"][person]), str(identities["one"][(person + 3) % PEOPLE])
        places = (face, rim) if first else (rim, face)
        return {"identity": [f"{mine},{places[0]}", f"{other},{places[1]}"]}

    picked, cosine = few(None, row=row)
    assert (
        (picked >= PICKED and cosine >= LIKE) if first else (picked <= CHANCE and cosine <= UNLIKE)
    )


@pytest.mark.slow
def test_weights_of_two_people(few, identities):
    """Two people who share one box have half of it each; the one with all the weight is seen, at
    half his strength.
    """

    def row(person, mine, others):
        pair = (identities["one"][person], identities["one"][(person + 3) % PEOPLE])
        weights = zip(pair, (mine, others), strict=True)
        return {"identity": [f"{file},weight={weight},box=0,0,96,96" for file, weight in weights]}

    mine, others = (
        few(None, row=partial(row, mine=weight, others=1 - weight))[1] for weight in (1, 0)
    )
    assert others <= UNLIKE < mine
    assert mine > others + 0.15


@pytest.mark.slow
def test_under_true_cfg_the_person_stays(few, identities):
    picked, cosine = few(identities["one"], "--cfg-scale", 2, "-n", "a person")
    assert picked >= PICKED
    assert cosine >= LIKE


@pytest.mark.slow
def test_beside_skip_layer_guidance_the_person_stays(few, identities):
    picked, cosine = few(
        identities["one"], "--slg-scale", 1, "--skip-layers", 1, "--skip-layer-end", 0.5
    )
    assert picked >= PICKED
    assert cosine >= LIKE


@pytest.mark.slow
def test_validate_tells_the_person_from_a_stranger(generate, identities, tmp_path):
    """pulid-generate draws, pulid-extract scores; the judge is not the network that conditioned the
    identity.
    """
    me, stranger = preservation.write_portraits(tmp_path / "portraits", 2, series=1)
    me_too = preservation.write_portraits(tmp_path / "others", 1, series=2)[0]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(
        "".join(preservation.plain_prompt(scene) + "\n" for scene in preservation.scenes(SCENES))
    )
    done = generate(
        *(
            "validate",
            "--models-dir",
            judges.MODELS,
            "--recognizer",
            judges.MODELS / JUDGE,
            *preservation.DRAW,
            "--json",
        ),
        *(
            "--pulid-id-embedding",
            identities["one"][0],
            "--reference",
            me,
            "--seeds",
            "1-2",
            "--prompts",
            prompts,
        ),
        *(
            "--stranger",
            stranger,
            "--stranger-embedding",
            identities["one"][1],
            "--output-dir",
            tmp_path / "out",
        ),
        *("--truth", me_too, "--prompt-judge", judges.MODELS / CLIP_JUDGE),
        *("--batch-size", 6, "--require", f"mean_likeness>={LIKE},prompt>=-15"),
    )
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert report["measures"]["mean_likeness"] >= LIKE
    # no copies of the portrait that they are compared with (1), and what was asked for
    assert abs(report["measures"]["copy_paste"]) < 0.6
    assert report["measures"]["prompt_score"] > 40
    assert report["prompt_judge"]["name"] == "clip.onnx"
    assert (
        report["runs"]["person"]["mean_likeness"]
        > max(report["runs"][name]["mean_likeness"] for name in ("weight_0", "stranger")) + 0.2
    )
    assert report["closer_than_weight_0"]["closer"] >= 5


# -------------------------------------------------------------------------------- broken on purpose


def _other_blocks(monkeypatch):
    """Every layer one block late, the last one early: none comes after its own."""
    from pulid_generate.injection import hooks as injection

    def late(flux):
        double, single = flux.transformer_blocks, flux.single_transformer_blocks
        return [double[1], single[0], single[1], single[3]]

    monkeypatch.setattr(injection, "hook_points", late)


def _layers_reversed(monkeypatch):
    """The right blocks, the last layer first."""
    from pulid_generate.injection import hooks as injection

    usual = injection.hook_points
    monkeypatch.setattr(injection, "hook_points", lambda flux: usual(flux)[::-1])


def _no_scale(monkeypatch):
    """Logits without their 1 / sqrt(128)."""
    from pulid_generate.injection import attention as pulid_attention

    usual = pulid_attention.FoldedAttention.__init__

    def init(self, *arguments):
        usual(self, *arguments)
        self.a, self.c = self.a * 128**0.5, self.c * 128**0.5

    monkeypatch.setattr(pulid_attention.FoldedAttention, "__init__", init)


def _tokens_reversed(monkeypatch):
    """What belongs to the first image token goes to the last."""
    from pulid_generate.injection import terms

    usual = terms.Injection.add

    def add(self, img_tokens, index, *, double):
        turned = img_tokens.flip(1)
        return img_tokens + usual(self, turned, index, double=double) - turned

    monkeypatch.setattr(terms.Injection, "add", add)


def _keys_for_values(monkeypatch):
    """The two halves of to_kv taken for each other."""
    from pulid_generate.injection import attention as pulid_attention

    usual = pulid_attention.FoldedAttention.__init__

    def init(self, layer, *arguments):
        state = dict(layer.state_dict())
        key, value = state["to_kv.weight"].chunk(2)
        usual(
            self,
            pulid_attention.PerceiverAttentionCA.from_state(
                state
                | {
                    "to_kv.weight": value.new_tensor(
                        np.concatenate([value.float().numpy(), key.float().numpy()])
                    )
                }
            ),
            *arguments,
        )

    monkeypatch.setattr(pulid_attention.FoldedAttention, "__init__", init)


# one of them is quick enough for every run
SLOWLY = (_other_blocks, _tokens_reversed, _no_scale, _keys_for_values)


@pytest.mark.parametrize(
    "broken",
    [_layers_reversed, *(pytest.param(broken, marks=pytest.mark.slow) for broken in SLOWLY)],
)
def test_a_broken_injection_draws_somebody_less_alike(few, identities, monkeypatch, broken):
    """Whatever is asserted of the sound one above, each of these would fail."""
    broken(monkeypatch)
    assert few(identities["one"], afresh=True)[1] < SOUND_OF_FEW
