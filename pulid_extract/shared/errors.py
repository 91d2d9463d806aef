"""Every error a user can cause, one class per kind of trouble. Knows nothing of printing or exit
codes.

    PulidError              anything that ends in one line and exit code 1
      UsageError            what the command line alone shows to be wrong: exit code 2
      InputError            a picture or an option that cannot be used
        FaceError           no face, or not the face that was meant
      WeightsError          a model file that is missing, damaged or of the wrong kind
      EmbeddingError        a .pulidembd that breaks docs/pulidembd.md
      OutputError           a result that cannot be written
        OutputNameError     a result's name that is wrong in itself (also a UsageError)
      PackageError          a stage whose libraries are not installed
      WorkerError           a cluster without a worker that can work
      (pulid_generate.errors adds its own branch)

A message is one line: what is wrong, where, what was expected, what to do next.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

# characters of a message
MAX_LINE = 1200


class PulidError(Exception):
    """Base of every error that is the input's fault, not a bug. `str()` is the one line shown to
    the user.
    """

    def __init__(self, message: str):
        # names inside files may hold anything, and pages of it
        line = printable(" ".join(message.split()))
        super().__init__(line if len(line) <= MAX_LINE else f"{line[: MAX_LINE - 4]} ...")


class UsageError(PulidError):
    """An option that cannot be used, whatever the files hold. Where a manifest's row or a request
    has it, the row is what fails.
    """


class InputError(PulidError):
    """A picture or an option value that cannot be used."""


class FaceError(InputError):
    """The picture holds no usable face, or the networks disagree about which face is meant."""


class WeightsError(PulidError):
    """A model file is missing, damaged, or not what its role needs."""


class EmbeddingError(PulidError):
    """An identity file breaks the rules of docs/pulidembd.md."""


class OutputError(PulidError):
    """A result cannot be written where it was asked for."""


class OutputNameError(OutputError, UsageError):
    """A result's name that is wrong wherever it is to stand."""


class PackageError(PulidError):
    """The libraries of a stage are not installed."""


class WorkerError(PulidError):
    """There is no cluster, or none of its machines can do the work."""


def printable(text: str, stand_in: str = "?") -> str:
    """One line without escape codes for a terminal: what cannot be printed becomes `stand_in`."""
    return "".join(character if character.isprintable() else stand_in for character in text)


def first_line(error: BaseException) -> str:
    """What a library's error says, short enough for a message of ours."""
    lines = str(error).strip().splitlines()
    return lines[0][:160] if lines else type(error).__name__


def require_packages(names: Iterable[str], extra: str) -> None:
    """Raise PackageError, saying what to install, if a package of an extra is missing. Imports none
    of them.
    """
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise PackageError(
            f"the packages {', '.join(missing)} are not installed; run: pip install "
            f"'pulid-flux-toolkit[{extra}]'"
        )
