"""What comes in: a request's body as fields and files, and files into a folder that only the user
can read. Imports no torch.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from pulid_extract.shared.json_text import read_json
from pulid_extract.shared.writing import make_folder, write_atomically
from pulid_generate.errors import RequestError
from pulid_generate.server.intake.people import check_name
from pulid_generate.server.settings import MAX_BODY, MAX_FILES, MAX_NAME

FORM = "multipart/form-data"
# shorter texts are names of files
SHORTEST_BASE64 = 100


@dataclass
class Body:
    """A request's fields and files."""

    fields: dict[str, Any] = field(default_factory=dict)
    # name -> bytes, as they came
    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, name: str, data: bytes) -> str:
        """A file. Raises RequestError for a name that cannot be, or is there already."""
        if len(self.files) >= MAX_FILES:
            raise RequestError(f"files: more than {MAX_FILES}; send fewer")
        if check_name(name) in self.files:
            raise RequestError(f"files: two are called {name}; give each its own name")
        self.files[name] = data
        return name

    def take_file(self, value: object, name: str) -> str:
        """The name of the file that a field means: one of `files`, or the field's own base64, which
        becomes a file called like the field (and numbered, if there is one already). Raises
        RequestError.
        """
        if not isinstance(value, str):
            raise RequestError(f"{name}: expected the name of a file in 'files', or base64")
        if value in self.files:
            return value
        if not value.startswith("data:") and len(value) < SHORTEST_BASE64:
            known = ", ".join(self.files) or "none came with the request"
            raise RequestError(
                f"{name}: no file is called {value[:MAX_NAME]!r}; there are: {known}"
            )
        data = decode_file(value, name)
        return self.add(f"{name}-{len(self.files)}" if name in self.files else name, data)


def decode_file(value: object, name: str) -> bytes:
    """The bytes of base64, plain or as a data URL. Raises RequestError."""
    if not isinstance(value, str):
        raise RequestError(f"{name}: expected base64 or a data URL")
    text = value
    if text.startswith("data:"):
        head, _, text = text.partition(",")
        if not head.endswith(";base64"):
            raise RequestError(f"{name}: expected a data URL in base64")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"{name}: is not base64") from None


async def read_body(request: Request, *, one_file: tuple[str, ...] = ()) -> Body:
    """The body: JSON, or a form.

    one_file: parts of a form that are a file each and keep the part's name. Raises RequestError.
    """
    if request.headers.get("content-type", "").startswith(FORM):
        return await _read_form(request, one_file)
    data = await request.body()
    try:
        told = read_json(data) if data else {}
    except ValueError as error:
        raise RequestError(
            f"the body is not JSON ({error}); expected an object of fields"
        ) from None
    if not isinstance(told, dict):
        raise RequestError("the body is not an object of fields")
    body = Body(told)
    files = body.fields.pop("files", None) or {}
    if not isinstance(files, Mapping):
        raise RequestError("files: expected an object, name -> base64")
    for name, value in files.items():
        body.add(name, decode_file(value, f"files: {check_name(name)}"))
    return body


async def _read_form(request: Request, one_file: tuple[str, ...]) -> Body:
    body = Body()
    try:
        async with request.form(
            max_files=MAX_FILES, max_fields=200, max_part_size=MAX_BODY
        ) as form:
            for name, value in form.multi_items():
                if not isinstance(value, UploadFile):
                    _add_text(body, name, value)
                elif name.removesuffix("[]") in one_file:
                    body.add(f"{name.removesuffix('[]')}{len(body.files)}", await value.read())
                elif name == "files":
                    body.add(value.filename or "", await value.read())
                else:
                    raise RequestError(
                        f"{name[:40]}: is a file; send files as parts called 'files'"
                    )
    except HTTPException as error:
        raise RequestError(f"the form cannot be read: {error.detail}") from None
    return body


def _add_text(body: Body, name: str, text: str) -> None:
    """A part of a form. One that comes twice is a list."""
    name = name.removesuffix("[]")
    if name in body.fields:
        before = body.fields[name]
        body.fields[name] = [*(before if isinstance(before, list) else [before]), text]
    else:
        body.fields[name] = text


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Into a folder, which is made for them, each for the user alone. Raises OutputError."""
    if files:
        make_folder(folder, mode=0o700)
    for name, data in files.items():
        write_atomically(folder / check_name(name), data, mode=0o600)
