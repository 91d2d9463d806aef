"""What a run needs and whether it is here: libraries, devices, memory, model files, disk, hub. What
both programs' `doctor` asks.

Loads no model and makes no network call. Knows no stage: roles and the names of extras are given to
it. Imports torch only to ask it for devices, and does without where it is not installed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import psutil

from pulid_extract.shared.errors import PackageError, PulidError, printable
from pulid_extract.shared.libraries import MORE_MEMORY, try_import
from pulid_extract.shared.model_files.candidates import candidates_in
from pulid_extract.shared.model_files.finding import (
    FoundFile,
    downloads_dir,
    fetching_nothing,
    is_offline,
)
from pulid_extract.shared.model_files.meter import size_text
from pulid_extract.shared.model_files.pulling import free_bytes
from pulid_extract.shared.model_files.roles import Role

PROJECT = "pulid-flux-toolkit"
REQUIREMENT = re.compile(r"([\w.-]+)\s*(?:>=\s*([\d.]+))?")
# the section
FILES = "model files"
STANDS_IN = {
    "opencv-contrib-python-headless": (
        "opencv-python-headless",
        "opencv-contrib-python",
        "opencv-python",
    ),
    "onnxruntime": ("onnxruntime-gpu",),
}
CPUINFO = Path("/proc/cpuinfo")
# what the kernel calls them -> what people do; of x86 and of ARM
CPU_FLAGS = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512_vnni": "VNNI (int8)",
    "avx_vnni": "VNNI (int8)",
    "avx512_bf16": "bf16",
    "amx_bf16": "AMX bf16",
    "amx_int8": "AMX int8",
    "asimddp": "dot product (int8)",
    "i8mm": "int8 matrices",
    "bf16": "bf16",
}
# v2, v1
CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)

CheckStatus = Literal["ok", "note", "missing", "wrong"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    # of the report
    section: str
    name: str
    # "missing" and "wrong" make a run impossible
    status: CheckStatus
    text: str
    # what to do, or ""
    remedy: str = ""

    @property
    def stops(self) -> bool:
        """Whether a run could not work."""
        return self.status in ("missing", "wrong")

    def as_dict(self) -> dict[str, Any]:
        """JSON values, in the order in which they are printed."""
        return {
            "section": self.section,
            "name": self.name,
            "status": self.status,
            "text": self.text,
            "remedy": self.remedy or None,
        }


def as_text(checks: Iterable[Check]) -> str:
    """A report for people, by sections."""
    lines: list[str] = []
    section = ""
    for check in checks:
        if check.section != section:
            section = check.section
            lines.append(section)
        mark = check.status.upper() if check.stops else check.status
        lines.append(f"  {mark:<8}{check.name}: {check.text}")
        if check.remedy:
            lines.append(f"          -> {check.remedy}")
    # names of files and tensors may hold anything
    return "\n".join(printable(line, "\N{REPLACEMENT CHARACTER}") for line in lines)


def raise_missing(checks: Iterable[Check]) -> None:
    """Raise PackageError, in one line, if a run could not work."""
    missing = [check for check in checks if check.stops]
    if len(missing) == 1 and not missing[0].remedy:
        raise PackageError(f"not ready: {missing[0].name}: {missing[0].text}")
    if missing:
        names = ", ".join(check.name for check in missing)
        remedies = list(dict.fromkeys(check.remedy for check in missing if check.remedy))
        raise PackageError(f"not ready: {names}; {'; '.join(remedies) or 'the report says why'}")


# ---------------------------------------------------------------------------------------- libraries


def libraries(extra: str) -> list[Check]:
    """Python, and every library that the project's own metadata asks for, with what the extra
    adds.
    """
    checks = [Check("libraries", "Python", "ok", platform.python_version())]
    install = f"pip install '{PROJECT}[{extra}]'"
    try:
        wanted = importlib.metadata.requires(PROJECT) or []
    except importlib.metadata.PackageNotFoundError:
        return [*checks, Check("libraries", PROJECT, "missing", "is not installed", install)]
    for line in wanted:
        requirement, _, marker = line.partition(";")
        match = REQUIREMENT.match(requirement.strip())
        if match and (not marker or re.search(rf"extra\s*==\s*[\"']{extra}[\"']", marker)):
            checks.append(_library(match[1], match[2] or "", extra))
    # what finds no memory spoils those that import it, with other words
    if any(check.remedy == MORE_MEMORY for check in checks):
        for place, check in enumerate(checks):
            if check.status == "wrong" and "cannot be imported" in check.text:
                checks[place] = replace(check, remedy=MORE_MEMORY)
    return checks


def _library(name: str, least: str, extra: str) -> Check:
    for candidate in (name, *STANDS_IN.get(name, ())):
        try:
            version = importlib.metadata.version(candidate)
        except importlib.metadata.PackageNotFoundError:
            continue
        if _numbers(version) < _numbers(least):
            text = f"{version}, at least {least} is needed"
            return Check(
                "libraries", candidate, "wrong", text, f"pip install -U '{PROJECT}[{extra}]'"
            )
        if problem := try_import(name):
            text = f"{version}, {problem.text}"
            return Check("libraries", candidate, "wrong", text, problem.cure)
        return Check("libraries", candidate, "ok", version)
    return Check(
        "libraries", name, "missing", "is not installed", f"pip install '{PROJECT}[{extra}]'"
    )


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


# ------------------------------------------------------------------------------------------ machine


def machine(device: str = "auto") -> list[Check]:
    """Processor, main memory, and the devices that torch sees. device: the one that is asked for,
    missing if it is not among them.
    """
    cores = psutil.cpu_count(logical=False) or os.cpu_count()
    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    memory = f"{size_text(total)}, {size_text(free)} free"
    limit = memory_limit()
    if limit is not None and limit < total:
        memory += f"; this container may use {size_text(limit)}"
    return [
        Check("machine", "processor", "ok", f"{cores} cores{_cpu_abilities()}"),
        Check("machine", "main memory", "ok", memory),
        *_devices(device),
    ]


def memory_limit() -> int | None:
    """Bytes that this container may use, None outside of one or without a limit."""
    for path in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            return int(path.read_text())
    return None


def _cpu_abilities() -> str:
    try:
        lines = CPUINFO.read_text().splitlines()
    except OSError:  # not Linux
        return f", {platform.machine()}"
    flags: list[str] = []
    for line in lines:
        if line.startswith(("flags", "Features")):
            flags = line.partition(":")[2].split()
            break
    names = list(dict.fromkeys(text for flag, text in CPU_FLAGS.items() if flag in flags))
    abilities = f", {', '.join(names) or platform.machine()}"
    if any("bf16" in name for name in names):
        return abilities
    return f"{abilities}; no bf16 arithmetic: computes in float32"


def _devices(wanted: str) -> list[Check]:
    try:
        import torch
    except ImportError:
        return []  # the libraries say so
    devices = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        text = f"{torch.cuda.get_device_name(index)}, {size_text(total)}, {size_text(free)} free"
        devices.append(Check("machine", f"cuda:{index}", "ok", text))
    if torch.backends.mps.is_available():
        devices.append(Check("machine", "mps", "ok", "Apple GPU, shares the main memory"))
    usable = ["cpu", *(device.name for device in devices)]
    if not devices:
        none = f"none that torch {torch.__version__} sees; everything runs on the CPU"
        devices.append(Check("machine", "GPU", "note", none))
    kinds = [name.partition(":")[0] for name in usable]
    if wanted not in ("auto", *usable, *kinds):
        text = f"not usable here; usable: {', '.join(usable)}"
        devices.append(Check("machine", f"device {wanted}", "wrong", text))
    return devices


# -------------------------------------------------------------------------------------- model files


@dataclass(frozen=True)
class RoleCheck:
    """One role's file."""

    check: Check
    # None if there is none that can be used
    file: FoundFile | None
    # whether nothing is there at all, so that fetching it would help
    absent: bool

    def with_remedy(self, command: str) -> Check:
        """The check, naming the command that fetches the file if that would help."""
        return replace(self.check, remedy=f"run: {command}") if self.absent else self.check


def look_for(
    role: Role, search: Callable[[], FoundFile], models_dir: Path | None, given: bool
) -> RoleCheck:
    """Whether a role's file is there: where, by which rule, how large. search: finds it or raises
    PulidError; is kept from fetching it.

    given: whether it was named by a flag; then another file would not help.
    """
    try:
        with no_network():
            file = search()
    except PulidError as error:
        text = str(error).removeprefix(f"{role.name}: ")
        absent = not given and not _has_candidates(role, models_dir)
        return RoleCheck(
            Check(FILES, role.name, "missing" if absent else "wrong", text), None, absent
        )
    return RoleCheck(
        Check(FILES, role.name, "ok", f"{file.path} ({file.rule}, {size_text(_size(file))})"),
        file,
        False,
    )


def _has_candidates(role: Role, models_dir: Path | None) -> bool:
    """Whether there is something in the folder that a download would only add to: two files, or one
    that cannot be read.
    """
    if models_dir is None or not models_dir.is_dir():
        return False
    return bool(candidates_in(models_dir, role).fitting)


def _size(file: FoundFile) -> int:
    if file.path.is_file():
        return file.path.stat().st_size
    header = file.header
    # of a folder of ONNX files the tensors are those files
    parts = {path for path, _ in header.shards.values()}
    if not parts:
        parts = {file.path / name for name in header.tensors}
    return sum(part.stat().st_size for part in parts if part.is_file())


@contextlib.contextmanager
def no_network() -> Iterator[None]:
    """As with HF_HUB_OFFLINE=1: looking for a file must not begin to fetch it."""
    before = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        with fetching_nothing():
            yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before


def settings_checks(lines: Sequence[str]) -> list[Check]:
    """What came from pulid.toml. lines: `settings.used_settings`."""
    checks = []
    for line in lines:
        file, _, names = line.rpartition(": ")
        checks.append(Check("settings", file, "ok", names))
    return checks


def surroundings(models_dir: Path | None, gated: Sequence[str] = ()) -> list[Check]:
    """Disk space and the state of the hub. gated: repositories that want a token."""
    from huggingface_hub import get_token

    section = "disk and hub"
    folder = models_dir or downloads_dir()
    space = f"{size_text(free_bytes(folder))} free where {folder} is"
    checks = [Check(section, "disk", "ok", space)]
    if models_dir is None:
        text = "none is named; give --models-dir or set PULID_MODELS_DIR"
        checks.append(Check(section, "models folder", "note", text))
    if is_offline():
        text = "HF_HUB_OFFLINE is set: nothing will be fetched"
        checks.append(Check(section, "hub", "note", text))
    elif get_token():
        checks.append(Check(section, "hub", "ok", "a token is set"))
    else:
        text = "no token"
        if gated:
            text += f"; {', '.join(gated)} want one: run 'hf auth login'"
        checks.append(Check(section, "hub", "ok", text))
    return checks
