"""What the small world learns with: checkpoints to go on from, and the critic's pictures and
verdicts.
"""

from __future__ import annotations

import torch
from micro_world.networks import critic
from micro_world.networks.painter import FIRST, Jury, PictureLoss, flow_loss, importance, pack
from micro_world.scenes import CHOICES
from micro_world.training import loop
from micro_world.training.loop import Plan, at_once, some_of, train
from torch import nn


def test_a_stopped_run_goes_on_as_an_unbroken_one(tmp_path, monkeypatch):
    def run(folder, *stops):
        folder.mkdir()
        for steps in stops:
            torch.manual_seed(0)
            model = nn.Linear(4, 4)

            def loss(step, generator, model=model, stop=steps):
                if step == stop:
                    raise KeyboardInterrupt
                return (model(torch.randn(8, 4, generator=generator)) - 1).square().mean()

            try:
                train("line", model, loss, Plan(12, warmup=2), folder)
            except KeyboardInterrupt:
                continue
        return model.weight

    monkeypatch.setattr(loop, "SAVE_EVERY", -1.0)  # after every step
    assert torch.equal(run(tmp_path / "broken", 5, 99), run(tmp_path / "whole", 99))


def test_the_critic_sees_what_flux_packs():
    eye = critic.Critic()
    eye.body, eye.who, eye.what = nn.Flatten(), nn.Identity(), nn.Identity()
    latents = torch.randn(2, 16, 12, 12)
    assert torch.equal(eye(pack(latents))[0], latents.flatten(1))


def test_a_straight_path_is_drawn_to_its_end_and_tells_what_to_change():
    goal = torch.ones(1, 36, 64, requires_grad=True)
    end = critic.drawn(
        lambda x, t: (x - goal) / t[:, None, None],
        torch.randn(1, 36, 64),
        torch.Generator().manual_seed(0),
    )
    assert torch.allclose(end, goal, atol=1e-5)
    end.sum().backward()
    assert bool((goal.grad > 0.99).all())


def test_the_critic_minds_the_wrong_person_and_the_wrong_scene():
    everybody = nn.functional.normalize(torch.randn(5, 192), dim=1)
    right, wrong = (
        critic.unlike([(everybody, everybody)], torch.arange(5).roll(turn), [everybody])
        for turn in (0, 1)
    )
    assert bool((right < wrong).all())
    truth = torch.tensor([[index % count for index, count in enumerate(CHOICES.values())]])
    logits = (
        torch.cat(
            [nn.functional.one_hot(truth[:, i], count) for i, count in enumerate(CHOICES.values())],
            1,
        )
        * 9.0
    )
    assert (
        float(critic.disobeyed([(logits, logits)], truth))
        < 0.1
        < float(critic.disobeyed([(logits, -logits)], truth))
    )


def test_a_face_counts_more_but_no_picture_does():
    weights = importance(torch.device("cpu")).view(6, 6)
    assert float(weights.mean()) == 1.0
    assert (
        float(weights[4, 2]) == float(weights.max()) > float(weights[2, 2]) > float(weights[0, 0])
    )


def test_some_pictures_are_learnt_from_the_very_first_moment():
    """Where every drawing begins. Without it critics alone decide what Flux does there, and it
    paints what only they take for a background.
    """
    times = []

    class Still:
        def velocity(self, x, t, states, pooled):
            times.append(t)
            return torch.zeros_like(x)

    flow_loss(Still(), torch.zeros(4000, 36, 64), torch.Generator().manual_seed(0), None, None, 0.0)
    share = float((times[0] == 1).float().mean())
    assert abs(share - FIRST) < 0.02
    assert float(times[0].min()) >= 0.0


def test_a_cpu_may_have_fewer_steps_and_a_gpu_takes_more_at_once(monkeypatch):
    assert (Plan(10, on_cpu=3).length(), Plan(10).length(), at_once(5)) == (3, 10, 5)
    monkeypatch.setattr(loop, "place", lambda: torch.device("cuda"))
    assert (Plan(10, on_cpu=3).length(), Plan(10).length(), at_once(5)) == (
        10,
        10,
        5 * loop.CROWD,
    )


def test_some_of_them_are_different_ones():
    rows = some_of(5, 3, 200, torch.Generator().manual_seed(0))
    assert rows.shape == (200, 3)
    assert all(len(set(row)) == 3 and set(row) <= set(range(5)) for row in rows.tolist())
    assert sorted(set(rows.flatten().tolist())) == [0, 1, 2, 3, 4]


def test_what_is_silent_is_learnt_without_words_and_obeys_nobody(painter):
    model, words = painter
    clean, scenes = torch.randn(2, 36, 64), torch.zeros(2, len(CHOICES), dtype=torch.long)
    chosen, silent = torch.tensor([0, 1]), torch.tensor([False, True])
    seeded = torch.Generator().manual_seed
    with torch.no_grad():
        off, asked = PictureLoss(model, words, clean, 0.5)(chosen, silent, seeded(3))
        said_all = PictureLoss(model, words, clean, 0.5)(chosen, ~silent & silent, seeded(3))[1]
        by_hand = flow_loss(model, clean, seeded(3), asked.states, asked.pooled, 0.5)
    assert torch.equal(off, by_hand)
    assert asked.said.tolist() == [True, False]
    assert torch.equal(asked.states[0], said_all.states[0])
    assert not torch.equal(asked.states[1], said_all.states[1])
    jury = Jury(model, [critic.Critic()], scenes)
    with torch.no_grad():
        seen = jury.look(asked, seeded(4))
        each = critic.disobeyed(seen, scenes)
    assert torch.allclose(jury.disobeyed(seen, asked), each[0] / 2)
    assert bool(each[1] > 0)


def test_every_stage_writes_its_files_and_there_are_no_others(tmp_path, monkeypatch):
    """The exporters as fakes: which files they are told to write."""
    from micro_world import train as training_stages
    from micro_world.networks import clip_judge, detector, prompt_judge, recognisers
    from micro_world.training import export

    class Anything:
        def __getattr__(self, name):
            return Anything()

        def __call__(self):
            return Anything()

    def write(*arguments):
        arguments[-1].write_bytes(b"x")

    for name in ("write_flux", "write_t5", "write_clip", "write_tower", "write_pulid"):
        monkeypatch.setattr(export, name, write)
    monkeypatch.setattr(export, "write_autoencoder", write)
    for module in (recognisers, detector, prompt_judge, clip_judge):
        monkeypatch.setattr(module, "export", write)
    world = Anything()
    world.folder = tmp_path / "data"
    world.folder.mkdir()
    (world.folder / "tokenizer.json").write_text("{}")
    for stage in training_stages.STAGES:
        training_stages.write(world, tmp_path / "models", stage)

    def files(folder):
        return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}

    assert files(tmp_path / "models") == files(training_stages.CARD.parent)
