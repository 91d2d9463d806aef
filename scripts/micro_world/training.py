"""One way to train every network of the small world: AdamW, a cosine, an average of the weights, and a checkpoint to go on from.

On a GPU if there is one, else on the CPU; batches are drawn on the CPU in both cases, so that they are the same. Knows nothing of what is
trained.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

SAVE_EVERY = 60.0  # seconds
SAY_EVERY = 20.0
AVERAGE = 0.999


def place() -> torch.device:
    """Where networks are trained."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half() -> torch.autocast:
    """Products in bfloat16, sums and weights in float32."""
    return torch.autocast(place().type, torch.bfloat16)


@dataclass(frozen=True)
class Plan:
    """steps, learning rate at the top of the cosine, warm-up steps, weight decay, largest gradient norm."""

    steps: int
    rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.01
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)


def train(name: str, model: nn.Module, loss_of: Callable[[int, torch.Generator], Tensor], plan: Plan, folder: Path) -> nn.Module:
    """Train the parameters of `model` that want a gradient; leaves their running average in it and returns it.

    loss_of(step, generator) -> scalar: draws its batch from `generator`, which is seeded by the step, so that a run that was stopped and
    gone on with sees what an unbroken one sees. folder: <name>.pt to go on from, <name>.csv of step, seconds, loss.
    """
    model.to(place())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, plan.rate, betas=plan.betas, weight_decay=plan.decay, fused=True)
    average = [parameter.detach().clone() for parameter in trained]
    kept, log = folder / f"{name}.pt", folder / f"{name}.csv"
    step, spent = 0, 0.0
    if kept.exists():
        state = torch.load(kept, map_location=place(), weights_only=True)
        step, spent = state["step"], state["seconds"]
        for parameter, value in zip(trained, state["weights"] or state["average"], strict=True):
            if parameter.shape != value.shape:
                raise ValueError(f"{kept}: is of another network; delete it")
            parameter.data.copy_(value)
        if state["optimizer"] is not None:  # else it was finished, and the plan has become longer
            optimizer.load_state_dict(state["optimizer"])
        average = state["average"]
    begun = step
    started = saved = said = time.monotonic()
    recent: list[Tensor] = []

    def save(finished: bool) -> None:
        state = {
            "step": step,
            "seconds": spent + time.monotonic() - started,
            "average": average,
            "weights": None if finished else [parameter.data for parameter in trained],
            "optimizer": None if finished else optimizer.state_dict(),
        }
        part = kept.with_suffix(".part")
        torch.save(state, part)
        part.replace(kept)

    model.train()
    while step < plan.steps:
        for group in optimizer.param_groups:
            share = step / plan.steps
            group["lr"] = plan.rate * min(1.0, (step + 1) / plan.warmup) * (0.5 + 0.5 * math.cos(math.pi * share) + 0.01)
        loss = loss_of(step, torch.Generator().manual_seed(step * 7919 + 13))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, plan.clip)
        optimizer.step()
        step += 1
        recent.append(loss.detach())
        with torch.no_grad():
            torch._foreach_lerp_(average, [parameter.data for parameter in trained], 1 - min(AVERAGE, (1 + step) / (10 + step)))
        now = time.monotonic()
        if now - said > SAY_EVERY or step == plan.steps:
            said, mean = now, float(torch.stack(recent).mean())
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{step},{spent + now - started:.0f},{mean:.5f}\n")
            left = (plan.steps - step) * (spent + now - started) / step
            print(
                f"{name}: step {step} of {plan.steps}, loss {mean:.4f}, about {left / 60:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
            recent.clear()
        if now - saved > SAVE_EVERY and step < plan.steps:
            save(False)
            saved = time.monotonic()
    if step > begun:
        save(True)
    for parameter, value in zip(trained, average, strict=True):
        parameter.data.copy_(value)
    return model.to("cpu").eval()
