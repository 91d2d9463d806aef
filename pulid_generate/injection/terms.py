"""Who is added to the output of Flux's blocks, where in the picture, and how strongly.

Knows modules and tokens; nothing of files, of Flux's blocks or of how a region was drawn.

Shapes: B batch, b batch elements that show a person, L image tokens, K tokens of a region, D Flux
width.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from pulid_generate.errors import IdentityError
from pulid_generate.injection.fused import add_fused, kernels_for


@dataclass(eq=False)
class Term:
    """One person's share of what the hooks add. The weights may be changed between forwards;
    another region wants another Term.

    Raises IdentityError for a region that is not a row of numbers from 0 to 1 or covers nothing,
    and for rows that repeat or are negative.
    """

    # one module per hook, (b, K, D) -> (b, K, D), as `PulidAdapter.bind` makes them
    layers: Sequence[nn.Module]
    # weights after the double blocks and after the single blocks
    double: float = 1.0
    single: float = 1.0
    # None for every token, or (L,) floats from 0 to 1. Only tokens above 0 are computed, each
    # scaled by its number: the cost falls with the area, and to the others exactly nothing is added
    region: Tensor | np.ndarray | None = None
    # None for the whole batch, or the batch elements that show this person
    rows: Sequence[int] | None = None
    # index of the batch elements and tokens that are computed, None for all of them
    _index: tuple[Tensor | slice, ...] | None = field(init=False, repr=False, default=None)
    # (K, 1) float32, the region's numbers at those tokens
    _scale: Tensor | None = field(init=False, repr=False, default=None)
    # the same as one number for each token of a batch, (B, L) float32, for the kernels
    _share: Tensor | None = field(init=False, repr=False, default=None)

    def __post_init__(self) -> None:
        rows: Tensor | slice = slice(None)
        if self.rows is not None:
            rows = _checked_rows(self.rows)
            self._index = (rows,)
        if self.region is not None:
            region = _checked_region(self.region)
            tokens = region.nonzero().flatten()
            self._index = (rows[:, None] if isinstance(rows, Tensor) else rows, tokens)
            self._scale = region[tokens, None]

    @property
    def is_everywhere(self) -> bool:
        """Whether the person is in the whole of every picture."""
        return self._index is None

    def add(self, total: Tensor, img_tokens: Tensor, index: int, weight: float) -> Tensor:
        """total + weight * CA(img_tokens) where this person is, both (B, L, D); `total` elsewhere.

        total: what earlier terms made of img_tokens, or img_tokens itself, which is never written
        to. index: of the layer. Raises IdentityError if the region or the rows do not fit.
        """
        # a stock pipeline with CPU offload has its weights elsewhere when `inject` is entered; the
        # layers follow the tokens
        device = img_tokens.device
        layer = self.layers[index].to(device)
        if self._index is not None:
            self._check_fit(img_tokens)
        kernels = kernels_for(layer, img_tokens)
        if kernels is not None:
            share = self._share_of(img_tokens)
            return add_fused(kernels, total, img_tokens, layer, weight, share)
        if self._index is None:
            # torch.add with alpha still evaluates 0 * CA, so a NaN in CA cannot hide behind weight
            # 0
            return torch.add(total, layer(img_tokens), alpha=weight)
        self._move_to(device)
        added = layer(img_tokens[self._index])
        if self._scale is not None:
            added = added * self._scale.to(added.dtype)
        if total is img_tokens:
            total = img_tokens.clone()
        # each place once: no accumulation whose order a GPU would choose
        total[self._index] = torch.add(total[self._index], added, alpha=weight)
        return total

    def _share_of(self, img_tokens: Tensor) -> Tensor | None:
        """How much of the person each token gets, (B, L); None for all of everything."""
        if self._index is None:
            return None
        shape = img_tokens.shape[:2]
        if self._share is None or self._share.shape != shape:
            share = torch.zeros(shape)
            # `_index` may be on the device by now, and tells rows and tokens alike
            index = tuple(p.cpu() if isinstance(p, Tensor) else p for p in self._index)
            share[index] = 1.0 if self._scale is None else self._scale[:, 0].cpu()
            self._share = share.to(img_tokens.device)
        return self._share

    def _move_to(self, device: torch.device) -> None:
        if self._index is not None:
            self._index = tuple(
                part.to(device) if isinstance(part, Tensor) else part for part in self._index
            )
        if self._scale is not None:
            self._scale = self._scale.to(device)

    def _check_fit(self, img_tokens: Tensor) -> None:
        batch, tokens = img_tokens.shape[:2]
        if self.region is not None and len(self.region) != tokens:
            raise IdentityError(
                f"region of {len(self.region)} tokens: the picture has {tokens}; "
                "make it for the picture's size"
            )
        if self.rows is not None and max(self.rows) >= batch:
            raise IdentityError(
                f"rows {list(self.rows)}: the batch has {batch} elements, numbered from 0"
            )


def _checked_rows(rows: Sequence[int]) -> Tensor:
    """int64 (b,)."""
    if not rows or len(set(rows)) < len(rows) or min(rows) < 0:
        raise IdentityError(
            f"rows {list(rows)}: expected numbers of batch elements, from 0, each once"
        )
    return torch.tensor(rows)


def _checked_region(region: Tensor | np.ndarray) -> Tensor:
    """float32 (L,)."""
    if not isinstance(region, Tensor):
        region = torch.from_numpy(np.array(region, np.float32))
    region = region.float()
    # NaN fails both comparisons
    if region.ndim != 1 or not ((region >= 0) & (region <= 1)).all():
        raise IdentityError(
            f"region of shape {tuple(region.shape)}: "
            "expected one number from 0 to 1 per image token"
        )
    if not region.any():
        raise IdentityError("region: covers no image token; the person would never be drawn")
    return region


@dataclass
class Injection:
    """The live state of the hooks: who is added, and how much of everyone. Change it between
    forwards at will.
    """

    # One per person; empty adds nothing. Every CA reads the block's own output, so the order of
    # terms does not matter.
    terms: Sequence[Term] = ()
    # a factor on every term's. At weight 0 the hooks still run and add 0 * CA.
    weight: float = 1.0
    # Of the image tokens the first so many are the picture's, to which people are added; behind
    # them stand references (Kontext). None: all are
    picture_tokens: int | None = None

    @property
    def layers(self) -> Sequence[nn.Module] | None:
        """One person over the whole picture, the usual case: that one's modules, or None for
        nobody. Setting it replaces all terms.
        """
        return self.terms[0].layers if self.terms else None

    @layers.setter
    def layers(self, layers: Sequence[nn.Module] | None) -> None:
        self.terms = () if layers is None else (Term(layers),)

    def state(self) -> Hashable:
        """All that decides what is added to given tokens. Two are equal if nothing was changed
        between them.
        """
        seen = []
        for term in self.terms:
            weights = self.weight * term.double, self.weight * term.single
            # whoever weighs nothing adds nothing
            if any(weights):
                seen.append((term, tuple(term.layers), weights))
        return tuple(seen)

    def reads(self) -> Hashable:
        """All that `add` reads beside the tokens, and holds it: two are equal if the same numbers
        are read in the same places. Unlike `state` it has those who weigh nothing, who are
        evaluated as well.
        """
        terms = []
        for term in self.terms:
            weights = self.weight * term.double, self.weight * term.single
            # a region and rows have tensors that are the term's own
            own = None if term.is_everywhere else term
            terms.append((tuple(term.layers), weights, own))
        return tuple(terms), self.picture_tokens

    def add(self, img_tokens: Tensor, index: int, *, double: bool) -> Tensor:
        """(B, L, D) -> (B, L, D): what hook number `index` makes of the image tokens.

        double: whether it follows a double block.
        """
        picture = img_tokens
        if self.picture_tokens is not None:
            picture = img_tokens[:, : self.picture_tokens]
        total = picture
        for term in self.terms:
            weight = self.weight * (term.double if double else term.single)
            total = term.add(total, picture, index, weight)
        if picture is img_tokens:
            return total
        return torch.cat([total, img_tokens[:, picture.shape[1] :]], dim=1)
