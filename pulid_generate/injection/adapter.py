"""TODO"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pulid_extract.shared.model_files import PULID, Header, check_role, read_header
from pulid_generate.errors import IdentityError, WeightsError
from pulid_generate.injection.attention import (
    HEAD_WIDTH,
    FoldedAttention,
    PerceiverAttentionCA,
    PlainAttention,
)
from pulid_generate.models.tensor_files import IGNORED_ENDINGS, SCALE_ENDINGS, read_tensors

if TYPE_CHECKING:
    pass


DESCRIBING = SCALE_ENDINGS + IGNORED_ENDINGS  # of fp8 files: tensors about other tensors


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


class _FileLayers(Sequence[Mapping[str, Tensor]]):
    """The layers of a file, each read when it is asked for and let go afterwards: 840 MB that need
    not stay mapped while Flux runs.
    """

    def __init__(self, header: Header, count: int):
        self._header = header
        own = [
            {n: e for n, e in header.tensors.items() if n.startswith(f"pulid_ca.{index}.")}
            for index in range(count)
        ]
        self._parts = [replace(header, tensors=tensors) for tensors in own]
        self.shapes = [
            {
                name.split(".", 2)[2]: shape
                for name, (_, shape) in tensors.items()
                if not name.endswith(DESCRIBING)
            }
            for tensors in own
        ]

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index):
        part = self._parts[index]
        marker = f"pulid_ca.{index}.to_q.weight"
        return {
            name.split(".", 2)[2]: tensor
            for name, tensor in read_tensors(part, marker, "cpu", None)
        }


class PulidAdapter:
    """The `pulid_ca.*` layers of a PuLID-FLUX file, left on disk until an identity is folded
    through them, one at a time.
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
        shapes = (
            layers.shapes
            if isinstance(layers, _FileLayers)
            else [_shapes_of(layer) for layer in layers]
        )
        for index, found in enumerate(shapes):
            _check_layer(f"{source}: pulid_ca.{index}", found)
        sizes = {(found["norm2.weight"][0], found["norm1.weight"][0]) for found in shapes}
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
        layers: dict[int, dict[str, tuple[str, tuple[int, ...]]]] = {}
        for name, entry in header.tensors.items():
            if not name.startswith("pulid_ca.") or name.endswith(DESCRIBING):
                continue
            index, _, _ = name.removeprefix("pulid_ca.").partition(".")
            if not index.isdigit():
                raise WeightsError(
                    f"{path}: unexpected tensor {name!r}; use pulid_flux_v0.9.1.safetensors"
                )
            layers.setdefault(int(index), {})[name] = entry
        if sorted(layers) != list(range(len(layers))):
            raise WeightsError(
                f"{path}: pulid_ca layers are {sorted(layers)}, expected 0 to {len(layers) - 1} without gaps"
            )
        return cls(_FileLayers(header, len(layers)), str(path))

    def __len__(self) -> int:
        return len(self._layers)

    def check_tokens(self, shape: tuple[int, ...], where: str = "identity") -> None:
        """Raise IdentityError, naming both files, if tokens of this shape were not made for these
        layers.
        """
        if len(shape) != 2 or shape[0] < 1 or shape[1] != self.token_dim:
            raise IdentityError(
                f"{where}: the identity's tokens are {'x'.join(map(str, shape))}, {self.source} wants rows of {self.token_dim}; "
                "extract it again with that file"
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
        128). Raises IdentityError for another rank or width.
        """
        tokens = torch.as_tensor(np.asarray(tokens) if not isinstance(tokens, Tensor) else tokens)
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
        for state in self._layers:
            layer = PerceiverAttentionCA.from_state(state)
            if folded:
                modules.append(FoldedAttention(layer, tokens, dtype, device))
            else:
                modules.append(PlainAttention(layer.to(device, dtype), tokens.to(device, dtype)))
            if not all(
                torch.isfinite(tensor).all()
                for tensor in (*modules[-1].buffers(), *modules[-1].parameters())
            ):
                raise WeightsError(
                    f"{self.source}: pulid_ca.{len(modules) - 1} holds NaN or infinite numbers; download it again"
                )
        return tuple(modules)


def _shapes_of(layer: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in layer.items()}


def _check_layer(where: str, layer: Mapping[str, tuple[int, ...]]) -> None:
    missing, unknown = LAYER_TENSORS - set(layer), set(layer) - LAYER_TENSORS
    if missing or unknown:
        raise WeightsError(
            f"{where}: missing {sorted(missing) or 'nothing'}, unknown {sorted(unknown) or 'nothing'}; not a PuLID-FLUX file"
        )
    flat = [
        name for name, shape in layer.items() if len(shape) != (2 if name.startswith("to_") else 1)
    ]
    if flat:
        raise WeightsError(
            f"{where}: {flat[0]} has shape {layer[flat[0]]}; the file is damaged, download it again"
        )
    dim, token_dim = layer["norm2.weight"][0], layer["norm1.weight"][0]
    inner = layer["to_q.weight"][0]
    wanted = {
        "norm1.bias": (token_dim,),
        "norm2.bias": (dim,),
        "to_q.weight": (inner, dim),
        "to_kv.weight": (2 * inner, token_dim),
        "to_out.weight": (dim, inner),
    }
    wrong = [
        f"{name} {layer[name]}, expected {shape}"
        for name, shape in wanted.items()
        if layer[name] != shape
    ]
    if wrong or inner % HEAD_WIDTH:
        raise WeightsError(
            f"{where}: {'; '.join(wrong) or f'to_q has {inner} rows, no multiple of {HEAD_WIDTH}'}"
        )
