"""The small world's face detector, in SCRFD's form: scores, boxes and five landmarks at strides 8,
16 and 32, two anchors a cell.

Learns from canvases: portraits pasted anywhere, and single ones enlarged to the whole 640 pixels,
as insightface shows a small picture. Contract: insightface 2.1, model_zoo/scrfd.py: nine outputs,
distances in strides from the cell's upper left corner, pixels (x - 127.5) / 128.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from micro_world.drawing import draw
from micro_world.networks.recognisers import conv
from micro_world.people import Person
from micro_world.scenes import Scene
from micro_world.training.loop import Plan, half, place, train
from micro_world.training.onnx_files import Graph, add

STRIDES = (8, 16, 32)
# longer side of a box, in pixels, that each anchor stands for: from, to
RANGES = (((16, 36), (32, 64)), ((56, 92), (84, 136)), ((124, 250), (230, 560)))
CENTRE = 0.22  # of the box's sides, around its middle, where cells answer for it
CANVAS, LARGE = 320, 640
PEOPLE = 300_000  # the first person it learns from
PLAN = Plan(3000, rate=2e-3, warmup=100, decay=0.01)
CANVASES, LARGE_CANVASES = 8, 2  # in a batch


class Head(nn.Module):
    """A level's three outputs, as (B, 2 * columns, h, w), anchor by anchor; boxes and landmarks in
    the anchor's own size.
    """

    def __init__(self, width: int, level: int):
        super().__init__()
        self.shared = conv(width, width)
        self.score, self.box, self.marks = (
            nn.Conv2d(width, 2, 1),
            nn.Conv2d(width, 8, 1),
            nn.Conv2d(width, 20, 1),
        )
        sizes = [(low * high) ** 0.5 / STRIDES[level] for low, high in RANGES[level]]
        nn.init.constant_(self.score.bias, -4.0)
        for layer in (self.box, self.marks):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        columns = layer.out_channels // 2
        self.register_buffer(
            "box_size", torch.tensor(sizes).repeat_interleave(4)[:, None, None], persistent=False
        )
        self.register_buffer(
            "marks_size",
            torch.tensor(sizes).repeat_interleave(columns)[:, None, None],
            persistent=False,
        )
        self.box.bias.data.fill_(0.4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.shared(x)
        return self.score(x), self.box(x) * self.box_size, self.marks(x) * self.marks_size


class Detector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.levels = nn.ModuleList(
            [
                nn.Sequential(
                    conv(3, 16, stride=2),
                    conv(16, 24, stride=2),
                    conv(24, 40, stride=2),
                    conv(40, 40),
                ),
                nn.Sequential(conv(40, 64, stride=2), conv(64, 64)),
                nn.Sequential(
                    conv(64, 96, stride=2), conv(96, 96), _dilated(96, 2), _dilated(96, 4)
                ),
            ]
        )
        self.heads = nn.ModuleList([Head(width, level) for level, width in enumerate((40, 64, 96))])

    def forward(self, x: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(B, 3, H, W) -> for each stride scores (logits), boxes, landmarks, in strides."""
        found = []
        for level, head in zip(self.levels, self.heads, strict=True):
            x = level(x)
            found.append(head(x))
        return found


def _dilated(width: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    )


# (box (4,), landmarks (5, 2)) of every face on a canvas
Truth = list[tuple[np.ndarray, np.ndarray]]


def canvas(rng: np.random.Generator, side: int = CANVAS) -> tuple[np.ndarray, Truth]:
    """Some portraits of many sizes on something that is not a face: (side, side, 3) uint8 RGB, and
    where the faces are.
    """
    picture = np.empty((side, side, 3), np.uint8)
    picture[:] = rng.integers(0, 256, 3)
    for _ in range(int(rng.integers(0, 8))):  # not faces: patches, discs, pairs of dots
        x, y, size = int(rng.integers(side)), int(rng.integers(side)), int(rng.integers(8, 90))
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            cv2.rectangle(picture, (x, y), (x + size, y + int(rng.integers(8, 90))), colour, -1)
        else:
            cv2.circle(picture, (x, y), size // 2, colour, -1)
            cv2.circle(picture, (x + size, y), size // 2, colour, -1)
    truth: Truth = []
    taken: list[tuple[int, int, int]] = []
    for _ in range(int(rng.integers(1, 6))):
        tile = int(rng.integers(60, 231)) if rng.random() < 0.6 else int(rng.integers(60, 131))
        x, y = (int(rng.integers(side - tile + 1)) for _ in range(2))
        if any(
            abs(x + tile / 2 - a - t / 2) < (tile + t) / 2
            and abs(y + tile / 2 - b - t / 2) < (tile + t) / 2
            for a, b, t in taken
        ):
            continue
        taken.append((x, y, tile))
        box, marks = _paste(picture, rng, x, y, tile)
        truth.append((box, marks))
    return picture, truth


def large_canvas(rng: np.random.Generator) -> tuple[np.ndarray, Truth]:
    """One portrait enlarged to most of 640 pixels, the rest black, as insightface pads."""
    picture = np.zeros((LARGE, LARGE, 3), np.uint8)
    tile = LARGE if rng.random() < 0.6 else int(rng.integers(230, LARGE))
    x, y = (
        (0, 0)
        if rng.random() < 0.7
        else tuple(int(rng.integers(LARGE - tile + 1)) for _ in range(2))
    )
    return picture, [_paste(picture, rng, x, y, tile)]


def _paste(
    picture: np.ndarray, rng: np.random.Generator, x: int, y: int, tile: int
) -> tuple[np.ndarray, np.ndarray]:
    own = int(rng.choice((96, 96, 128, 192)))
    portrait = draw(Person.of(PEOPLE + int(rng.integers(50_000))), Scene.of(rng), own)
    pixels = portrait.pixels
    if rng.random() < 0.4:
        pixels = cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.3, 1.2)) * own / 96)
    picture[y : y + tile, x : x + tile] = cv2.resize(
        pixels, (tile, tile), interpolation=cv2.INTER_LINEAR
    )
    factor = tile / own
    return np.float32(portrait.box) * factor + np.float32(
        [x, y, x, y]
    ), portrait.landmarks * factor + np.float32([x, y])


def answers(truths: list[Truth], level: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """What a level should say: faces (B, h, w, 2) 0 or 1, boxes (B, h, w, 2, 4), landmarks (B, h,
    w, 2, 10), in strides.
    """
    stride = STRIDES[level]
    shape = (len(truths), cells, cells, 2)
    faces, boxes, marks = (
        np.zeros(shape, np.float32),
        np.zeros((*shape, 4), np.float32),
        np.zeros((*shape, 10), np.float32),
    )
    places = np.arange(cells) * stride
    for index, truth in enumerate(truths):
        for box, points in truth:
            size = max(box[2] - box[0], box[3] - box[1])
            middle = (box[:2] + box[2:]) / 2
            reach = np.maximum(CENTRE * (box[2:] - box[:2]), stride * 0.55)
            columns = np.nonzero(np.abs(places - middle[0]) <= reach[0])[0]
            rows = np.nonzero(np.abs(places - middle[1]) <= reach[1])[0]
            for anchor, (low, high) in enumerate(RANGES[level]):
                if low <= size < high:
                    y, x = (grid.reshape(-1) for grid in np.meshgrid(rows, columns, indexing="ij"))
                    at = np.stack([places[x], places[y]], 1)
                    faces[index, y, x, anchor] = 1
                    boxes[index, y, x, anchor] = (
                        np.concatenate([at - box[:2], box[2:] - at], 1) / stride
                    )
                    marks[index, y, x, anchor] = ((points[None] - at[:, None]) / stride).reshape(
                        -1, 10
                    )
    return torch.from_numpy(faces), torch.from_numpy(boxes), torch.from_numpy(marks)


def trained(folder: Path) -> Detector:
    torch.manual_seed(61)
    model = Detector()

    def loss(step: int, generator: torch.Generator) -> Tensor:
        rng = np.random.default_rng((4, step))
        small = [canvas(rng) for _ in range(CANVASES)]
        large = [large_canvas(rng) for _ in range(LARGE_CANVASES)]
        return _loss(model, small) + _loss(model, large)

    train("detector", model, loss, PLAN, folder, cycle=0)
    return _settled(model)


def _loss(model: Detector, batch: list[tuple[np.ndarray, Truth]]) -> Tensor:
    pixels = (
        torch.from_numpy(np.stack([picture for picture, _ in batch])).permute(0, 3, 1, 2).float()
        - 127.5
    ) / 128
    with half():
        found = model(pixels.to(place()))
    total = torch.zeros((), device=place())
    for level, (score, box, marks) in enumerate(found):
        wanted = answers([truth for _, truth in batch], level, score.shape[-1])
        faces, boxes, points = (part.to(place()) for part in wanted)
        score, box, marks = (
            x.float().permute(0, 2, 3, 1).unflatten(-1, (2, -1)) for x in (score, box, marks)
        )
        logits = score.squeeze(-1)
        count = faces.sum().clamp(min=1)
        # focal: what is clear already counts little
        share = torch.where(faces > 0, 1 - logits.sigmoid(), logits.sigmoid())
        entropy = nn.functional.binary_cross_entropy_with_logits(logits, faces, reduction="none")
        total = total + (share.detach().square() * entropy).sum() / count
        if faces.any():
            here = faces > 0
            size = (boxes[here][:, :2] + boxes[here][:, 2:]).mean(1, keepdim=True)
            total = (
                total
                + 4 * ((box[here] - boxes[here]).abs() / size).mean()
                + 8 * ((marks[here] - points[here]).abs() / size).mean()
            )
    return total


@torch.no_grad()
def _settled(model: Detector) -> Detector:
    """Batch norms' statistics for the averaged weights."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    rng = np.random.default_rng((4, -1 % 2**32))
    for _ in range(16):
        for batch in ([canvas(rng) for _ in range(4)], [large_canvas(rng) for _ in range(2)]):
            model(
                (
                    torch.from_numpy(np.stack([picture for picture, _ in batch]))
                    .permute(0, 3, 1, 2)
                    .float()
                    - 127.5
                )
                / 128
            )
    return model.eval()


def export(model: Detector, path: Path) -> None:
    """Nine outputs, named and ordered as SCRFD's."""
    graph = Graph(half=False)  # insightface rewrites the graph and wants plain weights
    x, names = "input.1", dict[str, str]()
    for stride, level, head in zip(STRIDES, model.levels, model.heads, strict=True):
        x = add(graph, level, x)  # type: ignore[arg-type]
        shared = add(graph, head.shared, x)  # type: ignore[arg-type, union-attr]
        for group, layer, size, columns in (
            ("score", head.score, None, 1),  # type: ignore[union-attr]
            ("bbox", head.box, head.box_size, 4),  # type: ignore[union-attr]
            ("kps", head.marks, head.marks_size, 10),  # type: ignore[union-attr]
        ):
            out = add(graph, layer, shared)  # type: ignore[arg-type]
            if size is None:
                out = graph("Sigmoid", out)
            else:
                out = graph("Mul", out, size.numpy()[None])  # type: ignore[union-attr, operator]
            rows = graph("Transpose", out, perm=[0, 2, 3, 1])
            graph("Reshape", rows, np.int64([-1, columns]), name=f"{group}{stride}")
            names[f"{group}{stride}"] = ""
    outputs = {
        f"{group}{s}": [f"n{s}", columns]
        for group, columns in (("score", 1), ("bbox", 4), ("kps", 10))
        for s in STRIDES
    }
    graph.write(path, "input.1", [1, 3, "h", "w"], outputs)  # type: ignore[arg-type]
