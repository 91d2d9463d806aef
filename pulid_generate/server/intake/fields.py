"""The fields of a request: every option of a generation that may differ from row to row, made from
the flags' tables, and a few of the server's own. Imports no torch.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pulid_extract.shared.cli.flags import heading_of
from pulid_generate.errors import RequestError
from pulid_generate.flags.commands.names import flag_name
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.rows.columns import COLUMNS, field_of
from pulid_generate.server.work.jobs import DETAIL_IMG, FORMATS

# Options of a row that name places on the server's disk, or belong to a command line
NOT_FOR_REQUESTS = {
    "output": "pictures are fetched by their address",
    "output_begin_idx": "pictures are fetched by their address",
    "prompt_file": "send the text as prompt",
    "negative_prompt_file": "send the text as negative_prompt",
    "control_net": "the server's own --control-net holds",
    "lora_model_dir": "the server's own --lora-model-dir holds",
    "hires_upscalers_dir": "the server's own --hires-upscalers-dir holds",
}
# The server's own -> what it means
OWN = {
    "files": "Files of the request, name -> base64 or data URL; other fields then name them. In a "
    "form: parts called 'files', each with its file name.",
    "portraits": "Names of files that are portraits of one person, who is drawn.",
    "face_index": "Which face of the portraits, from 0 in face_order. Default: the largest.",
    "face_order": "How their faces are counted: largest, left, right, top, bottom, center.",
    "face_at": "The face at this point of the one portrait: 'X,Y', upright pixels.",
    "face_box": "This region of the one portrait, without a detector: 'X,Y,W,H'.",
    "landmarks": "These five points of the one portrait, without a detector: 'X,Y,..'.",
    DETAIL_IMG: "A picture whose faces are redrawn, each as its person, and nothing else, as "
    "pulid-generate detail does; width and height are then those in which a face is redrawn.",
    "output_format": "png, jpeg or webp: how the pictures are stored.",
}
# of these the options of the extraction of `portraits`
FACE_CHOICE = ("face_index", "face_order", "face_at", "face_box", "landmarks")
JSON_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string"}


def request_fields() -> list[str]:
    """The options that a request may give."""
    return [name for name in COLUMNS if name not in NOT_FOR_REQUESTS]


def read_names(
    given: Mapping[str, object], also: Collection[str] = (), ignored: Collection[str] = ()
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """(options by their fields, the server's own and `also`, names that change nothing here).

    ignored: what clients of other servers always send. Raises RequestError that names all fields
    that nobody knows.
    """
    options: dict[str, Any] = {}
    own: dict[str, Any] = {}
    idle, wrong = [], []
    for name, value in given.items():
        if name in OWN or name in also:
            own[name] = value
            continue
        field = field_of(name)
        if field in NOT_FOR_REQUESTS:
            wrong.append(f"{name}: not a field of a request; {NOT_FOR_REQUESTS[field]}")
        elif field in COLUMNS:
            if field in options:
                wrong.append(f"{name}: is there twice")
            options[str(field)] = value
        elif name in ignored:
            idle.append(name)
        elif field is not None:
            wrong.append(f"{name}: is the same for all requests; the server was started with it")
        else:
            wrong.append(f"{name[:40]}: unknown field{_near(name)}")
    if wrong:
        raise RequestError("; ".join(wrong[:20]))
    return options, own, idle


def face_choice(own: Mapping[str, Any]) -> dict[str, Any]:
    """Which face of the portraits is meant, as the options of an extraction. own: as `read_names`
    gives it.
    """
    return {name: own[name] for name in FACE_CHOICE if own.get(name) is not None}


def _near(name: str) -> str:
    near = difflib.get_close_matches(name, [*request_fields(), *OWN], 1)
    return f", did you mean {near[0]}?" if near else ""


# ------------------------------------------------------------------------------------------- schema


def schema() -> dict[str, Any]:
    """JSON schema of a request, for the OpenAPI page and for the studio's forms. x-group: the
    heading in the command's help.
    """
    hints = get_type_hints(BatchFlags, include_extras=True)
    properties: dict[str, Any] = {}
    for name in request_fields():
        kind, info = get_args(hints[name])[:2]
        properties[name] = _property(kind) | {
            "description": f"{info.help or ''} ({flag_name(name)})".strip(),
            "default": getattr(BatchFlags, name),
            "x-group": heading_of(BatchFlags, name),
        }
    properties["files"] = {
        "type": "object",
        "additionalProperties": {"type": "string"},
        "description": OWN["files"],
    }
    properties["portraits"] = {
        "type": "array",
        "items": {"type": "string"},
        "description": OWN["portraits"],
    }
    for name in FACE_CHOICE:
        properties[name] = {
            "type": "integer" if name == "face_index" else "string",
            "description": OWN[name],
        }
    properties[DETAIL_IMG] = {"type": "string", "description": OWN[DETAIL_IMG]}
    properties["output_format"] = {
        "type": "string",
        "enum": list(FORMATS),
        "default": "png",
        "description": OWN["output_format"],
    }
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _property(kind: Any) -> dict[str, Any]:
    members = [part for part in get_args(kind) if part is not NoneType]
    if NoneType in get_args(kind):
        [kind] = members
    if get_origin(kind) is Literal:
        return {"type": "string", "enum": list(get_args(kind))}
    if get_origin(kind) is list:
        return {"type": "array", "items": {"type": "string"}}
    return {"type": JSON_TYPES[kind]}
