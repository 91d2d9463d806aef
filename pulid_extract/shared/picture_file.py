"""Picture files of any origin into upright pixels of 8 bits, or one line that says why not: what
both programs read portraits, starting pictures and masks with.

Bytes of a file or of standard input go in, a Pillow image comes out. Limits of size are checked
before anything is decoded. A colour profile is applied where the caller asks for sRGB: pictures to
draw over are; portraits are not, as in the reference app (docs/files.md). Knows nothing of faces,
of what is drawn, or of networks. Imports no torch, and Pillow only when it is called.
"""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pulid_extract.shared.errors import InputError, PulidError, first_line
from pulid_extract.shared.png_chunks import pixels_alone

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image, ImageCms

MAX_FILE_BYTES = 512 << 20
# phones reach 108 million; a decompression bomb claims billions
MAX_PIXELS = 128 << 20

# Formats of several pictures, of which the first is meant: an MPO is a JPEG with a second view or
# preview behind the photograph, a HEIC has bursts, depth maps and thumbnails. pillow-heif opens the
# one that the file calls primary. Neither is an animation.
STILLS = ("MPO", "HEIF")
# of 255: what sRGB's own profiles differ from each other
ROUNDING = 2

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


@contextlib.contextmanager
def pillow_reads(
    where: str, error: type[PulidError] = InputError, advice: str = "save it again"
) -> Iterator[None]:
    """Around what Pillow does with a file: whatever a damaged byte leads to (its plugins raise
    IndexError, EOFError, RuntimeError, SyntaxError, struct.error ..) becomes one `error` that says
    `where`, and what helps. Nothing of ours belongs within but errors of our own, and a missing
    file stays FileNotFoundError.
    """
    try:
        with warnings.catch_warnings():
            # of bombs, which are refused by their size, and of odd EXIF
            warnings.simplefilter("ignore")
            yield
    except (PulidError, FileNotFoundError):
        raise
    except Exception as problem:
        raise error(
            f"{where}: cannot be read as a picture ({first_line(problem)}); {advice}"
        ) from None


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
    data: bytes, where: str, formats: PictureFormats, behind: str = "white", to_srgb: bool = False
) -> Image.Image:
    """The picture as a viewer shows it: upright, 8 bits per channel, of mode "L" or "RGB".

    where: names the source in messages. behind: the colour, as Pillow spells it, that shows through
    what is transparent. to_srgb: the numbers of a picture with a colour profile become those of
    sRGB; a profile that is damaged counts as none. Raises InputError for bytes that are not a
    picture of these formats, and for one that is truncated, animated or has more than 128 million
    pixels.
    """

    def convert(image: Image.Image) -> Image.Image:
        return _flatten(_in_srgb(image) if to_srgb else image, behind)

    return _decoded(data, where, formats, convert)


def decode_grey(data: bytes, where: str, formats: PictureFormats) -> np.ndarray:
    """Luminance times opacity, upright, (H, W) float64 in [0, 1]; 16 bits are kept. where and what
    is raised: as `decode_picture`.
    """
    import numpy as np
    from PIL import Image

    def convert(image: Image.Image) -> Image.Image:
        # Pillow's own conversion to 8 bits clips 16
        if image.mode.startswith("I"):
            return Image.fromarray(np.asarray(image, np.float32) / 65535)
        alpha = np.asarray(image.convert("RGBA").getchannel("A"), np.float32) / 255
        return Image.fromarray(np.asarray(image.convert("L"), np.float32) / 255 * alpha)

    return np.asarray(_decoded(data, where, formats, convert), np.float64)


def _decoded(
    data: bytes,
    where: str,
    formats: PictureFormats,
    convert: Callable[[Image.Image], Image.Image],
) -> Image.Image:
    """The picture, converted and turned upright. Raises InputError as `decode_picture`."""
    with warnings.catch_warnings():
        # Pillow warns of bombs (refused in `_open`) and of odd EXIF
        warnings.simplefilter("ignore")
        image = _open(data, where, formats)
        try:
            image.load()
            converted = convert(image)
        # as in `_open`; OSError for a truncated file
        except Exception as error:
            raise _undecodable(image, where, error) from None
        return _upright(image, converted)


def _undecodable(image: Image.Image, where: str, error: Exception) -> InputError:
    if image.format in ("JPEG", "MPO") and "truncated" in str(error):
        return InputError(
            f"{where}: lacks its last bytes ({error}); viewers show it all the same, with a grey "
            "rest: fetch the file again, or open it in one, look, and save it anew"
        )
    return InputError(f"{where}: cannot be decoded ({error}); the file is truncated or damaged")


def _in_srgb(image: Image.Image) -> Image.Image:
    """The picture with the numbers that sRGB has for its colours; itself without a profile that
    says what they are, and where they are sRGB's already.
    """
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    # of 16 bits Pillow converts none; they are grey
    if not profile or image.mode.startswith("I"):
        return image
    if image.mode in ("P", "PA", "LA", "La", "RGBa"):
        opaque = "RGBA" if image.has_transparency_data else "RGB"
        image = image.convert(opaque)
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        to_srgb = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), image.mode, mode)
        if image.mode == mode and _changes_nothing(to_srgb, mode):
            return image
        return ImageCms.applyTransform(image, to_srgb) or image
    # a damaged profile, or one for pictures of other channels: viewers show the picture without it
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether a profile is sRGB's but for rounding; its description may say anything."""
    import numpy as np
    from PIL import Image, ImageCms

    steps = np.arange(0, 256, 51, dtype=np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(1, -1, 3)
    image = Image.fromarray(colours).convert(mode)
    changed = ImageCms.applyTransform(image, transform) or image
    difference = np.abs(np.asarray(image, np.int16) - np.asarray(changed, np.int16))
    return int(difference.max()) <= ROUNDING


def _open(data: bytes, where: str, formats: PictureFormats) -> Image.Image:
    """The picture, not decoded yet. Raises InputError as `decode_picture`."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        raise InputError(f"{where}: is empty; expected a {formats.text} picture")
    names = formats.names
    data, profile = pixels_alone(data)
    if formats.heic and data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS:
        _register_heif(where)
        names = (*names, "HEIF")
    try:
        image = Image.open(io.BytesIO(data), formats=names)
        frames = getattr(image, "n_frames", 1)
        if profile is not None:
            image.info["icc_profile"] = profile
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
    if frames > 1 and image.format not in STILLS:
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
