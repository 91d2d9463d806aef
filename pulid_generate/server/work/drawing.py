"""The models of the server: what judges a job, and what draws it, by the very engine of the
commands, so that a picture is the same file.

`judge` may be called from any thread; everything else belongs to the device's thread.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulid_generate.assembly.opening import open_pipeline
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.requests import read_drawing, read_request
from pulid_generate.assembly.usage import idle_flags, usage_error
from pulid_generate.errors import RequestError, WeightsError
from pulid_generate.flags.commands import BatchFlags
from pulid_generate.flags.conditions import ControlFlags
from pulid_generate.pipeline.callers import Caller
from pulid_generate.pipeline.text_cache import TextCache
from pulid_generate.rows.manifest import read_row
from pulid_generate.server.settings import Settings
from pulid_generate.server.work.jobs import JobRecord

if TYPE_CHECKING:
    from torch import Tensor

    from pulid_generate.pictures.picture import Picture
    from pulid_generate.pipeline.engine import Engine
    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.request.job import Job
    from pulid_generate.request.tokens import Prompt

# bytes of encoded prompts that are remembered, in memory only: prompts are their visitors' business
MAX_TEXTS = 512 << 20
CONTROLS = frozenset(item.name for item in fields(ControlFlags))
OnStep = Callable[[int, int], None]
OnDenoised = Callable[["Tensor"], None]


class Cancelled(Exception):
    """The picture in work is to end before its next step."""


class Drawer:
    """Opens the pipeline once; its models load with the first job."""

    def __init__(self, flags: BatchFlags, given: frozenset[str], progress: Progress):
        """Raises PulidError. A PuLID file that is missing is only an error if it was named."""
        self.flags, self.given = flags, given
        self.on_step: OnStep = lambda done, total: None
        self.on_denoised: OnDenoised = lambda latent: None
        self.lora_folder = Path(flags.lora_model_dir) if flags.lora_model_dir is not None else None
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._texts = _RecentTexts()
        steps = _Steps(progress, self)
        try:
            self.pipeline = self._open(steps, with_pulid=True)
        except WeightsError:
            if flags.pulid_weights or flags.pulid_id_embedding or flags.identity:
                raise
            self.pipeline = self._open(steps, with_pulid=False)
            progress.note("no PuLID file was found: pictures are drawn without an identity")

    def _open(self, steps: Progress, *, with_pulid: bool) -> Pipeline:
        return open_pipeline(self.flags, with_pulid=with_pulid, progress=steps)

    @property
    def has_pulid(self) -> bool:
        return self.pipeline.files.pulid is not None

    @property
    def is_loaded(self) -> bool:
        return self._engine is not None

    def flags_of(self, record: JobRecord) -> tuple[BatchFlags, frozenset[str]]:
        """The flags of a job, over the server's own, and which of them were given. Raises
        RequestError.
        """
        row = read_row(record.asked, 1, 1, record.files)
        flags, given = row.merged(self.flags, self.given)
        if flags.control_image:
            return flags, given
        # the server's ControlNets wait for a request with a picture for them
        unused = CONTROLS - row.values.keys()
        without = {name: getattr(BatchFlags, name) for name in unused}
        return replace(flags, **without), given - unused

    def judge(self, record: JobRecord, settings: Settings | None = None) -> list[Job]:
        """The pictures of a job, read and fitted to the models. Raises PulidError.

        settings: whose limits it must keep.
        """
        flags, given = self.flags_of(record)
        if wrong := usage_error(flags, given):
            raise RequestError(wrong[:1].lower() + wrong[1:].removesuffix("."))
        if flags.seed < 0:
            raise RequestError("seed: the server's own --seed is negative; send one")
        if settings is not None:
            _check_limits(flags, settings)
        drawing = read_drawing(flags, given)
        if settings is not None:
            # a picture to start from may have given the size, and a second pass enlarges it
            width, height = drawing.request.final_size
            _check_limits(replace(flags, width=width, height=height), settings)
        with self._lock:
            jobs = drawing.jobs(self.pipeline)
        steps = max((max(job.steps, job.last.steps) for job in jobs), default=0)
        if settings is not None and steps > settings.max_steps:
            raise RequestError(f"steps {steps}: expected at most {settings.max_steps} here")
        return jobs

    def fitted(self, fields: Mapping[str, Any]) -> Job:
        """The picture that fields of a request come to, without the people and the files that they
        name. Raises PulidError.
        """
        flags, _ = read_row(fields, 1, 1, Path()).merged(self.flags, self.given)
        request = read_request(flags, flags.prompt or "", flags.width, flags.height)
        with self._lock:
            return self.pipeline.job(request)

    def notes(self, record: JobRecord) -> list[str]:
        """A line for each option that was given and changes nothing."""
        flags, given = self.flags_of(record)
        return list(idle_flags(flags, given - self.given, self.pipeline.dev))

    def draw(self, job: Job, on_step: OnStep, on_denoised: OnDenoised) -> Picture:
        """One picture. Raises PulidError, and whatever `on_step` raises.

        on_denoised: gets (1, 16, H/8, W/8) float32 before each step's end.
        """
        engine = self._warm()
        self.on_step, self.on_denoised = on_step, on_denoised
        with self._lock:
            job = engine.expect(job)
        [denoised] = engine.draw([[0]], _OneJob(job))
        return denoised.decode()

    def _warm(self) -> Engine:
        if self._engine is None:
            self._engine = self.pipeline.engine(self._texts, staying="all")
        return self._engine

    def release(self) -> None:
        """Let all models go; the next picture loads them again."""
        if self._engine is not None:
            self._engine.__exit__()
            self._engine = None


class _OneJob(Caller[int]):
    """Wants one job."""

    def __init__(self, wanted: Job):
        self.wanted = wanted

    def prompts(self, item: int) -> Sequence[Prompt]:
        return self.wanted.all_prompts

    def job(self, item: int) -> Job:
        return self.wanted

    def label(self, items: Sequence[int]) -> str:
        return ""


def _check_limits(flags: BatchFlags, settings: Settings) -> None:
    """Raise RequestError for what is more than the server takes."""
    if flags.batch_count > settings.max_pictures:
        raise RequestError(
            f"batch_count {flags.batch_count}: expected at most {settings.max_pictures} here"
        )
    if flags.width * flags.height > settings.max_megapixels * 1e6:
        raise RequestError(
            f"{flags.width}x{flags.height}: expected at most {settings.max_megapixels:g} million "
            "pixels here"
        )
    if flags.steps is not None and flags.steps > settings.max_steps:
        raise RequestError(f"steps {flags.steps}: expected at most {settings.max_steps} here")


class _Steps(Progress):
    """Steps go to the picture in work. Nothing that a request holds is said anywhere."""

    def __init__(self, progress: Progress, drawer: Drawer):
        super().__init__(progress.verbose, progress.quiet)
        self.drawer = drawer
        self.on_denoised = lambda latent: drawer.on_denoised(latent)

    def step(self, label: str, done: int, total: int) -> None:
        self.drawer.on_step(done, total)


class _RecentTexts(TextCache):
    """Encoded prompts in memory, at most MAX_TEXTS bytes; the longest unused go first."""

    def __init__(self) -> None:
        super().__init__(None)
        self._recent: OrderedDict[str, bytes] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return key in self._recent

    def get(self, key: str) -> bytes | None:
        if key in self._recent:
            self._recent.move_to_end(key)
        return self._recent.get(key)

    def put(self, key: str, data: bytes) -> None:
        self._recent[key] = data
        # the newest two belong to one picture
        while sum(map(len, self._recent.values())) > MAX_TEXTS and len(self._recent) > 2:
            self._recent.popitem(last=False)
