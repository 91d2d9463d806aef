"""DBCache and TaylorSeer of cache-dit: the first blocks run at every step and say how much has
changed; what the middle blocks add is computed, or reused; the last blocks run again.

In the model's lists a stand-in takes the place of the first middle block and calls all of them,
hooks included, so a person's layers run with their blocks and are part of what is remembered.
Leaving gives back the very same model. Knows nothing of what hangs on a block.

Shapes: B pictures, L image tokens, T text tokens, D width.

Source: vipshop/cache-dit 1.5 caching/cache_blocks/pattern_base.py (`CachedBlocks_Pattern_Base`),
caching/cache_contexts/cache_manager.py (`can_cache`, `similarity`), cache_context.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from pulid_generate.caching.evaluation import Compute, Evaluation
from pulid_generate.caching.forecast import Forecast
from pulid_generate.injection.layer_skip import PassThrough
from pulid_generate.request.step_cache import StepCache


@dataclass
class _Memory:
    """Of one branch, computed with the same people."""

    added: object
    # What the middle blocks add to image and text
    img: Forecast
    txt: Forecast
    # What the first blocks added to the image at the last computed step, (B, L, D)
    first: Tensor | None = None
    # Steps that were reused: in all, and since the last computed one
    reused: int = 0
    in_a_row: int = 0


@dataclass
class _Now:
    """The evaluation in work."""

    step: int
    memory: _Memory
    # Image tokens before the first block
    start: Tensor | None = field(default=None, repr=False)


class BlockCache:
    """The rules, for one picture and one model."""

    def __init__(self, asked: StepCache, blocks: int):
        """blocks: of the model, of which some are neither first nor last."""
        self.rules = asked
        self.asked = self.reused = 0
        self.middle = slice(asked.first_blocks, blocks - asked.last_blocks)
        # module list, position, block, stand-in
        self._places: list[tuple[nn.ModuleList, int, nn.Module, nn.Module]] = []
        self._memories: dict[str, _Memory] = {}
        self._steps: dict[str, int] = {}
        self._now: _Now | None = None

    @contextlib.contextmanager
    def attached(self, transformer: Any) -> Iterator[BlockCache]:
        """Make the blocks of a Flux transformer, ours or diffusers', reusable while `evaluate`
        runs. On leaving, the model is as it was.
        """
        lists = (transformer.transformer_blocks, transformer.single_transformer_blocks)
        places = [(blocks, index) for blocks in lists for index in range(len(blocks))]
        inside = [blocks[index] for blocks, index in places[self.middle]]
        stand_in: nn.Module = _Middle(self, inside)
        for blocks, index in places[self.middle]:
            self._places.append((blocks, index, blocks[index], stand_in))
            stand_in = PassThrough()
        first, position = places[0]
        watch = first[position].register_forward_pre_hook(self._begin, with_kwargs=True)
        try:
            yield self
        finally:
            watch.remove()
            self._places, self._memories = [], {}

    def evaluate(self, evaluation: Evaluation, compute: Compute) -> Tensor:
        """As of `Cache`."""
        self.asked += 1
        branch, step = evaluation.branch, evaluation.step
        if self._steps.get(branch) == step:
            return compute()
        self._steps[branch] = step
        memory = self._memories.get(branch)
        if memory is None or memory.added != evaluation.added:
            order = self.rules.order
            memory = _Memory(evaluation.added, Forecast(order), Forecast(order))
            self._memories[branch] = memory
        self._now = _Now(step, memory)
        try:
            for blocks, index, _, stand_in in self._places:
                blocks[index] = stand_in
            return compute()
        finally:
            self._now = None
            for blocks, index, block, _ in self._places:
                blocks[index] = block

    # -------------------------------------------------------------------------------- in the model

    def _begin(self, _block: nn.Module, arguments: tuple, named: dict[str, Any]) -> None:
        if self._now is not None:
            self._now.start = named["hidden_states"] if "hidden_states" in named else arguments[0]

    def run(
        self, blocks: list[nn.Module], img: Tensor, txt: Tensor, named: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """(text, image) after the middle blocks, of image (B, L, D) and text (B, T, D)."""
        now = self._now
        assert now is not None
        assert now.start is not None
        memory, first = now.memory, img - now.start
        if self._may_reuse(now, first):
            self.reused += 1
            memory.reused += 1
            memory.in_a_row += 1
            return txt + memory.txt.at(now.step), img + memory.img.at(now.step)
        before_txt, before_img = txt, img
        for block in blocks:
            txt, img = block(hidden_states=img, encoder_hidden_states=txt, **named)
        memory.first, memory.in_a_row = first, 0
        memory.txt.update(txt - before_txt, now.step)
        memory.img.update(img - before_img, now.step)
        return txt, img

    def _may_reuse(self, now: _Now, first: Tensor) -> bool:
        rules, memory = self.rules, now.memory
        if memory.first is None or _is_due(now.step, rules):
            return False
        if rules.mask is not None and rules.policy == "static":
            return True
        if 0 <= rules.most <= memory.reused or 0 <= rules.most_in_a_row <= memory.in_a_row:
            return False
        # as there, from 1 on everything is alike
        if rules.threshold is None or rules.threshold >= 1:
            return True
        return _size(first - memory.first) < rules.threshold * _size(memory.first)


def _size(x: Tensor) -> float:
    return float(x.float().abs().mean())


def _is_due(step: int, rules: StepCache) -> bool:
    """Whether the schedule alone has a step computed."""
    if rules.mask is not None:
        return rules.mask[step] == 1
    if step < rules.warmup:
        return True
    return rules.mode == "taylorseer" and (step - rules.warmup + 1) % rules.interval == 0


class _Middle(nn.Module):
    """Stands for the middle blocks, which it calls."""

    def __init__(self, cache: BlockCache, blocks: list[nn.Module]):
        super().__init__()
        self._cache = cache
        # a plain list: they belong to the model
        self._blocks = blocks

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, **named: Any
    ) -> tuple[Tensor, Tensor]:
        """(text, image), as a block gives them."""
        return self._cache.run(self._blocks, hidden_states, encoder_hidden_states, named)
