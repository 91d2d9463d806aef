"""pulid_generate: draw any scene with the person of a .pulidembd, with Flux.1 and PuLID's weights.

As a library it composes with a stock diffusers pipeline:

    from pulid_generate import PulidAdapter, inject, read_embedding

    adapter = PulidAdapter.load("pulid_flux_v0.9.1.safetensors")
    with inject(pipe.transformer, adapter, read_embedding("me.pulidembd"), id_weight=1.0):
        picture = pipe("candid photograph on a beach at sunset").images[0]

Importing this package loads nothing heavy: names are resolved when they are first used.
"""

from typing import TYPE_CHECKING

from pulid_generate.version import __version__ as __version__

__all__ = [
    "GenerationRequest",
    "Injection",
    "ModelFiles",
    "Pipeline",
    "Placement",
    "PulidAdapter",
    "PulidError",
    "inject",
    "read_embedding",
]

_HOMES = {
    "GenerationRequest": "pulid_generate.request.generation",
    "Injection": "pulid_generate.injection.terms",
    "ModelFiles": "pulid_generate.files.model_set",
    "Pipeline": "pulid_generate.pipeline.pipeline",
    "Placement": "pulid_generate.memory.placement",
    "PulidAdapter": "pulid_generate.injection.adapter",
    "PulidError": "pulid_generate.errors",
    "inject": "pulid_generate.injection.hooks",
    "read_embedding": "pulid_extract.shared.embedding_file",
}

if TYPE_CHECKING:
    from pulid_extract.shared.embedding_file import read_embedding
    from pulid_generate.errors import PulidError
    from pulid_generate.files.model_set import ModelFiles
    from pulid_generate.injection.adapter import PulidAdapter
    from pulid_generate.injection.hooks import inject
    from pulid_generate.injection.terms import Injection
    from pulid_generate.memory.placement import Placement
    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.request.generation import GenerationRequest


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    # before any of them imports a library
    import_module("pulid_extract.shared.telemetry").switch_off()
    return getattr(import_module(_HOMES[name]), name)
