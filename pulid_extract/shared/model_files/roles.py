"""The parts that model files play in a stage: which kinds of file can play them, and where to get
one. Knows no model but PuLID's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pulid_extract.shared.errors import WeightsError
from pulid_extract.shared.model_files.headers import Header
from pulid_extract.shared.model_files.kinds import kind_of, kinds_of


@dataclass(frozen=True)
class Source:
    """Where a file comes from: the Hugging Face hub, or a plain address."""

    # on the hub
    repo: str = ""
    files: tuple[str, ...] = ()
    # instead of the hub
    url: str = ""
    # lower-case hex, "" where unknown
    sha256: str = ""
    licence: str = ""

    @property
    def page(self) -> str:
        """For messages."""
        return self.url or f"https://huggingface.co/{self.repo} ({', '.join(self.files)})"


@dataclass(frozen=True)
class Role:
    """A part that a file plays in a stage."""

    # for messages
    name: str
    # that names a file for it
    flag: str
    # names of the kinds of file that can fill it
    kinds: tuple[str, ...]
    # how to get one
    source: Source
    # whether a missing file is downloaded without being asked for: small and ungated ones only
    fetch: bool = False
    # kinds that its flag takes as well, with a warning: what they are -> what is to be expected
    by_flag: Mapping[str, str] = field(default_factory=dict, hash=False)
    # kinds that people have instead; named when nothing fills the role
    mistaken: tuple[str, ...] = ()


# The one role that both stages have.
PULID = Role(
    "PuLID weights",
    "--pulid-weights",
    ("PuLID-FLUX file",),
    Source(repo="guozinan/PuLID", files=("pulid_flux_v0.9.1.safetensors",), licence="Apache-2.0"),
    fetch=True,
    mistaken=("SDXL PuLID file (pulid_v1.1)", "PuLID file in GGUF"),
)


def fills(header: Header, role: Role) -> bool:
    """Whether a model in the file can play the role."""
    return bool(filling_parts(header, role))


def filling_parts(header: Header, role: Role) -> tuple[str, ...]:
    """The prefixes of the models in the file that can play the role."""
    kinds = kinds_of(header).items()
    return tuple(p for p, kind in kinds if kind.name in role.kinds and not kind.refusal)


def check_role(header: Header, role: Role) -> None:
    """Raise WeightsError, naming what the file is, if it cannot fill the role."""
    if fills(header, role):
        return
    kind = kind_of(header)
    if kind.refusal:
        raise WeightsError(f"{header.path}: is a {kind.name}: {kind.refusal}")
    raise WeightsError(
        f"{header.path}: is a {kind.name}, {role.flag} wants a {role.kinds[0]}; get it from "
        f"{role.source.page}"
    )
