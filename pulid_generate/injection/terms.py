"""TODO"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pulid_generate.errors import IdentityError

if TYPE_CHECKING:
    pass


@dataclass(eq=False)
class Term:
    """One person's share of what the hooks add. The weights may be changed between forwards;
    another place wants another Term.

    layers: one module per hook, (b, K, D) -> (b, K, D), as `PulidAdapter.bind` makes them. double,
    single: weights after the double and after the single blocks. region: None for every token, or
    (L,) floats from 0 to 1. Only tokens above 0 are computed, each scaled by its number, so that
    the
        cost falls with the area; what is added to the others is not small but nothing.
    rows: None for the whole batch, or the batch elements that show this person. Raises
    IdentityError for a region that is no such row of numbers or covers nothing, and for rows that
    repeat or are negative.
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
                raise IdentityError(
                    f"rows {list(self.rows)}: expected numbers of batch elements, from 0, each once"
                )
            rows = torch.tensor(self.rows)
            self._at = (rows,)
        if self.region is not None:
            region = (
                self.region
                if isinstance(self.region, Tensor)
                else torch.from_numpy(np.array(self.region, np.float32))
            )
            region = region.float()
            if region.ndim != 1 or not ((region >= 0) & (region <= 1)).all():  # NaN fails both
                raise IdentityError(
                    f"region of shape {tuple(region.shape)}: expected one number from 0 to 1 per image token"
                )
            places = region.nonzero().flatten()
            if not len(places):
                raise IdentityError(
                    "region: covers no image token; the person would never be drawn"
                )
            self._at = (rows[:, None] if isinstance(rows, Tensor) else rows, places)
            self._soft = region[places, None]

    def add(self, total: Tensor, img_tokens: Tensor, index: int, weight: float) -> Tensor:
        """total + weight * CA(img_tokens) where this person is, both (B, L, D); `total` elsewhere.
        index: of the layer.

        total: what earlier terms made of img_tokens, or img_tokens itself, which is never written
        to.
        """
        # a stock pipeline with CPU offload has its weights elsewhere when `inject` is entered; the
        # layers follow the tokens
        layer = self.layers[index].to(img_tokens.device)
        if self._at is None:
            # torch.add with alpha still evaluates 0 * CA, so a NaN in CA cannot hide behind weight
            # 0
            return torch.add(total, layer(img_tokens), alpha=weight)
        self._check(img_tokens)
        at = self._at = tuple(
            part.to(img_tokens.device) if isinstance(part, Tensor) else part for part in self._at
        )
        added = layer(img_tokens[at])
        if self._soft is not None:
            self._soft = self._soft.to(img_tokens.device)
            added = added * self._soft.to(added.dtype)
        total = img_tokens.clone() if total is img_tokens else total
        # each place once: no accumulation whose order a GPU would choose
        total[at] = torch.add(total[at], added, alpha=weight)
        return total

    def _check(self, img_tokens: Tensor) -> None:
        batch, tokens = img_tokens.shape[:2]
        if self.region is not None and len(self.region) != tokens:
            raise IdentityError(
                f"region of {len(self.region)} tokens: the picture has {tokens}; make it for the picture's size"
            )
        if self.rows is not None and max(self.rows) >= batch:
            raise IdentityError(
                f"rows {list(self.rows)}: the batch has {batch} elements, numbered from 0"
            )


@dataclass
class Injection:
    """The live state of the hooks: who is added, and how much of everyone. Change it between
    forwards at will.

    terms: one per person; empty adds nothing. Every CA reads the block's own output, so the order
    of terms does not matter. weight: a factor on every term's. At weight 0 the hooks still run and
    add 0 * CA.
    """

    terms: Sequence[Term] = ()
    weight: float = 1.0

    @property
    def layers(self) -> Sequence[nn.Module] | None:
        """One person over the whole picture, the usual case: that one's modules, or None for
        nobody. Setting it replaces all terms.
        """
        return self.terms[0].layers if self.terms else None

    @layers.setter
    def layers(self, layers: Sequence[nn.Module] | None) -> None:
        self.terms = () if layers is None else (Term(layers),)

    def add(self, img_tokens: Tensor, index: int, *, double: bool) -> Tensor:
        """(B, L, D) -> (B, L, D): what hook number `index` makes of the image tokens. double:
        whether it follows a double block.
        """
        total = img_tokens
        for term in self.terms:
            total = term.add(
                total, img_tokens, index, self.weight * (term.double if double else term.single)
            )
        return total
