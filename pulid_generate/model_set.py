"""The files of one generation: found, recognised, and told by role. Reads headers only. Knows no model and no request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pulid_extract.model_files import Found, Role, find
from pulid_generate.text_encoders import find_t5_tokenizer
from pulid_generate.weights import CLIP_L, FLUX, PULID, T5XXL, VAE


@dataclass(frozen=True)
class ModelFiles:
    """The files of one generation, found and recognised. pulid is None when no identity is asked for."""

    flux: Found
    vae: Found
    clip_l: Found
    t5xxl: Found
    t5_tokenizer: Path
    pulid: Found | None = None

    def by_role(self) -> list[tuple[Role, Found]]:
        """Which file fills which role."""
        pairs = [(FLUX, self.flux), (VAE, self.vae), (CLIP_L, self.clip_l), (T5XXL, self.t5xxl)]
        return [*pairs, (PULID, self.pulid)] if self.pulid else pairs

    @classmethod
    def find(
        cls,
        *,
        flux: str | Path | None = None,
        vae: str | Path | None = None,
        clip_l: str | Path | None = None,
        t5xxl: str | Path | None = None,
        pulid: str | Path | None = None,
        t5_tokenizer: str | Path | None = None,
        models_dir: str | Path | None = None,
        with_pulid: bool = True,
    ) -> ModelFiles:
        """Each explicit path, else the models folder, else the Hugging Face cache; T5's vocabulary else the hub. Raises WeightsError."""
        t5 = find(T5XXL, t5xxl, models_dir)
        beside = [t5.path.parent, *([Path(models_dir).expanduser()] if models_dir else [])]
        return cls(
            flux=find(FLUX, flux, models_dir),
            vae=find(VAE, vae, models_dir),
            clip_l=find(CLIP_L, clip_l, models_dir),
            t5xxl=t5,
            pulid=find(PULID, pulid, models_dir) if with_pulid else None,
            t5_tokenizer=find_t5_tokenizer(t5_tokenizer, beside),  # last: it may be a download
        )
