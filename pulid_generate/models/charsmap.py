"""A sentencepiece normaliser's table, checked before the libraries walk through it: both trust
its places, and one leaves the process for a place that is none.

Layout: the bytes of a double array (little-endian, in front of them their number in four bytes),
then texts with a zero byte between them. Source: google/sentencepiece src/normalizer.cc
(DecodePrecompiledCharsMap), s-yata/darts-clone include/darts.h (DoubleArrayUnit),
huggingface/spm_precompiled src/lib.rs.
"""

from __future__ import annotations

import hashlib

import numpy as np

# SHA-256 of the table of google/t5-v1_1-xxl: a walk through it takes half a second
PUBLISHED = bytes.fromhex("0942789e0111452f1cc446f70036e26d24458c3c7858c53cc12ca4d87531279b")
# T5's has 242 KB
MAX_BYTES = 4 << 20
# bytes of a text that the table knows; T5's longest has 12
MAX_STEPS = 64
# a text may start here: not at a byte inside a character (RFC 3629)
INSIDE, INSIDE_MASK = 0x80, 0xC0


def check_charsmap(data: bytes) -> None:
    """Raise ValueError for a table whose places lead out of it."""
    if hashlib.sha256(data).digest() == PUBLISHED:
        return
    size = int.from_bytes(data[:4], "little")
    if len(data) > MAX_BYTES or len(data) < 8 or size % 4 or not 4 <= size <= len(data) - 4:
        raise ValueError("its charsmap is damaged")
    units = np.frombuffer(data[4 : 4 + size], "<u4")
    texts = data[4 + size :]
    try:
        texts.decode()
    except UnicodeDecodeError:
        raise ValueError("the texts of its charsmap are not UTF-8") from None
    starts = (np.frombuffer(texts, np.uint8) & INSIDE_MASK) != INSIDE
    seen = np.zeros(len(units), bool)
    nodes = _offset(units[:1])
    every_byte = np.arange(256, dtype=np.int64)
    for _ in range(MAX_STEPS):
        nodes = nodes[~seen[_inside(nodes, len(units))]]
        if not nodes.size:
            return
        seen[nodes] = True
        children = _inside((nodes[:, None] ^ every_byte).ravel(), len(units))
        labels = np.tile(every_byte, len(nodes))
        met = (units[children] & 0x800000FF).astype(np.int64) == labels
        places, found = children[met], units[children[met]]
        nodes = np.unique(_inside(places ^ _offset(found), len(units)))
        leaves = np.unique((places ^ _offset(found))[(found >> 8) & 1 == 1])
        values = (units[leaves] & 0x7FFFFFFF).astype(np.int64)
        if not starts[_inside(values, len(texts))].all():
            raise ValueError("a text of its charsmap starts inside a character")
    raise ValueError("its charsmap is deeper than any text")


def _offset(units: np.ndarray) -> np.ndarray:
    wide = units.astype(np.int64)
    return (wide >> 10) << ((wide & (1 << 9)) >> 6)


def _inside(places: np.ndarray, count: int) -> np.ndarray:
    if places.size and places.max() >= count:
        raise ValueError("its charsmap leads out of its table")
    return places
