"""What of a models folder can fill a role, what could if it were whole, and what people have
instead. Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path

from pulid_extract.shared.errors import WeightsError
from pulid_extract.shared.model_files.headers import (
    COMPONENTS,
    PIPELINE_INDEX,
    Header,
    TruncatedFile,
    read_header,
)
from pulid_extract.shared.model_files.kinds import kinds_of, parts_of
from pulid_extract.shared.model_files.roles import Role, filling_parts, fills
from pulid_extract.shared.model_files.walking import file_identity, files_below

# .sft is what some call a safetensors file
MODEL_ENDINGS = (".safetensors", ".sft", ".pt", ".pth", ".gguf")
# transformers' and diffusers' names of the parts of one model
SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
SHARD_INDEX = ".safetensors.index.json"
# What a whole model holds beside the encoder that is read: CLIP's eyes, T5's decoder, also as
# llama.cpp spells it. Where an encoder by itself lies next to it, that one is meant.
SURPLUS = ("vision_model.", "visual_projection.", "decoder.block.", "lm_head.", "dec.blk.")
# files in one message
MAX_NAMED = 6

# why a file of the right kind does not go with the files chosen before it, "" if it does
Fit = Callable[[Header], str]


@dataclass
class Candidates:
    """What a folder holds for one role."""

    # what can fill it, each file once, in the order of their paths
    fitting: list[Header] = field(default_factory=list)
    # what is wrong with files that cannot be read and may have been meant for it
    damaged: list[str] = field(default_factory=list)
    # what people have instead: a file, and what it is
    mistaken: list[str] = field(default_factory=list)


def candidates_in(folder: Path, role: Role, fit: Fit | None = None) -> Candidates:
    """Every file or diffusers folder in a models folder and below, sorted by whether its header
    says that it can fill the role. An OSError of the file system counts as damage.
    """
    found = Candidates()
    return candidates_among(_paths_in(folder, found.damaged), role, fit, found)


def candidates_among(
    paths: Iterable[Path], role: Role, fit: Fit | None = None, found: Candidates | None = None
) -> Candidates:
    """The same of these files and folders. found: what is added to."""
    found = found or Candidates()
    fitting: dict[object, Header] = {}
    # links come last: of two names of one file, the file's own is kept
    for path in sorted(paths, key=lambda path: (path.is_symlink(), path)):
        try:
            header = read_header(path)
        except TruncatedFile as error:
            if fills(error.header, role):
                found.damaged.append(str(error))
            continue
        except WeightsError as error:
            found.damaged.append(str(error))
            continue
        why = ""
        if fills(header, role):
            why = fit(header) if fit is not None else ""
            if not why:
                fitting.setdefault(_identity(header, role), header)
        else:
            why = _mistaken_for(header, role)
        if why:
            found.mistaken.append(f"{path} {why}")
    found.fitting = sorted(_without_surplus(fitting.values()), key=lambda header: header.path)
    found.damaged.sort(key=lambda message: -_likeness(message, role))
    return found


def listed(messages: list[str]) -> str:
    """Messages in one line, the last of many left out."""
    shown = messages[:MAX_NAMED]
    if len(messages) > len(shown):
        shown.append(f"and {len(messages) - len(shown)} more")
    return "; ".join(shown)


def _paths_in(folder: Path, unreadable: list[str]) -> set[Path]:
    """Files by their endings, and the folders that are models."""
    files = list(files_below(folder, unreadable))
    onnx_folders, pipelines, sharded = set(), set(), set()
    for file in files:
        if file.suffix.lower() == ".onnx":
            onnx_folders.add(file.parent)
        elif file.name == PIPELINE_INDEX:
            pipelines.add(file.parent)
        elif file.name.endswith(SHARD_INDEX):
            sharded.add(file.parent)
    components = set()
    for pipeline in pipelines:
        components |= {pipeline / name for name in COMPONENTS}
    # a file inside one of these folders is a piece of it, but for the whole files that Black Forest
    # Labs put beside a pipeline
    pieces = sharded | components
    paths = onnx_folders | pipelines | (sharded - components)
    for file in files:
        if file.suffix.lower() in MODEL_ENDINGS and file.parent not in pieces:
            paths.add(file)
    return paths


def _identity(header: Header, role: Role) -> object:
    """The same value for the same files under other names."""
    if header.format == "onnx folder":
        files = {header.path / name for name in header.tensors if name in role.source.files}
    else:
        files = set()
        parts = parts_of(header)
        for prefix in filling_parts(header, role):
            files |= {parts[prefix].place_of(name)[0] for name in parts[prefix].tensors}
    try:
        return frozenset(file_identity(file) for file in files) or header.path
    except OSError:
        return header.path


def _without_surplus(headers: Iterable[Header]) -> list[Header]:
    """The encoders by themselves if there are any, else all."""
    every = list(headers)
    bare = [header for header in every if not _has_surplus(header)]
    return bare or every


def _has_surplus(header: Header) -> bool:
    return any(name.startswith(SURPLUS) for name in header.tensors)


def _mistaken_for(header: Header, role: Role) -> str:
    for kind in kinds_of(header).values():
        if kind.name in role.mistaken or kind.name in role.by_flag:
            return f"is a {kind.name}"
    return ""


def _likeness(message: str, role: Role) -> float:
    """Of the name of a damaged file, where its message begins, to the published one."""
    name = Path(message.partition(": ")[0]).name
    published = role.source.files or (role.source.url.rpartition("/")[2],)
    return max(SequenceMatcher(None, name, other).ratio() for other in published)
