"""Files of pictures of every kind, and files that are no usable portrait."""

from __future__ import annotations

import functools
import struct
import zlib

import numpy as np
from PIL import Image
from support.pictures.coloured_faces import picture, png
from support.pictures.picture_files import PICTURE, encode

# Every format as a photograph of 32x48 that is read, whatever its mode.
MODES = {
    "16-bit grey PNG": encode(Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257)),
    "CMYK JPEG": encode(Image.fromarray(PICTURE).convert("CMYK"), "JPEG"),
    "grey JPEG": encode(Image.fromarray(PICTURE).convert("L"), "JPEG"),
    "grey with alpha": encode(Image.fromarray(PICTURE).convert("LA")),
    "palette": encode(Image.fromarray(PICTURE).convert("P")),
    "palette with a transparent colour": encode(
        Image.fromarray(PICTURE).convert("P"), transparency=0
    ),
    "one bit": encode(Image.fromarray(PICTURE).convert("1")),
    "RGBA": encode(Image.fromarray(PICTURE).convert("RGBA")),
    "progressive JPEG": encode(PICTURE, "JPEG", progressive=True),
    "WebP": encode(PICTURE, "WEBP"),
}


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@functools.cache
def huge_png() -> bytes:
    """A real, complete PNG of 30,000 x 30,000 one-bit pixels: 110 KB that would unpack to 900
    million pixels.
    """
    packer, row = zlib.compressobj(1), bytes(1 + 30_000 // 8)
    data = b"".join(packer.compress(row) for _ in range(30_000)) + packer.flush()
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def heic(brand: bytes = b"heic") -> bytes:
    return struct.pack(">I", 24) + b"ftyp" + brand + bytes(4) + b"mif1heic" + bytes(200)


def animated(kind: str) -> bytes:
    """Two frames."""
    second = Image.fromarray(PICTURE[::-1].copy())
    return encode(Image.fromarray(PICTURE), kind, save_all=True, append_images=[second])


NOISE = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
# What is not a usable portrait -> a word of the message.
BAD = {
    "zero bytes": (b"", "is empty"),
    "text named .jpg": (b"dear diary, " * 40, "is not a readable JPEG, PNG or WebP picture"),
    "truncated JPEG": (encode(NOISE, "JPEG")[:-900], "lacks its last bytes"),
    "truncated PNG": (encode(NOISE)[:-900], "truncated or damaged"),
    "animated WebP": (animated("WEBP"), "animation of 2 frames"),
    "animated PNG": (animated("PNG"), "animation of 2"),
    "GIF": (encode(PICTURE, "GIF"), "it is a GIF: save it as PNG"),
    "TIFF": (encode(PICTURE, "TIFF"), "is not a readable"),
    "HTML": (b"<!DOCTYPE html><html></html>", "it is an HTML or SVG page"),
    "HEIC": (heic(), "is HEIC; run: pip install pillow-heif, or save the picture as JPEG"),
    "HEIC of a burst": (heic(b"msf1"), "pip install pillow-heif"),
    "AVIF": (heic(b"avif"), "it is AVIF: save it as JPEG"),
    "no face": (png(picture()), "no face found"),
}  # fmt: skip
