"""One ONNX graph, node by node. Knows nothing of what is computed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Sides = Sequence[int | str]


class Graph:
    """Collects nodes; each call returns the name of the node's output. Names begin with `node_`:
    insightface reads meaning into others.

    half: matrices and kernels are stored in 16 bits and widened when the file is opened.
    """

    def __init__(self, half: bool = False) -> None:
        self.half = half
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def __call__(
        self, operator: str, *inputs: str | np.ndarray, name: str = "", **attributes
    ) -> str:
        output = name or f"{operator.lower()}_{len(self.nodes)}"
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        self.nodes.append(
            helper.make_node(operator, names, [output], name=f"node_{output}", **attributes)
        )
        return output

    def constant(self, value: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        small = self.half and value.dtype == np.float32 and value.ndim > 1
        self.constants.append(
            numpy_helper.from_array(value.astype(np.float16) if small else value, name)
        )
        return self("Cast", name, to=TensorProto.FLOAT) if small else name

    def write(self, path: Path, input_name: str, shape: Sides, outputs: dict[str, Sides]) -> None:
        """The file, checked."""
        image = helper.make_tensor_value_info(input_name, TensorProto.FLOAT, list(shape))
        infos = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, list(sides))
            for name, sides in outputs.items()
        ]
        graph = helper.make_graph(self.nodes, path.stem, [image], infos, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.checker.check_model(model)
        onnx.save(model, path)
