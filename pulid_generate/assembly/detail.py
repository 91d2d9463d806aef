"""From the flags of a detail pass to its settings. Loads no model; imports no torch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from pulid_extract.shared.file_names import path_of
from pulid_generate.assembly.references import own_references
from pulid_generate.errors import InputError, PulidError, RequestError
from pulid_generate.flags.commands.tables import Flags
from pulid_generate.pictures.description import parse_description
from pulid_generate.pictures.picture import read_parameters
from pulid_generate.request.passes.detail import ANTELOPEV2, DetailSettings, parse_detail_args
from pulid_generate.request.people.identities import PersonSpec

AnyFlags = TypeVar("AnyFlags", bound=Flags)
# endings of the files that sd-cli and ADetailer take
DETECTOR_FILES = (".pt", ".pth", ".safetensors", ".onnx", ".gguf")


def read_detail(flags: Flags) -> DetailSettings | None:
    """The detail pass that the flags ask for. Raises RequestError."""
    if flags.ad_model is None:
        return None
    return DetailSettings(
        detector=detector_of(flags.ad_model, getattr(flags, "antelopev2", None)),
        prompt=flags.ad_prompt,
        negative_prompt=flags.ad_negative_prompt,
        **parse_detail_args(flags.extra_ad_args),
    )


def detector_of(ad_model: str, antelopev2: str | None = None) -> str | None:
    """antelopev2's folder that --ad-model names; None for that of the models folder.

    antelopev2: of the flag of that name. Raises RequestError for what is no folder.
    """
    if ad_model == ANTELOPEV2:
        return antelopev2
    path = path_of(ad_model)
    if path.is_dir():
        return str(path)
    what = "no such folder"
    if path.suffix.lower() in DETECTOR_FILES:
        what = "YOLO detectors are not read here"
    raise RequestError(
        f"ad-model {ad_model}: {what}; faces are found by antelopev2, "
        f"give the word {ANTELOPEV2} or its folder"
    )


def with_own_prompt(flags: AnyFlags, data: bytes) -> AnyFlags:
    """The flags for the faces of a picture that is there: without a prompt, with that of the file's
    own metadata, or an empty one.
    """
    if flags.prompt is not None or flags.prompt_file is not None:
        return flags
    try:
        prompt = str(parse_description(read_parameters(data)).get("prompt", ""))
    except PulidError:
        prompt = ""
    return replace(flags, prompt=prompt)


def read_references(flags: Flags, spec: PersonSpec, people: int) -> tuple[bytes, ...]:
    """The pictures that a person's face is recognised by in a detail pass. people: how many are
    drawn. Raises RequestError, InputError.
    """
    if flags.ad_model is None:
        return ()
    return tuple(_read(path) for path in own_references(flags, spec, people))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(
            f"--reference {path}: cannot be read ({error.strerror or error})"
        ) from None


def idle_keys(flags: Flags) -> list[str]:
    """A line for each key of --extra-ad-args that has no effect here. Raises RequestError."""
    if flags.ad_model is None:
        return []
    idle = parse_detail_args(flags.extra_ad_args)["idle"]
    reason = "it belongs to YOLOv8, faces are found by antelopev2"
    return [f"--extra-ad-args {name} has no effect: {reason}" for name in idle]
