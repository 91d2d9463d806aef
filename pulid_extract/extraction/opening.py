"""From a command's flags to model files and to an Extractor. Imports torch only to open one, or to
look for a device that was asked for.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from pulid_extract.files.model_set import find_files, needed_roles
from pulid_extract.files.roles import ROLES
from pulid_extract.flags.groups import (
    AntelopeFlags,
    CropFlags,
    DetectFlags,
    ModelFlags,
    TowerFlags,
)
from pulid_extract.shared.cli import console
from pulid_extract.shared.model_files import FoundFile

if TYPE_CHECKING:
    from pulid_extract.extraction.extractor import Extractor

# what the extra [extract] brings
PACKAGES = ("cv2", "insightface", "onnxruntime")
# what it brings for prompts, which an extraction does not need
PROMPT_PACKAGES = ("open_clip", "tokenizers")


def find_models(flags: AntelopeFlags, roles: Collection[str]) -> dict[str, FoundFile]:
    """role -> its file, by flag, models folder, Hugging Face cache or download; says where each is.

    A device that is named and may not be there is looked for first, before anything is fetched.
    Raises WeightsError for a file that is missing or of the wrong kind, InputError for a device.
    """
    if isinstance(flags, TowerFlags) and flags.device not in ("auto", "cpu"):
        from pulid_extract.networks.devices import choose_device

        choose_device(flags.device)
    explicit = {name: getattr(flags, name, None) for name in ROLES}
    files = find_files(explicit, flags.models_dir or None, roles, console.log, console.detail)
    for name in ("retinaface", "bisenet"):
        if explicit[name] is not None and name not in files:
            console.log(f"--{name} {explicit[name]}: is not used; nothing here needs it")
    return files


def open_extractor(
    flags: AntelopeFlags,
    *,
    files: dict[str, FoundFile] | None = None,
    roles: Collection[str] | None = None,
) -> Extractor:
    """The Extractor of a command line; loads no network yet. Call it within `quiet`.

    flags: may also be TowerFlags, CropFlags and DetectFlags. files: from `find_models`, if it was
    called. roles: the files that are needed, if not all. Raises as `find_models`.
    """
    from pulid_extract.extraction.extractor import Extractor
    from pulid_extract.extraction.identity import Options

    options: dict[str, Any] = {}
    if isinstance(flags, CropFlags):
        options |= {"aligner": flags.aligner, "parser": flags.parser}
    if isinstance(flags, DetectFlags) and flags.det_threshold is not None:
        options["det_threshold"] = flags.det_threshold
    if files is None:
        aligner = options.get("aligner", "retinaface")
        needed = needed_roles(True, aligner, options.get("parser", "bisenet"))
        files = find_models(flags, needed if roles is None else needed & set(roles))
    device = flags.device if isinstance(flags, TowerFlags) else "auto"
    fast = isinstance(flags, ModelFlags) and flags.fast
    return Extractor(files, device, Options(**options), console.log, fast)
