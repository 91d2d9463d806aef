"""Picture files of any origin into upright pixels of 8 bits, or one line that says why not: what
both programs read portraits, starting pictures and masks with.

Bytes of a file or of standard input go in, a Pillow image comes out. Limits of size are checked
before anything is decoded. Colour profiles are not applied, as in the reference app. Knows nothing
of faces, of what is drawn, or of networks. Imports no torch, and Pillow only when it is called.
"""

from __future__ import annotations

import io
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pulid_extract.shared.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

MAX_FILE_BYTES = 512 << 20
# phones reach 108 million; a decompression bomb claims billions
MAX_PIXELS = 128 << 20

# ISO/IEC 23008-12, annex B
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
# formats that are told apart by their first bytes: start -> (Pillow's name, name for messages)
KNOWN_STARTS = {
    b"GIF8": ("GIF", "a GIF"),
    b"II*\0": ("TIFF", "a TIFF"),
    b"MM\0*": ("TIFF", "a TIFF"),
    b"BM": ("BMP", "a BMP"),
    b"%PDF": ("PDF", "a PDF"),
}

# EXIF orientation -> the PIL transposition that puts the picture upright (Exif 2.3, tag 0x0112)
ORIENTATION = 0x0112
UPRIGHT = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}


@dataclass(frozen=True)
class PictureFormats:
    """The formats that one reader takes."""

    # Pillow's names
    names: tuple[str, ...]
    # for messages: "JPEG, PNG or WebP"
    text: str
    # whether HEIC is read as well, where pillow-heif is installed
    heic: bool = False


def name_of(path: str | Path) -> str:
    """What messages call it: the path, or "standard input" for "-"."""
    return "standard input" if str(path) == "-" else str(path)


def read_picture_bytes(path: str | Path, flag: str, formats: PictureFormats) -> bytes:
    """The bytes of a file, or of standard input for "-".

    flag: what named it, for messages. Raises InputError if it cannot be read or is larger than 512
    MiB.
    """
    where = name_of(path)
    try:
        if str(path) != "-":
            with open(path, "rb") as file:
                data = file.read(MAX_FILE_BYTES + 1)
        elif sys.stdin is not None:
            data = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            raise InputError(f"{where}: is closed; pipe a picture in, or name a file")
    except FileNotFoundError:
        raise InputError(
            f"{where or 'an empty name'}: no such file; {flag} wants a {formats.text} picture"
        ) from None
    except IsADirectoryError:
        raise InputError(f"{where}: is a folder; a {formats.text} picture is wanted here") from None
    # ValueError: a NUL in the name
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{where}: cannot be read ({reason})") from None
    if len(data) > MAX_FILE_BYTES:
        raise InputError(
            f"{where}: is larger than {MAX_FILE_BYTES >> 20} MiB; give a smaller picture"
        )
    return data


def check_picture(data: bytes, where: str, formats: PictureFormats) -> None:
    """Raise InputError for what its first bytes already show not to be a picture that can be read;
    decodes nothing. `where` names the source in messages.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _open(data, where, formats).close()


def decode_picture(
    data: bytes, where: str, formats: PictureFormats, behind: str = "white"
) -> Image.Image:
    """The picture as a viewer shows it: upright, 8 bits per channel, of mode "L" or "RGB".

    where: names the source in messages. behind: the colour, as Pillow spells it, that shows through
    what is transparent. Raises InputError for bytes that are not a picture of these formats, and
    for one that is truncated, animated or has more than 128 million pixels.
    """
    with warnings.catch_warnings():
        # Pillow warns of bombs (refused in `_open`) and of odd EXIF
        warnings.simplefilter("ignore")
        image = _open(data, where, formats)
        try:
            image.load()
            flat = _flatten(image, behind)
        # as in `_open`; OSError for a truncated file
        except Exception as error:
            raise InputError(
                f"{where}: cannot be decoded ({error}); the file is truncated or damaged"
            ) from None
        return _upright(image, flat)


def _open(data: bytes, where: str, formats: PictureFormats) -> Image.Image:
    """The picture, not decoded yet. Raises InputError as `decode_picture`."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise InputError(f"{where}: is empty; expected a {formats.text} picture")
    names = formats.names
    if formats.heic and data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        _register_heif(where)
        names = (*names, "HEIF")
    try:
        image = Image.open(io.BytesIO(data), formats=names)
        frames = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError:
        raise InputError(
            f"{where}: claims more than {MAX_PIXELS >> 20} million pixels; give a smaller picture"
        ) from None
    except UnidentifiedImageError:
        raise _unreadable(data, where, formats, "it starts like none of them") from None
    # Pillow's plugins raise whatever a damaged byte leads to
    except Exception as error:
        raise _unreadable(data, where, formats, str(error)) from None
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise InputError(
            f"{where}: is {width}x{height}, more than {MAX_PIXELS >> 20} million pixels; "
            "give a smaller picture"
        )
    # An MPO is a JPEG with a second view or preview behind the photograph, as phones write it: not
    # an animation.
    if frames > 1 and image.format != "MPO":
        raise InputError(f"{where}: is an animation of {frames} frames; give a still picture")
    return image


def _register_heif(where: str) -> None:
    """HEIC needs Pillow's plugin pillow-heif, which the toolkit does not depend on. Raises
    InputError, saying what to install.
    """
    try:
        import pillow_heif
    except ImportError:
        raise InputError(
            f"{where}: is HEIC; run: pip install pillow-heif, or save the picture as JPEG"
        ) from None
    # it turns pictures upright itself, and says so in their EXIF
    pillow_heif.register_heif_opener()


def _unreadable(data: bytes, where: str, formats: PictureFormats, reason: str) -> InputError:
    what = _guess(data, formats) or reason
    return InputError(f"{where}: is not a readable {formats.text} picture ({what})")


def _guess(data: bytes, formats: PictureFormats) -> str:
    """What people send instead of a picture, "" if it looks like nothing known."""
    if data[4:12] == b"ftypavif":
        return "it is AVIF: save it as JPEG"
    if data.lstrip()[:1] == b"<":
        return "it is an HTML or SVG page"
    for start, (name, text) in KNOWN_STARTS.items():
        if data.startswith(start) and name not in formats.names:
            return f"it is {text}: save it as PNG"
    return ""


def _flatten(image: Image.Image, behind: str) -> Image.Image:
    """8 bits per channel, "L" or "RGB", of any mode that Pillow opens; what is transparent shows
    the colour behind it.
    """
    import numpy as np
    from PIL import Image, ImageColor

    # 16-bit grey: Pillow's own conversion clips at 255 instead of scaling
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.uint32)
        grey = ((wide * 255 + 32767) // 65535).clip(0, 255).astype(np.uint8)
        grey[wide == image.info.get("transparency", -1)] = ImageColor.getcolor(behind, "L")
        return Image.fromarray(grey)
    # alpha, a palette's alpha, or one colour named transparent
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        ground = Image.new("RGBA", rgba.size, behind)
        return Image.alpha_composite(ground, rgba).convert("RGB")
    if image.mode == "L":
        return image
    return image.convert("RGB")


def _upright(image: Image.Image, flat: Image.Image) -> Image.Image:
    """The flattened picture, turned as the EXIF block of the opened one says."""
    from PIL import Image

    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    # a damaged EXIF block says nothing, and viewers show the picture as it is stored
    except Exception:
        return flat
    if orientation not in UPRIGHT:
        return flat
    return flat.transpose(Image.Transpose[UPRIGHT[orientation]])
