"""Where PuLID's layers meet Flux: hook points by block number, and the context manager that attaches them.

Works on any diffusers FluxTransformer2DModel, this toolkit's or a stock pipeline's. Behaviour is added by forward hooks, so leaving
the context gives back the very same model. Knows nothing of prompts, schedules or steps, nor of how a region was drawn.
Shapes: B batch, b batch elements that show a person, L image tokens, K tokens of a region, N identity tokens, D Flux width, C token width.

Source of the hook points: ToTheBeginning/PuLID 1aa2fc7, flux/model.py (pulid_double_interval, pulid_single_interval).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from pulid_extract.shared.model_files import PULID, Header, check_role, read_header
from pulid_generate.errors import IdentityError, WeightsError
from pulid_generate.injection.attention import HEAD_WIDTH, FoldedAttention, PerceiverAttentionCA, PlainAttention
from pulid_generate.models.tensor_files import IGNORED_ENDINGS, SCALE_ENDINGS, read_tensors

if TYPE_CHECKING:
    from pulid_extract.shared.embedding_file import Embedding

DOUBLE_INTERVAL = 2  # after double blocks 0, 2, .. 18
SINGLE_INTERVAL = 4  # after single blocks 0, 4, .. 36

DESCRIBING = SCALE_ENDINGS + IGNORED_ENDINGS  # of fp8 files: tensors about other tensors
LAYER_TENSORS = frozenset(
    ("norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias", "to_q.weight", "to_kv.weight", "to_out.weight")
)


class _FileLayers(Sequence[Mapping[str, Tensor]]):
    """The layers of a file, each read when it is asked for and let go afterwards: 840 MB that need not stay mapped while Flux runs."""

    def __init__(self, header: Header, count: int):
        self._header = header
        own = [{n: e for n, e in header.tensors.items() if n.startswith(f"pulid_ca.{index}.")} for index in range(count)]
        self._parts = [replace(header, tensors=tensors) for tensors in own]
        self.shapes = [
            {name.split(".", 2)[2]: shape for name, (_, shape) in tensors.items() if not name.endswith(DESCRIBING)}
            for tensors in own
        ]

    def __len__(self) -> int:
        return len(self._parts)

    def __getitem__(self, index):
        part = self._parts[index]
        marker = f"pulid_ca.{index}.to_q.weight"
        return {name.split(".", 2)[2]: tensor for name, tensor in read_tensors(part, marker, "cpu", None)}


class PulidAdapter:
    """The `pulid_ca.*` layers of a PuLID-FLUX file, left on disk until an identity is folded through them, one at a time."""

    def __init__(self, layers: Sequence[Mapping[str, Tensor]], source: str = "PuLID weights"):
        """layers: per layer, the seven tensors of PerceiverAttentionCA. Raises WeightsError if one is missing or of another size."""
        self.source = source
        self._layers = layers
        if not layers:
            raise WeightsError(f"{source}: holds no pulid_ca layers; use pulid_flux_v0.9.1.safetensors")
        shapes = layers.shapes if isinstance(layers, _FileLayers) else [_shapes_of(layer) for layer in layers]
        for index, found in enumerate(shapes):
            _check_layer(f"{source}: pulid_ca.{index}", found)
        sizes = {(found["norm2.weight"][0], found["norm1.weight"][0]) for found in shapes}
        if len(sizes) > 1:
            raise WeightsError(f"{source}: its pulid_ca layers differ in width: {sorted(sizes)}")
        self.dim, self.token_dim = sizes.pop()
        self.heads = shapes[0]["to_q.weight"][0] // HEAD_WIDTH

    @classmethod
    def load(cls, path: str | Path) -> PulidAdapter:
        """Open a PuLID-FLUX safetensors file: names and shapes are checked, no weight is read yet. Raises WeightsError."""
        header = read_header(path)
        check_role(header, PULID)
        layers: dict[int, dict[str, tuple[str, tuple[int, ...]]]] = {}
        for name, entry in header.tensors.items():
            if not name.startswith("pulid_ca.") or name.endswith(DESCRIBING):
                continue
            index, _, _ = name.removeprefix("pulid_ca.").partition(".")
            if not index.isdigit():
                raise WeightsError(f"{path}: unexpected tensor {name!r}; use pulid_flux_v0.9.1.safetensors")
            layers.setdefault(int(index), {})[name] = entry
        if sorted(layers) != list(range(len(layers))):
            raise WeightsError(f"{path}: pulid_ca layers are {sorted(layers)}, expected 0 to {len(layers) - 1} without gaps")
        return cls(_FileLayers(header, len(layers)), str(path))

    def __len__(self) -> int:
        return len(self._layers)

    def check_tokens(self, shape: tuple[int, ...], where: str = "identity") -> None:
        """Raise IdentityError, naming both files, if tokens of this shape were not made for these layers."""
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

        tokens: (N, C) or (1, N, C), finite. folded: None chooses the smaller form (folded while N < 128).
        Raises IdentityError for another rank or width.
        """
        tokens = torch.as_tensor(np.asarray(tokens) if not isinstance(tokens, Tensor) else tokens)
        if tokens.ndim == 3 and tokens.shape[0] == 1:
            tokens = tokens[0]
        self.check_tokens(tuple(tokens.shape), where)
        if not torch.isfinite(tokens).all():
            raise IdentityError(f"{where}: the identity tokens hold NaN or infinite values; extract it again")
        if folded is None:
            folded = tokens.shape[0] < HEAD_WIDTH  # H * N rows against H * 128: two matrices against q and out
        modules: list[nn.Module] = []
        for state in self._layers:
            layer = PerceiverAttentionCA.from_state(state)
            if folded:
                modules.append(FoldedAttention(layer, tokens, dtype, device))
            else:
                modules.append(PlainAttention(layer.to(device, dtype), tokens.to(device, dtype)))
            if not all(torch.isfinite(tensor).all() for tensor in (*modules[-1].buffers(), *modules[-1].parameters())):
                raise WeightsError(f"{self.source}: pulid_ca.{len(modules) - 1} holds NaN or infinite numbers; download it again")
        return tuple(modules)


@dataclass(eq=False)
class Term:
    """One person's share of what the hooks add. The weights may be changed between forwards; another place wants another Term.

    layers: one module per hook, (b, K, D) -> (b, K, D), as `PulidAdapter.bind` makes them.
    double, single: weights after the double and after the single blocks.
    region: None for every token, or (L,) floats from 0 to 1. Only tokens above 0 are computed, each scaled by its number, so that the
        cost falls with the area; what is added to the others is not small but nothing.
    rows: None for the whole batch, or the batch elements that show this person.
    Raises IdentityError for a region that is no such row of numbers or covers nothing, and for rows that repeat or are negative.
    """

    layers: Sequence[nn.Module]
    double: float = 1.0
    single: float = 1.0
    region: Tensor | np.ndarray | None = None
    rows: Sequence[int] | None = None
    _at: tuple[Tensor | slice, ...] | None = field(init=False, repr=False, default=None)
    _soft: Tensor | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        rows: Tensor | slice = slice(None)
        if self.rows is not None:
            if not self.rows or len(set(self.rows)) < len(self.rows) or min(self.rows) < 0:
                raise IdentityError(f"rows {list(self.rows)}: expected numbers of batch elements, from 0, each once")
            rows = torch.tensor(self.rows)
            self._at = (rows,)
        if self.region is not None:
            region = self.region if isinstance(self.region, Tensor) else torch.from_numpy(np.array(self.region, np.float32))
            region = region.float()
            if region.ndim != 1 or not ((region >= 0) & (region <= 1)).all():  # NaN fails both
                raise IdentityError(f"region of shape {tuple(region.shape)}: expected one number from 0 to 1 per image token")
            places = region.nonzero().flatten()
            if not len(places):
                raise IdentityError("region: covers no image token; the person would never be drawn")
            self._at = (rows[:, None] if isinstance(rows, Tensor) else rows, places)
            self._soft = region[places, None]

    def add(self, total: Tensor, img_tokens: Tensor, index: int, weight: float) -> Tensor:
        """total + weight * CA(img_tokens) where this person is, both (B, L, D); `total` elsewhere. index: of the layer.

        total: what earlier terms made of img_tokens, or img_tokens itself, which is never written to.
        """
        # a stock pipeline with CPU offload has its weights elsewhere when `inject` is entered; the layers follow the tokens
        layer = self.layers[index].to(img_tokens.device)
        if self._at is None:
            # torch.add with alpha still evaluates 0 * CA, so a NaN in CA cannot hide behind weight 0
            return torch.add(total, layer(img_tokens), alpha=weight)
        self._check(img_tokens)
        at = self._at = tuple(part.to(img_tokens.device) if isinstance(part, Tensor) else part for part in self._at)
        added = layer(img_tokens[at])
        if self._soft is not None:
            self._soft = self._soft.to(img_tokens.device)
            added = added * self._soft.to(added.dtype)
        total = img_tokens.clone() if total is img_tokens else total
        total[at] = torch.add(total[at], added, alpha=weight)  # each place once: no accumulation whose order a GPU would choose
        return total

    def _check(self, img_tokens: Tensor) -> None:
        batch, tokens = img_tokens.shape[:2]
        if self.region is not None and len(self.region) != tokens:
            raise IdentityError(f"region of {len(self.region)} tokens: the picture has {tokens}; make it for the picture's size")
        if self.rows is not None and max(self.rows) >= batch:
            raise IdentityError(f"rows {list(self.rows)}: the batch has {batch} elements, numbered from 0")


@dataclass
class Injection:
    """The live state of the hooks: who is added, and how much of everyone. Change it between forwards at will.

    terms: one per person; empty adds nothing. Every CA reads the block's own output, so the order of terms does not matter.
    weight: a factor on every term's. At weight 0 the hooks still run and add 0 * CA.
    """

    terms: Sequence[Term] = ()
    weight: float = 1.0

    @property
    def layers(self) -> Sequence[nn.Module] | None:
        """One person over the whole picture, the usual case: that one's modules, or None for nobody. Setting it replaces all terms."""
        return self.terms[0].layers if self.terms else None

    @layers.setter
    def layers(self, layers: Sequence[nn.Module] | None) -> None:
        self.terms = () if layers is None else (Term(layers),)

    def add(self, img_tokens: Tensor, index: int, *, double: bool) -> Tensor:
        """(B, L, D) -> (B, L, D): what hook number `index` makes of the image tokens. double: whether it follows a double block."""
        total = img_tokens
        for term in self.terms:
            total = term.add(total, img_tokens, index, self.weight * (term.double if double else term.single))
        return total


def hook_points(transformer: Any) -> list[nn.Module]:
    """The blocks that PuLID's layers follow, in layer order: double blocks 0, 2, .. then single blocks 0, 4, .. by block number."""
    return [*transformer.transformer_blocks[::DOUBLE_INTERVAL], *transformer.single_transformer_blocks[::SINGLE_INTERVAL]]


def check_fit(adapter: PulidAdapter, dim: int, double: int, single: int, where: str = "the Flux model") -> None:
    """Raise IdentityError if the PuLID layers do not belong to a Flux of this width and these depths."""
    if adapter.dim != dim:
        raise IdentityError(
            f"{adapter.source}: made for a Flux of width {adapter.dim}, {where} has {dim}; they do not belong together"
        )
    hooks = -(-double // DOUBLE_INTERVAL) + -(-single // SINGLE_INTERVAL)
    if hooks != len(adapter):
        raise IdentityError(
            f"{adapter.source}: has {len(adapter)} pulid_ca layers, {where} ({double} double and {single} single blocks) has {hooks} "
            "places for them; a pruned Flux cannot be used, its layers belong to other block numbers"
        )


@contextlib.contextmanager
def attach(transformer: Any) -> Iterator[Injection]:
    """Attach idle hooks to a diffusers Flux transformer and yield their state; on leaving, the model is as it was."""
    injection = Injection()
    doubles = len(transformer.transformer_blocks[::DOUBLE_INTERVAL])

    def hook_for(index: int):
        @torch.compiler.disable  # traced, every hook and every weight would be a graph of its own, past the compiler's limit of 8
        def hook(_block, _arguments, output):
            if not injection.terms:
                return None
            text_tokens, img_tokens = output  # both Flux block kinds return (text, image)
            return text_tokens, injection.add(img_tokens, index, double=index < doubles)

        return hook

    handles = []
    try:
        for index, block in enumerate(hook_points(transformer)):
            handles.append(block.register_forward_hook(hook_for(index)))
        yield injection
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def inject(
    transformer: Any,
    adapter: PulidAdapter,
    identity: Embedding | np.ndarray | Tensor,
    id_weight: float = 1.0,
    *,
    region: np.ndarray | Tensor | None = None,
) -> Iterator[Injection]:
    """Draw this person: `with inject(pipe.transformer, adapter, identity, id_weight=1.0): pipe(...)`.

    transformer: a diffusers FluxTransformer2DModel, of any width. identity: an Embedding, or tokens (N, C).
    region: None for the whole picture, or (L,) from 0 to 1, row by row of the token grid: `pulid_generate.request.regions` makes them.
    Yields the Injection, whose `weight` and `terms` may be changed between calls. Raises IdentityError if the parts do not fit together.
    """
    if not math.isfinite(id_weight):
        raise IdentityError(f"id_weight {id_weight}: expected a finite number")
    config = transformer.config
    width = config.num_attention_heads * config.attention_head_dim
    check_fit(adapter, width, config.num_layers, config.num_single_layers)
    tokens: Any = getattr(identity, "tokens", identity)
    # under sequential offload the weights are on meta between forwards; the layers follow the tokens' device in any case
    device = "cpu" if transformer.device.type == "meta" else transformer.device
    with attach(transformer) as injection:
        layers = adapter.bind(tokens, transformer.dtype, device, where=getattr(identity, "source", "identity"))
        injection.terms, injection.weight = (Term(layers, region=region),), id_weight
        yield injection


def _shapes_of(layer: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in layer.items()}


def _check_layer(where: str, layer: Mapping[str, tuple[int, ...]]) -> None:
    missing, unknown = LAYER_TENSORS - set(layer), set(layer) - LAYER_TENSORS
    if missing or unknown:
        raise WeightsError(
            f"{where}: missing {sorted(missing) or 'nothing'}, unknown {sorted(unknown) or 'nothing'}; not a PuLID-FLUX file"
        )
    flat = [name for name, shape in layer.items() if len(shape) != (2 if name.startswith("to_") else 1)]
    if flat:
        raise WeightsError(f"{where}: {flat[0]} has shape {layer[flat[0]]}; the file is damaged, download it again")
    dim, token_dim = layer["norm2.weight"][0], layer["norm1.weight"][0]
    inner = layer["to_q.weight"][0]
    wanted = {
        "norm1.bias": (token_dim,),
        "norm2.bias": (dim,),
        "to_q.weight": (inner, dim),
        "to_kv.weight": (2 * inner, token_dim),
        "to_out.weight": (dim, inner),
    }
    wrong = [f"{name} {layer[name]}, expected {shape}" for name, shape in wanted.items() if layer[name] != shape]
    if wrong or inner % HEAD_WIDTH:
        raise WeightsError(f"{where}: {'; '.join(wrong) or f'to_q has {inner} rows, no multiple of {HEAD_WIDTH}'}")
