"""The small Flux of tests/golden: its weights, its inputs, one call of it."""

from __future__ import annotations

import torch
from seeded.tensors import seeded, seeded_state

from pulid_generate.sampling.packing import position_ids

GUIDANCE = 3.5


def tensors(shapes, dtype=torch.float32):
    state = seeded_state({name: tuple(shape) for name, shape in shapes.items()})
    return {name: torch.from_numpy(value).to(dtype) for name, value in state.items()}


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
