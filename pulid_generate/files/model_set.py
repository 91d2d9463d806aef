"""The files of one generation: found, recognised, and told by role. Reads headers only. Knows no
model and no request.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.model_files import (
    Fit,
    FoundFile,
    Header,
    MissingFileError,
    Role,
    all_missing,
    check_role,
    fills,
    find,
    kinds_of,
    open_given,
)
from pulid_generate.errors import WeightsError
from pulid_generate.files.kits import pull_command
from pulid_generate.files.layouts import BFL_NAMES, DIFFUSERS_NAMES
from pulid_generate.files.model import Model
from pulid_generate.files.roles import ALL_IN_ONE, CLIP_L, FLUX, PULID, T5XXL, TINY, VAE
from pulid_generate.files.storage import width_of
from pulid_generate.files.t5_vocabulary import find_t5_tokenizer

# text encoder -> the matrix of Flux that takes its states, and one of its own, as wide
WIDTHS = {
    CLIP_L: ((BFL_NAMES.pooled, DIFFUSERS_NAMES.pooled), Model.CLIP.marker),
    T5XXL: ((BFL_NAMES.context, DIFFUSERS_NAMES.context), Model.T5.marker),
}


@dataclass(frozen=True)
class ModelFiles:
    """The files of one generation, found and recognised."""

    flux: FoundFile
    vae: FoundFile
    clip_l: FoundFile
    t5xxl: FoundFile
    t5_tokenizer: Path
    # None when no identity is asked for
    pulid: FoundFile | None = None
    # the tiny autoencoder, None when none is named
    tiny: FoundFile | None = None

    def of(self, model: Model) -> FoundFile:
        """The file of a model."""
        return getattr(self, model.field)

    def by_role(self) -> list[tuple[Role, FoundFile]]:
        """Which file fills which role."""
        pairs = [(FLUX, self.flux), (VAE, self.vae), (CLIP_L, self.clip_l), (T5XXL, self.t5xxl)]
        if self.pulid:
            pairs.append((PULID, self.pulid))
        return pairs

    @classmethod
    def find(
        cls,
        *,
        model: str | Path | None = None,
        flux: str | Path | None = None,
        vae: str | Path | None = None,
        clip_l: str | Path | None = None,
        t5xxl: str | Path | None = None,
        pulid: str | Path | None = None,
        t5_tokenizer: str | Path | None = None,
        models_dir: str | Path | None = None,
        with_pulid: bool = True,
        tae: str | Path | None = None,
        tae_for_previews: bool = False,
    ) -> ModelFiles:
        """Each explicit path, else `model`, else the models folder, else the Hugging Face cache;
        T5's vocabulary else the hub.

        A path is a file, a diffusers folder or the id of a cached repository. model: an all-in-one
        checkpoint or a whole diffusers pipeline; it must hold a Flux transformer unless `flux` is
        given. tae: a tiny autoencoder, which takes the autoencoder's place unless it is for
        previews only. Raises WeightsError.
        """
        tiny = open_given(TINY, tae) if tae is not None else None
        if tiny is not None:
            check_role(tiny.header, TINY)
        whole = open_given(ALL_IN_ONE, model) if model is not None else None
        if whole is not None and flux is None:
            check_role(whole.header, replace(FLUX, flag=ALL_IN_ONE.flag))
        folder = path_of(models_dir) if models_dir else None
        # first: of several faults, this is the one to hear of
        missing: list[MissingFileError] = []

        def part(role: Role, given: str | Path | None) -> FoundFile | None:
            try:
                return _part(role, given, whole, folder, fit_to(transformer, role))
            except MissingFileError as error:
                missing.append(error)
                return None

        transformer = None
        transformer = part(FLUX, flux)
        t5 = part(T5XXL, t5xxl)
        autoencoder = tiny if tiny and not tae_for_previews else part(VAE, vae)
        clip = part(CLIP_L, clip_l)
        person = None
        if with_pulid:
            try:
                person = find(PULID, pulid, models_dir)
            except MissingFileError as error:
                missing.append(error)
        if not (transformer and t5 and autoencoder and clip) or missing:
            command = pull_command({error.role for error in missing}, folder)
            raise all_missing(missing, command, folder)
        near_t5 = [
            t5.path.parent,
            t5.path,
            t5.path / "tokenizer_2",
            t5.path.parent / "tokenizer_2",
        ]
        if folder is not None:
            near_t5.append(folder)
        return cls(
            flux=transformer,
            vae=autoencoder,
            tiny=tiny,
            clip_l=clip,
            t5xxl=t5,
            pulid=person,
            # last: it may be a download
            t5_tokenizer=find_t5_tokenizer(t5_tokenizer, near_t5, t5.header),
        )


def fit_to(flux: FoundFile | None, role: Role) -> Fit | None:
    """For `find`: whether a text encoder gives states of the width that this Flux takes. None for
    another role, and without a Flux.
    """
    if flux is None or role not in WIDTHS:
        return None
    names, marker = WIDTHS[role]
    where, header_of_flux = flux.path, flux.header

    def fit(header: Header) -> str:
        try:
            wanted, width = width_of(header_of_flux, names), width_of(header, marker)
        # what is not there is said when the files are fitted to each other
        except (KeyError, IndexError):
            return ""
        return "" if width == wanted else f"gives states of width {width}, {where} takes {wanted}"

    return fit


def _part(
    role: Role,
    given: str | Path | None,
    whole: FoundFile | None,
    models_dir: Path | None,
    fit: Fit | None = None,
) -> FoundFile:
    """The file for one role: what was given, else the all-in-one if it holds the part, else as
    `find`.
    """
    if given is None and whole is not None:
        if fills(whole.header, role):
            return FoundFile(whole.path, "all-in-one", whole.header)
        try:
            return find(role, None, models_dir, fit)
        except WeightsError as error:
            held = ", ".join(kind.name for kind in kinds_of(whole.header).values())
            raise WeightsError(
                f"{whole.path}: holds no {role.name} (only {held}); {error}"
            ) from None
    return find(role, given, models_dir, fit)
