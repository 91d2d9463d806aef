"""Who draws: what the engine asks of a caller, whom it tells of what happens, and what it hands
back. Knows no stage. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from pulid_generate.errors import PulidError
from pulid_generate.pictures.picture import Picture
from pulid_generate.request.job import Job
from pulid_generate.request.prompts.tokens import Prompt

if TYPE_CHECKING:
    from torch import Tensor

Item = TypeVar("Item")
Log = Callable[[str], None]
# label of the picture, steps done, steps in all
OnStep = Callable[[str, int, int], None]
# what the latents of the pictures in work would come to, (B, 16, H/8, W/8) float32
OnDenoised = Callable[["Tensor"], None]


@dataclass(frozen=True)
class Reports:
    """Who hears of what happens."""

    # What happens
    log: Log
    # What the user should know
    note: Log
    on_step: OnStep
    on_denoised: OnDenoised | None = None


class Caller(Generic[Item]):
    """Who wants pictures, each of an item that the caller knows."""

    def prompts(self, item: Item) -> Sequence[Prompt]:
        """What text encoders read for it, known beforehand."""
        raise NotImplementedError

    def job(self, item: Item) -> Job:
        """Its job, which the engine has been told to expect; asked for when its turn comes. Raises
        PulidError.
        """
        raise NotImplementedError

    def found(self, batch: Sequence[Item]) -> list[tuple[Item, Job]]:
        """The items whose files still are what they were, each with its job."""
        pairs = []
        for item in batch:
            try:
                pairs.append((item, self.job(item)))
            except PulidError as error:
                self.failed(item, error)
        return pairs

    def label(self, items: Sequence[Item]) -> str:
        """What pictures that are denoised together are called, for `on_step`."""
        raise NotImplementedError

    def note_of(self, item: Item) -> Log | None:
        """Who hears what should be known of this picture alone; None is whoever hears of
        everything.
        """
        return None

    def failed(self, item: Item, error: PulidError) -> None:
        """It cannot be drawn. What this raises ends the drawing."""
        raise error

    def stopping(self) -> bool:
        """Whether to stop before the next batch."""
        return False

    def holding(self) -> AbstractContextManager[object]:
        """Entered while pictures are in work."""
        return nullcontext()


@dataclass(frozen=True, eq=False)
class Latent(Generic[Item]):
    """A picture before the autoencoder."""

    item: Item
    job: Job
    # (1, 16, H/8, W/8) float32
    latent: Tensor
    # That denoising took
    seconds: float


class Denoised(Generic[Item]):
    """A picture that can be decoded: once, and in another thread if need be."""

    def __init__(self, item: Item, job: Job, seconds: float, decode: Callable[[], Picture]):
        """seconds: that it took until now."""
        self.item, self.job, self.seconds = item, job, seconds
        self._decode: Callable[[], Picture] | None = decode

    @classmethod
    def of(cls, item: Item, picture: Picture) -> Denoised[Item]:
        """One that is decoded already."""
        return cls(item, picture.job, 0.0, lambda: picture)

    def then(self, finish: Callable[[Picture], Picture]) -> Denoised[Item]:
        """The same with what is done to the decoded picture."""
        return Denoised(self.item, self.job, self.seconds, lambda: finish(self.decode()))

    def decode(self) -> Picture:
        """The picture. Lets go of the autoencoder, which may have left the engine since. Raises
        CheckpointError, PlacementError.
        """
        decode, self._decode = self._decode, None
        assert decode is not None
        return decode()
