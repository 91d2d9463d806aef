"""The public file layouts as tables, at any size: {tensor name: (shape, kind)}. Knows nothing of
files, dtypes or values.

kind: "bias", "scale" (of a norm), or a matrix's gain: its standard deviation is gain / sqrt(fan-in)
when seeded. Names and shapes are those of the published files: black-forest-labs
flux1-*.safetensors and ae.safetensors, ComfyUI's clip_l and t5xxl, guozinan/PuLID
pulid_flux_v0.9.1, QuanSun/EVA-CLIP EVA02_CLIP_L_336_psz14_s6B.pt. The order of the entries and the
gains are part of the arithmetic of the sd-cli pictures: append, do not tune.
"""

from __future__ import annotations

Layout = dict[str, tuple[tuple[int, ...], str | float]]

FLUX_HEAD = 128  # width of a head in Flux and in pulid_ca
ENCODER_HEAD = 64  # width of a head in IDFormer, EVA-CLIP, CLIP and T5
DOUBLE_BLOCKS, SINGLE_BLOCKS = 19, 38
# PuLID sits after every second double and every fourth single block
DOUBLE_INTERVAL, SINGLE_INTERVAL = 2, 4
TEXT_LENGTH = 77
MOD_GAIN = 0.3  # of the modulations: small, so that 57 blocks of noise stay finite


def flux(
    hidden: int = 256,
    depth: int = DOUBLE_BLOCKS,
    single: int = SINGLE_BLOCKS,
    context: int = 128,
    vector: int = 768,
    guidance: bool = False,
    mlp: int = 4,
    latent: int = 64,
) -> Layout:
    """BFL Flux with bare names. context: T5 width; vector: CLIP width; guidance: the dev
    variant.
    """
    out: Layout = {}
    _linear(out, "img_in", hidden, latent)
    _linear(out, "txt_in", hidden, context)
    for name, width in [("time_in", 256), ("vector_in", vector)] + (
        [("guidance_in", 256)] if guidance else []
    ):
        _linear(out, f"{name}.in_layer", hidden, width)
        _linear(out, f"{name}.out_layer", hidden, hidden)
    for block in range(depth):
        for stream in ("img", "txt"):
            prefix = f"double_blocks.{block}.{stream}"
            _linear(out, f"{prefix}_mod.lin", 6 * hidden, hidden, MOD_GAIN)
            _linear(out, f"{prefix}_attn.qkv", 3 * hidden, hidden)
            _linear(out, f"{prefix}_attn.proj", hidden, hidden)
            for which in ("query", "key"):
                out[f"{prefix}_attn.norm.{which}_norm.scale"] = ((FLUX_HEAD,), "scale")
            _linear(out, f"{prefix}_mlp.0", mlp * hidden, hidden)
            _linear(out, f"{prefix}_mlp.2", hidden, mlp * hidden)
    for block in range(single):
        prefix = f"single_blocks.{block}"
        _linear(out, f"{prefix}.linear1", (3 + mlp) * hidden, hidden)
        _linear(out, f"{prefix}.linear2", hidden, (1 + mlp) * hidden)
        for which in ("query", "key"):
            out[f"{prefix}.norm.{which}_norm.scale"] = ((FLUX_HEAD,), "scale")
        _linear(out, f"{prefix}.modulation.lin", 3 * hidden, hidden, MOD_GAIN)
    _linear(out, "final_layer.linear", latent, hidden)
    _linear(out, "final_layer.adaLN_modulation.1", 2 * hidden, hidden, MOD_GAIN)
    return out


def pulid_layers(depth: int, single: int) -> int:
    """How many pulid_ca layers a Flux of this depth takes: 20 for 19 + 38 blocks."""
    return -(-depth // DOUBLE_INTERVAL) + -(-single // SINGLE_INTERVAL)


def pulid_ca(hidden: int, layers: int, heads: int = 16, tokens: int = 2048) -> Layout:
    """PuLID's cross-attention layers. hidden: Flux's width; tokens: width of the identity
    tokens.
    """
    out: Layout = {}
    inner = heads * FLUX_HEAD
    for layer in range(layers):
        prefix = f"pulid_ca.{layer}"
        _norm(out, f"{prefix}.norm1", tokens)
        _norm(out, f"{prefix}.norm2", hidden)
        out[f"{prefix}.to_q.weight"] = ((inner, hidden), 1.5)
        out[f"{prefix}.to_kv.weight"] = ((2 * inner, tokens), 1.5)
        out[f"{prefix}.to_out.weight"] = ((hidden, inner), 1.0)
    return out


def pulid_encoder(
    dim: int = 1024,
    depth: int = 10,
    id_tokens: int = 5,
    queries: int = 32,
    out_dim: int = 2048,
    vit: int = 1024,
    cond: int = 1280,
) -> Layout:
    """IDFormer. vit: width of the EVA hidden states; cond: 512 of ArcFace + the pooled EVA width;
    the mappings are `dim` wide.
    """
    out: Layout = {
        "pulid_encoder.latents": ((1, queries, dim), 0.5),
        "pulid_encoder.proj_out": ((dim, out_dim), 1.0),
    }
    for layer in range(depth):
        prefix = f"pulid_encoder.layers.{layer}"
        for norm in ("norm1", "norm2"):
            _norm(out, f"{prefix}.0.{norm}", dim)
        out[f"{prefix}.0.to_q.weight"] = ((dim, dim), 1.0)
        out[f"{prefix}.0.to_kv.weight"] = ((2 * dim, dim), 1.0)
        out[f"{prefix}.0.to_out.weight"] = ((dim, dim), 1.0)
        _norm(out, f"{prefix}.1.0", dim)
        out[f"{prefix}.1.1.weight"] = ((4 * dim, dim), 1.0)
        out[f"{prefix}.1.3.weight"] = ((dim, 4 * dim), 1.0)
    mappings = [(f"pulid_encoder.mapping_{i}", vit, dim) for i in range(5)]
    for prefix, inputs, outputs in [
        *mappings,
        ("pulid_encoder.id_embedding_mapping", cond, id_tokens * dim),
    ]:
        for step, (rows, columns) in enumerate(((dim, inputs), (dim, dim), (outputs, dim))):
            _linear(out, f"{prefix}.{3 * step}", rows, columns)
            if step < 2:
                _norm(out, f"{prefix}.{3 * step + 1}", rows)
    return out


def eva_clip(
    width: int, pooled: int, layers: int = 24, image: int = 336, patch: int = 14
) -> Layout:
    """EVA02-CLIP in the original layout: `visual.*` without rope buffers, and a token of the text
    tower that rides along.
    """
    hidden = int(width * 2.6667)  # mlp_ratio of eva_clip/model_configs/EVA02-CLIP-L-14-336.json
    out: Layout = {
        "logit_scale": ((), "scale"),
        "text.positional_embedding": ((TEXT_LENGTH, ENCODER_HEAD), 1.0),
        "text.ln_final.weight": ((ENCODER_HEAD,), "scale"),
        "text.ln_final.bias": ((ENCODER_HEAD,), "bias"),
        "visual.cls_token": ((1, 1, width), 1.0),
        "visual.pos_embed": ((1, (image // patch) ** 2 + 1, width), 10.0),
        "visual.patch_embed.proj.weight": ((width, 3, patch, patch), 2.0),
        "visual.patch_embed.proj.bias": ((width,), "bias"),
    }
    for block in range(layers):
        prefix = f"visual.blocks.{block}"
        _norm(out, f"{prefix}.norm1", width)
        for name in ("q", "v"):
            out[f"{prefix}.attn.{name}_bias"] = ((width,), "bias")
        for name in ("q_proj", "k_proj", "v_proj"):
            out[f"{prefix}.attn.{name}.weight"] = ((width, width), 1.0)
        _norm(out, f"{prefix}.attn.inner_attn_ln", width)
        _linear(out, f"{prefix}.attn.proj", width, width, 0.5)
        _norm(out, f"{prefix}.norm2", width)
        _linear(out, f"{prefix}.mlp.w1", hidden, width)
        _linear(out, f"{prefix}.mlp.w2", hidden, width)
        _norm(out, f"{prefix}.mlp.ffn_ln", hidden)
        _linear(out, f"{prefix}.mlp.w3", width, hidden, 0.5)
    _norm(out, "visual.norm", width)
    _linear(out, "visual.head", pooled, width)
    return out


def autoencoder(
    channels: int = 128,
    multiples: tuple[int, ...] = (1, 2, 4, 4),
    blocks: int = 2,
    latent: int = 16,
) -> Layout:
    """BFL autoencoder. channels: a multiple of 32, for the group norms."""
    out: Layout = {}
    last = len(multiples) - 1

    _conv(out, "encoder.conv_in", channels, 3)
    width = channels
    for level, multiple in enumerate(multiples):
        for block in range(blocks):
            _resnet(out, f"encoder.down.{level}.block.{block}", width, channels * multiple)
            width = channels * multiple
        if level < last:
            _conv(out, f"encoder.down.{level}.downsample.conv", width, width)
    _middle(out, "encoder", width)
    _norm(out, "encoder.norm_out", width)
    _conv(out, "encoder.conv_out", 2 * latent, width)

    _conv(out, "decoder.conv_in", width, latent)
    _middle(out, "decoder", width)
    for level in reversed(range(len(multiples))):
        for block in range(blocks + 1):
            _resnet(out, f"decoder.up.{level}.block.{block}", width, channels * multiples[level])
            width = channels * multiples[level]
        if level:
            _conv(out, f"decoder.up.{level}.upsample.conv", width, width)
    _norm(out, "decoder.norm_out", width)
    _conv(out, "decoder.conv_out", 3, width)
    return out


def clip_l(hidden: int = 768, layers: int = 12, vocabulary: int = 49408) -> Layout:
    """ComfyUI's clip_l.safetensors: `text_model.*`, without projection and position_ids."""
    out: Layout = {
        "text_model.embeddings.token_embedding.weight": ((vocabulary, hidden), 10.0),
        "text_model.embeddings.position_embedding.weight": ((TEXT_LENGTH, hidden), 1.0),
    }
    for layer in range(layers):
        prefix = f"text_model.encoder.layers.{layer}"
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            _linear(out, f"{prefix}.self_attn.{name}", hidden, hidden)
        for name in ("layer_norm1", "layer_norm2"):
            _norm(out, f"{prefix}.{name}", hidden)
        _linear(out, f"{prefix}.mlp.fc1", 4 * hidden, hidden)
        _linear(out, f"{prefix}.mlp.fc2", hidden, 4 * hidden)
    _norm(out, "text_model.final_layer_norm", hidden)
    return out


def t5(dim: int = 128, layers: int = 2, vocabulary: int = 32128) -> Layout:
    """T5's encoder. The embedding stands once here, as `shared.weight`; the public files store it a
    second time.
    """
    heads, feed_forward = max(1, dim // ENCODER_HEAD), 2 * dim
    inner = heads * ENCODER_HEAD
    out: Layout = {"shared.weight": ((vocabulary, dim), float(dim**0.5))}
    for block in range(layers):
        prefix = f"encoder.block.{block}.layer"
        # T5 does not scale its logits: q stays small
        for name, gain in (("q", 0.35), ("k", 1.0), ("v", 1.0)):
            out[f"{prefix}.0.SelfAttention.{name}.weight"] = ((inner, dim), gain)
        out[f"{prefix}.0.SelfAttention.o.weight"] = ((dim, inner), 1.0)
        if block == 0:
            out[f"{prefix}.0.SelfAttention.relative_attention_bias.weight"] = ((32, heads), 3.0)
        for part in (0, 1):
            out[f"{prefix}.{part}.layer_norm.weight"] = ((dim,), "scale")
        for name in ("wi_0", "wi_1"):
            out[f"{prefix}.1.DenseReluDense.{name}.weight"] = ((feed_forward, dim), 1.0)
        out[f"{prefix}.1.DenseReluDense.wo.weight"] = ((dim, feed_forward), 1.0)
    out["encoder.final_layer_norm.weight"] = ((dim,), "scale")
    return out


def _linear(out: Layout, name: str, rows: int, columns: int, gain: float = 1.0) -> None:
    out[f"{name}.weight"] = ((rows, columns), gain)
    out[f"{name}.bias"] = ((rows,), "bias")


def _norm(out: Layout, name: str, width: int) -> None:
    out[f"{name}.weight"] = ((width,), "scale")
    out[f"{name}.bias"] = ((width,), "bias")


def _conv(out: Layout, name: str, outputs: int, inputs: int, kernel: int = 3) -> None:
    out[f"{name}.weight"] = ((outputs, inputs, kernel, kernel), 1.0)
    out[f"{name}.bias"] = ((outputs,), "bias")


def _resnet(out: Layout, name: str, inputs: int, outputs: int) -> None:
    _norm(out, f"{name}.norm1", inputs)
    _conv(out, f"{name}.conv1", outputs, inputs)
    _norm(out, f"{name}.norm2", outputs)
    _conv(out, f"{name}.conv2", outputs, outputs)
    if inputs != outputs:
        _conv(out, f"{name}.nin_shortcut", outputs, inputs, 1)


def _middle(out: Layout, side: str, width: int) -> None:
    _resnet(out, f"{side}.mid.block_1", width, width)
    _norm(out, f"{side}.mid.attn_1.norm", width)
    for name in ("q", "k", "v", "proj_out"):
        _conv(out, f"{side}.mid.attn_1.{name}", width, width, 1)
    _resnet(out, f"{side}.mid.block_2", width, width)
