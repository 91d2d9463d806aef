"""The chunks of a PNG that are not its pixels: texts of any size, and the colour profile.

Pillow refuses a whole picture whose compressed text or profile unpacks to more than 1 MiB; viewers
show it. So both are taken out before Pillow sees the file, and read here, up to a limit of ours.
Knows no picture beyond its chunks. Imports no Pillow.

Source: W3C Portable Network Graphics (third edition): 5.3 layout, 11.3.2.3 iCCP, 11.3.3 texts.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
# of a text or a profile, unpacked; a profile of a printer with large tables takes 4 MB
MAX_UNPACKED = 16 << 20
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PROFILE = b"iCCP"
# whose orientation Pillow obeys where there is no EXIF
XMP = b"XML:com.adobe.xmp\0\0"
MAX_XMP = 1 << 20


class Chunk(NamedTuple):
    """One chunk, whose check sum is not looked at."""

    kind: bytes
    # where it begins in the file, with its length, and where the next one does
    start: int
    end: int
    body: memoryview


def chunks_of(data: bytes) -> Iterator[Chunk]:
    """The chunks of a PNG in their order, as far as they are whole; none of another file."""
    if not data.startswith(SIGNATURE):
        return
    view, at = memoryview(data), len(SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            return
        yield Chunk(kind, at, end, view[at + 8 : end - 4])
        at = end


def pixels_alone(data: bytes) -> tuple[bytes, bytes | None]:
    """(the file without its texts and its profile; the profile, None without one that can be used).
    A file that has none of them, or is no PNG, comes back as it is.
    """
    profile = None
    dropped = []
    for chunk in chunks_of(data):
        if chunk.kind == PROFILE:
            # of several the first counts
            if profile is None:
                profile = _profile(bytes(chunk.body))
            dropped.append(chunk)
        elif chunk.kind in TEXTS and not _is_xmp(chunk):
            dropped.append(chunk)
    if not dropped:
        return data, profile
    parts, at = [], 0
    for chunk in dropped:
        parts.append(data[at : chunk.start])
        at = chunk.end
    return b"".join([*parts, data[at:]]), profile


def text_of(data: bytes, keyword: str) -> str | None:
    """The last text of this keyword in a PNG; None if it has none, or none that can be read."""
    found = None
    for chunk in chunks_of(data):
        if chunk.kind not in TEXTS:
            continue
        name, _, rest = bytes(chunk.body).partition(b"\0")
        if name == keyword.encode("latin-1"):
            text = _text(chunk.kind, rest)
            if text is not None:
                found = text
    return found


def _is_xmp(chunk: Chunk) -> bool:
    return bytes(chunk.body[: len(XMP)]) == XMP and len(chunk.body) <= MAX_XMP


def _profile(body: bytes) -> bytes | None:
    _, _, rest = body.partition(b"\0")
    # method 0 is the only one
    if rest[:1] != b"\0":
        return None
    return _unpacked(rest[1:])


def _text(kind: bytes, rest: bytes) -> str | None:
    """What follows the keyword of a text chunk."""
    if kind == b"tEXt":
        return rest.decode("latin-1")
    if kind == b"zTXt":
        unpacked = _unpacked(rest[1:]) if rest[:1] == b"\0" else None
        return None if unpacked is None else unpacked.decode("latin-1")
    compressed, method = rest[:1], rest[1:2]
    _, _, behind_language = rest[2:].partition(b"\0")
    _, _, raw = behind_language.partition(b"\0")
    text: bytes | None = raw
    if compressed == b"\1":
        text = _unpacked(raw) if method == b"\0" else None
    try:
        return None if text is None else text.decode()
    except UnicodeDecodeError:
        return None


def _unpacked(packed: bytes) -> bytes | None:
    """None for what is damaged, cut off, or larger than the limit."""
    machine = zlib.decompressobj()
    try:
        unpacked = machine.decompress(packed, MAX_UNPACKED)
    except zlib.error:
        return None
    return unpacked if machine.eof else None
