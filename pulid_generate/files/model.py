"""The four models of a generation, each with one name. A table; imports no torch."""

from __future__ import annotations

from enum import Enum

from pulid_extract.shared.model_files import Role
from pulid_generate.files import layouts, roles


class Model(Enum):
    """One model, in the order that a generation loads them. `str` gives its name in messages."""

    CLIP = ("CLIP-L", "te", "clip_l", roles.CLIP_L, layouts.CLIP_MARKER)
    T5 = ("T5", "te", "t5xxl", roles.T5XXL, layouts.T5_MARKER)
    FLUX = ("Flux", "diffusion", "flux", roles.FLUX, layouts.FLUX_MARKER)
    VAE = ("autoencoder", "vae", "vae", roles.VAE, layouts.VAE_MARKER)

    def __init__(self, title: str, module: str, field: str, role: Role, marker: tuple[str, ...]):
        # what messages, plans and reports call it
        self.title = title
        # sd-cli's word for where it belongs: "te" is CLIP and T5 together
        self.module = module
        # its name among the files of a generation (ModelFiles)
        self.field = field
        # which files can fill it, and by which flag they are given
        self.role = role
        # tensors that only this model has, each in a spelling of its own
        self.marker = marker

    def __str__(self) -> str:
        return self.title

    @classmethod
    def of_module(cls, module: str) -> tuple[Model, ...]:
        """The models that sd-cli's word for a module means."""
        return tuple(model for model in cls if model.module == module)
