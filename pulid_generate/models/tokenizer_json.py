"""A tokenizer.json of T5's kind, checked part by part before the library sees it: on what it does
not expect, that library ends in a panic that is no Exception, or asks for all memory.

What is taken is what a Unigram vocabulary of T5 or of a small model needs; the template is told
apart and made anew, and what only decodes is left out. Knows no path.

Source: huggingface/tokenizers 0.23, tokenizers/src (the names of parts and their fields).
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pulid_extract.shared.json_text import read_object
from pulid_extract.shared.records import number
from pulid_generate.files.patterns import check_pattern
from pulid_generate.models.charsmap import check_charsmap

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# of the file; T5's has 2.4 MB
MAX_BYTES = 32 << 20
# T5's has 32,100 pieces and 103 added ones
MAX_PIECES = 500_000
# bytes of a piece; T5's longest has 33
MAX_PIECE = 1024
# parts of a sequence of parts
MAX_PARTS = 16
FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
SCHEMES = ("always", "never", "first")

Part = dict[str, Any]
Check = Callable[[Mapping[str, Any]], Part]


def tokenizer_of(text: bytes, end: str) -> Tokenizer:
    """The tokenizer of a file that puts the piece `end` behind a prompt. Raises ValueError, with
    the reason, for one that is not of this kind; what the library raises for the rest is an
    Exception.
    """
    from tokenizers import Tokenizer

    if len(text) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES >> 20} MiB")
    told = read_object(text)
    model = _model(_object(told, "model"))
    pieces = [piece for piece, _ in model["vocab"]]
    parts = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": _added(told.get("added_tokens", []), pieces),
        "normalizer": _part(told.get("normalizer"), NORMALIZERS, "normalizers"),
        "pre_tokenizer": _part(told.get("pre_tokenizer"), PRE_TOKENIZERS, "pretokenizers"),
        "post_processor": _template(told.get("post_processor"), end, pieces),
        "decoder": None,
        "model": model,
    }
    return Tokenizer.from_str(json.dumps(parts))


def _model(told: Mapping[str, Any]) -> Part:
    if told.get("type", "Unigram") != "Unigram":
        raise ValueError(f"its model is {_shown(told['type'])}, expected Unigram")
    vocabulary = told.get("vocab")
    if not isinstance(vocabulary, list) or not 0 < len(vocabulary) <= MAX_PIECES:
        raise ValueError(f"its vocabulary is not a list of 1 to {MAX_PIECES} pieces")
    pieces = []
    for pair in vocabulary:
        if not isinstance(pair, list) or len(pair) != 2:
            raise ValueError(f"{_shown(pair)} is not a piece and its score")
        pieces.append([_text(pair[0], "a piece"), _number(pair[1])])
    unknown = told.get("unk_id")
    if not _is_place(unknown, pieces):
        raise ValueError(f"its unk_id is {_shown(unknown)}, not one of {len(pieces)} pieces")
    return {
        "type": "Unigram",
        "unk_id": unknown,
        "vocab": pieces,
        "byte_fallback": _flag(told.get("byte_fallback", False)),
    }


def _added(told: Any, pieces: list[str]) -> list[Part]:
    """Pieces of the vocabulary under their own numbers, and others behind it."""
    if not isinstance(told, list) or len(told) > MAX_PIECES:
        raise ValueError("its added_tokens are not a list")
    added = []
    behind = len(pieces)
    for entry in told:
        if not isinstance(entry, dict):
            raise ValueError(f"{_shown(entry)} is not an added token")
        content, place = _text(entry.get("content"), "an added token"), entry.get("id")
        if place == behind:
            behind += 1
        elif not _is_place(place, pieces) or pieces[int(place or 0)] != content:
            raise ValueError(f"{content[:40]!r} is added as number {_shown(place)}")
        flags = {name: _flag(entry.get(name, False)) for name in FLAGS}
        added.append({"id": place, "content": content, **flags})
    return added


def _template(told: Any, end: str, pieces: list[str]) -> Part:
    """The prompt, and `end` behind it."""
    if end not in pieces:
        raise ValueError(f"it has no {end}")
    single = told.get("single") if isinstance(told, dict) else None
    names = []
    if isinstance(single, list):
        for step in single:
            names += [value.get("id") for value in _values(step) if isinstance(value, dict)]
    if names != ["A", end]:
        raise ValueError(f"it does not end a prompt with {end}")
    steps: list[Part] = [
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": end, "type_id": 0}},
    ]
    special = {"id": end, "ids": [pieces.index(end)], "tokens": [end]}
    second = {"Sequence": {"id": "B", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": steps,
        "pair": [*steps, second],
        "special_tokens": {end: special},
    }


def _values(step: Any) -> list[Any]:
    return list(step.values()) if isinstance(step, dict) else []


# ------------------------------------------------------------- normalisers, and what splits a text


def _part(told: Any, known: Mapping[str, Check], sequence: str) -> Part | None:
    if told is None:
        return None
    if not isinstance(told, dict):
        raise ValueError(f"{_shown(told)} is not a part of a tokenizer")
    if told.get("type") != "Sequence":
        return _one(told, known)
    parts = told.get(sequence)
    if not isinstance(parts, list) or len(parts) > MAX_PARTS:
        raise ValueError(f"its {sequence} are not a list of at most {MAX_PARTS}")
    return {"type": "Sequence", sequence: [_one(part, known) for part in parts]}


def _one(told: Any, known: Mapping[str, Check]) -> Part:
    kind = told.get("type") if isinstance(told, dict) else None
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(f"its part {_shown(kind)} is not read, only {', '.join(known)}")
    return {"type": kind, **known[kind](told)}


def _plain(told: Mapping[str, Any]) -> Part:
    return {}


def _strip(told: Mapping[str, Any]) -> Part:
    return {name: _flag(told.get(name)) for name in ("strip_left", "strip_right")}


def _prepend(told: Mapping[str, Any]) -> Part:
    return {"prepend": _text(told.get("prepend"), "what is prepended")}


def _replace(told: Mapping[str, Any]) -> Part:
    pattern = _object(told, "pattern")
    content = told.get("content")
    if not isinstance(content, str) or len(content) > MAX_PIECE:
        raise ValueError("what is put in the place of a pattern is no short text")
    if "Regex" in pattern:
        regex = _text(pattern["Regex"], "a pattern")
        check_pattern(regex)
        return {"pattern": {"Regex": regex}, "content": content}
    return {"pattern": {"String": _text(pattern.get("String"), "a pattern")}, "content": content}


def _precompiled(told: Mapping[str, Any]) -> Part:
    charsmap = told.get("precompiled_charsmap")
    if not isinstance(charsmap, str):
        raise ValueError("its charsmap is no text")
    try:
        data = base64.b64decode(charsmap, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("its charsmap is not base64") from None
    check_charsmap(data)
    return {"precompiled_charsmap": charsmap}


def _metaspace(told: Mapping[str, Any]) -> Part:
    replacement, scheme = told.get("replacement"), told.get("prepend_scheme", "always")
    if not isinstance(replacement, str) or len(replacement) != 1 or scheme not in SCHEMES:
        raise ValueError("its Metaspace is damaged")
    split = _flag(told.get("split", True))
    return {"replacement": replacement, "prepend_scheme": scheme, "split": split}


NORMALIZERS: dict[str, Check] = {
    **dict.fromkeys(("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt"), _plain),
    "Strip": _strip,
    "Prepend": _prepend,
    "Replace": _replace,
    "Precompiled": _precompiled,
}
PRE_TOKENIZERS: dict[str, Check] = {"WhitespaceSplit": _plain, "Metaspace": _metaspace}


# ------------------------------------------------------------------------------------------ values


def _object(told: Mapping[str, Any], name: str) -> dict[str, Any]:
    value = told.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"its {name} is not an object")
    return value


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value.encode()) <= MAX_PIECE:
        raise ValueError(f"{_shown(value)} is not {what} of 1 to {MAX_PIECE} bytes")
    return value


def _number(value: Any) -> float:
    if isinstance(value, str):
        raise ValueError(f"{value[:40]!r} is not a score")
    return number(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{_shown(value)} is not true or false")
    return value


def _is_place(value: Any, pieces: list[Any]) -> bool:
    # True is an integer of Python's, and not of JSON's
    return type(value) is int and 0 <= value < len(pieces)


def _shown(value: Any) -> str:
    return repr(str(value)[:40])
