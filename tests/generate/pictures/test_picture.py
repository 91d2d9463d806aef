"""The formats that are written, and the text that each carries."""

from __future__ import annotations

import io
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image
from support.pictures.picture_files import encode, gradient

from pulid_generate.errors import OutputError, RequestError
from pulid_generate.pictures.picture import (
    SUFFIXES,
    Picture,
    encode_pixels,
    format_of,
    read_parameters,
)
from pulid_generate.request.generation import GenerationRequest
from pulid_generate.request.job import Job

TEXT = 'a café, 雨 \U0001f327\nSteps: 4\n{"pulid_generate": "1"}'


@pytest.fixture
def drawn():
    return Picture(Job(GenerationRequest("a cat"), 42, (1.0, 0.0), ()), gradient(), TEXT, "float32")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_picture_in_every_format(drawn, format):
    data = drawn.encode(format)
    assert data == drawn.encode(format)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == format
        pixels = np.array(image)
    if format == "JPEG":
        assert np.abs(pixels.astype(int) - drawn.pixels).mean() < 3
    else:
        assert np.array_equal(pixels, drawn.pixels)
    assert read_parameters(data) == TEXT
    assert read_parameters(replace(drawn, parameters="plain").encode(format)) == "plain"
    bare = drawn.encode(format, metadata=False)
    assert len(bare) < len(data)
    with pytest.raises(RequestError, match="no parameters"):
        read_parameters(bare)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_it_says_that_it_is_generated(drawn, format):
    """As a reader of XMP finds it: the packet where the format has its place, parsed as RDF."""
    with Image.open(io.BytesIO(drawn.encode(format))) as image:
        packet = image.info.get("xmp") or image.info["XML:com.adobe.xmp"]
    text = packet if isinstance(packet, str) else packet.decode()
    root = ElementTree.fromstring(text.removeprefix("\ufeff"))
    rdf = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
    [described] = root.iter(f"{rdf}Description")
    iptc = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
    assert described.get(f"{iptc}DigitalSourceType") == (
        "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
    )
    with Image.open(io.BytesIO(drawn.encode(format, metadata=False))) as image:
        assert not {"xmp", "XML:com.adobe.xmp"} & {*image.info}
    assert b"trainedAlgorithmicMedia" not in drawn.encode(format, metadata=False)


def test_the_text_of_a_png(drawn):
    with Image.open(io.BytesIO(drawn.encode("PNG"))) as image:
        assert image.text["parameters"] == TEXT


def test_the_text_lies_where_others_look_for_it(drawn):
    """AUTOMATIC1111 writes the EXIF UserComment through piexif: the word UNICODE, a zero, UTF-16
    with the high byte first.
    """
    for format in ("JPEG", "WEBP"):
        with Image.open(io.BytesIO(drawn.encode(format))) as image:
            assert image.getexif().get_ifd(0x8769)[0x9286] == b"UNICODE\0" + TEXT.encode(
                "utf-16-be"
            )


def test_jpeg_keeps_whole_colour_planes(drawn):
    with Image.open(io.BytesIO(drawn.encode("JPEG"))) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3


def test_a_text_too_long_for_jpeg_says_so(drawn):
    long = replace(drawn, parameters="x" * 40_000)
    with pytest.raises(OutputError, match="40000 characters does not fit a JPEG"):
        long.encode("JPEG")
    assert (
        read_parameters(long.encode("WEBP"))
        == read_parameters(long.encode("PNG"))
        == long.parameters
    )


def test_the_suffix_names_the_format():
    for suffix, format in SUFFIXES.items():
        assert format_of(f"folder.x/a{suffix}") == format_of(f"A{suffix.upper()}") == format
    assert format_of("-") == "PNG"
    for name in ("a", "a.gif", "a.png.", ".png"):
        with pytest.raises(
            OutputError,
            match=r"is not that of a picture format; end the name in one of \.png, \.jpg",
        ):
            format_of(name)


def test_what_carries_no_text():
    for data in (b"", b"<html>", encode(gradient())[:60]):
        with pytest.raises(RequestError, match="not a readable"):
            read_parameters(data)
    for format in ("PNG", "JPEG", "WEBP"):
        with pytest.raises(RequestError, match="no parameters"):
            read_parameters(encode_pixels(gradient(), format, None))
