"""The flags of `pulid-extract worker`: where its networks are, and defaults for every task. Knows
nothing of what they do.
"""

from __future__ import annotations

from dataclasses import dataclass

from pulid_extract.flags.extract import CacheFlags, FuseFlags
from pulid_extract.flags.groups import CropFlags, DetectFlags, EncodeFlags, ModelFlags, SayFlags


@dataclass(frozen=True, kw_only=True)
class WorkerFlags(SayFlags, CacheFlags, ModelFlags, CropFlags, DetectFlags, EncodeFlags, FuseFlags):
    """Every flag of `worker`; those of an extraction hold for every task that does not say
    otherwise.
    """
