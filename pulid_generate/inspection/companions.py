"""The files beside the models that flags name, for `doctor`: ControlNets, a tiny autoencoder, what
enlarges finished pictures; whether each can be used, and what it takes of which device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.model_files import FoundFile, check_role, open_given
from pulid_extract.shared.model_files.checkup import FILES, Check, RoleCheck, look_for
from pulid_extract.shared.model_files.meter import size_text
from pulid_generate.control.files import ControlFile
from pulid_generate.errors import PulidError
from pulid_generate.files.model import Model
from pulid_generate.files.roles import TINY
from pulid_generate.flags.commands import Flags
from pulid_generate.pictures.face_finder import PROCESS_BYTES

if TYPE_CHECKING:
    from pulid_generate.memory.placement import Placement


@dataclass(frozen=True)
class Companions:
    """What was found of them."""

    checks: Sequence[Check] = ()
    controls: Sequence[ControlFile] = ()
    # Bytes by device that they leave the models no more
    aside: Counter[str] = field(default_factory=Counter)

    def left_of(self, available: Mapping[str, int]) -> dict[str, int]:
        """Bytes by device that the models may take."""
        return {device: max(have - self.aside[device], 0) for device, have in available.items()}

    def control_bytes(self, image_tokens: int, number: int) -> int:
        """Of the ControlNets on Flux's device, at so many bytes per number."""
        return sum(control.bytes(image_tokens, number) for control in self.controls)


def look_for_tae(flags: Flags) -> RoleCheck | None:
    """Whether the tiny autoencoder can be used; None where none is named."""
    if flags.tae is None:
        return None
    named = flags.tae

    def search() -> FoundFile:
        found = open_given(TINY, named)
        check_role(found.header, TINY)
        return found

    return look_for(TINY, search, None, given=True)


def look_for_companions(flags: Flags, flux: FoundFile, placement: Placement) -> Companions:
    """The others. flux: to which ControlNets must fit. Loads the network that enlarges: its file
    tells nothing by its header.
    """
    checks, controls, aside = [], [], Counter[str]()
    modes = list(flags.control_mode or [])
    if len(modes) == 1:
        modes *= len(flags.control_net or [])
    for name, mode in zip_longest(flags.control_net or [], modes):
        if name is None:
            break
        check, control = _control(name, mode or None, flux)
        checks.append(check)
        if control is not None:
            controls.append(control)
    if flags.upscale_model is not None:
        check, count = _upscaler(flags)
        checks.append(check)
        aside[placement.name_of(Model.VAE)] += count
    if flags.ad_model is not None:
        aside["cpu"] += PROCESS_BYTES
    return Companions(checks, controls, aside)


def _control(name: str, mode: str | None, flux: FoundFile) -> tuple[Check, ControlFile | None]:
    from pulid_generate.models.flux import flux_shape

    path, what = path_of(name), "ControlNet"
    try:
        control = ControlFile.read(path, flux_shape(flux.header), flux.path)
        control.mode_number(mode)
    except PulidError as error:
        return Check(FILES, what, "wrong", str(error)), None
    size = size_text(control.header.path.stat().st_size)
    return Check(FILES, what, "ok", f"{path} (flag, {size})"), control


def _upscaler(flags: Flags) -> tuple[Check, int]:
    """The check, and the bytes it takes."""
    from pulid_generate.models.upscaler import load_upscaler
    from pulid_generate.request.upscaling import UpscaleSettings

    what = "upscaler"
    assert flags.upscale_model is not None
    path = path_of(flags.upscale_model)
    try:
        settings = UpscaleSettings(
            path=path, repeats=flags.upscale_repeats, tile=flags.upscale_tile_size
        )
        upscaler = load_upscaler(settings)
    except PulidError as error:
        return Check(FILES, what, "wrong", str(error)), 0
    size = size_text(path.stat().st_size)
    text = f"{path} (flag, {size}), {upscaler.scale} times as large"
    return Check(FILES, what, "ok", text), upscaler.bytes
