"""Seeded networks of stage one in the public layouts, which find the faces of `coloured_faces`."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
from seeded.tensors import seeded, seeded_state
from support.paths import GOLDEN
from support.pictures.coloured_faces import LARGE, POINTS, SMALL


def write_antelopev2(folder: Path, width: int = 512) -> Path:
    """An antelopev2-shaped pack: scrfd_10g_bnkps.onnx, glintr100.onnx, and a landmark network that
    must not be used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_scrfd(folder / "scrfd_10g_bnkps.onnx")
    write_projection(folder / "glintr100.onnx", 112, width)
    write_projection(folder / "2d106det.onnx", 192, 212)
    return folder


def _write_scrfd(path: Path) -> None:
    """Nine outputs (score, box, keypoints at strides 8, 16, 32), two anchors; only stride 32
    answers: red, then green.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, outputs = [], [], []
    half = np.array([LARGE, SMALL], np.float32)
    # SCRFD measures from a cell's corner, not its centre
    boxes = np.stack([half - 16, half - 16, half + 16, half + 16], 1)
    points = (POINTS[None] * 2 * half[:, None, None] + 16).reshape(2, 10)
    for group, channels in (("score", 1), ("bbox", 4), ("kps", 10)):
        for stride in (8, 16, 32):
            name = f"{group}{stride}"
            weight, bias = (
                np.zeros((2 * channels, 3, 1, 1), np.float32),
                np.zeros(2 * channels, np.float32),
            )
            if group == "score" and stride == 32:
                weight[0, [0, 2]], weight[1, [1, 0]], bias[:] = (
                    [[[20]], [[-20]]],
                    [[[20]], [[-20]]],
                    -10,
                )
            elif group == "score":
                bias[:] = -50
            else:
                bias[:] = (boxes if group == "bbox" else points).reshape(-1) / stride
            constants += [
                numpy_helper.from_array(weight, f"{name}_w"),
                numpy_helper.from_array(bias, f"{name}_b"),
                numpy_helper.from_array(np.array([-1, channels], np.int64), f"{name}_s"),
            ]
            nodes += [
                helper.make_node(
                    "AveragePool",
                    ["input.1"],
                    [f"{name}_p"],
                    kernel_shape=[stride] * 2,
                    strides=[stride] * 2,
                ),
                helper.make_node("Conv", [f"{name}_p", f"{name}_w", f"{name}_b"], [f"{name}_c"]),
                helper.make_node(
                    "Sigmoid" if group == "score" else "Identity", [f"{name}_c"], [f"{name}_a"]
                ),
                helper.make_node("Transpose", [f"{name}_a"], [f"{name}_t"], perm=[0, 2, 3, 1]),
                helper.make_node("Reshape", [f"{name}_t", f"{name}_s"], [name]),
            ]
            outputs.append(
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [f"n{stride}", channels])
            )
    inputs = [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, [1, 3, "h", "w"])]
    graph = helper.make_graph(nodes, "scrfd", inputs, outputs, constants)
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path
    )


def write_projection(path: Path, side: int, width: int) -> None:
    """An 8x8 average grid, then a seeded projection: side x side -> width."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    matrix = seeded(path.name, (192, width), 0.2)
    nodes = [
        helper.make_node(
            "AveragePool",
            ["data"],
            ["p"],
            name="pool",
            kernel_shape=[side // 8] * 2,
            strides=[side // 8] * 2,
        ),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "W"], ["fc1"], name="project"),
    ]
    inputs = [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["n", 3, side, side])]
    outputs = [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, ["n", width])]
    graph = helper.make_graph(
        nodes, "projection", inputs, outputs, [numpy_helper.from_array(matrix, "W")]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path
    )


def retinaface_state() -> dict:
    """Weights that carry two colours through ResNet-50 to the stride-32 head: red minus green,
    green minus red.
    """
    import torch
    from facexlib.detection.retinaface import RetinaFace

    from pulid_extract.networks.checkpoint import without_init

    with without_init(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = RetinaFace(network_name="resnet50", device=torch.device("cpu")).state_dict()
    for name, tensor in state.items():
        batch_norm = name.endswith("running_var") or (name.endswith(".weight") and tensor.ndim == 1)
        tensor.fill_(1 if batch_norm else 0)
    # input is BGR minus its means
    state["body.conv1.weight"][0, [2, 1], 3, 3] = torch.tensor([0.01, -0.01])
    state["body.conv1.weight"][1, [1, 2], 3, 3] = torch.tensor([0.01, -0.01])
    carry = [f"body.layer{i}.0.downsample.0.weight" for i in (1, 2, 3, 4)] + [
        "fpn.output3.0.weight"
    ]
    for name in carry:
        state[name][[0, 1], [0, 1], 0, 0] = 1
    state["ssh3.conv3X3.0.weight"][[0, 1], [0, 1], 1, 1] = 1
    for i in (0, 1):
        state[f"ClassHead.{i}.conv1x1.bias"].copy_(torch.tensor([8.0, 0, 8, 0]))
    state["ClassHead.2.conv1x1.weight"][[1, 3], [0, 1], 0, 0] = 40
    state["ClassHead.2.conv1x1.bias"][[1, 3]] = -10
    # decoded against the prior's size, variances 0.1, 0.2
    sides, priors = np.array([2 * LARGE, 2 * SMALL]), np.array([256, 512])
    state["BboxHead.2.conv1x1.bias"].view(2, 4)[:, 2:] = torch.tensor(np.log(sides / priors) / 0.2)[
        :, None
    ]
    state["LandmarkHead.2.conv1x1.bias"].copy_(
        torch.tensor((POINTS[None] * (sides / priors / 0.1)[:, None, None]).reshape(-1))
    )
    return state


def antelopev2_zip(path: Path, folder: str, without: str = "") -> Path:
    """An archive of the pack at `path`, each network under `folder`. without: the name of one that
    is left out.
    """
    with zipfile.ZipFile(path, "w") as opened:
        for file in sorted(write_antelopev2(path.parent / "pack").glob("*.onnx")):
            if file.name != without:
                opened.write(file, f"{folder}{file.name}")
    return path


def bisenet_state() -> dict:
    """Weights that call every pixel skin (label 1)."""
    import torch
    from facexlib.parsing.bisenet import BiSeNet

    state = BiSeNet(num_class=19).state_dict()
    for name, tensor in state.items():
        tensor.fill_(1 if name.endswith("running_var") else 0)
    state["conv_out.conv.bn.bias"][0] = 1
    state["conv_out.conv_out.weight"][1, 0] = torch.tensor(1.0)
    return state


def eva_state(name: str = "eva_small") -> dict:
    """The golden tower's tensors in the original `visual.*` layout, float32."""
    import torch

    shapes = json.loads((GOLDEN / f"{name}_shapes.json").read_text())["shapes"]
    return {
        key: torch.from_numpy(value)
        for key, value in seeded_state({k: tuple(s) for k, s in shapes.items()}).items()
    }


def pulid_state(dim: int = 64, cond_dim: int = 512 + 96, vit_dim: int = 128) -> dict:
    """A narrow IDFormer of the real depth, 32 tokens of 2048, and one tensor of pulid_ca."""
    import torch

    from pulid_extract.networks.idformer import IDFormer

    model = IDFormer(
        dim=dim,
        inner=dim,
        ff_dim=2 * dim,
        mapping_dim=dim,
        cond_dim=cond_dim,
        vit_dims=(vit_dim,) * 5,
        output_dim=2048,
    )
    shapes = {
        f"pulid_encoder.{name}": tuple(tensor.shape) for name, tensor in model.state_dict().items()
    }
    state = {
        name: torch.from_numpy(value).bfloat16() for name, value in seeded_state(shapes).items()
    }
    state["pulid_encoder.latents"] = torch.from_numpy(seeded("latents", (1, 32, dim))).bfloat16()
    return {**state, "pulid_ca.0.norm1.weight": torch.ones(2048, dtype=torch.bfloat16)}


@functools.cache
def models_folder() -> Path:
    """A models folder with one file for every role of pulid-extract, made once a run. Tests copy
    what they damage.
    """
    import torch
    from safetensors.torch import save_file

    folder = Path(tempfile.mkdtemp(prefix="pulid-extract-world-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    write_antelopev2(folder / "antelopev2")
    torch.save(retinaface_state(), folder / "detection_Resnet50_Final.pth")
    torch.save(
        {f"module.{name}": tensor for name, tensor in bisenet_state().items()},
        folder / "parsing_bisenet.pth",
    )
    torch.save({name: tensor.half() for name, tensor in eva_state().items()}, folder / "eva.pt")
    save_file(pulid_state(), folder / "pulid.safetensors")
    return folder


@functools.cache
def loaded_retinaface():
    from pulid_extract.networks.retinaface import load_retinaface

    return load_retinaface(models_folder() / "detection_Resnet50_Final.pth")


def models() -> tuple[str, ...]:
    """The flags of a run of pulid-extract on the small world's models."""
    return "--models-dir", str(models_folder()), "--device", "cpu"
