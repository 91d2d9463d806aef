"""Flux.1's transformer: what it predicts of a noisy picture, from tokens to tokens.

Modules and parameters are named as in diffusers' FluxTransformer2DModel, and a block takes and
gives what a block takes and gives there, so that the hooks of `injection` and the names of LoRA
files fit both. Knows no file, no step and no identity.

Shapes: B pictures, L image tokens, T text tokens, D width, H heads of 128.

Sources: black-forest-labs/flux src/flux/model.py, src/flux/modules/layers.py, src/flux/math.py;
names and the order of operations: huggingface/diffusers 0.42.1
src/diffusers/models/transformers/transformer_flux.py.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pulid_generate.files.layouts import HEAD_WIDTH
from pulid_generate.kernels.availability import serves
from pulid_generate.networks.embeddings import TimeTextEmbedding
from pulid_generate.networks.positions import Rope, rotary_table, rotate

TIME_FACTOR = 1000  # flux src/flux/modules/layers.py, timestep_embedding
MLP_RATIO = 4
EPS = 1e-6
# the largest numbers of float16, which a residual stream may pass
FLOAT16_LIMIT = 65504


class FluxTransformer(nn.Module):
    """The velocity of a noisy latent, given text, time and (for dev) guidance."""

    def __init__(
        self,
        *,
        width: int,
        double: int,
        single: int,
        latent: int,
        context: int,
        pooled: int,
        guidance: bool,
    ):
        """width: D. double, single: numbers of blocks. latent: channels of a packed token.

        context: channels of T5's states. pooled: of CLIP's vector. guidance: whether the model has
        a guidance input (dev).
        """
        super().__init__()
        self.x_embedder = nn.Linear(latent, width)
        self.context_embedder = nn.Linear(context, width)
        self.time_text_embed = TimeTextEmbedding(width, pooled, guidance)
        self.transformer_blocks = nn.ModuleList(DoubleBlock(width) for _ in range(double))
        self.single_transformer_blocks = nn.ModuleList(SingleBlock(width) for _ in range(single))
        self.norm_out = OutputNorm(width)
        self.proj_out = nn.Linear(width, latent)

    @property
    def device(self) -> torch.device:
        """Where the model is; of streamed blocks, where the rest is."""
        return self.x_embedder.bias.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the plain weights."""
        return self.x_embedder.bias.dtype

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        img_ids: Tensor,
        txt_ids: Tensor,
        guidance: Tensor | None = None,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """The velocity (B, L, 64), in a tuple, as diffusers' class gives it.

        hidden_states: (B, L, 64), the noisy latent, packed. encoder_hidden_states: (B, T, context).
        pooled_projections: (B, pooled). timestep: (B,), 1 for noise to 0 for a picture. img_ids:
        (L, 3), txt_ids: (T, 3). guidance: (B,), for a model that has the input. All floating.
        """
        if return_dict:
            raise TypeError("return_dict: this transformer returns a tuple")
        img = self.x_embedder(hidden_states)
        temb = self.time_text_embed(
            timestep.to(img.dtype) * TIME_FACTOR,
            guidance.to(img.dtype) * TIME_FACTOR if guidance is not None else None,
            pooled_projections,
        )
        txt = self.context_embedder(encoder_hidden_states)
        rope = rotary_table(torch.cat((txt_ids, img_ids)))
        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            txt, img = block(
                hidden_states=img, encoder_hidden_states=txt, temb=temb, image_rotary_emb=rope
            )
        return (self.proj_out(self.norm_out(img, temb)),)


class DoubleBlock(nn.Module):
    """Text and image with weights of their own, and one attention over both."""

    def __init__(self, width: int):
        super().__init__()
        self.norm1 = Modulation(width, 6)
        self.norm1_context = Modulation(width, 6)
        self.attn = JointAttention(width)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=EPS)
        self.ff = FeedForward(width)
        self.norm2_context = nn.LayerNorm(width, elementwise_affine=False, eps=EPS)
        self.ff_context = FeedForward(width)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: Rope,
    ) -> tuple[Tensor, Tensor]:
        """(text, image) of image (B, L, D), text (B, T, D) and temb (B, D)."""
        img, txt = hidden_states, encoder_hidden_states
        img_norm, img_gate, img_shift, img_scale, img_mlp_gate = self.norm1(img, temb)
        txt_norm, txt_gate, txt_shift, txt_scale, txt_mlp_gate = self.norm1_context(txt, temb)
        img_attn, txt_attn = self.attn(img_norm, txt_norm, image_rotary_emb)

        img = add_gated(img, img_gate, img_attn)
        normed = norm_modulate(self.norm2, img, img_shift, img_scale)
        img = add_gated(img, img_mlp_gate, self.ff(normed))
        txt = add_gated(txt, txt_gate, txt_attn)
        normed = norm_modulate(self.norm2_context, txt, txt_shift, txt_scale)
        txt = add_gated(txt, txt_mlp_gate, self.ff_context(normed))
        return _within_float16(txt), img


class SingleBlock(nn.Module):
    """Text and image in one sequence, attention and MLP side by side."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = Modulation(width, 3)
        self.proj_mlp = nn.Linear(width, MLP_RATIO * width)
        self.proj_out = nn.Linear((1 + MLP_RATIO) * width, width)
        self.attn = SelfAttention(width)

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        image_rotary_emb: Rope,
    ) -> tuple[Tensor, Tensor]:
        """(text, image), as of a double block."""
        length = encoder_hidden_states.shape[1]
        both = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        normed, gate = self.norm(both, temb)
        both = add_gated(
            both, gate, self.proj_out(self._attention_and_mlp(normed, image_rotary_emb))
        )
        both = _within_float16(both)
        return both[:, :length], both[:, length:]

    def _attention_and_mlp(self, normed: Tensor, rope: Rope) -> Tensor:
        """Attention's channels, then the MLP's, (B, T + L, 5 D)."""
        steps = block_steps(normed)
        if steps is None:
            mlp = F.gelu(self.proj_mlp(normed), approximate="tanh")
            return torch.cat([self.attn(normed, rope), mlp], dim=2)
        width = normed.shape[2]
        both = normed.new_empty(*normed.shape[:2], (1 + MLP_RATIO) * width)
        steps.gelu_into(self.proj_mlp(normed), both[..., width:])
        both[..., :width] = self.attn(normed, rope)
        return both


class JointAttention(nn.Module):
    """Attention over text and image tokens, each with projections of its own."""

    def __init__(self, width: int):
        super().__init__()
        self.norm_q = nn.RMSNorm(HEAD_WIDTH, eps=EPS)
        self.norm_k = nn.RMSNorm(HEAD_WIDTH, eps=EPS)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        # a list, for the names: diffusers has a dropout at 1
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        self.norm_added_q = nn.RMSNorm(HEAD_WIDTH, eps=EPS)
        self.norm_added_k = nn.RMSNorm(HEAD_WIDTH, eps=EPS)
        self.add_q_proj = nn.Linear(width, width)
        self.add_k_proj = nn.Linear(width, width)
        self.add_v_proj = nn.Linear(width, width)
        self.to_add_out = nn.Linear(width, width)

    def forward(self, img: Tensor, txt: Tensor, rope: Rope) -> tuple[Tensor, Tensor]:
        """(image, text) of image (B, L, D) and text (B, T, D)."""
        query = normed_heads(
            [(self.add_q_proj, self.norm_added_q, txt), (self.to_q, self.norm_q, img)], rope
        )
        key = normed_heads(
            [(self.add_k_proj, self.norm_added_k, txt), (self.to_k, self.norm_k, img)], rope
        )
        value = torch.cat([self.add_v_proj(txt), self.to_v(img)], dim=1)
        both = attend(query, key, _heads(value))
        length = txt.shape[1]
        return (
            self.to_out[0](both[:, length:].contiguous()),
            self.to_add_out(both[:, :length].contiguous()),
        )


class SelfAttention(nn.Module):
    """Attention of a single block, without a projection of its output."""

    def __init__(self, width: int):
        super().__init__()
        self.norm_q = nn.RMSNorm(HEAD_WIDTH, eps=EPS)
        self.norm_k = nn.RMSNorm(HEAD_WIDTH, eps=EPS)
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)

    def forward(self, both: Tensor, rope: Rope) -> Tensor:
        """(B, T + L, D) -> the same."""
        query = normed_heads([(self.to_q, self.norm_q, both)], rope)
        key = normed_heads([(self.to_k, self.norm_k, both)], rope)
        return attend(query, key, _heads(self.to_v(both)))


class Modulation(nn.Module):
    """A layer norm whose shift, scale and gates come from time and text."""

    def __init__(self, width: int, parts: int):
        """parts: 3 for attention (shift, scale, gate), 6 with those of an MLP."""
        super().__init__()
        self.parts = parts
        self.linear = nn.Linear(width, parts * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=EPS)

    def forward(self, x: Tensor, temb: Tensor) -> tuple[Tensor, ...]:
        """x (B, N, D) normed and modulated, then gate and the MLP's shift, scale, gate, (B, 1, D)
        each.
        """
        shift, scale, *rest = self.linear(F.silu(temb))[:, None].chunk(self.parts, dim=-1)
        return (norm_modulate(self.norm, x, shift, scale), *rest)


class OutputNorm(nn.Module):
    """The last norm. Its rows are scale, shift, the other way round than in a block."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=EPS)

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        scale, shift = self.linear(F.silu(temb).to(x.dtype))[:, None].chunk(2, dim=-1)
        return norm_modulate(self.norm, x, shift, scale)


class FeedForward(nn.Module):
    """Two linear layers. Entries of `net` are numbered as diffusers numbers them."""

    def __init__(self, width: int):
        super().__init__()
        self.net = nn.ModuleList(
            [
                _ProjectedGelu(width, MLP_RATIO * width),
                # dropout in training
                nn.Identity(),
                nn.Linear(MLP_RATIO * width, width),
            ]
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[0](x))


class _ProjectedGelu(nn.Module):
    def __init__(self, width: int, inner: int):
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


# ---------------------------------------------------------------------------------------- functions


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Softmax attention of (B, N, H, 128) each -> (B, N, D)."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    out = F.scaled_dot_product_attention(query, key, value)
    return out.transpose(1, 2).flatten(2)


def normed_heads(parts: Sequence[tuple[nn.Module, nn.RMSNorm, Tensor]], rope: Rope) -> Tensor:
    """Queries or keys (B, N, H, 128) of all parts' tokens, normed and turned, part after part.

    parts: each a projection, the norm of its heads, and the tokens (B, n, D).
    """
    steps = block_steps(parts[0][2])
    if steps is None:
        # a projection is let go as soon as it is normed: this is where a block needs most memory
        heads = [norm(_heads(project(x))) for project, norm, x in parts]
        return rotate(heads[0] if len(heads) == 1 else torch.cat(heads, dim=1), rope)
    batch, _, width = parts[0][2].shape
    out = parts[0][2].new_empty(batch, len(rope[0]), width)
    start = 0
    for project, norm, x in parts:
        steps.norm_rotate(project(x), norm.weight, *rope, out, start, EPS)
        start += x.shape[1]
    return _heads(out)


def norm_modulate(norm: nn.LayerNorm, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """norm(x) * (1 + scale) + shift. x: (B, N, D); shift, scale: (B, 1, D)."""
    steps = block_steps(x)
    if steps is None:
        return norm(x) * (1 + scale) + shift
    return steps.norm_modulate(x, shift, scale, EPS)


def add_gated(residual: Tensor, gate: Tensor, x: Tensor) -> Tensor:
    """residual + gate * x. residual, x: (B, N, D); gate: (B, 1, D)."""
    steps = block_steps(x)
    if steps is None:
        return residual + gate * x
    return steps.add_gated(residual, gate, x)


def block_steps(x: Tensor) -> ModuleType | None:
    """The kernels for what stands between matrix products, or None where torch's own operations
    run: without a GPU that has them, in a compiled graph (the compiler fuses by itself), in
    training."""
    if not x.is_cuda or torch.compiler.is_compiling():
        return None
    if torch.is_grad_enabled() and x.requires_grad:
        return None
    if not serves(x.device):
        return None
    return _trusted_kernels(x.device, x.dtype, x.shape[-1])


@functools.cache
def _trusted_kernels(device: torch.device, dtype: torch.dtype, width: int) -> ModuleType | None:
    """The kernels, if on this card and at this width they give what torch gives."""
    from pulid_generate.kernels import block_steps, block_steps_check

    return block_steps if block_steps_check.passes(device, dtype, width) else None


def _heads(x: Tensor) -> Tensor:
    """(B, N, D) -> (B, N, H, 128)."""
    return x.unflatten(-1, (-1, HEAD_WIDTH))


def _within_float16(x: Tensor) -> Tensor:
    if x.dtype == torch.float16:
        return x.clip(-FLOAT16_LIMIT, FLOAT16_LIMIT)
    return x
