"""What is known of a person's portraits, so that pictures can be compared with them: face vectors
beside an identity that was made here, or the photograph that lies beside an identity's file.
Imports no torch.

A vector is no photograph, but it is of a person all the same: it is kept where the identity is, for
its owner alone, and goes with it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pulid_extract.shared.json_text import read_json
from pulid_extract.shared.writing import write_atomically, write_together

VECTORS = ".face"
# of photographs beside an identity
PHOTOGRAPHS = (".png", ".jpg", ".jpeg", ".webp", ".heic")


def save_vectors(identity: Path, vectors: object) -> None:
    """Keep the face vectors of an identity's portraits; None forgets them. Raises OutputError."""
    path = identity.with_suffix(VECTORS)
    if vectors:
        write_atomically(path, json.dumps(vectors).encode(), mode=0o600)
    else:
        path.unlink(missing_ok=True)


def save_identity(path: Path, data: bytes, vectors: object) -> None:
    """Keep an identity with the face vectors of its own portraits, or with none. Raises
    OutputError.
    """
    files = {path: data}
    if vectors:
        files[path.with_suffix(VECTORS)] = json.dumps(vectors).encode()
    write_together(files, 0o600)
    if not vectors:
        save_vectors(path, None)


def copy_vectors(identity: Path, folder: Path) -> None:
    """Into a job's folder: the identity may be another one when the picture is drawn. Raises
    OutputError.
    """
    path = identity.with_suffix(VECTORS)
    if path.is_file():
        write_atomically(folder / path.name, path.read_bytes(), mode=0o600)


def known_portraits(name: str, folder: Path, identity: Path | None) -> dict[str, Any] | None:
    """What `pulid-extract worker` is asked to compare a picture with; None if nothing is known.

    name: of the .pulidembd in the job. folder: the job's. identity: the server's own file of that
    name.
    """
    kept = folder / Path(name).with_suffix(VECTORS).name
    try:
        return {"vectors": read_json(kept.read_bytes())}
    except (OSError, ValueError):
        pass
    if identity is None:
        return None
    for suffix in PHOTOGRAPHS:
        photograph = identity.with_suffix(suffix)
        if photograph.is_file():
            return {"reference": [str(photograph)]}
    return None
