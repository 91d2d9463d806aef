"""What reads what strangers send: thirty readers of both packages, each with good input to start
from. Everything is small: an input takes a millisecond or a few.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from fuzz import good_input, mutations
from pulid_extract.batch import journal
from pulid_extract.batch import manifest as portraits
from pulid_extract.batch.task_fields import parse_task
from pulid_extract.extraction.embedding_cache import CachedExtraction
from pulid_extract.extraction.results import ExtractionResult
from pulid_extract.files import file_hashes
from pulid_extract.pictures.portrait import decode_portrait
from pulid_extract.shared.embedding_file import decode_embedding, encode_embedding
from pulid_extract.shared.errors import PulidError
from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.json_text import read_json
from pulid_extract.shared.model_files import read_gguf, read_header
from pulid_generate.files.layouts import FLUX_MARKER
from pulid_generate.files.storage import check_storage, part_of
from pulid_generate.inspection.inspect import inspect
from pulid_generate.lora.choice import find_lora, parse_lora_flag
from pulid_generate.lora.files import read_lora
from pulid_generate.memory.footprint import Footprint
from pulid_generate.memory.placement import parse_assignment, parse_budgets
from pulid_generate.models.flux import flux_shape
from pulid_generate.models.tokenizers import read_t5_tokenizer
from pulid_generate.pictures.description import parse_description
from pulid_generate.pictures.picture import encode_pixels, read_parameters
from pulid_generate.pictures.scorer import _line as parse_score
from pulid_generate.request.conditions.start_picture import read_init_image, read_mask
from pulid_generate.request.people.id_schedule import parse_moment, parse_points
from pulid_generate.request.people.identities import parse_person
from pulid_generate.request.people.regions import box_region, mask_region
from pulid_generate.request.prompts.prompt import take_lora_tags
from pulid_generate.request.prompts.prompt_weights import parse_weights
from pulid_generate.request.skip_guidance import parse_layers
from pulid_generate.request.tiling import Tiling
from pulid_generate.rows import manifest as rows
from pulid_generate.rows.axes import parse_axis
from pulid_generate.rows.grid import parse_seeds
from pulid_generate.rows.names import EXAMPLES, NamePattern, check_name

Mutate = Callable[[Any, Random], Any]


@dataclass(frozen=True)
class Reader:
    """One reader, its good input, and how that is spoilt."""

    name: str
    read: Callable[[Any], object]
    # bytes or texts
    good: Sequence[Any]
    mutate: Mutate = mutations.mutate_bytes

    def case(self, random: Random) -> Any:
        """One hostile input."""
        return self.mutate(random.choice(self.good), random)


def make_readers(folder: Path) -> list[Reader]:
    """All of them. folder: for what is read from the disk."""
    return [*_model_files(folder), *_pictures(folder), *_records(folder), *_texts(folder)]


def _from_file(folder: Path, name: str, read: Callable[[Path], object]) -> Callable[[bytes], Any]:
    """A reader of files as one of bytes."""

    def write_and_read(data: bytes) -> object:
        path = folder / name
        path.write_bytes(data)
        return read(path)

    return write_and_read


def _values(*errors: type[Exception]) -> Callable[[Callable], Callable]:
    """A decorator: these errors are what a reader below the commands promises."""

    def decorate(read: Callable) -> Callable:
        @functools.wraps(read)
        def promised(value: Any) -> object:
            try:
                return read(value)
            except errors:
                return None

        return promised

    return decorate


# ------------------------------------------------------------------------------------- model files


def _inspect(path: Path) -> None:
    shown = inspect(path)
    json.dumps(shown.as_dict())
    if not all(line.isprintable() for line in shown.as_text().splitlines()):
        raise AssertionError("what is shown could write over the terminal")


def _plan(path: Path) -> None:
    header = read_header(path)
    check_storage(part_of(header, FLUX_MARKER))
    flux_shape(header)
    footprint = Footprint.of(header, FLUX_MARKER)
    footprint.bytes(2)
    footprint.block_bytes(None)


def _folder(folder: Path, name: str) -> Callable[[bytes], object]:
    whole = folder / "diffusers"
    whole.mkdir(exist_ok=True)
    (whole / "model.safetensors").write_bytes(good_input.safetensors(good_input.FLUX))
    (whole / "config.json").write_text("{}")

    def read(data: bytes) -> None:
        path = whole / name
        path.write_bytes(data)
        try:
            _plan(whole)
            _inspect(whole)
        finally:
            (whole / name).write_text("{}")
            (whole / "model.safetensors.index.json").unlink(missing_ok=True)

    return read


def _model_files(folder: Path) -> list[Reader]:
    files = [
        good_input.safetensors(good_input.FLUX, {"format": "pt"}),
        good_input.safetensors(good_input.LORA, good_input.PEFT),
    ]
    ggufs = [
        good_input.gguf_file(
            folder,
            {
                name: tuple(shape)
                for name, (_, shape) in good_input.FLUX.items()
                if "scale" not in name
            },
        ),
        good_input.gguf_file(folder, {"enc.blk.0.attn_q.weight": (2, 32)}, "t5encoder"),
    ]
    index = {"metadata": {}, "weight_map": {"img_in.weight": "model.safetensors"}}
    config = {"in_channels": 64, "num_layers": 2, "guidance_embeds": True, "axes": [1, 2]}
    header = mutations.mutate_header
    at = functools.partial(_from_file, folder)
    return [
        Reader("safetensors", at("a.safetensors", read_header), files, header),
        Reader("safetensors, inspected", at("b.safetensors", _inspect), files, header),
        Reader("safetensors, planned", at("c.safetensors", _plan), files[:1], header),
        Reader("LoRA", at("d.safetensors", read_lora), files[1:], header),
        Reader("GGUF", at("a.gguf", _gguf_values), ggufs),
        Reader("GGUF, inspected", at("b.gguf", _inspect), ggufs),
        Reader("GGUF, planned", at("c.gguf", _plan), ggufs[:1]),
        Reader("GGUF's vocabulary", at("d.gguf", read_t5_tokenizer), ggufs),
        Reader("pickle", at("a.pt", _inspect), [good_input.pickle(folder)]),
        Reader(
            "index.json",
            _folder(folder, "model.safetensors.index.json"),
            [json.dumps(index).encode()],
            mutations.mutate_json,
        ),
        Reader(
            "config.json",
            _folder(folder, "config.json"),
            [json.dumps(config).encode()],
            mutations.mutate_json,
        ),
        Reader(
            "tokenizer.json",
            at("tokenizer.json", read_t5_tokenizer),
            [good_input.vocabulary(folder)],
            mutations.mutate_json,
        ),
        Reader(
            ".pulidembd",
            decode_embedding,
            [encode_embedding(np.ones((2, 8), np.float32), provenance={"tool": "x"})],
        ),
    ]


@_values(ValueError)
def _gguf_values(path: Path) -> None:
    read_gguf(path, arrays=True)


# ---------------------------------------------------------------------------------------- pictures


def _pictures(folder: Path) -> list[Reader]:
    from PIL import Image, ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.arange(16 * 32 * 3, dtype=np.uint8).reshape(16, 32, 3)
    text = 'a cat\nSteps: 2\n{"pulid_generate": "1", "seed": 3}'
    drawn = [encode_pixels(pixels, form, text) for form in ("PNG", "JPEG", "WEBP")]
    good = [
        *drawn,
        good_input.encoded("RGB", "PNG", icc_profile=profile),
        good_input.encoded("P", "PNG", transparency=0),
        good_input.encoded("I;16", "PNG"),
        good_input.encoded("RGB", "JPEG", exif=exif.tobytes(), icc_profile=profile),
        good_input.encoded("CMYK", "TIFF"),
        good_input.encoded("RGB", "BMP"),
        good_input.encoded("RGB", "GIF"),
        good_input.encoded("RGB", "AVIF"),
    ]
    at = functools.partial(_from_file, folder)
    return [
        Reader("portrait", decode_portrait, good),
        Reader("picture to start from", lambda data: read_init_image(data, 16, 16), good),
        Reader("mask of an inpainting", lambda data: read_mask(data, 32, 16), good),
        Reader("mask of a person", at("m.png", lambda path: mask_region(path, 32, 16)), good),
        Reader("picture, inspected", at("p.png", _inspect), good),
        Reader("parameters of a picture", _parameters, drawn),
    ]


def _parameters(data: bytes) -> None:
    parse_description(read_parameters(data))


# ----------------------------------------------------------------------------------------- records


def _records(folder: Path) -> list[Reader]:
    at = functools.partial(_from_file, folder)
    lines, told = mutations.mutate_lines, mutations.mutate_json
    line = b'{"output": "me.pulidembd", "key": "ab", "sha256": "cd"}\n'
    hashes = json.dumps({"/a": {"mark": [1, 2, 3, 4, 5], "sha256": "ab"}}).encode()
    readers = [
        Reader("JSON", _values(ValueError)(read_json), [b'{"a": [1, "b"]}'], told),
        Reader("manifest of pictures", _drawn_rows(".jsonl"), [good_input.DRAWN_ROWS], lines),
        Reader("manifest of pictures, CSV", _drawn_rows(".csv"), [b"prompt,seed\na,1\nb,2\n"]),
        Reader(
            "manifest of portraits", _portrait_rows(".jsonl"), [good_input.PORTRAIT_ROWS], lines
        ),
        Reader("manifest of portraits, CSV", _portrait_rows(".csv"), [b"portrait,box\na,1\n"]),
        Reader("task of a worker", parse_task, [b'{"task": "extract", "portrait": "a"}'], told),
        Reader(
            "line of scores",
            lambda data: parse_score(data.decode(errors="replace")),
            [json.dumps(good_input.SCORE).encode()],
            told,
        ),
        Reader("journal", at("journal", journal._read), [line * 3], lines),
        Reader("hashes of files", at("weights.json", _hashes), [hashes], told),
        Reader("entry of the cache", _cached, [json.dumps(good_input.CACHED).encode()], told),
    ]
    return [*readers, *_server(folder)]


def _drawn_rows(form: str) -> Callable[[bytes], object]:
    return lambda data: rows.read_manifest(data, "rows", form, Path("/nowhere"))


def _portrait_rows(form: str) -> Callable[[bytes], object]:
    return lambda data: portraits.read_manifest(data, "rows", form)


def _hashes(path: Path) -> None:
    known = file_hashes.FileHashes(path.parent)
    known.known(Path("/a"))


# what `recall` makes anew
@_values(PulidError, ValueError, KeyError, TypeError, IndexError, OverflowError)
def _cached(data: bytes) -> None:
    stored = encode_embedding(np.ones((2, 8), np.float32))
    result = ExtractionResult.from_cache(CachedExtraction(stored, read_json(data)), ["ab"])
    try:
        json.dumps([portrait.to_json() for portrait in result.portraits])
        for portrait in result.portraits:
            portrait.quality.line(), portrait.advice()
    except Exception as error:
        raise AssertionError("taken, and useless") from error


def _server(folder: Path) -> list[Reader]:
    try:
        from pulid_generate.server.intake.fields import read_names
        from pulid_generate.server.intake.people import check_name as check_upload
        from pulid_generate.server.work.jobs import RECORD, JobRecord, read_record, write_record
    except ImportError:
        # the extra [serve] is not installed
        return []
    job = JobRecord("name", folder / "job", None, {"prompt": "a cat"})
    write_record(job)
    good = (job.folder / RECORD).read_bytes()

    def body(data: bytes) -> None:
        told = read_json(data)
        if isinstance(told, dict):
            read_names(told)

    return [
        Reader(
            "record of a job",
            _from_file(job.folder, RECORD, lambda path: read_record(path.parent)),
            [good],
            mutations.mutate_json,
        ),
        Reader(
            "body of a request",
            _values(ValueError)(body),
            [b'{"prompt": "a", "seed": 1}'],
            mutations.mutate_json,
        ),
        Reader("name of an upload", check_upload, ["me.pulidembd"], mutations.mutate_text),
    ]


# ------------------------------------------------------------------------------------------- texts


def _texts(folder: Path) -> list[Reader]:
    (folder / "loras").mkdir(exist_ok=True)
    texts: list[tuple[str, Callable[[str], object], list[str]]] = [
        (
            "--identity",
            _person,
            ["me.pulidembd,weight=0.8,box=0,0,512,768", "a,mask=m.png,start=1"],
        ),
        ("--lora", parse_lora_flag, ["style.safetensors:0.8", "~/a/b"]),
        (
            "tags of a prompt",
            lambda text: _tags(text, folder / "loras"),
            ["a <lora:style:0.8> cat"],
        ),
        ("weights of a prompt", parse_weights, ["a (red:1.3) [cat] \\(x\\)"]),
        ("--name", lambda text: NamePattern(text).name(EXAMPLES), ["{row:04d}_{seed}.png"]),
        ("output of a row", check_name, ["a/b.png"]),
        ("--seeds", parse_seeds, ["1-4,7"]),
        ("--axis", parse_axis, ["steps=1,2,..,4", "seed=1,2"]),
        ("--pulid-id-weight-schedule", parse_points, ["0:1,0.5:0.5"]),
        ("--pulid-id-start-step", lambda text: parse_moment(text, "start"), ["0.5", "3"]),
        ("--skip-layers", parse_layers, ["[7,8,9]", "7,8"]),
        ("--vae-tile-size", Tiling.parse, ["32x32"]),
        ("--backend", lambda text: parse_assignment("--backend", text), ["clip=cpu,vae=cuda0"]),
        ("--max-vram", parse_budgets, ["8", "cuda0=4,cuda1=-1"]),
        ("file names", path_of, ["~/models/flux.safetensors", "a/b"]),
    ]
    return [Reader(name, read, good, mutations.mutate_text) for name, read, good in texts]


def _person(text: str) -> None:
    person = parse_person(text)
    if person.box is not None:
        box_region(person.box, 512, 512)
    if person.mask is not None:
        mask_region(path_of(person.mask), 16, 16)


def _tags(text: str, folder: Path) -> None:
    for name, _ in take_lora_tags(text)[1]:
        find_lora(name, folder)
