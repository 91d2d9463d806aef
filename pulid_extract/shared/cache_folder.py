"""Where both programs keep what makes the next run faster: embeddings, encoded prompts, hashes of
model files. Knows nothing of what is kept there.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER_VARIABLE = "PULID_CACHE_DIR"


def default_folder() -> Path:
    """$PULID_CACHE_DIR, else pulid-flux-toolkit in the user's cache folder ($XDG_CACHE_HOME, or
    ~/.cache). Makes nothing.
    """
    named = os.environ.get(FOLDER_VARIABLE)
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "pulid-flux-toolkit"
