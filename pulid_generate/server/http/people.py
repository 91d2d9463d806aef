"""Identities that can be named, and portraits: the faces on one, what the face network would see of
it, and an identity made of several.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from pulid_extract.shared.embedding_file import decode_embedding
from pulid_extract.shared.json_text import read_json
from pulid_extract.shared.writing import make_folder
from pulid_generate.errors import RequestError
from pulid_generate.server.failures import naming_files_of, not_found, without_folder
from pulid_generate.server.http.state import Server, beside, server_of, visitor_of
from pulid_generate.server.intake.compared import hashes_of
from pulid_generate.server.intake.people import SUFFIX, check_name
from pulid_generate.server.intake.portraits import save_identity, save_vectors
from pulid_generate.server.intake.uploads import Body, read_body, write_files
from pulid_generate.server.settings import MAX_SAVED
from pulid_generate.server.work.queue import PORTRAITS

router = APIRouter()
# Options of one extraction that a request may give, beside its portraits
OPTIONS = (
    *("face_index", "face_order", "face_at", "face_box", "landmarks", "box", "det_threshold"),
    *("with_uncond", "fuse", "drop_outliers", "mix_people", "strict", "aligner", "parser", "dtype"),
)
OWN = ("portraits", "mask", "name", "pulid_id_embedding")
PICTURES = {
    "crop": "crop_image",
    "face": "face_image",
    "parse": "parse_image",
    "sheet": "preview",
}


@router.get("/v1/identities")
async def list_identities(request: Request) -> dict[str, Any]:
    """Who can be named: the server's, and those that this session saved."""
    server, visitor = server_of(request), visitor_of(request)
    own: set[str] = set()
    if visitor:
        folder = server.visitors.identities_of(visitor)
        own = {path.stem for path in folder.glob(f"*{SUFFIX}")}
    hashes = await beside(hashes_of, server.submission.people(visitor).files())
    told = []
    for name, sha256 in hashes.items():
        told.append({"name": name, "saved": name in own, "sha256": sha256})
    return {"identities": told}


@router.post("/v1/identities")
async def make_identity(request: Request) -> dict[str, Any]:
    """The .pulidembd of the person on `portraits`, or one that is sent; with `name` and in a
    session it is saved, so that requests can name it.
    """
    server, visitor = server_of(request), visitor_of(request)
    body = await read_body(request)
    return await beside(_make, server, body, visitor)


def _make(server: Server, body: Body, visitor: str | None) -> dict[str, Any]:
    fields = _known(body)
    name = fields.pop("name", None)
    if name is not None:
        name = check_name(str(name)).removesuffix(SUFFIX)
    answer: dict[str, Any] = {}
    sent = fields.pop("pulid_id_embedding", None)
    if sent is not None:
        data = body.files[body.take_file(sent, "pulid_id_embedding")]
        identity = decode_embedding(data, "pulid_id_embedding")
        server.judge.check_identity(identity, "pulid_id_embedding")
    else:
        with _portraits(server, body, fields, visitor) as (folder, options):
            out = folder / f"made{SUFFIX}"
            task = options | {"out": str(out), "vectors": True}
            answer = _ask(server, "extract", folder, task)
            data = out.read_bytes()
    vectors = answer.pop("vectors", None)
    answer |= {"sha256": hashlib.sha256(data).hexdigest(), "saved": None}
    answer["pulid_id_embedding"] = base64.b64encode(data).decode()
    if name is not None and visitor is not None:
        folder = make_folder(server.visitors.identities_of(visitor), mode=0o700)
        if len(list(folder.glob(f"*{SUFFIX}"))) >= MAX_SAVED:
            raise RequestError(f"{MAX_SAVED} identities are saved in this session; delete one")
        with naming_files_of(folder):
            save_identity(folder / f"{name}{SUFFIX}", data, vectors)
        answer["saved"] = name
    return answer


@router.get("/v1/identities/{name}")
async def get_identity(request: Request, name: str) -> Response:
    """The .pulidembd of one that this session saved."""
    return Response(
        _saved(request, name).read_bytes(),
        media_type="application/octet-stream",
        headers={"Content-Disposition": f'attachment; filename="identity{SUFFIX}"'},
    )


@router.delete("/v1/identities/{name}")
async def delete_identity(request: Request, name: str) -> dict[str, Any]:
    """Forget one that this session saved."""
    path = _saved(request, name)
    path.unlink(missing_ok=True)
    save_vectors(path, None)
    return {"deleted": name}


def _saved(request: Request, name: str) -> Path:
    server, visitor = server_of(request), visitor_of(request)
    if visitor is not None:
        for path in server.visitors.identities_of(visitor).glob(f"*{SUFFIX}"):
            if path.stem == name:
                return path
    raise not_found(f"identity {name[:40]}")


@router.post("/v1/faces")
async def list_faces(request: Request) -> dict[str, Any]:
    """Every face of one portrait, as `pulid-extract faces --json` has them."""
    server, visitor = server_of(request), visitor_of(request)
    body = await read_body(request)

    def ask() -> dict[str, Any]:
        with _portraits(server, body, _known(body), visitor) as (folder, options):
            portraits, _ = options.pop("portrait"), options.pop("names")
            if len(portraits) != 1:
                raise RequestError("portraits: expected one")
            return _ask(server, "faces", folder, options | {"photo": portraits[0]})

    return await beside(ask)


@router.post("/v1/crops")
async def show_crops(request: Request) -> dict[str, Any]:
    """What the face network would see of portraits, and how good they are: PNG in base64."""
    server, visitor = server_of(request), visitor_of(request)
    body = await read_body(request)

    def ask() -> dict[str, Any]:
        with _portraits(server, body, _known(body), visitor) as (folder, options):
            # of several portraits the sheet alone
            shown = ("sheet",) if len(options["portrait"]) > 1 else tuple(PICTURES)
            paths = {name: folder / f"{name}.png" for name in shown}
            for name, path in paths.items():
                options[PICTURES[name]] = str(path)
            answer = _ask(server, "crops", folder, options)
            for name, path in paths.items():
                # without a parser there are no parts
                if path.is_file():
                    answer[name] = base64.b64encode(path.read_bytes()).decode()
            return answer

    return await beside(ask)


# ------------------------------------------------------------------------------------------- parts


def _known(body: Body) -> dict[str, Any]:
    unknown = [name[:40] for name in body.fields if name not in (*OPTIONS, *OWN)]
    if unknown:
        raise RequestError(f"unknown fields: {', '.join(unknown[:20])}")
    return {name: value for name, value in body.fields.items() if value is not None}


@contextmanager
def _portraits(
    server: Server, body: Body, fields: dict[str, Any], visitor: str | None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder with the request's portraits, which is gone afterwards, and the worker's fields."""
    options = dict(fields)
    wanted = options.pop("portraits", None)
    entries = (wanted or [None]) if isinstance(wanted, list) else [wanted]
    folder = server.visitors.folder_of(visitor) / f"{PORTRAITS}{secrets.token_hex(8)}"
    try:
        with naming_files_of(folder):
            taken: dict[str, dict[str, Any]] = {}
            for entry in entries:
                own = _entry(entry)
                name = body.take_file(own.pop("file", None), "portraits")
                taken[name] = _with_mask(own, body, folder)
            options = _with_mask(options, body, folder)
            # no folder is made for a request that is refused
            write_files(body.files, folder)
            paths = {name: str(folder / name) for name in taken}
            options["portrait"], options["names"] = list(paths.values()), list(taken)
            each = {paths[name]: own for name, own in taken.items() if own}
            if each:
                options["each"] = each
            yield folder, options
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _entry(entry: object) -> dict[str, Any]:
    """One of the portraits: its file's name, or an object with the name as `file` and what is meant
    on this one, which a form has as JSON. Raises RequestError.
    """
    told = entry
    if isinstance(entry, str) and entry.startswith("{"):
        try:
            told = read_json(entry.encode())
        except ValueError:
            raise RequestError(f"portraits: {entry[:40]!r} is not JSON") from None
    if isinstance(told, str):
        return {"file": told}
    if not isinstance(told, dict) or not isinstance(told.get("file"), str):
        raise RequestError(
            "portraits: expected a list of names of files in 'files', or of objects such as "
            '{"file": "me.jpg", "face_index": 1}'
        )
    return {str(name): value for name, value in told.items() if value is not None}


def _with_mask(fields: dict[str, Any], body: Body, folder: Path) -> dict[str, Any]:
    """The fields with the path of their mask, if they name one. Raises RequestError."""
    if fields.get("mask") is None:
        return fields
    return fields | {"mask": str(folder / body.take_file(fields["mask"], "mask"))}


def _ask(server: Server, task: str, folder: Path, options: dict[str, Any]) -> dict[str, Any]:
    answer = server.worker.ask(task, options)
    for name in ("output", "id", "task", "status"):
        answer.pop(name, None)
    if isinstance(answer.get("notes"), list):
        lines = [without_folder(str(note), folder) for note in answer["notes"]]
        answer["notes"] = [server.judge.without_folders(line) for line in lines]
    return answer
