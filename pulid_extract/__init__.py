"""pulid_extract: one portrait in, one small identity file (.pulidembd) out.

Importing this package loads nothing, not even numpy, so that `--help` is instant; each public name loads its module on
first use, and only `Extractor` and `Identity` bring torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pulid_extract.choice import FaceChoice
    from pulid_extract.embedding_file import Embedding, decode_embedding, encode_embedding, read_embedding
    from pulid_extract.errors import PulidError
    from pulid_extract.extractor import Extractor, Identity
    from pulid_extract.portrait import FaceBox, read_portrait

__version__ = "0.1.0"  # as in pyproject.toml; a test compares them

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
    "Embedding": "embedding_file",
    "Extractor": "extractor",
    "FaceBox": "portrait",
    "FaceChoice": "choice",
    "Identity": "extractor",
    "PulidError": "errors",
    "decode_embedding": "embedding_file",
    "encode_embedding": "embedding_file",
    "read_embedding": "embedding_file",
    "read_portrait": "portrait",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
