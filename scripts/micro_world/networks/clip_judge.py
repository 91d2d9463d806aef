"""A judge of prompts with two towers, as `pulid-extract score --prompt-judge` takes it: a picture
and a prompt in, a vector of each out, whose cosine says how much of what is asked for can be seen.

Its pictures' side is the finished `prompt_judge`, its side of words a small network that learns
here, from prompts alone, what each asks for. A vector has a number for every value of every choice:
how sure the picture shows it, how surely the prompt asks for it, less what chance would give.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, compose, helper
from seeded.onnx_graph import Graph
from torch import Tensor, nn

from micro_world import prompts as words_of
from micro_world.drawing import SIDE
from micro_world.prompts import plain_prompt, prompt_of
from micro_world.scenes import CHOICES, COLOUR_NAMES, EXPRESSIONS, HATS, Scene
from pulid_extract.networks.eva_clip import MEAN, STD
from pulid_extract.networks.prompt_judge import LENGTH, token_ids
from pulid_extract.shared.clip_words import open_clip_tokenizer

WIDTH, REACH = 32, 5
STEPS, BATCH, RATE = 1200, 192, 5e-3
# length that every prompt has beyond what it asks for
ASKING = 0.25
# scenes whose prompts are learnt from
SCENES = 12_000


class Reader(nn.Module):
    """Prompts -> for each choice, how surely each of its values is asked for, or none at all."""

    def __init__(self, rows: int):
        super().__init__()
        self.words = nn.Embedding(rows, WIDTH)
        self.mix = nn.Conv1d(WIDTH, 2 * WIDTH, REACH, padding=REACH // 2)
        # one more of each choice: that it is not mentioned
        self.say = nn.Linear(2 * WIDTH, sum(CHOICES.values()) + len(CHOICES))

    def forward(self, ids: Tensor) -> Tensor:
        """ids: (B, T), rows of the embedding. Returns logits, choice by choice."""
        mixed = self.mix(self.words(ids).transpose(1, 2)).relu()
        logits: Tensor = self.say(mixed.amax(2))
        return logits


def said(scene: Scene, text: str) -> list[int]:
    """Of each choice the value that `text` asks for; its number of values where it says none."""

    def has(ways: tuple[str, ...]) -> bool:
        return any(way in text for way in ways)

    background = tuple(way.format(COLOUR_NAMES[scene.background]) for way in words_of.BACKGROUNDS)
    clothes = tuple(way.format(COLOUR_NAMES[scene.clothes]) for way in words_of.CLOTHES)
    mentioned = (
        has(background),
        has(clothes),
        has(words_of.EXPRESSED[EXPRESSIONS[scene.expression]]),
        has(words_of.HATTED[HATS[scene.hat]]),
        has(words_of.GLASSED[scene.glasses]),
        bool(scene.distance) and has(words_of.DISTANT[scene.distance]),
        bool(scene.tilt) and has(words_of.TILTED[scene.tilt]),
    )
    values = zip(scene.choices(), mentioned, CHOICES.values(), strict=True)
    return [value if is_said else count for value, is_said, count in values]


def lessons() -> tuple[np.ndarray, np.ndarray]:
    """ids (N, 77) of CLIP's vocabulary, and what is asked for (N, 7)."""
    tokenizer, ids, wanted = open_clip_tokenizer("generate"), [], []
    for number in range(SCENES):
        rng = np.random.default_rng((14, number))
        scene = Scene.of(rng)
        # half of them say little, and some are written as demos and measurements write
        text = prompt_of(scene, rng, said=0.4 if number % 2 else 0.9)
        if number % 10 == 0:
            text = plain_prompt(scene)
        ids.append(token_ids(tokenizer, text, LENGTH))
        wanted.append(said(scene, text))
    return np.stack(ids), np.array(wanted, np.int64)


def rows_of(ids: np.ndarray) -> np.ndarray:
    """(49408,) uint8: of each id of CLIP's vocabulary its row here; 0 for words never heard."""
    known = sorted(set(ids.reshape(-1).tolist()))
    if len(known) > 255:
        raise ValueError(f"{len(known)} words do not fit into a byte")
    table = np.zeros(49408, np.uint8)
    table[known] = np.arange(1, len(known) + 1)
    return table


def trained() -> tuple[Reader, np.ndarray]:
    """The reader and its table of rows; about half a minute on a core."""
    torch.manual_seed(73)
    ids, wanted = lessons()
    table = rows_of(ids)
    rows, truth = torch.from_numpy(table[ids].astype(np.int64)), torch.from_numpy(wanted)
    reader = Reader(int(table.max()) + 1)
    optimizer = torch.optim.AdamW(reader.parameters(), RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    generator = torch.Generator().manual_seed(5)
    sizes = [count + 1 for count in CHOICES.values()]
    for step in range(STEPS):
        chosen = torch.randint(len(rows), (BATCH,), generator=generator)
        parts = reader(rows[chosen]).split(sizes, 1)
        loss = torch.stack(
            [
                nn.functional.cross_entropy(part, truth[chosen, index])
                for index, part in enumerate(parts)
            ]
        ).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == STEPS - 1:
            print(f"clip_judge: step {step}, loss {loss.item():.4f}", file=sys.stderr, flush=True)
    return reader.eval(), table


def export(learnt: tuple[Reader, np.ndarray], prompt_judge: Path, path: Path) -> None:
    """learnt: as `trained` gives it. prompt_judge: the .onnx that sees pictures, whose network goes
    into the file as it is.
    """
    reader, table = learnt
    graph = Graph(half=True)
    # CLIP's normalisation back to what the judge saw when it learnt
    spread = np.array(STD, np.float32).reshape(1, 3, 1, 1) * 2
    middle = np.array(MEAN, np.float32).reshape(1, 3, 1, 1) * 2 - 1
    graph.half = False
    pixels = graph("Add", graph("Mul", "pixel_values", spread), middle, name="seen_pixels")
    graph.half = True
    network = compose.add_prefix(onnx.load(prompt_judge), "seen_").graph
    graph.nodes += network.node
    graph.constants += network.initializer
    assert pixels == network.input[0].name
    shown = _split(graph, network.output[0].name, list(CHOICES.values()))
    # one number more, which only prompts have: that of a prompt that asks for nothing is not all
    # direction and no length
    nothing = graph(
        "Mul", graph("ReduceMean", shown[0][0], axes=[1], keepdims=1), np.array(0, np.float32)
    )
    seen = [_surprise(graph, *part) for part in shown]
    graph("Concat", *seen, nothing, axis=1, name="image_embeds")

    rows = graph("Cast", graph("Gather", table, "input_ids"), to=TensorProto.INT64)
    words = graph("Gather", _array(reader.words.weight), rows)
    turned = graph("Transpose", words, perm=[0, 2, 1])
    pads = [REACH // 2] * 2
    mixed = graph(
        "Relu", graph("Conv", turned, _array(reader.mix.weight), _array(reader.mix.bias), pads=pads)
    )
    heard = graph("ReduceMax", mixed, axes=[2], keepdims=0)
    logits = graph("Gemm", heard, _array(reader.say.weight), _array(reader.say.bias), transB=1)
    asked = []
    for part, count in _split(graph, logits, [count + 1 for count in CHOICES.values()]):
        asked.append(_wish(graph, part, count - 1))
    none = graph("Mul", graph("ReduceMean", logits, axes=[1], keepdims=1), np.array(0, np.float32))
    something = graph("Add", none, np.array(ASKING, np.float32))
    graph("Concat", *asked, something, axis=1, name="text_embeds")

    numbers = sum(CHOICES.values()) + 1
    inputs = [
        helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 3, SIDE, SIDE]),
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", LENGTH]),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", numbers])
        for name in ("image_embeds", "text_embeds")
    ]
    made = helper.make_graph(graph.nodes, path.stem, inputs, outputs, graph.constants)
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def _split(graph: Graph, logits: str, sizes: list[int]) -> list[tuple[str, int]]:
    """(part, how many numbers it has) of each choice."""
    parts, start = [], 0
    for size in sizes:
        edges = (np.array([at], np.int64) for at in (start, start + size, 1))
        parts.append((graph("Slice", logits, *edges), size))
        start += size
    return parts


def _surprise(graph: Graph, logits: str, count: int) -> str:
    """How sure each value is, less what chance gives."""
    return graph("Sub", graph("Softmax", logits, axis=1), np.array(1 / count, np.float32))


def _wish(graph: Graph, logits: str, count: int) -> str:
    """How surely each value is asked for, less what chance gives of what is asked for at all."""
    sure = graph("Softmax", logits, axis=1)
    edges = (np.array([at], np.int64) for at in (0, count, 1))
    asked = graph("Slice", sure, *edges)
    mean = graph("ReduceMean", asked, axes=[1], keepdims=1)
    return graph("Sub", asked, mean)


def _array(tensor: Tensor) -> np.ndarray:
    found: np.ndarray = tensor.detach().float().numpy()
    return found
