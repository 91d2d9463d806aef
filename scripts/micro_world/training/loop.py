"""One way to train every network of the small world: AdamW, a cosine, an average of the weights,
and a checkpoint to go on from.

On a GPU if there is one, else on the CPU. A GPU takes more at once, and a CPU may have fewer steps,
or it would take all day. Knows nothing of what is trained.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

SAVE_EVERY = 60.0  # seconds
SAY_EVERY = 20.0
POINTS = 50  # of a curve of losses, at least
AVERAGE = 0.999
CROWD = 8  # times as many at once on a GPU
WARM = 3  # steps as usual before one is recorded


def place() -> torch.device:
    """Where networks are trained."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half() -> torch.autocast:
    """Products in bfloat16, sums and weights in float32."""
    return torch.autocast(place().type, torch.bfloat16)


def at_once(count: int) -> int:
    """How many a batch has: count on a CPU."""
    return count * CROWD if place().type == "cuda" else count


@contextmanager
def attention() -> Iterator[None]:
    """The one for a few tokens. On a CPU in float32, under autocast too: faster there than
    bfloat16. On a GPU flash or plain: the others stopped at an illegal address (torch 2.11, H200,
    T5's bias).
    """
    usual = nn.functional.scaled_dot_product_attention

    def wide(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            return usual(query.float(), key.float(), value.float(), **options).to(query.dtype)

    if place().type == "cpu":
        nn.functional.scaled_dot_product_attention = wide
    try:
        with sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]):
            yield
    finally:
        nn.functional.scaled_dot_product_attention = usual


def some_of(top: int, count: int, rows: int, generator: torch.Generator) -> Tensor:
    """(rows, count): in each row different ones of 0 .. top - 1."""
    return torch.rand(rows, top, generator=generator, device=generator.device).argsort(1)[:, :count]


@dataclass(frozen=True)
class Plan:
    """steps, learning rate at the top of the cosine, warm-up steps, weight decay, largest gradient
    norm; steps on a CPU, if other.
    """

    steps: int
    rate: float = 2e-3
    warmup: int = 100
    decay: float = 0.01
    clip: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)
    on_cpu: int | None = None

    def length(self) -> int:
        return self.on_cpu if self.on_cpu is not None and place().type == "cpu" else self.steps


class Step:
    """The loss, its gradients, the optimizer's step. On a GPU it is recorded once and then played
    again and again (a CUDA graph): the kernels are so small that to start them one by one takes
    several times as long as they do.
    """

    def __init__(
        self,
        loss_of: Callable[[int, torch.Generator], Tensor],
        optimizer: torch.optim.Optimizer,
        clip: float,
        cycle: int,
    ):
        """cycle: steps after which loss_of does the same again, with other numbers; 0: never, it
        draws its batches on the CPU.
        """
        self.loss_of, self.optimizer, self.clip, self.cycle = loss_of, optimizer, clip, cycle
        self.trained = optimizer.param_groups[0]["params"]
        self.generator = torch.Generator(place() if cycle else "cpu")
        self.recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self.taken = 0
        self.records: bool = optimizer.defaults["capturable"]
        if self.records:
            self.stream, self.pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()

    def __call__(self, step: int) -> Tensor:
        """-> the loss, without gradient."""
        self.generator.manual_seed(step * 7919 + 13)
        self.taken += 1
        if not self.records:
            return self._take(step)
        if self.taken <= WARM * self.cycle:
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                loss = self._take(step)
            torch.cuda.current_stream().wait_stream(self.stream)
            return loss
        if step % self.cycle not in self.recorded:
            self.optimizer.zero_grad(set_to_none=True)
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self.generator)
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                loss = self._take(step)
            self.recorded[step % self.cycle] = graph, loss
        graph, loss = self.recorded[step % self.cycle]
        graph.replay()
        return loss.clone()

    def _take(self, step: int) -> Tensor:
        loss = self.loss_of(step, self.generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, self.clip)
        self.optimizer.step()
        return loss.detach()


def train(
    name: str,
    model: nn.Module,
    loss_of: Callable[[int, torch.Generator], Tensor],
    plan: Plan,
    folder: Path,
    cycle: int = 1,
) -> nn.Module:
    """Train the parameters of `model` that want a gradient; leaves their running average in it and
    returns it.

    loss_of(step, generator) -> scalar: draws its batch from `generator`, which is seeded by the
    step, so that a run that was stopped and gone on with sees what an unbroken one sees. cycle: as
    `Step` takes it. folder: <name>.pt to go on from, <name>.csv of step, seconds, loss.
    """
    model.to(place())
    steps = plan.length()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # a tensor, or what is recorded would have one rate for ever
    rate = torch.full((), plan.rate, device=place())
    recorded = bool(cycle) and place().type == "cuda"
    optimizer = torch.optim.AdamW(
        trained, rate, betas=plan.betas, weight_decay=plan.decay, fused=True, capturable=recorded
    )
    one = Step(loss_of, optimizer, plan.clip, cycle)
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
            optimizer.load_state_dict(
                {
                    "state": state["optimizer"],
                    "param_groups": optimizer.state_dict()["param_groups"],
                }
            )
            optimizer.param_groups[0]["lr"] = rate  # loading has made a copy of it
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
            "optimizer": None if finished else optimizer.state_dict()["state"],
        }
        part = kept.with_suffix(".part")
        torch.save(state, part)
        part.replace(kept)

    model.train()
    while step < steps:
        rate.fill_(
            plan.rate
            * min(1.0, (step + 1) / plan.warmup)
            * (0.5 + 0.5 * math.cos(math.pi * step / steps) + 0.01)
        )
        with attention():
            recent.append(one(step))
        step += 1
        with torch.no_grad():
            torch._foreach_lerp_(
                average,
                [parameter.data for parameter in trained],
                1 - min(AVERAGE, (1 + step) / (10 + step)),
            )
        now = time.monotonic()
        if now - said > SAY_EVERY or step == steps or step % max(1, steps // POINTS) == 0:
            said, mean = now, float(torch.stack(recent).mean())
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{step},{spent + now - started:.0f},{mean:.5f}\n")
            left = (steps - step) * (spent + now - started) / step
            print(
                f"{name}: step {step} of {steps}, loss {mean:.4f}, about {left / 60:.0f} min left",
                file=sys.stderr,
                flush=True,
            )
            recent.clear()
        if now - saved > SAVE_EVERY and step < steps:
            save(False)
            saved = time.monotonic()
    if step > begun:
        save(True)
    for parameter, value in zip(trained, average, strict=True):
        parameter.data.copy_(value)
    return model.to("cpu").eval()
