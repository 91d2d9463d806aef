"""What a person at the terminal sees while pictures are drawn: stages, a counter of steps, seconds
per step, peak memory.

Where standard error is a file or a pipe it is a line now and then, so that whoever looks into a log
of hours sees that it goes on; all of it if it is asked for. Knows no model. Imports no torch by
itself.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pulid_extract.shared.cli import console

if TYPE_CHECKING:
    from torch import Tensor


# seconds between two lines in a file
PAUSE = 30.0


class Progress:
    """verbose: say it all line by line, also where standard error is not a terminal. quiet: say
    nothing, not even notes.
    """

    # who watches the latents of the pictures in work, see `pipeline/callers.py`
    on_denoised: Callable[[Tensor], None] | None = None

    def __init__(self, verbose: bool = False, quiet: bool = False):
        self.lively = sys.stderr is not None and sys.stderr.isatty() and not quiet
        self.verbose, self.quiet = verbose and not quiet, quiet
        self._started = 0.0
        # when a line was last due in a file
        self._said = time.monotonic()

    def note(self, text: str) -> None:
        """Something the user should know."""
        if not self.quiet:
            console.log(f"note: {text}")

    def log(self, text: str) -> None:
        """Something that happens."""
        if self.verbose or self.lively or self._is_due():
            console.log(text)

    def step(self, label: str, done: int, total: int) -> None:
        """Step `done` of `total` is over. The first one starts the clock: it pays for what is set
        up on first use.
        """
        now = time.monotonic()
        if done == 1:
            self._started = now
        pace = f", {(now - self._started) / (done - 1):.2f} s/it" if done > 1 else ""
        line = f"{label}: step {done} of {total}{pace}, peak {peak_memory()}"
        if self.lively and not self.verbose:
            print(f"\r{line}\x1b[K", end="\n" if done == total else "", file=sys.stderr, flush=True)
        elif self.verbose or self._is_due():
            console.log(line)

    def _is_due(self) -> bool:
        """Whether a log has been without a line for long; if so the next one is due after as long
        again.
        """
        now = time.monotonic()
        if self.quiet or now - self._said < PAUSE:
            return False
        self._said = now
        return True


class NoteKeeper(Progress):
    """Keeps notes, and shows nothing: nobody looks at a worker's terminal."""

    def __init__(self, notes: list[str]):
        super().__init__(quiet=True)
        self.notes = notes

    def note(self, text: str) -> None:
        self.notes.append(text)


def peak_memory() -> str:
    """The most memory that this process has had, in main memory and on the GPU if one is in use."""
    try:
        import resource
    except ImportError:  # Windows
        text = "not known"
    else:
        unit = 1 if sys.platform == "darwin" else 1024
        text = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30:.1f} GiB"
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        text += f", GPU {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    return text
