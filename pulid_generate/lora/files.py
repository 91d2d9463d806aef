"""A LoRA file -> what it changes, by the layer names that the file uses. What is no LoRA for Flux
is refused by name.

Every tensor is accounted for: a layer's change, or zeros that add nothing. Knows no model until
`resolve` is given its layers.

Sources: kohya-ss/sd-scripts networks/lora_flux.py (alpha); ComfyUI
comfy/weight_adapter/{loha,lokr}.py (what alpha means there); peft src/peft/tuners/lora/layer.py
(the bias of lora_B is scaled).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from pulid_extract.shared.model_files import Header, kind_of, read_header
from pulid_generate.errors import WeightsError
from pulid_generate.files.model import Model
from pulid_generate.lora.changes import (
    Biased,
    Change,
    Decomposed,
    Hadamard,
    Kronecker,
    Matrix,
    Product,
)
from pulid_generate.lora.leaves import (
    CONTROL,
    LOHA,
    LOKR,
    LORA,
    MATRICES,
    grouped,
    meaning_of,
    refusal_of,
)
from pulid_generate.lora.names import GUIDANCE_LAYERS, UNUSED, Target, split_prefix, targets
from pulid_generate.lora.peft import PeftSettings, read_peft

# peft's, of each model
Settings = Mapping[Model, PeftSettings]


@dataclass(frozen=True)
class LoraFile:
    """What a file holds."""

    path: Path
    # the file's name of a layer -> its change, for each model that the file is for
    products: Mapping[Model, Mapping[str, Change]] = field(default_factory=dict)

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
    if refusal := refusal_of(header.tensors):
        raise WeightsError(f"{path}: is {refusal}; use a LoRA for FLUX.1")
    try:
        groups, others = grouped(header.tensors)
    except ValueError as error:
        raise WeightsError(f"{path}: {error}; use a file with one adapter") from None
    if not any(MATRICES & set(group) for group in groups.values()):
        raise WeightsError(
            f"{path}: holds no lora_A or lora_down, no LoHa and no LoKr{_kind(header)}; "
            "give a LoRA for FLUX.1"
        )
    if refusal := refusal_of(others, [CONTROL]):
        raise WeightsError(f"{path}: is {refusal}; use a plain LoRA for FLUX.1")
    # a bias that changes by itself, as extracts of whole models have them
    for name in [name for name, group in groups.items() if set(group) == {"bias"}]:
        others.append(groups.pop(name)["bias"])
    try:
        with safe_open(header.path, framework="pt") as file:
            for name in sorted(others):
                if file.get_tensor(name).float().any():
                    raise WeightsError(f"{path}: {name} {meaning_of(name)}; use a plain LoRA")
            settings = read_peft(Path(path), header.metadata)
            products: dict[Model, dict[str, Change]] = {}
            for name, group in groups.items():
                model, layer = split_prefix(name)
                tensors = {kind: file.get_tensor(tensor) for kind, tensor in group.items()}
                change = _change(f"{path}: {name}", name, tensors, settings)
                products.setdefault(model, {})[layer] = change
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


def _change(where: str, name: str, tensors: dict[str, Tensor], settings: Settings) -> Change:
    """What the tensors of one layer are together. Raises WeightsError."""
    # some trainers store a linear layer as a convolution of one pixel
    flat = {}
    for kind, tensor in tensors.items():
        one_pixel = tensor.ndim == 4 and tensor.shape[2:] == (1, 1)
        flat[kind] = tensor.flatten(1) if one_pixel else tensor
    alphas = flat["alpha"].float().reshape(-1).tolist() if "alpha" in flat else []
    finite = all(torch.isfinite(tensor.float()).all() for tensor in flat.values())
    if len(alphas) > 1 or not finite:
        raise WeightsError(
            f"{where}: holds NaN or infinite numbers, or several alphas; "
            "the file is damaged, download it again"
        )
    alpha = alphas[0] if alphas else None
    model, layer = split_prefix(name)
    own = settings.get(model, PeftSettings())
    if flat.keys() & set(LOHA):
        matrix, scale = _hadamard(where, flat, alpha)
    elif flat.keys() & set(LOKR):
        matrix, scale = _kronecker(where, flat, alpha)
    else:
        matrix, scale = _product(where, flat, own.alpha_of(layer) if alpha is None else alpha, own)
    return _beside(where, matrix, scale, flat, own)


def _product(
    where: str, tensors: dict[str, Tensor], alpha: float | None, own: PeftSettings
) -> tuple[Matrix, float]:
    down, up = _all_of(where, tensors, LORA)
    _check_pair(where, up, down)
    rank = down.shape[0]
    if alpha is None:
        alpha = rank
    scale = alpha / (math.sqrt(rank) if own.is_rank_stabilised else rank)
    return Product(down, up, scale), scale


def _hadamard(where: str, tensors: dict[str, Tensor], alpha: float | None) -> tuple[Matrix, float]:
    a1, b1, a2, b2 = _all_of(where, tensors, LOHA)
    _check_pair(where, a1, b1)
    _check_pair(where, a2, b2)
    if (a1.shape[0], b1.shape[1]) != (a2.shape[0], b2.shape[1]):
        raise WeightsError(
            f"{where}: its two products have other shapes; the file is damaged, download it again"
        )
    scale = 1.0 if alpha is None else alpha / b1.shape[0]
    matrix = Hadamard(a1, b1, a2, b2, scale)
    return matrix.as_product() or matrix, scale


def _kronecker(where: str, tensors: dict[str, Tensor], alpha: float | None) -> tuple[Matrix, float]:
    """alpha is divided by the rank of a factor that is a product of two; without any it means
    nothing.
    """
    factors, rank = [], None
    for whole in ("lokr_w1", "lokr_w2"):
        if whole in tensors:
            factor = tensors[whole]
            if factor.ndim != 2 or not factor.numel():
                raise WeightsError(
                    f"{where}: {whole} is {_size(factor)}, expected a matrix; the file is damaged"
                )
        else:
            first, second = _all_of(where, tensors, (f"{whole}_a", f"{whole}_b"))
            _check_pair(where, first, second)
            factor, rank = first.float() @ second.float(), second.shape[0]
        factors.append(factor)
    scale = 1.0 if alpha is None or rank is None else alpha / rank
    return Kronecker.whole(factors[0], factors[1], scale), scale


def _beside(
    where: str, matrix: Matrix, scale: float, tensors: dict[str, Tensor], own: PeftSettings
) -> Change:
    """The matrix with what else is said of its layer. scale: that of its numbers."""
    outputs, inputs = matrix.shape
    biases = []
    if "up_bias" in tensors:
        biases.append(tensors["up_bias"].float() * scale)
    if "bias" in tensors:
        biases.append(tensors["bias"].float())
    if any(bias.shape != (outputs,) for bias in biases):
        raise WeightsError(f"{where}: its bias is not {outputs} numbers; the file is damaged")
    if "magnitude" in tensors:
        magnitude = tensors["magnitude"]
        of_rows = magnitude.shape in ((outputs,), (outputs, 1))
        if not of_rows and magnitude.shape != (1, inputs):
            raise WeightsError(
                f"{where}: its magnitudes are {_size(magnitude)}, expected {outputs}, "
                f"or 1x{inputs}; the file is damaged"
            )
        if any(bias.any() for bias in biases):
            raise WeightsError(
                f"{where}: is a DoRA that changes the bias as well; use a plain LoRA"
            )
        return Decomposed(matrix, magnitude.reshape(-1), of_rows)
    if own.is_dora:
        raise WeightsError(
            f"{where}: is a DoRA (use_dora in its description) without its magnitudes; "
            "download it again"
        )
    if biases:
        return Biased(matrix, torch.stack(biases).sum(0))
    return matrix


def _all_of(where: str, tensors: dict[str, Tensor], kinds: Sequence[str]) -> list[Tensor]:
    """The tensors of these kinds. Raises WeightsError if one is not there."""
    missing = [kind for kind in kinds if kind not in tensors]
    if missing:
        raise WeightsError(
            f"{where}: lacks its {missing[0]} matrix; the file is incomplete, download it again"
        )
    return [tensors[kind] for kind in kinds]


def _check_pair(where: str, up: Tensor, down: Tensor) -> None:
    """Raise WeightsError for what are not (R, r) and (r, C)."""
    if down.ndim != 2 or up.ndim != 2 or up.shape[1] != down.shape[0] or not down.shape[0]:
        raise WeightsError(
            f"{where}: its matrices are {_size(up)} and {_size(down)}, which do not multiply; "
            "the file is damaged"
        )


def resolve(
    lora: LoraFile, model: Model, layers: Mapping[str, tuple[int, int]]
) -> dict[str, Change]:
    """The file's changes of one model by the layers' own names; fused ones split by rows.

    layers: name -> (outputs, inputs) of every linear layer, as `hooks.linear_shapes` gives them.
    Raises WeightsError, which names the first that belongs to no layer, or is of another
    size: a LoRA is applied whole or not at all.
    """
    table = targets(model, layers)
    absent = _left_out(model, table)
    resolved: dict[str, Change] = {}
    for name, change in lora.products.get(model, {}).items():
        # adds exactly nothing; ComfyUI's extracts have such
        if name in UNUSED.get(model, ()) or (name not in table and change.is_nothing):
            continue
        if name in absent:
            continue
        if name not in table:
            raise WeightsError(
                f"{lora.path}: {name} is not a layer of this {model}; "
                "the LoRA was made for another model"
            )
        target = table[name]
        rows = [layers[layer][0] for layer in target.layers]
        inputs = layers[target.layers[0]][1]
        if change.shape != (sum(rows), inputs):
            raise WeightsError(
                f"{lora.path}: {name} is for {change.shape[0]} x {change.shape[1]} "
                f"weights, this {model} has {sum(rows)} x {inputs}; "
                "the LoRA was made for another model"
            )
        for layer, part in _parts(change, target, rows):
            if layer in resolved:
                raise WeightsError(
                    f"{lora.path}: holds {layer} twice, under two names; use a file in one format"
                )
            resolved[layer] = part
    return resolved


def _parts(change: Change, target: Target, rows: Sequence[int]) -> list[tuple[str, Change]]:
    """Each layer of a target with its rows of the change."""
    parts: list[tuple[str, Change]] = []
    start = 0
    for layer, count in zip(target.layers, rows, strict=True):
        ranges = [(start, start + count)]
        if target.swapped:
            half = start + count // 2
            ranges = [(half, start + count), (start, half)]
        whole = len(target.layers) == 1 and not target.swapped
        parts.append((layer, change if whole else change.rows(ranges)))
        start += count
    if not isinstance(change, Decomposed) or change.of_rows:
        return parts
    # lengths of columns go through all the layers
    decomposed = [(layer, part) for layer, part in parts if isinstance(part, Decomposed)]
    shared = tuple((layer, part.matrix) for layer, part in decomposed)
    return [(layer, replace(part, shared=shared)) for layer, part in decomposed]


def left_out(lora: LoraFile, model: Model, layers: Mapping[str, tuple[int, int]]) -> list[str]:
    """The file's layers that this model does without, which changes nothing of the others: those of
    the guidance that schnell has not. layers: as for `resolve`.
    """
    absent = _left_out(model, targets(model, layers))
    return [name for name in lora.products.get(model, {}) if name in absent]


def _left_out(model: Model, table: Mapping[str, Target]) -> frozenset[str]:
    if model is not Model.FLUX:
        return frozenset()
    return frozenset(targets(model, GUIDANCE_LAYERS)) - table.keys()


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
