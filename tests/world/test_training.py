"""What the small world learns with: checkpoints to go on from, and the critic's pictures and
verdicts.
"""

from __future__ import annotations

import torch
from micro_world import critic, training
from micro_world.painter import FIRST, flow_loss, importance, pack
from micro_world.scenes import CHOICES
from micro_world.training import Plan, at_once, some_of, train
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

    monkeypatch.setattr(training, "SAVE_EVERY", -1.0)  # after every step
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
    monkeypatch.setattr(training, "place", lambda: torch.device("cuda"))
    assert (Plan(10, on_cpu=3).length(), Plan(10).length(), at_once(5)) == (
        10,
        10,
        5 * training.CROWD,
    )


def test_some_of_them_are_different_ones():
    rows = some_of(5, 3, 200, torch.Generator().manual_seed(0))
    assert rows.shape == (200, 3)
    assert all(len(set(row)) == 3 and set(row) <= set(range(5)) for row in rows.tolist())
    assert sorted(set(rows.flatten().tolist())) == [0, 1, 2, 3, 4]
