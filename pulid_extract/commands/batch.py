"""`pulid-extract batch FOLDER|MANIFEST --out-dir DIR`: many extractions with one loaded set of models. Torch only once there is work.

Every row is judged before a file is looked for. Then one thread reads, decodes and cuts out the face of the next rows while this one runs
EVA-CLIP and IDFormer. A row's file is the same, byte for byte, as the single command's: both are made by job.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import typer

from pulid_extract import console
from pulid_extract.commands.extract import ONE_PICTURE, Flags, FuseFlags
from pulid_extract.commands.job import Cut, Job, Made, cut, decide, make, portraits_of, provenance_of, read_job, recall, together_of
from pulid_extract.commands.job import usage as words_of
from pulid_extract.commands.result_lines import ResultLines
from pulid_extract.commands.session import PACKAGES, Beside, quiet
from pulid_extract.embedding_cache import EmbeddingCache, Key, default_folder
from pulid_extract.errors import InputError, OutputError, PulidError, WeightsError, require_packages
from pulid_extract.file_hashes import FileHashes, files_of
from pulid_extract.flags import CropFlags, DetectFlags, EncodeFlags, ModelFlags
from pulid_extract.journal import Journal
from pulid_extract.manifest import FORMS, MAX_BYTES, Row, listed, read_manifest
from pulid_extract.model_files import Found, write_atomically
from pulid_extract.model_set import find_files, needed_roles

if TYPE_CHECKING:
    from pulid_extract.choice import FaceChoice
    from pulid_extract.extractor import Extractor
    from pulid_extract.portrait import FaceBox

Item, Result = TypeVar("Item"), TypeVar("Result")
ENDING = ".pulidembd"
AHEAD = 2  # rows that are cut before they are wanted: one in work and one in hand
BY_HAND = ("face_box", "landmarks")
FACE = ("face_index", "face_order", "face_at", *BY_HAND)


@dataclass(frozen=True, kw_only=True)
class RowFlags:
    """Where rows come from and where results go."""

    rows: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER|MANIFEST|-",
            help="Folder of pictures, one person in each; or a manifest (.jsonl, .csv) with columns portrait or portraits, out, and any "
            "option of a single extraction; - reads JSON lines from standard input.",
            show_default=False,
        ),
    ]
    out_dir: Annotated[
        str, typer.Option("--out-dir", metavar="FOLDER", help="Where the .pulidembd files go; made if need be.", show_default=False)
    ]
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Skip what an earlier run into this folder made of the same portraits, options and weights."),
    ] = False
    strict: Annotated[bool, typer.Option("--strict", help="A row with any warning about a portrait fails.")] = False
    no_cache: Annotated[
        bool, typer.Option("--no-cache", envvar="PULID_NO_CACHE", help="Neither read nor write the embedding cache.")
    ] = False


@dataclass(frozen=True, kw_only=True)
class BatchFlags(ModelFlags, CropFlags, DetectFlags, EncodeFlags, FuseFlags, RowFlags):
    """Every flag of `batch`; those of an extraction hold for every row that does not say otherwise."""


@dataclass(frozen=True)
class Planned:
    """One row that was judged. name: for messages."""

    number: int
    line: int | None
    flags: Flags
    choice: FaceChoice
    boxes: tuple[FaceBox, ...]
    output: str

    @property
    def name(self) -> str:
        return f"line {self.line}" if self.line is not None else str((self.flags.portrait or [""])[0])


@dataclass
class Prepared:
    """A row after its first half. outcome: what the second half goes on with; a str: the SHA-256 of what is there already."""

    planned: Planned
    outcome: Cut | Made | str | PulidError
    job: Job | None = None
    key: Key | None = None
    seconds: float = 0.0


def run(flags: BatchFlags) -> None:
    """Make what every row describes. Raises PulidError: before the start for rows that cannot be, at the end if any failed."""
    require_packages(PACKAGES, "extract")
    planned, problems = plan(flags)
    if problems:
        for line in listed(problems):
            console.log(line)
        raise InputError(f"{flags.rows}: {len(problems)} problem{'s' * (len(problems) != 1)}, listed above; nothing was started")
    out_dir = _make_folder(flags.out_dir)
    _sweep(out_dir, planned)
    with ResultLines() as lines, quiet():
        batch = Batch(flags, planned, out_dir)
        counts: dict[str, int] = {}
        with _progress(len(planned)) as advance:
            for report in batch.reports():
                lines.write(json.dumps(report))
                counts[report["status"]] = counts.get(report["status"], 0) + 1
                if report["error"] is not None:
                    console.log(f"row {report['row']}: {report['error']}")
                advance()
    summary = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    console.log(f"{len(planned)} row{'s' * (len(planned) != 1)}: {summary}")
    if counts.get("failed"):
        raise InputError(f"{counts['failed']} of {len(planned)} rows failed, the others are in {out_dir}")


# ------------------------------------------------------------------------------------------------------------------ judging rows


def plan(flags: BatchFlags) -> tuple[list[Planned], list[str]]:
    """(rows, problems), a line for each problem. Raises InputError for what is neither a folder nor a manifest."""
    rows, problems, base = _read_rows(flags.rows)
    common = {item.name: getattr(flags, item.name) for item in fields(Flags) if hasattr(flags, item.name)}
    planned, taken = [], dict[str, str]()
    for number, row in enumerate(rows, 1):
        try:
            one = _planned(number, row, flags.rows, common, base)
        except InputError as error:
            problems.append(f"line {row.line}: {error}" if row.line else str(error))
            continue
        first = taken.setdefault(one.output.casefold(), one.name)  # some file systems take A and a for one name
        if first != one.name:
            problems.append(f"{one.name}: would be written to {one.output}, as {first} is; give each its own 'out'")
        planned.append(one)
    problems.sort(key=lambda line: int(line.split(":")[0][5:]) if line.startswith("line ") else 0)
    return planned, problems


def _read_rows(given: str) -> tuple[list[Row], list[str], Path]:
    """(rows, problems, folder that their names start from)."""
    from pulid_extract.portrait import pictures_in

    if given != "-" and Path(given).is_dir():
        pictures, skipped = pictures_in(given)
        if skipped:
            console.log(f"{given}: {len(skipped)} skipped, no pictures by their names")
        return [Row(0, {"portrait": [str(picture.resolve())]}) for picture in pictures], [], Path()
    form = ".jsonl" if given == "-" else Path(given).suffix.lower()
    if form not in FORMS:
        raise InputError(f"{given}: expected a folder of pictures, or a manifest that ends in {' or '.join(FORMS)}")
    try:
        if given == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1) if sys.stdin is not None else b""
        else:
            with open(given, "rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        raise InputError(f"{given}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    where = "standard input" if given == "-" else given
    return *read_manifest(data, where, form), Path() if given == "-" else Path(given).parent


def _planned(number: int, row: Row, given: str, common: Mapping[str, Any], base: Path) -> Planned:
    values = dict(row.values)
    output = _output(values.pop("out", None), values["portrait"][0])
    if "-" in values["portrait"]:
        raise InputError("portrait -: rows are files; standard input holds one picture at most")
    if row.line and len(values["portrait"]) > 1:
        for name in ONE_PICTURE:
            if name in values:
                raise InputError(f"{name} is about the pixels of one portrait; {len(values['portrait'])} are named")
    for name in ("portrait", "mask"):
        if isinstance(values.get(name), list):
            values[name] = [str(base / path) for path in values[name]]
        elif name in values:
            values[name] = str(base / values[name])
    values = {name: _one_of(name, value) for name, value in values.items()}
    kept = dict(common)
    for group, idle in ((FACE, ("face_order",)), (BY_HAND, ("det_threshold", "aligner"))):
        if any(name in values for name in group):  # a row's own choice takes the place of the command line's
            kept |= {name: getattr(Flags, name) for name in idle}
    flags = Flags(**{**kept, **values, "out": output})
    if flags.det_threshold is not None and not 0 < flags.det_threshold < 1:
        raise InputError(f"det_threshold {flags.det_threshold:g}: expected a number above 0 and below 1")
    if flags.face_index is not None and flags.face_index < 0:
        raise InputError(f"face_index {flags.face_index}: faces are counted from 0")
    try:
        choice, boxes = decide(flags, _fail)
    except typer.BadParameter as error:
        raise InputError(words_of(error)) from None
    return Planned(number, row.line or None, flags, choice, boxes, output)


def _fail(message: str) -> None:
    raise InputError(message)


def _output(given: str | None, portrait: str) -> str:
    """The file's name inside --out-dir: what the row says, or the first portrait's."""
    name = Path(portrait).stem if given is None else given.strip()
    if not name or name != Path(name).name or name in (".", "..") or name.startswith(".") or "\\" in name:
        raise InputError(f"out {name[:60]!r}: expected a file name, without folders, that does not start with a dot")
    return name if name.endswith(ENDING) else f"{name}{ENDING}"


def _one_of(name: str, value: Any) -> Any:
    """The value itself, if its flag takes any or takes this one."""
    hint = get_type_hints(Flags)[name]
    kinds = [hint, *get_args(hint)]
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if words and value not in words:
        raise InputError(f"{name} {str(value)[:40]!r}: expected one of {', '.join(words)}")
    return value


def _make_folder(given: str) -> Path:
    folder = Path(given)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--out-dir {given}: cannot be made ({error.strerror or error})") from None
    return folder


def _sweep(folder: Path, planned: Sequence[Planned]) -> None:
    """Delete what a killed run left half-written beside our own outputs."""
    names = {one.output for one in planned}
    for path in folder.glob(f".*{ENDING}.*.part"):
        if path.name[1:].rsplit(".", 2)[0] in names:
            path.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------------------- work


@dataclass
class Batch:
    """The rows, and what is loaded once for all of them."""

    flags: BatchFlags
    planned: Sequence[Planned]
    out_dir: Path
    found: dict[str, Found] = field(init=False)
    extractor: Extractor = field(init=False)

    def __post_init__(self) -> None:
        flags = self.flags
        roles = set[str]()
        for one in self.planned:
            roles |= _roles(one)
        explicit = {name: getattr(flags, name) for name in ("pulid_weights", "eva_clip", "antelopev2", "retinaface", "bisenet")}
        self.found = find_files(explicit, flags.models_dir or None, roles, console.log)
        memory = FileHashes(None if flags.no_cache else default_folder())
        files = files_of(self.found)
        self.hashes = Beside(lambda: {name: [memory.of(path) for path in paths] for name, paths in files.items()})
        self.cache = None if flags.no_cache else EmbeddingCache(default_folder())
        self.journal = Journal(self.out_dir)

        from pulid_extract.extractor import Extractor

        self.extractor = Extractor(self.found, flags.device)
        self.worked = False

    def reports(self) -> Iterator[dict[str, Any]]:
        """One for each row, in their order. Raises WeightsError for networks that never worked, OutputError for the journal."""
        import torch

        # The Extractor sets and restores these for each stage; around both threads, so that one does not restore what the other needs.
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            for prepared in ahead(self._prepare, self.planned, AHEAD):
                yield self._finish(prepared)

    def _prepare(self, planned: Planned) -> Prepared:
        """The first half: read, look whether it is there already, find the face. In the second thread."""
        from pulid_extract.identity import Options

        prepared = Prepared(planned, "")
        start = time.perf_counter()
        try:
            job = prepared.job = read_job(planned.flags, planned.choice, planned.boxes, _say_nothing)
            if len(job.sources) > 1:
                self._check_several(planned)
            hashes = {name: self.hashes.result()[name] for name in _roles(planned)}
            key = prepared.key = job.key(hashes, self.flags.device)
            there = self.journal.done(planned.output, key.name) if self.flags.resume else None
            made = recall(job, self.cache, key, _say_nothing) if self.cache is not None and there is None else None
            if there is not None or made is not None:
                prepared.outcome = there or made or ""
            else:
                flags, default = planned.flags, Options()
                # `crop` alone reads them, and only this thread crops.
                self.extractor.options = Options(flags.aligner, flags.parser, flags.det_threshold or default.det_threshold)
                prepared.outcome = cut(job, self.extractor, _say_nothing)
        except PulidError as error:
            prepared.outcome = error
        except Exception as error:  # one bad photo never stops the rest, not even by a mistake of ours
            prepared.outcome = InputError(f"{planned.name}: {type(error).__name__}: {error}; please report this")
        prepared.seconds = time.perf_counter() - start
        return prepared

    def _check_several(self, planned: Planned) -> None:
        for name in ONE_PICTURE:
            if getattr(planned.flags, name):
                raise InputError(f"{planned.name}: {name} is about the pixels of one portrait, there are several")

    def _finish(self, prepared: Prepared) -> dict[str, Any]:
        """The second half: encode, write, and only then say so."""
        planned, outcome = prepared.planned, prepared.outcome
        start = time.perf_counter()
        made, error = None, outcome if isinstance(outcome, PulidError) else None
        try:
            if isinstance(outcome, Cut):
                made = make(outcome, self.extractor, provenance_of(self.hashes.result()))
                self.worked = True
                self._keep(prepared.key, made)
            elif isinstance(outcome, Made):
                made = outcome
            if made is not None:
                write_atomically(self.out_dir / planned.output, made.data, mode=0o600)
        except PulidError as failure:
            error = failure
        if isinstance(error, WeightsError) and not self.worked:
            raise error  # not the photo's fault: it would be the same for every row
        sha256 = outcome if isinstance(outcome, str) else None
        if made is not None and error is None and prepared.key is not None:
            sha256 = hashlib.sha256(made.data).hexdigest()
            self.journal.add(planned.output, prepared.key.name, sha256)
        seconds = round(prepared.seconds + time.perf_counter() - start, 3)
        return self._report(prepared, made if error is None else None, sha256 if error is None else None, error, seconds)

    def _keep(self, key: Key | None, made: Made) -> None:
        """In the cache; if that cannot be written, it is said once and the work goes on."""
        if self.cache is None or key is None:
            return
        try:
            self.cache.put(key, made.stored)
        except OutputError as error:
            console.log(f"warning: the embedding cache is not used: {error}")
            self.cache = None

    def _report(
        self, prepared: Prepared, made: Made | None, sha256: str | None, error: PulidError | None, seconds: float
    ) -> dict[str, Any]:
        planned = prepared.planned
        status = "failed" if error else "skipped" if made is None else "cached" if made.cached else "done"
        report: dict[str, Any] = {
            "row": planned.number,
            "line": planned.line,
            "status": status,
            "portrait": planned.flags.portrait,
            "output": None if error else str(self.out_dir / planned.output),
            "sha256": sha256,
            "error": None if error is None else str(error),
            "seconds": seconds,
        }
        if made is None or prepared.job is None:
            return report
        portraits = portraits_of(prepared.job, made)
        one = {name: portraits[0][name] for name in ("face", "box", "score", "faces", "quality")} if len(portraits) == 1 else {}
        return {**report, **one, "portraits": portraits, **together_of(prepared.job, made), "tokens": made.facts["tokens"]}


def _roles(planned: Planned) -> set[str]:
    return needed_roles(planned.choice.detects, planned.flags.aligner, planned.flags.parser)


def _say_nothing(line: str) -> None:
    """Quality and warnings of a row are in its line of results."""


def ahead(work: Callable[[Item], Result], items: Iterable[Item], depth: int) -> Iterator[Result]:
    """The results in order, computed in one other thread, `depth` items before they are wanted."""
    pool = ThreadPoolExecutor(1, thread_name_prefix="ahead")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on standard error if that is a terminal and the results are not printed there as well; else nothing."""
    if not sys.stderr.isatty() or (sys.__stdout__ is not None and sys.__stdout__.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("extracting"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("rows", total=total)
        yield lambda: progress.advance(task)


