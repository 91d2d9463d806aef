"""Which LoRA files a picture uses, and how strongly: `--lora FILE[:WEIGHT]` and the names of a
prompt's tags. Imports no torch.

Knows nothing of what is in the files.

Source of the lookup: leejet/stable-diffusion.cpp 97d29908 examples/common/common.cpp
(extract_and_remove_lora): the name as it is, then with an extension; weights of one file are
summed. Here only safetensors files are read, and a name stays inside the folder, for prompts are
passed on and pasted.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from pulid_extract.shared.file_names import path_of
from pulid_generate.errors import InputError, RequestError, WeightsError
from pulid_generate.request.prompts.prompt import read_weight

EXTENSION = ".safetensors"
# sd-cli reads some of these
UNREAD = (".gguf", ".pt", ".pth", ".ckpt", ".bin")
# names in a message
SHOWN = 5


@dataclass(frozen=True)
class LoraChoice:
    """A file and its weight, any finite number; 1 applies it as it was trained."""

    path: Path
    weight: float = 1.0


def parse_lora_flag(text: str) -> LoraChoice:
    """FILE or FILE:WEIGHT. Raises RequestError for a file that is not there, or a weight that is
    not a number.
    """
    whole = path_of(text)
    name, colon, weight = text.rpartition(":")
    if whole.is_file() or not colon:
        return LoraChoice(_existing(whole))
    path = path_of(name)
    if not path.is_file():
        raise InputError(f"--lora {text}: no such file; expected FILE or FILE:WEIGHT")
    return LoraChoice(path, read_weight(weight, f"--lora {text}"))


def _existing(path: Path) -> Path:
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "no such file"
        raise InputError(f"--lora {path}: {problem}; expected FILE or FILE:WEIGHT")
    return path


def find_lora(name: str, folder: Path | None) -> Path:
    """The file that a tag's name means: in `folder`, as it is or with .safetensors after it. Raises
    RequestError.
    """
    where = f"prompt: <lora:{name}:..>"
    if folder is None:
        raise RequestError(
            f"{where}: no folder to look in; give --lora-model-dir FOLDER, or --lora FILE"
        )
    if not folder.is_dir():
        raise InputError(f"--lora-model-dir {folder}: no such folder")
    # what can be the name of a file at all, without a home
    path_of(folder / f"{name}{EXTENSION}")
    relative = PurePath(name)
    if relative.is_absolute() or ".." in relative.parts:
        raise RequestError(
            f"{where}: a name may not lead out of {folder}; give the file with --lora FILE"
        )
    plain, extended = folder / relative, folder / f"{name}{EXTENSION}"
    for path in (plain, extended):
        if path.is_file():
            return path
    for extension in UNREAD:
        path = folder / f"{name}{extension}"
        if path.is_file():
            raise InputError(f"{where}: {path} is not a {EXTENSION} file; only those are read here")
    raise InputError(f"{where}: {extended} is not there; {_known(name, folder)}")


def _known(name: str, folder: Path) -> str:
    names = sorted(
        str(path.relative_to(folder).with_suffix("")) for path in folder.rglob(f"*{EXTENSION}")
    )
    if not names:
        return f"{folder} holds no {EXTENSION} file"
    near = difflib.get_close_matches(name, names, SHOWN) or names[:SHOWN]
    others = " and others" if len(near) < len(names) else ""
    return f"{folder} has {', '.join(near)}{others}"


def choose_loras(
    given: Iterable[LoraChoice], tags: Sequence[tuple[str, float]], folder: Path | None = None
) -> tuple[LoraChoice, ...]:
    """Flags' files, then tags' files, each once with the sum of its weights. Raises RequestError.

    A weight of 0 stays in the list, so that its file is read and checked; it changes no picture.
    """
    choices = list(given)
    for name, weight in tags:
        choices.append(LoraChoice(find_lora(name, folder), weight))
    weights: dict[Path, float] = {}
    for choice in choices:
        path = next((known for known in weights if known.samefile(choice.path)), choice.path)
        weights[path] = weights.get(path, 0.0) + choice.weight
    return tuple(LoraChoice(path, weight) for path, weight in weights.items())


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, for a picture's metadata. Raises WeightsError."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None
