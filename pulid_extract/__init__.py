"""pulid_extract: one portrait in, one small identity file (.pulidembd) out.

Importing this package loads nothing heavy; torch, insightface and facexlib are imported when a model is loaded.
"""

from pulid_extract.embedding_file import Embedding, decode_embedding, encode_embedding, read_embedding
from pulid_extract.errors import PulidError

__all__ = [
    "Embedding",
    "PulidError",
    "decode_embedding",
    "encode_embedding",
    "read_embedding",
]
