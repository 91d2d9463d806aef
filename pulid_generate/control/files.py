"""Which ControlNet a file is: its sizes, and whether it belongs to a Flux. From headers; imports no
torch.

Sources: huggingface/diffusers 0.42.1 src/diffusers/models/controlnets/controlnet_flux.py (names;
InstantX's and Shakker's files have them); XLabs-AI/x-flux src/flux/controlnet.py.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from pulid_extract.shared.model_files import Header, read_header
from pulid_extract.shared.model_files.transfer import file_sha256
from pulid_generate.errors import CheckpointError, InputError
from pulid_generate.files.layouts import BFL_NAMES, DIFFUSERS_NAMES, HEAD_WIDTH, FluxShape
from pulid_generate.files.storage import flux_shape_of
from pulid_generate.memory.footprint import Footprint
from pulid_generate.request.conditions.control_picture import ControlUse

# a tensor that only a Flux ControlNet has, in diffusers' spelling and in XLabs'
MARKER = ("controlnet_x_embedder.weight", "pos_embed_input.weight")
# Tensors of other families' ControlNets begin with -> the family
OTHERS = {
    "control_model.": "Stable Diffusion",
    "controlnet_cond_embedding.": "Stable Diffusion",
    "controlnet_down_blocks.": "Stable Diffusion",
    "input_hint_block.": "Stable Diffusion",
    "pos_embed.proj.": "Stable Diffusion 3",
    "lora_controlnet": "Stable Diffusion (a control LoRA)",
}
# Of unions: InstantX/FLUX.1-dev-Controlnet-Union, its model card
MODES = ("canny", "tile", "depth", "blur", "pose", "gray", "low-quality")
FOLDER_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class ControlShape:
    """The sizes of a ControlNet."""

    flux: FluxShape
    # Of a union, the number of its modes; None for one that does one thing
    modes: int | None
    # Whether it reads pixels, as XLabs' do, and not latents
    pixels: bool
    # Whether its names are XLabs' own
    xlabs: bool


@dataclass(frozen=True)
class ControlFile:
    """A ControlNet that was found."""

    header: Header
    shape: ControlShape

    @cached_property
    def sha256(self) -> str:
        """Of the file, which is read through for it. Raises WeightsError."""
        return file_sha256(self.header.path)

    @classmethod
    def read(cls, path: Path, flux: FluxShape, flux_path: Path) -> ControlFile:
        """Raises CheckpointError for what is none of Flux's, or of another size than this Flux;
        WeightsError for what is no model file, InputError for what is not there.
        """
        if not path.exists():
            raise InputError(
                f"--control-net {path}: no such file; expected a ControlNet of Flux, such as "
                "InstantX/FLUX.1-dev-Controlnet-Union's"
            )
        file = path / FOLDER_FILE if path.is_dir() and (path / FOLDER_FILE).is_file() else path
        header = read_header(file)
        shape = _shape_of(header)
        for name in ("width", "context", "pooled"):
            own, wanted = getattr(shape.flux, name), getattr(flux, name)
            if own != wanted:
                raise CheckpointError(
                    f"{path}: is a ControlNet of {name} {own}, {flux_path} has {wanted}; "
                    "they do not belong together"
                )
        return cls(header, shape)

    def bytes(self, image_tokens: int, number: int) -> int:
        """Of the model and of what it predicts of a step of so many tokens, at `number` bytes each
        number.
        """
        flux = self.shape.flux
        residuals = (flux.double + flux.single) * flux.width * number * image_tokens
        return Footprint.of(self.header, MARKER).bytes(number) + residuals

    @property
    def modes(self) -> tuple[str, ...]:
        """Names of a union's modes, in its order; none of what does one thing."""
        return MODES[: self.shape.modes or 0]

    def mode_number(self, mode: str | None) -> int | None:
        """Of a mode by name or number; None of a ControlNet without any. Raises InputError."""
        path, count = self.header.path, self.shape.modes
        if count is None:
            if mode is not None:
                raise InputError(
                    f"{path}: is no union of several ControlNets; leave --control-mode out (beside "
                    "a union give it for each, '' for this one)"
                )
            return None
        names = self.modes
        if mode in names:
            return names.index(mode)
        if mode is not None and mode.isdigit() and int(mode) < count:
            return int(mode)
        said = f"has no mode {mode!r}" if mode is not None else "is a union"
        raise InputError(
            f"{path}: {said}; give --control-mode {', '.join(names)}, or a number below {count}"
        )


class ControlFiles:
    """Those that are wanted beside one Flux, each read once."""

    def __init__(self, flux: FluxShape, flux_path: Path):
        self._flux, self._flux_path = flux, flux_path
        self._found: dict[Path, ControlFile] = {}

    def __getitem__(self, path: Path) -> ControlFile:
        """Raises as `ControlFile.read`."""
        if path not in self._found:
            self._found[path] = ControlFile.read(path, self._flux, self._flux_path)
        return self._found[path]

    def fitted(self, uses: Iterable[ControlUse]) -> tuple[ControlUse, ...]:
        """The uses with their files' hashes. Raises CheckpointError for a file that does not belong
        to this Flux, InputError for a mode that it lacks; WeightsError.
        """
        fitted = []
        for use in uses:
            file = self[use.path]
            file.mode_number(use.mode)
            fitted.append(replace(use, net_sha256=file.sha256))
        return tuple(fitted)


def _shape_of(header: Header) -> ControlShape:
    shapes = {name: shape for name, (_, shape) in header.tensors.items()}
    marker = next((name for name in MARKER if name in shapes), None)
    if marker is None:
        for start, family in OTHERS.items():
            if any(name.startswith(start) for name in shapes):
                raise CheckpointError(
                    f"{header.path}: is a ControlNet of {family}; Flux takes its own, such as "
                    "InstantX/FLUX.1-dev-Controlnet-Union or XLabs-AI's"
                )
        raise CheckpointError(f"{header.path}: is no ControlNet of Flux")
    xlabs = marker == MARKER[1]
    names = BFL_NAMES if xlabs else DIFFUSERS_NAMES
    try:
        flux = flux_shape_of(shapes, names)
    except (KeyError, IndexError):
        raise CheckpointError(
            f"{header.path}: lacks what every Flux ControlNet has: it belongs to another model, or "
            "is damaged"
        ) from None
    if not flux.double or flux.width % HEAD_WIDTH:
        raise CheckpointError(f"{header.path}: is no whole ControlNet of Flux; download it again")
    modes = shapes.get("controlnet_mode_embedder.weight")
    pixels = any(name.startswith("input_hint_block.") for name in shapes)
    return ControlShape(flux, modes[0] if modes else None, pixels, xlabs)
