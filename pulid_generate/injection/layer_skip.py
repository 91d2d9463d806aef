"""Blocks of Flux that are left out of a forward, for skip-layer guidance: taken out of the model's
lists and put back, hooks and all.

A block that is out is not called, so what hangs on it is not called either: PuLID's layer of a
skipped block adds nothing, and every other layer stays with its own block, because the hooks belong
to blocks and not to a count of blocks that ran. (sd-cli counts the layers as it goes; with layers
to skip it warns and draws without the identity.) Knows nothing of PuLID, steps or scales.

Source of the numbering: leejet/stable-diffusion.cpp, flux.hpp, forward_orig: double blocks from 0,
single blocks go on from there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from torch import Tensor, nn

from pulid_generate.errors import RequestError


class LayerSkip:
    """The switch. `active` may be set between forwards at will: the branches of a guided step
    alternate.
    """

    def __init__(self, places: Sequence[tuple[nn.ModuleList, int]]):
        """places: list and position of every block to leave out."""
        self._blocks = [(blocks, index, blocks[index]) for blocks, index in places]
        self._active = False

    @property
    def active(self) -> bool:
        """Whether the next forward leaves the blocks out."""
        return self._active

    @active.setter
    def active(self, active: bool) -> None:
        if active != self._active:
            for blocks, index, block in self._blocks:
                blocks[index] = PassThrough() if active else block
            self._active = active


class PassThrough(nn.Module):
    """What stands in a skipped block's place: hands the tokens on."""

    def forward(
        self, hidden_states: Tensor, encoder_hidden_states: Tensor, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Image tokens (B, L, D) and text tokens (B, T, D) -> (text, image), as both Flux block
        kinds return them.
        """
        return encoder_hidden_states, hidden_states

    def register_forward_hook(self, *_: Any, **__: Any) -> NoReturn:
        """A hook meant for the block would be lost when the block comes back."""
        raise RuntimeError(
            "a skipped block takes no hook; attach hooks while the LayerSkip is not active"
        )


@contextlib.contextmanager
def skip_layers(transformer: Any, layers: Sequence[int]) -> Iterator[LayerSkip]:
    """Make blocks of a diffusers Flux transformer skippable, and yield the switch, which is off. On
    leaving, the model is as it was.

    layers: block numbers: with 19 double and 38 single blocks, 0 to 18 are double and 19 to 56 are
    single. Raises RequestError, naming the range, for another number.
    """
    double = len(transformer.transformer_blocks)
    count = double + len(transformer.single_transformer_blocks)
    check_layers(layers, count)
    places = []
    for layer in layers:
        if layer < double:
            places.append((transformer.transformer_blocks, layer))
        else:
            places.append((transformer.single_transformer_blocks, layer - double))
    skip = LayerSkip(places)
    try:
        yield skip
    finally:
        skip.active = False


def check_layers(layers: Sequence[int], count: int) -> None:
    """Raise RequestError unless `layers` are some, not all, of the numbers 0 to count - 1, each
    once.
    """
    listed = f"skip-layers [{','.join(map(str, layers))}]"
    outside = [layer for layer in layers if not 0 <= layer < count]
    if outside:
        raise RequestError(
            f"{listed}: there is no layer {outside[0]}; "
            f"this Flux has layers 0 to {count - 1}, double blocks first"
        )
    if len(set(layers)) < len(layers):
        raise RequestError(f"{listed}: names a layer twice; name each once")
    if not layers or len(layers) == count:
        which = "all" if layers else "none"
        raise RequestError(
            f"{listed}: expected some of the layers 0 to {count - 1}, not {which} of them"
        )
