"""What becomes of an error: a status and JSON with the command line's sentence, in a form that
OpenAI's and WebUI's clients read. Imports no torch.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.responses import JSONResponse

from pulid_generate.errors import (
    EmbeddingError,
    IdentityError,
    InputError,
    PlacementError,
    PulidError,
    RequestError,
)


class RefusedError(PulidError):
    """A request that is not answered, whatever is in it."""

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.status = status
        self.headers = headers or {}


def not_found(what: str) -> RefusedError:
    return RefusedError(404, f"{what}: not here, or not yours")


# whose fault an error is: the request's, or else the server's
OF_REQUEST = (RequestError, InputError, EmbeddingError, IdentityError, PlacementError)


def status_of(error: PulidError) -> int:
    if isinstance(error, RefusedError):
        return error.status
    return 400 if isinstance(error, OF_REQUEST) else 503


def failure(status: int, message: str, kind: str = "", headers: Any = None) -> JSONResponse:
    """error: as OpenAI has it. detail: as WebUI has it."""
    told = {"message": message, "type": kind or "refused", "param": None, "code": status}
    return JSONResponse({"error": told, "detail": message}, status, headers=headers)


def failure_of(error: PulidError, told: str | None = None) -> JSONResponse:
    """told: the sentence, if it is not the error's own."""
    # RequestError -> request_error
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__).lower()
    headers = error.headers if isinstance(error, RefusedError) else None
    return failure(status_of(error), told if told is not None else str(error), kind, headers)


def without_folder(text: str, folder: Path) -> str:
    """A sentence without the folder in which the files of a request lie."""
    return text.replace(f"{folder}/", "")


@contextmanager
def naming_files_of(folder: Path) -> Iterator[None]:
    """Errors inside call files by the names that they have in this folder: where it is is no
    concern of a request's.
    """
    try:
        yield
    except PulidError as error:
        error.args = (without_folder(str(error), folder),)
        raise


def mistake_of(error: Exception) -> str:
    """Which bug an error is and where, and no word of what was asked for."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} at {place.filename}:{place.lineno}"
