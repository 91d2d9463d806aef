"""pulid_extract: one portrait in, one small identity file (.pulidembd) out.

Importing this package loads nothing, not even numpy, so that `--help` is instant; each public name
loads its module on first use, and only `Extractor` and `Identity` bring torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pulid_extract.extraction.extractor import Extractor, Identity
    from pulid_extract.faces.choice import FaceChoice
    from pulid_extract.pictures.portrait import read_portrait
    from pulid_extract.pictures.regions import FaceBox
    from pulid_extract.shared.embedding_file import (
        Embedding,
        decode_embedding,
        encode_embedding,
        read_embedding,
    )
    from pulid_extract.shared.errors import PulidError

from pulid_extract.version import __version__ as __version__

__all__ = [
    "Embedding",
    "Extractor",
    "FaceBox",
    "FaceChoice",
    "Identity",
    "PulidError",
    "decode_embedding",
    "encode_embedding",
    "read_embedding",
    "read_portrait",
]

_HOMES = {
    "Embedding": "shared.embedding_file",
    "Extractor": "extraction.extractor",
    "FaceBox": "pictures.regions",
    "FaceChoice": "faces.choice",
    "Identity": "extraction.extractor",
    "PulidError": "shared.errors",
    "decode_embedding": "shared.embedding_file",
    "encode_embedding": "shared.embedding_file",
    "read_embedding": "shared.embedding_file",
    "read_portrait": "pictures.portrait",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # before any of them imports a library
    import_module(f"{__name__}.shared.telemetry").switch_off()
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
