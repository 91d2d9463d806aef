"""TODO"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER_VARIABLE = "PULID_CACHE_DIR"


def default_folder() -> Path:
    """$PULID_CACHE_DIR, else pulid-flux-toolkit in the user's cache folder ($XDG_CACHE_HOME, or
    ~/.cache).
    """
    named = os.environ.get(FOLDER_VARIABLE)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(named).expanduser() if named else Path(base).expanduser() / "pulid-flux-toolkit"
