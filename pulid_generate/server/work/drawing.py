"""What draws a picture: by the very engine of the commands, so that it is the same file. Everything
here belongs to one thread; knows no queue.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from pulid_generate.assembly.progress import Progress
from pulid_generate.errors import PlacementError
from pulid_generate.pictures.previews import preview_png
from pulid_generate.pipeline.callers import Caller
from pulid_generate.pipeline.text_cache import TextCache
from pulid_generate.server.work.judging import JudgedJob

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from pulid_generate.pictures.picture import Picture
    from pulid_generate.pipeline.engine import Engine
    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.request.job import Job
    from pulid_generate.request.prompts.tokens import Prompt

# bytes of encoded prompts that are remembered, in memory only: prompts are their visitors' business
MAX_TEXTS = 512 << 20
OnStep = Callable[[int, int], None]
OnDenoised = Callable[["Tensor"], None]


class Cancelled(Exception):
    """The picture in work is to end before its next step."""


class LostPictureError(Exception):
    """What drew it has died. Says how, and nothing of what was asked for."""


class Watch(Protocol):
    """Who hears of the picture in work, and may end it."""

    @property
    def is_cancelled(self) -> bool:
        """Whether it is to end before its next step."""

    @property
    def is_watched(self) -> bool:
        """Whether anybody looks at previews."""

    @property
    def is_due(self) -> bool:
        """Whether they are told of a step that ends now, which may come too soon to be seen."""

    def step(self, done: int, total: int, count: int = 1) -> None:
        """Step `done` of `total` is over, and `count` of them since this was last called; 0 at
        the start. Raises Cancelled.
        """

    def show(self, preview: bytes) -> None:
        """A small PNG of what it is to become."""

    def note(self, text: str) -> None:
        """Something that who asked for it should know."""


class Drawer(Protocol):
    """Draws one picture after the other."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def is_loaded(self) -> bool:
        """Whether models are in memory."""

    def open(self) -> None:
        """Be able to draw; a `draw` that follows may still load models. Raises PulidError."""

    @property
    def pulse(self) -> float:
        """Seconds between two looks whether it is there, while nothing is drawn."""

    def is_there(self) -> bool:
        """Whether what draws is alive; `open` starts it anew."""

    def draw(self, judged: JudgedJob, index: int, watch: Watch) -> bytes:
        """The file of picture `index`. Raises PulidError, Cancelled, and LostPictureError for what
        no picture is to blame for.
        """

    def memory(self) -> dict[str, int]:
        """device -> bytes in use, of another process."""

    def release(self) -> None:
        """Let all models go; the next picture loads them again."""

    def close(self) -> None:
        """No picture is drawn any more."""


class StepReports(Progress):
    """Steps go to the picture in work. Nothing that a request holds is said anywhere."""

    def __init__(self, progress: Progress):
        super().__init__(progress.verbose, progress.quiet)
        self.note = progress.note  # type: ignore[method-assign]
        self.on_step: OnStep = lambda done, total: None
        self.on_preview: OnDenoised = lambda latent: None
        self.on_denoised = lambda latent: self.on_preview(latent)

    def step(self, label: str, done: int, total: int) -> None:
        self.on_step(done, total)


class LocalDrawer:
    """Draws in this process; see `Drawer`. Its models load with the first picture."""

    def __init__(
        self, pipeline: Pipeline, lock: threading.Lock, reports: StepReports, peers: int = 1
    ):
        """lock: of whoever else reads the pipeline's files. reports: what the pipeline was opened
        with. peers: processes of this machine that draw, this one included.
        """
        self.pipeline, self.lock, self.reports, self.peers = pipeline, lock, reports, peers
        self._engine: Engine | None = None
        self._texts = _RecentTexts()

    @property
    def is_loaded(self) -> bool:
        return self._engine is not None

    name = "the device"
    # it is this process
    pulse = math.inf

    def open(self) -> None:
        """See `Drawer`."""

    def is_there(self) -> bool:
        """See `Drawer`."""
        return True

    def draw(self, judged: JudgedJob, index: int, watch: Watch) -> bytes:
        """See `Drawer`."""

        def on_step(done: int, total: int) -> None:
            watch.step(done, total, 1 if done else 0)

        def on_denoised(latent: Tensor) -> None:
            # for whoever looks; it costs some milliseconds
            if watch.is_watched and watch.is_due:
                watch.show(preview_png(latent))

        job = judged.jobs[index]
        watch.step(0, job.steps, 0)
        picture = self._picture(_OneJob(job, watch.note), judged.picture, on_step, on_denoised)
        return picture.encode(judged.form, metadata=judged.metadata)

    def _picture(
        self,
        wanted: _OneJob,
        pixels: np.ndarray | None,
        on_step: OnStep,
        on_denoised: OnDenoised,
    ) -> Picture:
        """pixels: (H, W, 3) uint8 RGB, whose faces are redrawn. on_denoised: gets (1, 16, H/8, W/8)
        float32 before each step's end. Raises PulidError, and whatever `on_step` raises.
        """
        engine = self._warm()
        self.reports.on_step, self.reports.on_preview = on_step, on_denoised
        with self.lock:
            expect = engine.expect if pixels is None else engine.expect_faces
            wanted.wanted = _expected(engine, expect, wanted.wanted)
        if pixels is None:
            [denoised] = engine.draw([[0]], wanted)
        else:
            given = self.pipeline.given_picture(wanted.wanted, pixels)
            [denoised] = engine.redraw_faces([(0, given)], wanted)
        return denoised.decode()

    def _warm(self) -> Engine:
        if self._engine is None:
            self._engine = self.pipeline.engine(self._texts, staying="all")
            available = self._engine.planner.available
            if "cpu" in available:
                available["cpu"] //= self.peers
        return self._engine

    def memory(self) -> dict[str, int]:
        """See `Drawer`: none, it is this one."""
        return {}

    def release(self) -> None:
        """See `Drawer`."""
        if self._engine is not None:
            self._engine.__exit__()
            self._engine = None

    def close(self) -> None:
        """See `Drawer`."""
        self.release()


def _expected(engine: Engine, expect: Callable[[Job], Job], job: Job) -> Job:
    """The job, with room made for it: beside the kinds of earlier ones, so that models stay as they
    are from job to job, or where that is not possible without them. Raises PulidError.
    """

    def settled() -> Job:
        expected = expect(job)
        # asks what stays loaded for all of them
        _ = engine.decodes_beside
        return expected

    try:
        return settled()
    except PlacementError:
        # they have ended
        engine.planner.forget()
        return settled()


class _OneJob(Caller[int]):
    """Wants one job."""

    def __init__(self, wanted: Job, note: Callable[[str], None]):
        self.wanted, self.note = wanted, note

    def prompts(self, item: int) -> Sequence[Prompt]:
        return self.wanted.all_prompts

    def job(self, item: int) -> Job:
        return self.wanted

    def label(self, items: Sequence[int]) -> str:
        return ""

    def note_of(self, item: int) -> Callable[[str], None]:
        return self.note


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
