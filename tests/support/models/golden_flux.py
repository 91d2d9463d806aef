"""The small Flux of tests/golden: its weights, whole or of fewer blocks, its inputs, one call of
it, and its forward written out.
"""

from __future__ import annotations

import torch
from safetensors.torch import save_file
from seeded.tensors import seeded, seeded_state

from pulid_extract.shared.model_files.headers import read_header
from pulid_generate.injection.adapter import PulidAdapter
from pulid_generate.models.flux import load_flux
from pulid_generate.networks.positions import rotary_table
from pulid_generate.sampling.packing import position_ids

GUIDANCE = 3.5


def tensors(shapes, dtype=torch.float32):
    state = seeded_state({name: tuple(shape) for name, shape in shapes.items()})
    return {name: torch.from_numpy(value).to(dtype) for name, value in state.items()}


def fewer_blocks(shapes, double, single):
    """Of the shapes of the whole, those of a model with the first blocks alone."""
    most = {"double_blocks": double, "single_blocks": single}
    kept = {}
    for name, shape in shapes.items():
        kind, _, rest = name.partition(".")
        if kind not in most or int(rest.split(".")[0]) < most[kind]:
            kept[name] = shape
    return kept


def write_fewer_blocks(path, shapes, double, single):
    """A checkpoint of the first blocks alone. shapes: of the whole."""
    save_file(tensors(fewer_blocks(shapes, double, single)), path)
    return path


def load_fewer_blocks(folder, shapes, double, single):
    """That checkpoint, written into a folder and loaded."""
    file = write_fewer_blocks(folder / "flux.safetensors", shapes, double, single)
    return load_flux(read_header(file), torch.float32)


def first_layers(shapes, count):
    """A PuLID adapter of the first layers alone. shapes: of the whole."""
    state = tensors(shapes)
    layers = []
    for index in range(count):
        prefix = f"pulid_ca.{index}."
        layers.append({n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)})
    return PulidAdapter(layers)


def inputs():
    made = {
        "latent": (1, 16, 64),
        "txt": (1, 8, 96),
        "neg_txt": (1, 8, 96),
        "vec": (1, 64),
        "neg_vec": (1, 64),
        "id": (1, 32, 256),
    }
    made = {name: torch.from_numpy(seeded(f"in.{name}", shape)) for name, shape in made.items()}
    return made | {"uncond_id": torch.from_numpy(seeded("in.uncond_id", (1, 32, 256), 0.5))}


def velocity(model, latent, t, txt, vec):
    with torch.inference_mode():
        return model(
            hidden_states=latent,
            encoder_hidden_states=txt,
            pooled_projections=vec,
            timestep=torch.tensor([t]),
            guidance=torch.tensor([GUIDANCE]) if has_guidance(model) else None,
            img_ids=position_ids(64, 64),
            txt_ids=torch.zeros(8, 3),
            return_dict=False,
        )[0]


def has_guidance(model) -> bool:
    """Of our transformer or of diffusers'."""
    return hasattr(model.time_text_embed, "guidance_embedder")


def by_hand(model, latent, ids, after_block):
    """The forward at t = 1 of (1, n, 64) tokens at ids (n, 3), written out. after_block: (number of
    the block, its picture tokens) -> what the next block takes of them.
    """
    x = inputs()
    img, txt = model.x_embedder(latent), model.context_embedder(x["txt"])
    guidance = torch.tensor([GUIDANCE])
    temb = model.time_text_embed(torch.tensor([1.0]) * 1000, guidance * 1000, x["vec"])
    rope = rotary_table(torch.cat([torch.zeros(8, 3), ids]))
    for number, block in enumerate([*model.transformer_blocks, *model.single_transformer_blocks]):
        txt, img = block(
            hidden_states=img, encoder_hidden_states=txt, temb=temb, image_rotary_emb=rope
        )
        img = after_block(number, img)
    return model.proj_out(model.norm_out(img, temb))


class Person:
    """What a Denoiser asks of an embedding. tokens: (32, width), NumPy."""

    sha256 = source = "somebody"
    uncond = None

    def __init__(self, tokens):
        self.tokens = tokens


class Counting(torch.nn.Module):
    """A PuLID layer that counts its calls."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.calls = layer, 0

    def forward(self, img):
        self.calls += 1
        return self.layer(img)
