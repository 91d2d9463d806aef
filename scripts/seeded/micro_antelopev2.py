"""A small stand-in for insightface's antelopev2 pack: five ONNX files with its names, inputs and
outputs.

The detector is a matched filter of one face (see astronaut.py): the normalised cross-correlation of
the grey picture with that face at twelve sizes, four per stride, computed by plain ONNX nodes.
Contrast and brightness cancel, so flat areas and noise score near 0. The recogniser is a fixed
seeded projection of the 112x112 crop; the other three files are there because the pack has them.
Knows nothing of the other models.

Contract: insightface 2.1, model_zoo/scrfd.py (nine outputs: scores, boxes and landmarks at strides
8, 16, 32, two anchors a cell, distances in stride units from the cell's top left corner) and
model_zoo/model_zoo.py (what kind of net a file is).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from seeded.astronaut import FACE_BOX, LANDMARKS, portrait, sample
from seeded.onnx_graph import Graph
from seeded.tensors import seeded

STRIDES = (8, 16, 32)
# smallest face width an anchor stands for, in strides: from 49 pixels on, sqrt 2 apart
ANCHOR_SIZES = (6.1, 8.62)
SIZE_STEPS = (1.0, 2**0.25)  # an anchor tries its own width and one more: 49 to 328 pixels in all
TAPS = 24  # of the filter, each way
SUBCELLS = 4  # positions tried per stride: landmarks are good to about an eighth of a stride
MASK = 1.15  # of the face box: the filter sees an ellipse a little larger than the face
THRESHOLD, STEEPNESS = 0.72, 25.0  # correlation at score 0.5, and how fast the score rises
SHARPNESS = 60.0  # of the soft choice among subcells
FLAT = 1e-3  # squared contrast (of blob values in -1..1) below which a place counts as flat
GREY = (0.299, 0.587, 0.114)

# name -> (input name, pixels, outputs): insightface routes a file by these
PROJECTIONS = {
    "1k3d68": ("data", 192, 3309),
    "2d106det": ("data", 192, 212),
    "genderage": ("data", 96, 3),
    "glintr100": ("input.1", 112, 512),
}


def write_pack(folder: Path, seed: int) -> list[Path]:
    """Write the five files. The same seed gives the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    detector = folder / "scrfd_10g_bnkps.onnx"
    groups = (("score", 1), ("bbox", 4), ("kps", 10))
    outputs = {
        f"{group}{stride}": [f"n{stride}", columns]
        for group, columns in groups
        for stride in STRIDES
    }
    _detector().write(detector, "input.1", [1, 3, "h", "w"], outputs)
    paths = [detector]
    for name, (input_name, pixels, width) in PROJECTIONS.items():
        paths.append(folder / f"{name}.onnx")
        graph = _projection(f"{seed}/{name}", pixels, width, input_name)
        graph.write(paths[-1], input_name, ["None", 3, pixels, pixels], {"fc1": ["None", width]})
    return sorted(paths)


def _detector() -> Graph:
    graph = Graph()
    grey = graph("Conv", "input.1", np.float32(GREY).reshape(1, 3, 1, 1))
    for stride in STRIDES:
        _level(graph, grey, stride)
    return graph


def _level(graph: Graph, grey: str, stride: int) -> None:
    """Scores, boxes and landmarks of one stride. The picture is averaged over half a stride, at
    steps of a quarter.
    """
    step, pool = stride // SUBCELLS, stride // 2
    small = graph(
        "AveragePool",
        grey,
        kernel_shape=[pool, pool],
        strides=[step, step],
        pads=[0, 0, pool - step, pool - step],
    )
    sizes = [anchor * factor * stride for anchor in ANCHOR_SIZES for factor in SIZE_STEPS]
    templates, masks = zip(*(_template(size, pool) for size in sizes), strict=True)
    counts = np.float32([mask.sum() for mask in masks]).reshape(1, -1, 1, 1)
    wide = {"kernel_shape": [TAPS, TAPS], "dilations": [2, 2], "pads": [TAPS - 1] * 4}
    means = np.stack(masks)[:, None] / counts.reshape(-1, 1, 1, 1)
    product = graph("Conv", small, np.stack(templates)[:, None], **wide)
    mean = graph("Conv", small, means, **wide)
    square = graph("Conv", graph("Mul", small, small), means, **wide)
    variance = graph("Relu", graph("Sub", square, graph("Mul", mean, mean)))
    norm = graph("Sqrt", graph("Mul", graph("Add", variance, np.float32([FLAT])), counts))
    correlation = graph("Div", product, norm)  # (1, sizes, 4h, 4w), at most 1

    # Each anchor of a cell keeps the best of its places and sizes, and says which it is.
    places, anchors, factors = SUBCELLS**2, len(ANCHOR_SIZES), len(SIZE_STEPS)
    cells = graph("SpaceToDepth", correlation, blocksize=SUBCELLS)
    cells = graph("Reshape", cells, np.int64([places, anchors, factors, -1]))
    cells = graph("Transpose", cells, perm=[3, 1, 0, 2])
    # (h w, anchor, place and size)
    cells = graph("Reshape", cells, np.int64([-1, anchors, places * factors]))
    best = graph("ReduceMax", cells, axes=[2], keepdims=1)
    logit = graph("Mul", graph("Sub", best, np.float32([THRESHOLD])), np.float32([STEEPNESS]))
    graph("Reshape", graph("Sigmoid", logit), np.int64([-1, 1]), name=f"score{stride}")

    choice = graph("Softmax", graph("Mul", cells, np.float32([SHARPNESS])), axis=2)
    place = np.repeat(np.arange(places), factors)
    # pixels from the cell's corner
    offsets = np.stack([place % SUBCELLS, place // SUBCELLS], axis=1) * step + (pool - 1) / 2
    shift = graph("MatMul", choice, np.float32(offsets / stride))
    growth = graph("MatMul", choice, np.float32(np.tile(SIZE_STEPS, places))[:, None])
    corners, marks = _around_centre(FACE_BOX), _around_centre(np.ravel(LANDMARKS))
    for group, signs, points in (
        ("bbox", (-1, -1, 1, 1), np.abs(corners)),
        ("kps", (1,) * 10, marks),
    ):
        shape = graph("Mul", growth, np.float32(np.float64(ANCHOR_SIZES)[None, :, None] * points))
        follow = np.float32(
            [[sign * (axis == column % 2) for column, sign in enumerate(signs)] for axis in (0, 1)]
        )
        distances = graph("Add", graph("MatMul", shift, follow), shape)
        graph("Reshape", distances, np.int64([-1, points.size]), name=f"{group}{stride}")


def _centre() -> tuple[float, float]:
    return (FACE_BOX[0] + FACE_BOX[2]) / 2, (FACE_BOX[1] + FACE_BOX[3]) / 2


def _around_centre(points: np.ndarray | tuple[float, ...]) -> np.ndarray:
    """x, y, x, y, ... of the astronaut's picture -> the same relative to the face's centre, in face
    widths.
    """
    points = np.float64(points)
    return (points - np.resize(_centre(), points.size)) / (FACE_BOX[2] - FACE_BOX[0])


def _template(face_width: float, pool: int) -> tuple[np.ndarray, np.ndarray]:
    """The filter of unit norm and zero mean for a face of this width in pixels, and its mask, both
    (TAPS, TAPS).
    """
    scale = face_width / (FACE_BOX[2] - FACE_BOX[0])
    grey = sample(portrait(), _centre(), TAPS * pool / scale, TAPS) @ np.float32(GREY)
    offset = (np.arange(TAPS) - (TAPS - 1) / 2) * pool / scale
    half_width, half_height = (MASK * (FACE_BOX[i + 2] - FACE_BOX[i]) / 2 for i in (0, 1))
    mask = (offset[None] / half_width) ** 2 + (offset[:, None] / half_height) ** 2 <= 1
    filtered = np.where(mask, grey - grey[mask].mean(), 0)
    return np.float32(filtered / np.linalg.norm(filtered)), np.float32(mask)


def _projection(name: str, pixels: int, outputs: int, input_name: str) -> Graph:
    """A crop's colour pattern on a grid, projected at random; brightness alone gives 0, so that
    people differ.

    The nodes' names matter: insightface takes a first node named Sub or Mul for built-in
    normalisation.
    """
    grid = 16 if outputs == 512 else 4
    cell = pixels // grid
    weight = seeded(name, (3, grid * grid, outputs), 0.1)
    weight -= weight.mean(axis=1, keepdims=True)
    graph = Graph()
    pooled = graph("AveragePool", input_name, kernel_shape=[cell, cell], strides=[cell, cell])
    graph("MatMul", graph("Flatten", pooled), weight.reshape(-1, outputs), name="fc1")
    return graph
