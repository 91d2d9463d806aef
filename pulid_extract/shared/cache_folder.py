"""Where both programs keep what makes the next run faster: embeddings, encoded prompts, hashes of
model files. Knows nothing of what is kept there.
"""

from __future__ import annotations

import os
from pathlib import Path

from pulid_extract.shared.file_names import path_of

FOLDER_VARIABLE = "PULID_CACHE_DIR"


def default_folder() -> Path:
    """$PULID_CACHE_DIR, else pulid-flux-toolkit in the user's cache folder ($XDG_CACHE_HOME, or
    ~/.cache). Makes nothing.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return path_of(named)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return path_of(base) / "pulid-flux-toolkit"
