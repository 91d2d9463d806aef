"""A LoRA file -> its low-rank products, by the layer names that the file uses. What is not a plain
LoRA for Flux is refused by name.

Every tensor is accounted for: a product, its alpha, or zeros that add nothing. Knows no model until
`resolve` is given its layers.

Sources: kohya-ss/sd-scripts networks/lora_flux.py (alpha); KohakuBlueleaf/LyCORIS (what is
refused).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pulid_extract.shared.model_files import Header, kind_of, read_header
from pulid_generate.errors import WeightsError
from pulid_generate.files.model import Model
from pulid_generate.lora.names import UNUSED, split_prefix, targets
from pulid_generate.lora.peft import PeftSettings, read_peft

DOWN = (
    "lora_down.weight",
    "lora_A.weight",
    "lora_A.default.weight",
    "lora.down.weight",
    "lora_linear_layer.down.weight",
    "down.weight",
)
UP = (
    "lora_up.weight",
    "lora_B.weight",
    "lora_B.default.weight",
    "lora.up.weight",
    "lora_linear_layer.up.weight",
    "up.weight",
)
ALPHA = ("alpha",)
# end of a tensor's name -> what it is of its product
LEAVES = dict.fromkeys(DOWN, "down") | dict.fromkeys(UP, "up") | dict.fromkeys(ALPHA, "alpha")
LEAF = re.compile(rf"(?P<layer>.+?)\.(?P<leaf>{'|'.join(re.escape(leaf) for leaf in LEAVES)})")

UNET_BLOCKS = "input_blocks|output_blocks|middle_block|down_blocks|up_blocks|mid_block"
# What cannot be added as a low-rank product of a linear layer of Flux: pattern in a tensor's name
# -> what the file is
REFUSED = (
    (r"\.hada_", "a LoHa"),
    (r"\.lokr_", "a LoKr"),
    (r"\.(dora_scale|lora_magnitude_vector)", "a DoRA"),
    (r"\.(lora_mid|hada_t|lokr_t)", "a LoCon with a middle matrix"),
    (r"\.(oft_|boft_)", "an OFT"),
    (r"lora_controlnet|^control_model", "a ControlNet"),
    (rf"(^|unet[._])({UNET_BLOCKS})[._].*lora", "a LoRA for SD 1.5 or SDXL"),
    (rf"^lora_unet_({UNET_BLOCKS})_", "a LoRA for SD 1.5 or SDXL"),
    (r"joint_blocks[._].*lora", "a LoRA for SD 3"),
    (r"^lora_unet_joint_blocks_", "a LoRA for SD 3"),
)
# beside its matrices, such a file has norms, and a wider img_in
CONTROL = re.compile(r"norm\.(query|key)_norm\.scale$")

# peft's, of each model
Settings = Mapping[Model, PeftSettings]


@dataclass(frozen=True)
class Product:
    """What is added to the output of one layer: y += scale * (x down^T) up^T.

    Shapes: C inputs, R outputs, r the rank.
    """

    # (r, C) and (R, r), as stored
    down: Tensor
    up: Tensor
    # alpha / r
    scale: float


@dataclass(frozen=True)
class LoraFile:
    """What a file holds."""

    path: Path
    # the file's name of a layer -> its product, for each model that the file is for
    products: Mapping[Model, Mapping[str, Product]] = field(default_factory=dict)

    @property
    def models(self) -> tuple[Model, ...]:
        """The models that the file is for."""
        return tuple(self.products)


def read_lora(path: str | Path) -> LoraFile:
    """Read a LoRA. Its matrices stay memory-mapped. Raises WeightsError for whatever cannot be
    applied whole.
    """
    from safetensors import SafetensorError, safe_open

    header = read_header(path)
    if header.format != "safetensors":
        raise WeightsError(
            f"{path}: is a {header.format} file; "
            "only LoRA files in safetensors are read, convert it"
        )
    for pattern, what in REFUSED:
        for name in header.tensors:
            if re.search(pattern, name):
                raise WeightsError(f"{path}: is {what} ({name}); use a plain LoRA for FLUX.1")
    groups, others = _grouped(header.tensors)
    if not any({"down", "up"} & set(group) for group in groups.values()):
        raise WeightsError(
            f"{path}: holds no lora_A or lora_down{_kind(header)}; give a LoRA for FLUX.1"
        )
    try:
        with safe_open(header.path, framework="pt") as file:
            for name in others:
                if CONTROL.search(name):
                    raise WeightsError(
                        f"{path}: is a control LoRA, FLUX.1 Canny or Depth ({name}); "
                        "use a plain LoRA for FLUX.1"
                    )
                if file.get_tensor(name).float().any():
                    raise WeightsError(
                        f"{path}: {name} is not part of a plain LoRA and cannot be applied; "
                        "use a plain LoRA for FLUX.1"
                    )
            settings = read_peft(Path(path), header.metadata)
            if any(own.is_dora for own in settings.values()):
                raise WeightsError(
                    f"{path}: is a DoRA (use_dora in its description); use a plain LoRA for FLUX.1"
                )
            products: dict[Model, dict[str, Product]] = {}
            for name, group in groups.items():
                model, layer = split_prefix(name)
                tensors = {kind: file.get_tensor(tensor) for kind, tensor in group.items()}
                product = _product(f"{path}: {name}", name, tensors, settings)
                products.setdefault(model, {})[layer] = product
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: damaged safetensors file ({error}); download it again"
        ) from None
    return LoraFile(Path(path), products)


def _kind(header: Header) -> str:
    try:
        return f", it is: {kind_of(header).name}"
    except WeightsError:
        # of no known kind
        return ""


def _grouped(names: Mapping[str, Any]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """(layer -> {"down" | "up" | "alpha": tensor}, the names that are none of these)."""
    groups: dict[str, dict[str, str]] = {}
    others = []
    for name in sorted(names):
        match = LEAF.fullmatch(name)
        if match:
            groups.setdefault(match["layer"], {})[LEAVES[match["leaf"]]] = name
        else:
            others.append(name)
    return groups, others


def _product(where: str, name: str, tensors: dict[str, Tensor], settings: Settings) -> Product:
    if "down" not in tensors or "up" not in tensors:
        missing = "up" if "down" in tensors else "down"
        raise WeightsError(
            f"{where}: lacks its {missing} matrix; the file is incomplete, download it again"
        )
    down, up = tensors["down"], tensors["up"]
    if down.ndim != 2 or up.ndim != 2 or up.shape[1] != down.shape[0] or not down.shape[0]:
        raise WeightsError(
            f"{where}: its matrices are {_size(up)} and {_size(down)}, which do not multiply; "
            "the file is damaged"
        )
    alpha = tensors["alpha"].float().reshape(-1).tolist() if "alpha" in tensors else []
    finite = all(torch.isfinite(tensor.float()).all() for tensor in tensors.values())
    if len(alpha) > 1 or not finite:
        raise WeightsError(
            f"{where}: holds NaN or infinite numbers, or several alphas; "
            "the file is damaged, download it again"
        )
    return Product(down, up, _scale(name, down.shape[0], alpha[0] if alpha else None, settings))


def _scale(name: str, rank: int, alpha: float | None, settings: Settings) -> float:
    """alpha / rank; alpha is the layer's own, the file's, or the rank."""
    model, layer = split_prefix(name)
    own = settings.get(model, PeftSettings())
    if alpha is None:
        alpha = own.alpha_of(layer)
    if alpha is None:
        alpha = rank
    return alpha / (math.sqrt(rank) if own.is_rank_stabilised else rank)


def resolve(
    lora: LoraFile, model: Model, layers: Mapping[str, tuple[int, int]]
) -> dict[str, Product]:
    """The file's products of one model by the layers' own names; fused ones split by rows.

    layers: name -> (outputs, inputs) of every linear layer, as `hooks.linear_shapes` gives them.
    Raises WeightsError, which names the first product that belongs to no layer, or is of another
    size: a LoRA is applied whole or not at all.
    """
    table = targets(model, layers)
    resolved: dict[str, Product] = {}
    for name, product in lora.products.get(model, {}).items():
        if name in UNUSED.get(model, ()):
            continue
        if name not in table:
            if not product.up.float().any() or not product.scale:
                # adds exactly nothing; ComfyUI's extracts have such
                continue
            raise WeightsError(
                f"{lora.path}: {name} is not a layer of this {model}; "
                "the LoRA was made for another model"
            )
        target = table[name]
        rows = [layers[layer][0] for layer in target.layers]
        inputs = layers[target.layers[0]][1]
        if product.up.shape[0] != sum(rows) or product.down.shape[1] != inputs:
            raise WeightsError(
                f"{lora.path}: {name} is for {product.up.shape[0]} x {product.down.shape[1]} "
                f"weights, this {model} has {sum(rows)} x {inputs}; "
                "the LoRA was made for another model"
            )
        up = torch.cat(product.up.chunk(2)[::-1]) if target.swapped else product.up
        for layer, part in zip(target.layers, up.split(rows), strict=True):
            if layer in resolved:
                raise WeightsError(
                    f"{lora.path}: holds {layer} twice, under two names; use a file in one format"
                )
            resolved[layer] = Product(product.down, part, product.scale)
    return resolved


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
