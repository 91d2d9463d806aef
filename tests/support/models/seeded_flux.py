"""A small seeded Flux with PuLID's layers, as diffusers builds it, one call of it, and two regions
of its picture.
"""

from __future__ import annotations

import torch
from seeded.tensors import seeded, seeded_state
from support.models.stock_models import new_flux

from pulid_generate.injection.adapter import PulidAdapter
from pulid_generate.request.people.regions import box_region
from pulid_generate.sampling.packing import position_ids

DOUBLE, SINGLE, HOOKS = 5, 9, 6  # hooks after double blocks 0, 2, 4 and single blocks 0, 4, 8
SIZE, TOKENS, TEXT, WIDTH, TOKEN_WIDTH = 96, 36, 8, 128, 96


def flux():
    """A FluxTransformer2DModel."""
    model = new_flux(width=WIDTH, double=DOUBLE, single=SINGLE, context=48)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(
        {name: torch.from_numpy(value) for name, value in seeded_state(shapes).items()}
    )
    return model.eval().requires_grad_(False)


def adapter() -> PulidAdapter:
    """A layer for every hook of it."""
    shapes = {
        "norm1.weight": (TOKEN_WIDTH,),
        "norm1.bias": (TOKEN_WIDTH,),
        "norm2.weight": (WIDTH,),
        "norm2.bias": (WIDTH,),
    }
    shapes |= {
        "to_q.weight": (256, WIDTH),
        "to_kv.weight": (512, TOKEN_WIDTH),
        "to_out.weight": (WIDTH, 256),
    }
    state = seeded_state(
        {f"pulid_ca.{i}.{name}": shape for i in range(HOOKS) for name, shape in shapes.items()}
    )
    return PulidAdapter(
        [
            {name: torch.from_numpy(state[f"pulid_ca.{i}.{name}"]) for name in shapes}
            for i in range(HOOKS)
        ]
    )


def tokens(name):
    return seeded(f"identity {name}", (32, TOKEN_WIDTH))


def arguments(batch=1):
    return {
        "hidden_states": torch.from_numpy(seeded("latent", (2, TOKENS, 64)))[:batch],
        "encoder_hidden_states": torch.from_numpy(seeded("text", (2, TEXT, 48)))[:batch],
        "pooled_projections": torch.from_numpy(seeded("pooled", (2, 32)))[:batch],
        "timestep": torch.full((batch,), 0.7),
        "img_ids": position_ids(SIZE, SIZE),
        "txt_ids": torch.zeros(TEXT, 3),
    }


def velocity(model, **changes):
    with torch.inference_mode():
        return model(**(arguments() | changes), return_dict=False)[0]


LEFT = torch.from_numpy(box_region((0, 0, 40, SIZE), SIZE, SIZE))  # columns 0, 1 and half of 2
RIGHT = torch.from_numpy(box_region((48, 0, 48, SIZE), SIZE, SIZE))  # columns 3 to 5
