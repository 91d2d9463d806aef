"""The files beside the models that flags name, for `doctor`: LoRAs, ControlNets, a tiny
autoencoder, what enlarges pictures, what finds faces; whether each can be used, and what it takes
of which device.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.model_files import FoundFile, check_role, open_given
from pulid_extract.shared.model_files.checkup import (
    FILES,
    Check,
    RoleCheck,
    look_for,
    no_network,
)
from pulid_extract.shared.model_files.meter import size_text
from pulid_generate.assembly.detail import read_detail
from pulid_generate.assembly.requests import hires_upscaler, read_prompt
from pulid_generate.control.files import ControlFile
from pulid_generate.errors import PulidError
from pulid_generate.files.model import Model
from pulid_generate.files.roles import TINY
from pulid_generate.flags.commands.tables import Flags
from pulid_generate.pictures.face_finder import PROCESS_BYTES, FaceFinder
from pulid_generate.pictures.scorer import PROGRAM
from pulid_generate.request.prompts.prompt import read_prompt_file

if TYPE_CHECKING:
    from pulid_generate.memory.placement import Placement


@dataclass(frozen=True)
class Companions:
    """What was found of them."""

    checks: Sequence[Check] = ()
    controls: Sequence[ControlFile] = ()
    # That LoRAs add to Flux's
    lora_numbers: int = 0
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
    """The others. flux: to which LoRAs and ControlNets must fit. Loads the networks that enlarge:
    their files tell nothing by their headers. A detail pass starts the process that finds faces.
    """
    checks: list[Check] = []
    controls: list[ControlFile] = []
    aside: Counter[str] = Counter()
    lora_checks, lora_numbers = _loras(flags, flux)
    checks += lora_checks
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
    enlargers = []
    if (model := _hires_model(flags)) is not None:
        enlargers.append(_upscaler("upscaler of --hires", model, flags.hires_upscale_tile_size))
    if flags.upscale_model is not None:
        path, tile = path_of(flags.upscale_model), flags.upscale_tile_size
        enlargers.append(_upscaler("upscaler", path, tile, flags.upscale_repeats))
    for check, count in enlargers:
        checks.append(check)
        aside[placement.name_of(Model.VAE)] += count
    if flags.ad_model is not None:
        checks.append(_face_finder(flags))
        aside["cpu"] += PROCESS_BYTES
    return Companions(checks, controls, lora_numbers, aside)


def _loras(flags: Flags, flux: FoundFile) -> tuple[list[Check], int]:
    """Of each that the flags and the prompt name, and how many numbers they hold for Flux."""
    from pulid_generate.lora.files import read_lora, resolve
    from pulid_generate.lora.names import flux_layers
    from pulid_generate.models.flux import flux_shape

    what, checks, numbers = "LoRA", [], 0
    # what comes by standard input is for the run to read
    from_file = None if flags.prompt_file == "-" else flags.prompt_file
    if wrong := _prompt(from_file):
        return [wrong], 0
    try:
        _, choices = read_prompt(replace(flags, prompt_file=from_file))
    except PulidError as error:
        return [Check(FILES, what, "wrong", str(error))], 0
    layers = flux_layers(flux_shape(flux.header))
    for choice in choices:
        try:
            changes = resolve(read_lora(choice.path), Model.FLUX, layers)
        except PulidError as error:
            checks.append(Check(FILES, what, "wrong", str(error)))
            continue
        numbers += sum(change.numbers for change in changes.values())
        checks.append(Check(FILES, what, "ok", _given(choice.path)))
    return checks, numbers


def _prompt(path: str | None) -> Check | None:
    """What is wrong with the file of the prompt, whose tags name LoRAs."""
    try:
        if path is not None:
            read_prompt_file(path)
    except PulidError as error:
        return Check(FILES, "prompt", "wrong", str(error))
    return None


def _control(name: str, mode: str | None, flux: FoundFile) -> tuple[Check, ControlFile | None]:
    from pulid_generate.models.flux import flux_shape

    path, what = path_of(name), "ControlNet"
    try:
        control = ControlFile.read(path, flux_shape(flux.header), flux.path)
        control.mode_number(mode)
    except PulidError as error:
        return Check(FILES, what, "wrong", str(error)), None
    return Check(FILES, what, "ok", _given(path, control.header.path)), control


def _hires_model(flags: Flags) -> Path | None:
    """The file of what enlarges between two passes, if that is a model. A name that is none is told
    with the flags.
    """
    if not flags.hires:
        return None
    try:
        return hires_upscaler(flags)[1]
    except PulidError:
        return None


def _upscaler(what: str, path: Path, tile: int, repeats: int = 1) -> tuple[Check, int]:
    """The check, and the bytes it takes."""
    from pulid_generate.models.upscaler import load_upscaler
    from pulid_generate.request.passes.upscaling import UpscaleSettings

    try:
        upscaler = load_upscaler(UpscaleSettings(path=path, repeats=repeats, tile=tile))
    except PulidError as error:
        return Check(FILES, what, "wrong", str(error)), 0
    text = f"{_given(path)}, {upscaler.scale} times as large"
    return Check(FILES, what, "ok", text), upscaler.bytes


def _face_finder(flags: Flags) -> Check:
    """Whether faces are found, by who finds them while drawing."""
    what = "faces of --ad-model"
    finder = FaceFinder(flags.models_dir or None)
    try:
        detail = read_detail(flags)
        assert detail is not None
        with no_network():
            finder.check(detail.detector, detail.confidence)
    except PulidError as error:
        return Check(FILES, what, "wrong", str(error))
    finally:
        finder.close()
    place = detail.detector or "the models folder"
    return Check(FILES, what, "ok", f"{PROGRAM} finds them with antelopev2 of {place}")


def _given(path: Path, file: Path | None = None) -> str:
    """A path that a flag names. file: what is read of it, where that is another."""
    return f"{path} (flag, {size_text((file or path).stat().st_size)})"
