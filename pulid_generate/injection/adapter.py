"""PuLID's layers: from a PuLID-FLUX file to one module per hook, bound to one identity.

Knows the file and its seven tensors per layer; nothing of Flux's blocks, of weights or of steps.

Shapes: B batch, L image tokens, N identity tokens, D Flux width, C token width, H heads of 128.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from pulid_extract.shared.model_files import PULID, Header, check_role, read_header
from pulid_generate.errors import IdentityError, WeightsError
from pulid_generate.files.layouts import HEAD_WIDTH
from pulid_generate.files.storage import DESCRIBING_ENDINGS
from pulid_generate.injection.attention import (
    FoldedAttention,
    PerceiverAttentionCA,
    PlainAttention,
)
from pulid_generate.models.tensor_files import read_tensors

PREFIX = "pulid_ca."
# of a layer; a number of thousands of digits is no number of layers
NUMBER = re.compile(r"[0-9]{1,3}")
# of one layer, behind "pulid_ca.NUMBER."
LAYER_TENSORS = frozenset(
    (
        "norm1.weight",
        "norm1.bias",
        "norm2.weight",
        "norm2.bias",
        "to_q.weight",
        "to_kv.weight",
        "to_out.weight",
    )
)

Shapes = Mapping[str, tuple[int, ...]]


class _FileLayers(Sequence[Mapping[str, Tensor]]):
    """The layers of a file, each read when it is asked for and let go afterwards: 840 MB that need
    not stay mapped while Flux runs.
    """

    def __init__(self, header: Header, count: int):
        self._parts: list[Header] = []
        # per layer, without the file's prefix
        self.shapes: list[Shapes] = []
        for index in range(count):
            prefix = f"{PREFIX}{index}."
            tensors = {n: entry for n, entry in header.tensors.items() if n.startswith(prefix)}
            self._parts.append(replace(header, tensors=tensors))
            self.shapes.append(
                {
                    name.removeprefix(prefix): shape
                    for name, (_, shape) in tensors.items()
                    if not name.endswith(DESCRIBING_ENDINGS)
                }
            )

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index):
        prefix = f"{PREFIX}{index}."
        tensors = read_tensors(self._parts[index], (f"{prefix}to_q.weight",), "cpu", None)
        return {name.removeprefix(prefix): tensor for name, tensor in tensors}


class PulidAdapter:
    """The `pulid_ca.*` layers of a PuLID-FLUX file, left on disk until an identity is folded
    through them, one at a time. `len` is their number.

    source: the file, for messages. dim: the width of the Flux they are made for (D). token_dim: the
    width of an identity's tokens (C). heads: H.
    """

    def __init__(self, layers: Sequence[Mapping[str, Tensor]], source: str = "PuLID weights"):
        """layers: per layer, the seven tensors of PerceiverAttentionCA. Raises WeightsError if one
        is missing or of another size.
        """
        self.source = source
        self._layers = layers
        if not layers:
            raise WeightsError(
                f"{source}: holds no pulid_ca layers; use pulid_flux_v0.9.1.safetensors"
            )
        if isinstance(layers, _FileLayers):
            shapes = layers.shapes
        else:
            shapes = [_shapes_of(layer) for layer in layers]
        for index, layer in enumerate(shapes):
            _check_layer(f"{source}: {PREFIX}{index}", layer)
        sizes = {(layer["norm2.weight"][0], layer["norm1.weight"][0]) for layer in shapes}
        if len(sizes) > 1:
            raise WeightsError(f"{source}: its pulid_ca layers differ in width: {sorted(sizes)}")
        self.dim, self.token_dim = sizes.pop()
        self.heads = shapes[0]["to_q.weight"][0] // HEAD_WIDTH

    @classmethod
    def load(cls, path: str | Path) -> PulidAdapter:
        """Open a PuLID-FLUX safetensors file: names and shapes are checked, no weight is read yet.
        Raises WeightsError.
        """
        header = read_header(path)
        check_role(header, PULID)
        numbers: set[int] = set()
        for name in header.tensors:
            if not name.startswith(PREFIX) or name.endswith(DESCRIBING_ENDINGS):
                continue
            number, _, _ = name.removeprefix(PREFIX).partition(".")
            if not NUMBER.fullmatch(number):
                raise WeightsError(
                    f"{path}: unexpected tensor {name!r}; use pulid_flux_v0.9.1.safetensors"
                )
            numbers.add(int(number))
        if numbers != set(range(len(numbers))):
            raise WeightsError(
                f"{path}: pulid_ca layers are {sorted(numbers)}, "
                f"expected 0 to {len(numbers) - 1} without gaps"
            )
        return cls(_FileLayers(header, len(numbers)), str(path))

    def __len__(self) -> int:
        return len(self._layers)

    def check_tokens(self, shape: tuple[int, ...], where: str = "identity") -> None:
        """Raise IdentityError, naming both files, if tokens of this shape were not made for these
        layers.
        """
        if len(shape) != 2 or shape[0] < 1 or shape[1] != self.token_dim:
            raise IdentityError(
                f"{where}: the identity's tokens are {'x'.join(map(str, shape))}, "
                f"{self.source} wants rows of {self.token_dim}; extract it again with that file"
            )

    def bind(
        self,
        tokens: np.ndarray | Tensor,
        dtype: torch.dtype,
        device: torch.device | str,
        *,
        folded: bool | None = None,
        where: str = "identity",
    ) -> tuple[nn.Module, ...]:
        """One module per layer, each a function (B, L, D) -> (B, L, D) for this identity.

        tokens: (N, C) or (1, N, C), finite. folded: None chooses the smaller form (folded while N <
        128). where: the identity, for messages. Raises IdentityError for another rank or width,
        WeightsError for layers with NaN or infinite numbers.
        """
        tokens = tokens if isinstance(tokens, Tensor) else torch.as_tensor(np.asarray(tokens))
        if tokens.ndim == 3 and tokens.shape[0] == 1:
            tokens = tokens[0]
        self.check_tokens(tuple(tokens.shape), where)
        if not torch.isfinite(tokens).all():
            raise IdentityError(
                f"{where}: the identity tokens hold NaN or infinite values; extract it again"
            )
        if folded is None:
            # H * N rows against H * 128: two matrices against q and out
            folded = tokens.shape[0] < HEAD_WIDTH
        modules: list[nn.Module] = []
        for index, state in enumerate(self._layers):
            layer = PerceiverAttentionCA.from_state(state)
            module: nn.Module
            if folded:
                module = FoldedAttention(layer, tokens, dtype, device)
            else:
                module = PlainAttention(layer.to(device, dtype), tokens.to(device, dtype))
            if not _is_finite(module):
                raise WeightsError(
                    f"{self.source}: {PREFIX}{index} holds NaN or infinite numbers; "
                    "download it again"
                )
            modules.append(module)
        return tuple(modules)


def _is_finite(module: nn.Module) -> bool:
    tensors = (*module.buffers(), *module.parameters())
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def _shapes_of(layer: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in layer.items()}


def _check_layer(where: str, layer: Shapes) -> None:
    missing, unknown = LAYER_TENSORS - set(layer), set(layer) - LAYER_TENSORS
    if missing or unknown:
        raise WeightsError(
            f"{where}: missing {sorted(missing) or 'nothing'}, "
            f"unknown {sorted(unknown) or 'nothing'}; not a PuLID-FLUX file"
        )
    for name, shape in layer.items():
        if len(shape) != (2 if name.startswith("to_") else 1):
            raise WeightsError(
                f"{where}: {name} has shape {shape}; the file is damaged, download it again"
            )
    dim, token_dim = layer["norm2.weight"][0], layer["norm1.weight"][0]
    inner = layer["to_q.weight"][0]
    expected = {
        "norm1.bias": (token_dim,),
        "norm2.bias": (dim,),
        "to_q.weight": (inner, dim),
        "to_kv.weight": (2 * inner, token_dim),
        "to_out.weight": (dim, inner),
    }
    wrong = []
    for name, shape in expected.items():
        if layer[name] != shape:
            wrong.append(f"{name} {layer[name]}, expected {shape}")
    if inner % HEAD_WIDTH:
        wrong.append(f"to_q has {inner} rows, which is not a multiple of {HEAD_WIDTH}")
    if wrong:
        raise WeightsError(f"{where}: {'; '.join(wrong)}")
