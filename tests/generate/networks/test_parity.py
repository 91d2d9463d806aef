"""Our networks against the stock classes of diffusers and transformers: equal bits, since they do the
same operations in the same order, in float32 and in both 16-bit types.
"""

from __future__ import annotations

import pytest
import torch
from support.models.stock_models import new_flux
from torch import nn

from pulid_generate.networks.autoencoder import Autoencoder
from pulid_generate.networks.clip import ClipTextTower
from pulid_generate.networks.flux import FluxTransformer
from pulid_generate.networks.t5 import T5Encoder

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LEVELS = (32, 32, 64, 64)


def seeded(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model with normal weights, the same at every call."""
    random = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        spread = 0.2 if parameter.ndim > 1 else 0.5
        parameter.data = torch.randn(parameter.shape, generator=random) * spread
    return model.to(dtype).eval()


def take(ours: nn.Module, theirs: nn.Module, *, but: tuple[str, ...] = ()) -> nn.Module:
    """Ours with the tensors of theirs: every name must be there, and none besides."""
    state = {
        name.removeprefix("text_model."): tensor
        for name, tensor in theirs.state_dict().items()
        if name not in but
    }
    ours.load_state_dict(state, strict=True, assign=True)
    return ours.eval()


def normal(*shape: int, dtype: torch.dtype, seed: int = 2) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("guidance", [True, False])
def test_flux(dtype, guidance):
    sizes = {"width": 256, "double": 2, "single": 3, "latent": 64, "context": 48, "pooled": 32}
    theirs = new_flux(**sizes, guidance=guidance)
    seeded(theirs, dtype)
    ours = take(FluxTransformer(**sizes, guidance=guidance), theirs)
    rows, columns = 4, 6
    places = torch.zeros(rows * columns, 3)
    places[:, 1] = torch.arange(rows * columns) // columns
    places[:, 2] = torch.arange(rows * columns) % columns
    inputs = {
        "hidden_states": normal(2, rows * columns, 64, dtype=dtype),
        "encoder_hidden_states": normal(2, 7, 48, dtype=dtype),
        "pooled_projections": normal(2, 32, dtype=dtype),
        "timestep": torch.tensor([0.7, 0.31]),
        "guidance": torch.tensor([3.5, 2.0]) if guidance else None,
        "img_ids": places,
        "txt_ids": torch.zeros(7, 3),
    }
    with torch.inference_mode():
        [expected] = theirs(**inputs, return_dict=False)
        [found] = ours(**inputs)
        assert torch.equal(found, expected)
        inputs["timestep"] = torch.tensor([0.7, 0.32])
        assert not torch.equal(ours(**inputs)[0], expected)


def their_t5(depth: int) -> nn.Module:
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=100,
        d_model=64,
        d_ff=96,
        num_layers=depth,
        num_heads=4,
        d_kv=16,
        feed_forward_proj="gated-gelu",
        relative_attention_num_buckets=32,
        relative_attention_max_distance=128,
        layer_norm_epsilon=1e-6,
        is_encoder_decoder=False,
        use_cache=False,
    )
    return T5EncoderModel(config)


def our_t5(theirs: nn.Module, depth: int) -> nn.Module:
    sizes = {"width": 64, "inner": 96, "heads": 4, "head_width": 16}
    return take(
        T5Encoder(rows=100, depth=depth, buckets=32, **sizes),
        theirs,
        # the token table under its second name
        but=("encoder.embed_tokens.weight",),
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_t5(dtype):
    theirs = seeded(their_t5(depth=3), dtype)
    ours = our_t5(theirs, depth=3)
    # longer than 128, so that every bucket of distances occurs
    ids = torch.randint(0, 100, (2, 300), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = theirs(input_ids=ids).last_hidden_state
        assert torch.equal(ours(ids), expected)
        assert not torch.equal(ours(ids.flip(1)).flip(1), expected)


def test_t5_in_float16_clamps_what_overflows():
    theirs = seeded(their_t5(depth=2), torch.float32)
    theirs.encoder.block[0].layer[1].DenseReluDense.wo.weight.data *= 30_000
    theirs = theirs.half()
    ours = our_t5(theirs, depth=2)
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        expected = theirs(input_ids=ids).last_hidden_state
        assert torch.isfinite(expected).all()
        assert torch.equal(ours(ids), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_clip(dtype):
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=100,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=77,
        hidden_act="quick_gelu",
        layer_norm_eps=1e-5,
        projection_dim=128,
        bos_token_id=0,
        # 2 makes transformers pool at the largest id, as the original does
        eos_token_id=2,
        pad_token_id=1,
    )
    theirs = seeded(CLIPTextModel(config), dtype)
    ours = take(
        ClipTextTower(rows=100, width=128, inner=256, depth=3, heads=2, positions=77), theirs
    )
    ids = torch.randint(0, 98, (2, 77), generator=torch.Generator().manual_seed(3))
    ids[0, 9], ids[1, 30] = 99, 99
    with torch.inference_mode():
        expected = theirs(ids).pooler_output
        assert torch.equal(ours(ids), expected)
        # what stands behind the end token is not seen
        ids[0, 10:] = 98
        assert torch.equal(ours(ids), expected)
        ids[0, 8] = 0
        assert not torch.equal(ours(ids), expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_autoencoder(dtype):
    from diffusers import AutoencoderKL

    theirs = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=LEVELS,
        layers_per_block=2,
        latent_channels=16,
        norm_num_groups=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    seeded(theirs, dtype)
    ours = take(Autoencoder(LEVELS, 16, blocks=2), theirs)
    latents, pixels = normal(1, 16, 6, 5, dtype=dtype), normal(1, 3, 48, 40, dtype=dtype)
    with torch.inference_mode():
        [expected] = theirs.decode(latents, return_dict=False)
        assert torch.equal(ours.decode(latents), expected)
        moments = theirs.encode(pixels, return_dict=False)[0].parameters
        assert torch.equal(ours.encode(pixels), moments)
        assert not torch.equal(ours.decode(latents.flip(-1)), expected)


def test_an_autoencoder_without_an_encoder_has_none():
    model = Autoencoder(LEVELS, 16, blocks=2, with_encoder=False)
    assert not [name for name in model.state_dict() if name.startswith("encoder.")]
    assert model.decode(torch.zeros(1, 16, 2, 2)).shape == (1, 3, 16, 16)


def test_building_the_networks_brings_torch_alone():
    import subprocess
    import sys

    code = (
        "import sys\n"
        "import torch, pulid_generate.networks.t5, pulid_generate.networks.autoencoder\n"
        "from pulid_generate.networks import autoencoder, clip, flux, t5\n"
        "with torch.device('meta'):\n"
        "    sizes = dict(rows=9, width=64, inner=64, depth=1, heads=1)\n"
        "    clip.ClipTextTower(**sizes, positions=9)\n"
        "    t5.T5Encoder(**sizes, head_width=64, buckets=32)\n"
        "    autoencoder.Autoencoder((32,), 16, blocks=1)\n"
        "    sizes = dict(width=128, double=1, single=1, latent=64, context=8, pooled=8)\n"
        "    flux.FluxTransformer(**sizes, guidance=True)\n"
        "heavy = {'diffusers', 'transformers', 'accelerate', 'torch._dynamo'}\n"
        "print(heavy & set(sys.modules), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set() True\n", done.stderr
