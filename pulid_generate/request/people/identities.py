"""Who is in the picture: the text of one `--identity`, and how several become the people that are
drawn.

Knows nothing of regions' pixels, models or devices, and imports no torch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from pulid_extract.shared.embedding_file import (
    MAX_TOKENS,
    RECOGNIZER,
    Embedding,
    encode_embedding,
)
from pulid_generate.errors import IdentityError, RequestError
from pulid_generate.request.people.id_schedule import IdSchedule, Moment, check_weight, parse_moment

Fusion = Literal["concat", "mean"]
Box = tuple[int, int, int, int]
PARTS = ("weight", "mask", "box", "start", "end")
_PART = re.compile(rf",\s*({'|'.join(PARTS)})\s*=")
_MISSPELT = re.compile(r"\.(?:pulidembd|png),\s*(\w+)\s*(?:=|$)", re.IGNORECASE)
EXAMPLE = "me.pulidembd,weight=0.8,box=0,0,512,768"


@dataclass(frozen=True)
class PersonSpec:
    """One `--identity`, as typed."""

    # A .pulidembd, or "-" for standard input
    file: str
    # Factor on everybody's weight
    weight: float = 1.0
    # A PNG, white where this person is
    mask: str | None = None
    # X, Y, W, H in pixels
    box: Box | None = None
    # This person's own window; None for everybody's
    start: Moment | None = None
    end: Moment | None = None

    def __post_init__(self) -> None:
        """Raises RequestError."""
        if not self.file:
            raise RequestError(f"identity: no file is named; write it as {EXAMPLE}")
        check_weight(f"identity {self.file}: weight", self.weight)
        if self.mask is not None and self.box is not None:
            raise RequestError(f"identity {self.file}: has a mask and a box; give one of them")
        if self.mask == "":
            raise RequestError(
                f"identity {self.file}: mask names no file; give a PNG, white where this person is"
            )
        if self.box is not None and min(self.box[2:]) < 1:
            raise RequestError(
                f"identity {self.file}: box {_box(self.box)}: width and height must be at least 1"
            )

    @property
    def everywhere(self) -> bool:
        """Whether this person has no region of its own."""
        return self.mask is None and self.box is None

    def schedule(self, everybody: IdSchedule) -> IdSchedule:
        """The flags' schedule with this person's own window in place of theirs."""
        start = everybody.start if self.start is None else self.start
        end = everybody.end if self.end is None else self.end
        return replace(everybody, start=start, end=end)


def parse_person(text: str) -> PersonSpec:
    """ "FILE[,weight=W][,mask=PNG|,box=X,Y,W,H][,start=S][,end=E]" -> PersonSpec. Raises
    RequestError naming the part.

    Only `,weight=` and the other part names end a file name, so that it may hold commas and `=`.
    """
    file, parts = _split(text)
    values: dict[str, str] = {}
    for name, value in parts:
        if name in values:
            raise RequestError(f"identity {file}: {name} is given twice")
        values[name] = value
    where = f"identity {file}"
    for value in (file, values.get("mask", "")):
        if misspelt := _MISSPELT.search(value):
            raise RequestError(
                f"identity {value}: unknown part {misspelt[1]!r}; "
                f"expected {', '.join(PARTS)}, as in {EXAMPLE}"
            )
    spec = PersonSpec(file, mask=values.get("mask"))
    if "weight" in values:
        spec = replace(spec, weight=_number(f"{where}: weight", values["weight"]))
    if "box" in values:
        spec = replace(spec, box=_parse_box(f"{where}: box", values["box"]))
    if "start" in values:
        spec = replace(spec, start=parse_moment(values["start"], f"{where}: start"))
    if "end" in values:
        spec = replace(spec, end=parse_moment(values["end"], f"{where}: end"))
    return spec


def _split(text: str) -> tuple[str, list[tuple[str, str]]]:
    """The file, and (name, value) of every part."""
    file, *parts = _PART.split(text)
    return file, list(zip(parts[::2], parts[1::2], strict=True))


def rename_files(text: str, change: Callable[[str], str]) -> str:
    """The text of one `--identity` with other names of its embedding and its mask."""
    file, parts = _split(text)
    renamed = change(file)
    for name, value in parts:
        renamed += f",{name}={change(value) if name == 'mask' else value}"
    return renamed


def assemble(
    specs: Sequence[PersonSpec], embeddings: Sequence[Embedding], fusion: Fusion = "concat"
) -> list[tuple[PersonSpec, Embedding]]:
    """The people to draw. Without regions all the embeddings are one person and fuse; with regions
    each is a person of its own.

    embeddings: one per spec. Raises RequestError for regions given to some and not to others, or
    for parts of one person that disagree; IdentityError where `fuse` does.
    """
    without = [spec for spec in specs if spec.everywhere]
    if not without:
        return list(zip(specs, embeddings, strict=True))
    if len(without) < len(specs):
        raise RequestError(
            f"identity {without[0].file}: has no mask and no box while another has; "
            "give each its own, or box=0,0,WIDTH,HEIGHT for the whole picture"
        )
    first = specs[0]
    for spec in specs[1:]:
        for name in ("weight", "start", "end"):
            if getattr(spec, name) != getattr(first, name):
                raise RequestError(
                    f"identity {spec.file}: its {name} differs from {first.file}'s, "
                    "but without a mask or box they are one person; "
                    "give both the same, or each a region"
                )
    return [(first, fuse(embeddings, fusion))]


def fuse(embeddings: Sequence[Embedding], how: Fusion = "concat") -> Embedding:
    """Several embeddings of one person as one: float32 tokens, and `uncond` where every one has it.

    how: "concat" appends the tokens, (N1 + N2 + .., C): the image attends to whichever portrait
    fits. "mean" averages them, (N, C): all must have the same N. The hash is that of the fused
    file, as encode_embedding(tokens, uncond, dtype="f32") would write it. Raises IdentityError,
    naming the files, for widths or counts that do not go together.
    """
    if how not in get_args(Fusion):
        raise RequestError(f"identity-fusion {how!r}: expected {' or '.join(get_args(Fusion))}")
    if len(embeddings) == 1:
        return embeddings[0]
    names = " + ".join(embedding.source for embedding in embeddings)
    first = embeddings[0]
    for other in embeddings[1:]:
        if other.tokens.shape[1] != first.tokens.shape[1]:
            raise IdentityError(
                f"{other.source}: has tokens of width {other.tokens.shape[1]}, "
                f"{first.source} of {first.tokens.shape[1]}; "
                "extract both with the same PuLID file"
            )
    if mixed := mixed_recognizers(embeddings):
        raise IdentityError(
            f"{mixed}; one person is made of vectors of one network: extract them again with the "
            "same --antelopev2"
        )
    tokens = _joined([embedding.tokens for embedding in embeddings], how, names)
    unconds = [embedding.uncond for embedding in embeddings if embedding.uncond is not None]
    uncond = _joined(unconds, how, names) if len(unconds) == len(embeddings) else None
    sha256 = hashlib.sha256(encode_embedding(tokens, uncond, dtype="f32")).hexdigest()
    provenance = {"fusion": how, "parts": " ".join(embedding.sha256 for embedding in embeddings)}
    for embedding in embeddings:
        if embedding.recognizer is not None:
            provenance[RECOGNIZER] = embedding.recognizer
    return Embedding(tokens, uncond, "f32", provenance, sha256, names)


def mixed_recognizers(embeddings: Sequence[Embedding]) -> str:
    """Which of them were made with face vectors of different networks, in words; "" if none were,
    as far as they say.
    """
    first: Embedding | None = None
    for embedding in embeddings:
        if embedding.recognizer is None:
            continue
        if first is None:
            first = embedding
        elif embedding.recognizer != first.recognizer:
            return (
                f"{first.source} and {embedding.source} are of different face recognisers "
                f"(SHA-256 {_short(first.recognizer)} and {_short(embedding.recognizer)})"
            )
    return ""


def _short(sha256: str | None) -> str:
    return f"{str(sha256)[:12]}.."


def _joined(arrays: Sequence[np.ndarray], how: Fusion, names: str) -> np.ndarray:
    counts = [array.shape[0] for array in arrays]
    if how == "mean":
        if len(set(counts)) > 1:
            raise IdentityError(
                f"{names}: have {', '.join(map(str, counts))} tokens, which have no mean; "
                "use --identity-fusion concat, or extract each from the same number of portraits"
            )
        return np.asarray(np.mean(arrays, axis=0, dtype=np.float64), np.float32)
    if sum(counts) > MAX_TOKENS:
        raise IdentityError(
            f"{names}: are {sum(counts)} tokens together, at most {MAX_TOKENS} are possible; "
            "use fewer, or --identity-fusion mean"
        )
    return np.concatenate([array.astype(np.float32) for array in arrays])


def _parse_box(where: str, text: str) -> Box:
    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise RequestError(
            f"{where} {text!r}: expected X,Y,WIDTH,HEIGHT in whole pixels, such as 0,0,512,768"
        ) from None
    return x, y, width, height


def _number(where: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RequestError(f"{where} {text!r}: expected a number such as 0.8") from None


def _box(box: Box) -> str:
    return ",".join(map(str, box))
