"""This stage's branch of the error tree; the trunk is pulid_extract.shared.errors.

PulidError              anything that ends in one line and exit code 1
  RequestError          a generation option that cannot be done (a UsageError)
  IdentityError         an identity that does not fit the PuLID file or the Flux model
  PlacementError        models that do not fit where they were to run
  ScoringError          pictures whose likeness cannot be told
  CheckpointError       a Flux, autoencoder or text encoder file that cannot be loaded
                        (also a WeightsError)
"""

from __future__ import annotations

from pulid_extract.shared.errors import (
    EmbeddingError,
    InputError,
    OutputError,
    OutputNameError,
    PackageError,
    PulidError,
    UsageError,
    WeightsError,
    require_packages,
)

__all__ = [
    "CheckpointError",
    "EmbeddingError",
    "IdentityError",
    "InputError",
    "OutputError",
    "OutputNameError",
    "PackageError",
    "PlacementError",
    "PulidError",
    "RequestError",
    "ScoringError",
    "UsageError",
    "WeightsError",
    "require_packages",
]


class RequestError(UsageError):
    """A generation option whose value cannot be done, whatever the files hold."""


class IdentityError(PulidError):
    """An identity that does not fit the PuLID file or the Flux model it is to be used with."""


class PlacementError(PulidError):
    """The models do not fit the device or the memory they were to run in."""


class ScoringError(PulidError):
    """`pulid-extract score` could not say how like the pictures are."""


class CheckpointError(WeightsError):
    """A model file of the right kind whose tensors are not what the model needs."""
