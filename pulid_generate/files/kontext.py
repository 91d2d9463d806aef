"""Is a Flux file FLUX.1 Kontext? Its tensors are dev's, name by name and size by size, so its name
and what it says of itself are all there is. Imports no torch.
"""

from __future__ import annotations

import re
from typing import Literal

from pulid_extract.shared.model_files import Header

WORD = "kontext"
# of files that are dev's in shape and read no reference
OTHERS = re.compile(r"(^|[^a-z])(dev|krea|depth|canny|fill)([^a-z]|$)")
# Folders above a file that may carry its name: a repository, its "snapshots", a commit
FOLDERS = 3


def is_kontext(header: Header) -> Literal["yes", "no", "unknown"]:
    """By the file's name, else what it says of itself, else the folders it lies in."""
    path = header.path
    if WORD in path.name.lower():
        return "yes"
    said = " ".join(str(value)[:200] for value in header.metadata.values()).lower()
    if WORD in said:
        return "yes"
    if OTHERS.search(path.stem.lower()):
        return "no"
    folders = [folder.name.lower() for folder in list(path.parents)[:FOLDERS]]
    return "yes" if any(WORD in name for name in folders) else "unknown"
