"""What came of a job: a picture, as a file's bytes. Knows no model.

The `parameters` text lies where AUTOMATIC1111's stable-diffusion-webui puts it (modules/images.py):
a PNG text chunk, or the EXIF UserComment of a JPEG or WebP. Beside it an XMP packet says, in the
press's vocabulary, that a model made the picture.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

from pulid_extract.shared.png_chunks import pixels_alone, text_of
from pulid_generate.errors import OutputError, OutputNameError, RequestError
from pulid_generate.request.job import Job

if TYPE_CHECKING:
    import numpy as np

Format = Literal["PNG", "JPEG", "WEBP"]

SUFFIXES: dict[str, Format] = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".jpe": "JPEG",
    ".webp": "WEBP",
}
# JPEG loses the least that is still worth its size: quality 95 with whole colour planes. WebP is
# lossless, the PNG's own pixels
SAVE_OPTIONS: dict[Format, dict[str, object]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True, "quality": 100, "method": 4, "exact": True},
}
# Exif 2.3
EXIF_IFD, USER_COMMENT = 0x8769, 0x9286
# the comment's character code; what follows is UTF-16, big-endian as piexif writes it
UNICODE = b"UNICODE\0"
# IPTC's Photo Metadata Standard 2025.1, "Digital Source Type", and its vocabulary: wholly made by a
# model that was trained on examples
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
# the same for every picture, so that two equal pictures stay equal files
XMP = f"""\
<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about=""
 xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/>
</rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""
# XMP specification, part 3: the keyword of its text chunk
PNG_XMP = "XML:com.adobe.xmp"


@dataclass(frozen=True)
class Picture:
    """One picture, drawn."""

    job: Job
    # (H, W, 3) uint8 RGB
    pixels: np.ndarray = field(repr=False)
    # the text that the file carries
    parameters: str
    # in what the models computed, as that text has it
    arithmetic: str

    def encode(self, format: Format, metadata: bool = True) -> bytes:
        """The file in that format. The same picture gives the same bytes.

        metadata: carry the `parameters` text, and that it is generated. Raises OutputError if the
        text does not fit a JPEG (64 KiB).
        """
        return encode_pixels(self.pixels, format, self.parameters if metadata else None)


def format_of(path: str | PurePath) -> Format:
    """The format that an output's suffix names; PNG for "-", standard output. Raises
    OutputNameError for another suffix, or none.
    """
    if str(path) == "-":
        return "PNG"
    suffix = PurePath(path).suffix.lower()
    if suffix not in SUFFIXES:
        known = ", ".join(SUFFIXES)
        raise OutputNameError(
            f"{path}: the suffix {suffix or '(none)'} is not that of a picture format; "
            f"end the name in one of {known}"
        )
    return SUFFIXES[suffix]


def encode_pixels(pixels: np.ndarray, format: Format, parameters: str | None) -> bytes:
    """(H, W, 3) uint8 RGB -> a file's bytes, carrying the text and that it is generated, or
    neither. Raises as `Picture.encode`.
    """
    from PIL import Image, PngImagePlugin

    options = dict(SAVE_OPTIONS[format])
    if parameters is not None:
        if format == "PNG":
            info = PngImagePlugin.PngInfo()
            # readers expect the older chunk where it can hold the text
            add = info.add_text if parameters.isascii() else info.add_itxt
            add("parameters", parameters)
            info.add_itxt(PNG_XMP, XMP)
            options["pnginfo"] = info
        else:
            exif = Image.Exif()
            exif.get_ifd(EXIF_IFD)[USER_COMMENT] = UNICODE + parameters.encode("utf-16-be")
            options["exif"] = exif.tobytes()
            options["xmp"] = XMP.encode()
    buffer = io.BytesIO()
    try:
        Image.fromarray(pixels).save(buffer, format, **options)
    except ValueError as error:
        if "EXIF" not in str(error):
            raise
        raise OutputError(
            f"the picture's metadata of {len(parameters or '')} characters does not fit a JPEG; "
            "write a PNG, or leave the metadata out"
        ) from None
    return buffer.getvalue()


def read_parameters(data: bytes) -> str:
    """The `parameters` text of a PNG, JPEG or WebP file's bytes. Raises RequestError if there is
    none.
    """
    from PIL import Image

    try:
        pixels, _ = pixels_alone(data)
        with Image.open(io.BytesIO(pixels), formats=tuple(SAVE_OPTIONS)) as image:
            if image.format == "PNG":
                # a file that breaks off carries nothing
                image.load()
                text = text_of(data, "parameters")
            else:
                comment = image.getexif().get_ifd(EXIF_IFD).get(USER_COMMENT, b"")
                text = None
                if comment.startswith(UNICODE):
                    text = comment.removeprefix(UNICODE).decode("utf-16-be")
    # Pillow's plugins raise whatever a damaged byte leads to
    except Exception:
        raise RequestError("this file is not a readable PNG, JPEG or WebP picture") from None
    if text is None:
        raise RequestError("this picture carries no parameters text")
    return text
