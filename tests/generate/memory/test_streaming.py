"""Blocks that pass through the device: the same numbers, the memory that was promised, and the
order that streams need.
"""

from __future__ import annotations

import gguf
import pytest
import torch
from support.tokens import t5_ids
from torch import nn

from pulid_extract.shared.model_files import read_header
from pulid_generate.injection.hooks import attach
from pulid_generate.memory.streaming import Stream, blocks_of, stream_blocks
from pulid_generate.models.flux import load_flux
from pulid_generate.models.t5 import T5Text
from pulid_generate.packed.ggml import QuantizedLinear, QuantizedWeight
from pulid_generate.sampling.packing import position_ids

CPU = torch.device("cpu")


class Chain(nn.Module):
    """An input layer, blocks of several dtypes and buffers, an output layer."""

    def __init__(self, count: int = 5):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(32, 32), nn.Linear(32, 32)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(32, 32), nn.LayerNorm(32)) for _ in range(count)
        )
        for block in self.blocks:
            weight = gguf.quantize(torch.randn(32, 32).numpy(), gguf.GGMLQuantizationType.Q8_0)
            block.append(
                QuantizedLinear(
                    QuantizedWeight(torch.from_numpy(weight), gguf.GGMLQuantizationType.Q8_0),
                    bias=False,
                )
            )
        self.requires_grad_(False)

    def forward(self, x, skip=()):
        x = self.first(x)
        for index, block in enumerate(self.blocks):
            x = x if index in skip else x + block(x)
        return self.last(x)


class LateCopies:
    """CUDA's streams at their worst: a copy happens at the last moment it may, and the pinned
    memory is read until then.
    """

    def __init__(self):
        self.open: list[tuple] = []
        self.log: list[str] = []
        self.events = 0
        self.reading: int | None = None
        self.last_reader: dict[int | None, int] = {}

    def pinned(self, size):
        return torch.empty(size, dtype=torch.uint8)

    def copy(self, place, pinned, after):
        # a copy into a place that a queued computation still reads must wait for that computation
        assert after is not None
        assert after == self.last_reader.get(place.data_ptr(), after)
        place.fill_(0xAB)  # rubbish until the copy is waited for
        event = ("copy", len(self.log), place, pinned)
        self.log.append("copy")
        self.open.append(event)
        return event

    def hold_computation(self, copy):
        self._happen(copy)
        self.reading = copy[2].data_ptr()

    def computed(self):
        self.events += 1
        self.last_reader[self.reading] = self.events
        return self.events

    def finish(self, copy):
        self._happen(copy)

    def _happen(self, copy):
        if any(event is copy for event in self.open):
            copy[2].copy_(copy[3])
            self.open = [event for event in self.open if event is not copy]


@pytest.mark.parametrize("resident", [(), (1,), (0, 2, 4), (0, 1, 2, 3, 4)])
@pytest.mark.parametrize("skip", [(), (2,), (4,), (0, 3)])
@pytest.mark.parametrize("late", [False, True])
def test_streaming_changes_no_number(resident, skip, late):
    x = torch.randn(3, 32)
    wanted = Chain()(x, skip)
    model = Chain()
    if late:
        blocks = [block for index, block in enumerate(model.blocks) if index not in resident]
        if blocks:
            Stream(blocks, CPU, LateCopies())
    else:
        stream_blocks(model, list(model.blocks), CPU, resident)
    with torch.inference_mode():
        for _ in range(3):
            assert torch.equal(model(x, skip), wanted)
            assert torch.equal(model(x), Chain()(x))  # one that skips, one that does not, in turn


def test_a_copy_that_is_not_waited_for_would_show():
    model = Chain()
    stream = Stream(list(model.blocks), CPU, LateCopies())
    stream.copies.hold_computation = lambda copy: setattr(
        stream.copies, "reading", copy[2].data_ptr()
    )
    assert not torch.equal(model(torch.ones(1, 32)), Chain()(torch.ones(1, 32)))


def test_the_next_block_is_on_its_way_while_one_computes():
    model = Chain()
    stream = Stream(list(model.blocks), CPU, LateCopies())
    model(torch.ones(1, 32))
    model(torch.ones(1, 32))
    # each once per forward, the first of the next forward in advance
    assert stream.copies.log == ["copy"] * 11
    assert len(stream.slots) == 2


def test_blocks_are_in_the_devices_buffers_only_while_they_run():
    model = Chain()
    stored = [_places(block) for block in model.blocks]
    seen = []
    for block in model.blocks:
        block.register_forward_hook(lambda block, _arguments, _output: seen.append(_places(block)))
    stream_blocks(model, list(model.blocks), CPU, resident=(3,))
    model(torch.ones(1, 32))
    assert [during == before for during, before in zip(seen, stored, strict=True)] == [
        False,
        False,
        False,
        True,
        False,
    ]
    buffers = {tuple(sorted(places)) for index, places in enumerate(seen) if index != 3}
    assert len(buffers) == 2  # the same two places, in turn
    assert [_places(block) for block in model.blocks] == stored


def _places(module: nn.Module) -> list[int]:
    return [tensor.data_ptr() for tensor in (*module.parameters(), *module.buffers())]


def test_an_exception_gives_the_weights_back():
    model = Chain()
    stored = _places(model)
    stream_blocks(model, list(model.blocks), CPU)
    handle = model.blocks[2][1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(torch.ones(1, 32))
    handle.remove()
    assert _places(model) == stored
    assert torch.equal(model(torch.ones(1, 32)), Chain()(torch.ones(1, 32)))


def test_flux_with_pulids_hooks_draws_the_same(micro):
    header = read_header(micro / "flux1-schnell.safetensors")
    flux = load_flux(header, torch.float32)
    blocks = blocks_of(flux)
    assert len(blocks) == 4 + 6
    assert blocks[0] is flux.transformer_blocks[0]
    assert blocks[-1] is flux.single_transformer_blocks[-1]
    generator = torch.Generator().manual_seed(0)

    def forward() -> torch.Tensor:
        with attach(flux) as injection, torch.inference_mode():
            injection.layers = [nn.Identity()] * 4
            injection.weight = 0.1
            return flux(
                hidden_states=latent,
                encoder_hidden_states=text,
                pooled_projections=pooled,
                timestep=torch.tensor([0.5]),
                img_ids=position_ids(64, 64),
                txt_ids=torch.zeros(8, 3),
                return_dict=False,
            )[0]

    latent = torch.randn(1, 16, 64, generator=generator)
    text = torch.randn(1, 8, flux.context_embedder.in_features, generator=generator)
    pooled = torch.randn(
        1, flux.time_text_embed.text_embedder.linear_1.in_features, generator=generator
    )
    wanted = forward()
    stream_blocks(flux, blocks, CPU, resident=range(5))
    assert torch.equal(forward(), wanted)
    assert torch.equal(forward(), wanted)


def test_t5_reads_the_same(micro):
    text = T5Text.load(read_header(micro / "t5xxl_fp16.safetensors"), torch.float32)
    ids = t5_ids(micro / "tokenizer.json", "a photo of a woman", 32)
    with torch.inference_mode():
        wanted = text.encode(ids)
        blocks = blocks_of(text.model)
        assert blocks == list(text.model.encoder.block)
        stream_blocks(text.model, blocks, CPU)
        assert torch.equal(text.encode(ids), wanted)
        assert not torch.equal(text.encode(ids + 1), wanted)
