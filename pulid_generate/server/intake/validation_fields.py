"""The fields of a request for a validation, beside those of its pictures. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pulid_extract.shared.records import number, whole
from pulid_generate.errors import RequestError
from pulid_generate.server.intake.fields import FACE_CHOICE
from pulid_generate.server.intake.submission import any_seed
from pulid_generate.server.intake.uploads import Body, write_files
from pulid_generate.server.intake.validation_records import PHOTOGRAPHS
from pulid_generate.server.settings import MAX_PROMPT
from pulid_generate.server.work.jobs import DETAIL_IMG
from pulid_generate.validation.prompts import TRIALS, Trial, own_trials

# own fields of such a request -> what they are
FIELDS = {
    "reference": "Names of files: pictures of the person, whose largest face counts.",
    "truth": "Names of files: other photographs of the person.",
    "stranger": "Names of files: pictures of somebody else.",
    "prompts": "One in each line. Default: twelve of ours.",
    "seeds": "How many seeds each prompt is drawn with, 1 to 4. The first is `seed`.",
}
# what is said otherwise here -> how
INSTEAD = {
    "prompt": "prompts",
    "negative_prompt": None,
    "batch_count": "seeds",
    "identity": "pulid_id_embedding: a validation is of one person",
    "init_img": None,
    "mask": None,
}
# of a job's own fields, those that a validation has none of
NOT_HERE = (*FACE_CHOICE, "portraits", DETAIL_IMG, "output_format")
MAX_TRIALS, MAX_SEEDS = 24, 4


def read_trials(prompts: object) -> tuple[Trial, ...]:
    """Raises RequestError."""
    if prompts is None or prompts == "":
        return TRIALS
    if not isinstance(prompts, str) or len(prompts) > MAX_PROMPT:
        raise RequestError(f"prompts: expected a text of at most {MAX_PROMPT} characters")
    lines = [(number, line.strip()) for number, line in enumerate(prompts.split("\n"), 1)]
    found = own_trials([(number, line) for number, line in lines if line])
    if not 1 <= len(found) <= MAX_TRIALS:
        raise RequestError(f"prompts: {len(found)} lines; expected 1 to {MAX_TRIALS}")
    return found


def read_number(value: object, name: str, otherwise: float) -> float:
    """Of JSON, or of a form's text. Raises RequestError."""
    if value is None or value == "":
        return otherwise
    try:
        return number(value)
    except (ValueError, TypeError, OverflowError):
        raise RequestError(f"{name} {str(value)[:20]!r}: expected a number") from None


def read_seed(value: object) -> int:
    """The first of the seeds: one for all jobs, also where any will do. Raises RequestError."""
    try:
        seed = 1 if value is None or value == "" else whole(value)
    except ValueError:
        raise RequestError(f"seed {str(value)[:20]!r}: expected a whole number") from None
    return seed if seed >= 0 else any_seed()


def read_count(seeds: object) -> int:
    """Raises RequestError."""
    try:
        count = int(str(1 if seeds is None or seeds == "" else seeds))
    except ValueError:
        count = 0
    if not 1 <= count <= MAX_SEEDS:
        raise RequestError(f"seeds {str(seeds)[:20]!r}: expected 1 to {MAX_SEEDS}")
    return count


def write_photographs(own: Mapping[str, Any], body: Body, folder: Path) -> dict[str, list[str]]:
    """kind -> the files of it, which are written. Raises RequestError, OutputError."""
    found: dict[str, list[str]] = {}
    for kind in PHOTOGRAPHS:
        value = own.get(kind) or []
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list):
            raise RequestError(f"{kind}: expected a list of names of files")
        found[kind] = [body.take_file(name, kind) for name in names]
        if found[kind]:
            write_files({name: body.files[name] for name in found[kind]}, folder / kind)
    if not found["reference"]:
        raise RequestError("reference: missing; send a photograph of the person")
    return found
