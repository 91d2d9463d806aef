"""The PuLID cross-attention layer, as the reference writes it and folded for one identity.

Shapes: B batch, L image tokens, N identity tokens, D Flux width, C token width, H heads of 128.
Knows nothing of Flux blocks, files or steps.

Source: ToTheBeginning/PuLID 1aa2fc7, pulid/encoders_transformer.py, PerceiverAttentionCA.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pulid_extract.shared.cpu_linear import linear
from pulid_generate.files.layouts import HEAD_WIDTH

# image tokens whose statistics are taken at a time, see _rstd
TOKENS_AT_ONCE = 1024
# nn.LayerNorm's default, which both norms of the layer use
EPS = 1e-5


class PerceiverAttentionCA(nn.Module):
    """Cross-attention from image tokens (queries) to identity tokens (keys, values). Attribute
    names are checkpoint keys.
    """

    def __init__(self, dim: int, kv_dim: int, heads: int):
        super().__init__()
        # a checkpoint's tensors give only heads * width
        inner = heads * HEAD_WIDTH
        self.heads = heads
        self.norm1 = nn.LayerNorm(kv_dim)
        self.norm2 = nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, inner, bias=False)
        self.to_kv = nn.Linear(kv_dim, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, dim, bias=False)

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> PerceiverAttentionCA:
        """The layer whose seven tensors are `state`, sizes read from them, in their dtype and on
        their device.

        Raises RuntimeError (torch's strict loading) if a tensor is missing, unknown or of another
        shape.
        """
        inner, dim = state["to_q.weight"].shape
        with torch.device("meta"):
            layer = cls(dim, state["norm1.weight"].shape[0], inner // HEAD_WIDTH)
        layer.load_state_dict(dict(state), strict=True, assign=True)
        return layer.eval().requires_grad_(False)

    def forward(self, id_tokens: Tensor, img_tokens: Tensor) -> Tensor:
        """id_tokens (B, N, C), img_tokens (B, L, D), same float dtype -> (B, L, D), to be added to
        img_tokens.
        """
        q = self._split(self.to_q(self.norm2(img_tokens)))
        k, v = (self._split(half) for half in self.to_kv(self.norm1(id_tokens)).chunk(2, dim=-1))
        # on q and on k: steadier in 16 bits than 128^-1/2 on the product, and the reference's form
        scale = HEAD_WIDTH**-0.25
        logits = (q * scale) @ (k * scale).transpose(-2, -1)
        # in float32 at least
        exact = logits if logits.dtype == torch.float64 else logits.float()
        weights = exact.softmax(dim=-1).to(logits.dtype)
        return self.to_out((weights @ v).transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, HEAD_WIDTH)).transpose(1, 2)


class PlainAttention(nn.Module):
    """A layer bound to one identity, computed as the reference does."""

    def __init__(self, layer: PerceiverAttentionCA, id_tokens: Tensor):
        """id_tokens: (N, C), in the layer's dtype and on its device."""
        super().__init__()
        self.layer = layer
        self.id_tokens: Tensor
        self.register_buffer("id_tokens", id_tokens[None])

    def forward(self, img_tokens: Tensor) -> Tensor:
        """(B, L, D) -> (B, L, D)."""
        return self.layer(self.id_tokens.expand(img_tokens.shape[0], -1, -1), img_tokens)


class FoldedAttention(nn.Module):
    """A layer folded for one identity: two matrices of H * N rows in place of the layer's 21
    million weights.

    The identity is constant while denoising, so k Wq, the affine part of norm2, and Wo v fold ahead
    of time:

        kq[h, n] = (k[h, n] Wq[h]) / sqrt(128)
        a[h, n] = kq[h, n] * norm2.weight, minus its own mean over channels     (H * N, D)
        c[h, n] = kq[h, n] . norm2.bias                                         (H * N,), float32
        b[:, h, n] = Wo[h] v[h, n]                                              (D, H * N)

        CA(img) = softmax_n(rstd(img) * (img a^T) + c) b^T

    Because every row of `a` sums to zero over channels, the mean that norm2 takes from img drops
    out of img a^T. Exact: the same function in exact arithmetic. It wins while H * N is less than
    the inner width H * 128.
    """

    def __init__(
        self,
        layer: PerceiverAttentionCA,
        id_tokens: Tensor,
        dtype: torch.dtype,
        device: torch.device | str,
    ):
        """id_tokens: (N, C) of any float dtype. The folding runs in float64, on `device` if that
        has it, then `a` and `b` are rounded once to `dtype`.
        """
        super().__init__()
        where = _exact_device(torch.device(device))
        exact = {}
        for name, tensor in layer.state_dict().items():
            # moved as it is stored: a fourth of the bytes
            exact[name] = tensor.to(where).to(torch.float64)
        tokens = id_tokens.to(where).to(torch.float64)
        normed = nn.functional.layer_norm(
            tokens, tokens.shape[-1:], exact["norm1.weight"], exact["norm1.bias"], EPS
        )
        by_head = (layer.heads, HEAD_WIDTH)
        keys, values = (normed @ exact["to_kv.weight"].T).chunk(2, dim=-1)
        k, v = keys.unflatten(-1, by_head), values.unflatten(-1, by_head)
        wq = exact["to_q.weight"].unflatten(0, by_head)
        wo = exact["to_out.weight"].unflatten(1, by_head)
        kq = torch.einsum("nhd,hdc->hnc", k, wq).flatten(0, 1) * HEAD_WIDTH**-0.5
        a = kq * exact["norm2.weight"]
        b = torch.einsum("nhd,chd->chn", v, wo).flatten(1, 2)
        self.heads = layer.heads
        self.a: Tensor
        self.b: Tensor
        self.c: Tensor
        self.register_buffer("a", (a - a.mean(dim=-1, keepdim=True)).to(device, dtype))
        self.register_buffer("c", (kq @ exact["norm2.bias"]).to(device, torch.float32))
        self.register_buffer("b", b.to(device, dtype))

    def forward(self, img_tokens: Tensor) -> Tensor:
        """(B, L, D) in the folded dtype -> (B, L, D)."""
        logits = linear(img_tokens, self.a).float()
        # rstd multiplies the logits, not the tokens: rounding img * rstd to 16 bits costs more than
        # folding saves
        logits = torch.addcmul(self.c, logits, _rstd(img_tokens))
        weights = logits.unflatten(-1, (self.heads, -1)).softmax(dim=-1).flatten(-2)
        return linear(weights.to(img_tokens.dtype), self.b)


def _exact_device(device: torch.device) -> torch.device:
    """Where float64 is computed for a model on `device`: there, but on the CPU for Apple's MPS,
    which has no such numbers.
    """
    return torch.device("cpu") if device.type == "mps" else device


def _rstd(x: Tensor) -> Tensor:
    """1 / sqrt(variance over channels + eps) of (B, L, D), float32, (B, L, 1).

    From the 2-norm and the mean: Tensor.var is so slow on a CPU that it would eat a third of what
    folding wins. By slices, because a reduction of 16-bit numbers makes a float32 copy, and fresh
    memory of that size costs more than both matrix products.
    """
    return torch.cat([_rstd_of_slice(part) for part in x.split(TOKENS_AT_ONCE, dim=1)], dim=1)


def _rstd_of_slice(x: Tensor) -> Tensor:
    width = x.shape[-1]
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    mean_square = norm.square() / width
    mean = x.mean(dim=-1, keepdim=True, dtype=torch.float32)
    return (mean_square - mean.square()).clamp_min_(0).add_(EPS).rsqrt_()
