"""Networks of the public files' size and cost with random weights, so that an extraction can be
timed without a download.

EVA02-CLIP-L-336 (304 million parameters, float16) and IDFormer (bfloat16) by their layouts;
RetinaFace and BiSeNet are the micro set's, which have the real architecture; the five networks of
antelopev2 are residual networks of about the published ones' multiplications:

    scrfd_10g_bnkps 10 G at 640x480, glintr100 12 G (IResNet-100), 1k3d68 3 G (ResNet-50 at 192),
    2d106det and genderage small

The detector always finds the one face of the micro set's portrait: what it costs does not depend on
what it sees.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save_file
from seeded import micro_bisenet, micro_retinaface, public_layouts
from seeded.astronaut import FACE_BOX, LANDMARKS, portrait

EVA_WIDTH, EVA_POOLED = 1024, 768
STRIDES, ANCHORS, INPUT = (8, 16, 32), 2, 640
LONG_SIDE, MARGIN = 1024, 256  # pixels of the photograph, and left of and above the portrait in it
DONE = "whole"  # a file that says that all others were written

# name -> (input, side, outputs, widths, blocks)
NETWORKS = {
    "glintr100": ("input.1", 112, 512, (64, 128, 256, 512), (3, 13, 30, 3)),
    "1k3d68": ("data", 192, 3309, (64, 128, 256, 512), (3, 4, 6, 3)),
    "2d106det": ("data", 192, 212, (16, 32, 64, 128), (1, 1, 1, 1)),
    "genderage": ("data", 96, 3, (16, 32, 64, 128), (1, 1, 1, 1)),
}


def write_networks(folder: Path) -> Path:
    """All files of an extraction, 1.5 GB; what was written before stays."""
    if (folder / DONE).is_file():
        return folder
    (folder / "antelopev2").mkdir(parents=True, exist_ok=True)
    torch.save(
        _random(public_layouts.eva_clip(EVA_WIDTH, EVA_POOLED), torch.float16),
        folder / "EVA02_CLIP_L_336_psz14_s6B.pt",
    )
    encoder = _random(public_layouts.pulid_encoder(), torch.bfloat16)
    save_file(
        encoder | {"pulid_ca.0.norm1.weight": torch.ones(2048, dtype=torch.bfloat16)},
        folder / "pulid.safetensors",
    )
    micro_retinaface.write_detector(folder / "detection_Resnet50_Final.pth", 0)
    micro_bisenet.write_parser(folder / "parsing_bisenet.pth", 0)
    for name, (source, side, outputs, widths, blocks) in NETWORKS.items():
        graph = _Graph(source)
        graph.tower(widths, blocks, stem=1 if name == "glintr100" else 2)
        graph.node("GlobalAveragePool") if name != "glintr100" else None
        graph.node("Flatten")
        width = widths[-1] * (49 if name == "glintr100" else 1)
        graph.node("MatMul", graph.constant((width, outputs), width), name="fc1")
        _save(
            graph,
            folder / "antelopev2" / f"{name}.onnx",
            ["n", 3, side, side],
            {"fc1": ["n", outputs]},
        )
    _write_detector(folder / "antelopev2" / "scrfd_10g_bnkps.onnx")
    (folder / DONE).touch()
    return folder


def photograph() -> np.ndarray:
    """uint8 RGB (1024, 1024, 3): the micro set's portrait in the middle of grey, at the largest
    size that the networks see.
    """
    canvas = np.full((LONG_SIDE, LONG_SIDE, 3), 128, np.uint8)
    height, width = portrait().shape[:2]
    canvas[MARGIN : MARGIN + height, MARGIN : MARGIN + width] = portrait()
    return canvas


def _random(layout: public_layouts.Layout, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """As large as a trained network's: activations stay finite, and no number is special to the
    processor.
    """
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (shape, kind) in layout.items():
        fan = math.prod(shape[1:]) if len(shape) > 1 else 1
        values = torch.randn(shape, generator=generator)
        values = (
            1 + 0.1 * values
            if kind == "scale"
            else 0.02 * values
            if kind == "bias"
            else values / fan**0.5
        )
        state[name] = values.to(dtype)
    return state


class _Graph:
    """A chain of nodes, each with the one before as its first input."""

    def __init__(self, source: str):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.last = source
        self.source = source
        self.generator = np.random.default_rng(0)

    def node(self, operator: str, *more: str, name: str = "", **attributes: object) -> str:
        output = name or f"t{len(self.nodes)}"
        self.nodes.append(
            helper.make_node(
                operator, [self.last, *more], [output], name=f"node_{output}", **attributes
            )
        )
        self.last = output
        return output

    def constant(self, shape: tuple[int, ...], fan: int) -> str:
        return self.given(np.float32(self.generator.standard_normal(shape, np.float32) / fan**0.5))

    def given(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def conv(self, inputs: int, outputs: int, stride: int = 1) -> None:
        weight = self.constant((outputs, inputs, 3, 3), 9 * inputs)
        self.node("Conv", weight, kernel_shape=[3, 3], strides=[stride] * 2, pads=[1] * 4)

    def tower(self, widths: tuple[int, ...], blocks: tuple[int, ...], stem: int) -> None:
        """Residual blocks of two 3x3 convolutions; each stage halves the picture."""
        self.conv(3, widths[0], stem)
        self.node("Relu")
        inputs = widths[0]
        for width, count in zip(widths, blocks, strict=True):
            for block in range(count):
                before = self.last
                self.conv(inputs, width, 2 if block == 0 else 1)
                self.node("Relu")
                self.conv(width, width)
                if block:
                    self.node("Add", before)
                    # or a hundred additions would overflow
                    self.node("Mul", self.given(np.float32([0.7])))
                inputs = width


def _write_detector(path: Path) -> None:
    """SCRFD-10G's widths and depths, a head of 80 channels at stride 8, and nine outputs that are
    one face.
    """
    graph = _Graph("input.1")
    graph.tower((56, 88, 88, 224), (3, 4, 2, 3), stem=2)
    graph.node("GlobalAveragePool")
    deep = graph.node("ReduceMean", axes=[1, 2, 3], keepdims=0)
    graph.last = graph.source
    graph.conv(3, 80, 8)
    for _ in range(6):
        graph.conv(80, 80)
        graph.node("Relu")
    graph.node("ReduceMean", axes=[1, 2, 3], keepdims=0)
    graph.node("Add", deep)
    # (1,): the networks were run, and change nothing
    faint = graph.node("Mul", graph.given(np.float32([1e-9])))
    outputs = {}
    for stride in STRIDES:
        for group, values in zip(("score", "bbox", "kps"), _one_face(stride), strict=True):
            graph.last = graph.given(values)
            outputs[graph.node("Add", faint, name=f"{group}{stride}")] = list(values.shape)
    ordered = {
        f"{group}{stride}": outputs[f"{group}{stride}"]
        for group in ("score", "bbox", "kps")
        for stride in STRIDES
    }
    _save(graph, path, [1, 3, INPUT, INPUT], ordered)


def _one_face(stride: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores, boxes, landmarks) of every anchor at 640x640, in strides: the portrait's face, at
    stride 32 only.
    """
    cells = (INPUT // stride) ** 2 * ANCHORS
    scores, boxes, points = np.zeros((cells, 1)), np.zeros((cells, 4)), np.zeros((cells, 10))
    if stride == STRIDES[-1]:
        scale = INPUT / LONG_SIDE
        left, top, right, bottom = ((value + MARGIN) * scale for value in FACE_BOX)
        column, row = int((left + right) / 2 // stride), int((top + bottom) / 2 // stride)
        place = (row * (INPUT // stride) + column) * ANCHORS
        x, y = column * stride, row * stride
        scores[place] = 0.95
        boxes[place] = np.array([x - left, y - top, right - x, bottom - y]) / stride
        points[place] = (
            ((np.float64(LANDMARKS).reshape(5, 2) + MARGIN) * scale - (x, y)) / stride
        ).reshape(-1)
    return np.float32(scores), np.float32(boxes), np.float32(points)


def _save(graph: _Graph, path: Path, shape: list[object], outputs: dict[str, list[object]]) -> None:
    source = helper.make_tensor_value_info(graph.source, TensorProto.FLOAT, shape)
    infos = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in outputs.items()
    ]
    made = helper.make_graph(graph.nodes, "bench", [source], infos, graph.constants)
    onnx.save(
        helper.make_model(made, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path
    )
