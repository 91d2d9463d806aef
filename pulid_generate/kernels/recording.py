"""A computation that is asked for again and again: recorded once, then replayed. Of a small picture
a step's thousands of operations take less time on the card than Python takes to start them.

A recording (a CUDA graph) is a list of operations with the addresses of what they read and write.
What changes from one time to the next is copied to where it reads; everything else that it reads
has to be named by its key, which keeps it alive. It replays only after it gave, bit for bit, what
the same operations gave one by one: so no picture depends on whether it was recorded. Knows no
model.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from pulid_generate.kernels import trials

# a branch with and one without an identity, for each of two guided branches, in two sizes
MOST_RECORDINGS = 8

# inputs by name -> the result
Compute = Callable[..., Tensor]


def has_cuda_graphs(device: torch.device) -> bool:
    """Whether computations on a device can be recorded; on AMD GPUs that is untested, and other
    devices have nothing of the kind.
    """
    return device.type == "cuda" and not torch.version.hip


class Recorder(Protocol):
    """What a device has for it. All recordings of one recorder share their memory: the result of
    one is gone when another one replays.
    """

    def warm_up(self, compute: Callable[[], Tensor]) -> Tensor:
        """Compute as it will be recorded, so that nothing is set up while it is."""
        ...

    def record(
        self, compute: Callable[[], Tensor], *, first: bool
    ) -> tuple[Callable[[], None], Tensor]:
        """What replays the computation, and where its result lies then. Raises whatever an
        operation raises that cannot be recorded.

        first: whether no other recording is left.
        """
        ...

    def wait(self) -> None:
        """Until nothing replays any more: what is replayed must not be let go."""
        ...


class CudaRecorder:
    """CUDA graphs, recorded on a stream of their own."""

    def __init__(self, device: torch.device):
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.pool: Any = None

    def warm_up(self, compute: Callable[[], Tensor]) -> Tensor:
        """As of `Recorder`."""
        current = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            out = compute()
        current.wait_stream(self.stream)
        return out

    def record(
        self, compute: Callable[[], Tensor], *, first: bool
    ) -> tuple[Callable[[], None], Tensor]:
        """As of `Recorder`."""
        if first:
            # torch takes no pool again that has lost its last recording
            self.pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(self.device),
            # other threads, such as a server's, may use the card meanwhile
            torch.cuda.graph(
                graph, pool=self.pool, stream=self.stream, capture_error_mode="thread_local"
            ),
        ):
            out = compute()
        return graph.replay, out

    def wait(self) -> None:
        """As of `Recorder`."""
        torch.cuda.synchronize(self.device)


@dataclass
class _Asked:
    """A computation that was asked for at least once."""

    # where a recording reads, with what was asked for first
    inputs: dict[str, Tensor]
    # what may be let go before the rest, and the recording with it
    of: Collection[object]
    # the result for these inputs, until there is a recording
    expected: Tensor | None
    replay: Callable[[], None] | None = None
    out: Tensor | None = None


class Recordings:
    """Computes what it is asked for: the first time one operation after the other, the second time
    while it records, from then on from the recording.

    failure: why nothing is recorded any more, "" while it is.
    """

    def __init__(self, recorder: Callable[[], Recorder], most: int = MOST_RECORDINGS):
        """recorder: makes one, when the first computation comes. most: computations that are
        remembered; the one longest unused goes.
        """
        self.failure = ""
        self._new_recorder = recorder
        self._recorder: Recorder | None = None
        self._most = most
        self._asked: OrderedDict[Hashable, _Asked] = OrderedDict()

    def run(
        self,
        key: Hashable,
        inputs: Mapping[str, Tensor],
        compute: Compute,
        of: Collection[object] = (),
    ) -> Tensor:
        """compute(**inputs), a new tensor. Raises what that raises.

        key: all that decides the result beside the inputs' numbers, by equality; tensors that are
        read have to be held by it, or live as long as this object. of: what `forget` may name.
        """
        if self.failure:
            return compute(**inputs)
        sizes = tuple((name, tuple(x.shape), x.dtype) for name, x in inputs.items())
        whole = key, sizes
        asked = self._asked.get(whole)
        if asked is None:
            return self._first(whole, inputs, compute, of)
        self._asked.move_to_end(whole)
        if asked.replay is None and not self._record(asked, compute):
            return compute(**inputs)
        assert asked.replay is not None
        assert asked.out is not None
        for name, place in asked.inputs.items():
            place.copy_(inputs[name])
        try:
            asked.replay()
        except RuntimeError as error:
            self._fail(f"a replay failed: {_line_of(error)}")
            return compute(**inputs)
        return asked.out.clone()

    def forget(self, of: object = None) -> None:
        """Drop the recordings of something that is let go or changed; None drops all."""
        gone = []
        for whole, asked in self._asked.items():
            if of is None or any(one is of for one in asked.of):
                gone.append(whole)
        self._drop(gone)

    def _drop(self, gone: Sequence[Hashable]) -> None:
        if self._recorder is not None and any(self._asked[whole].replay for whole in gone):
            self._recorder.wait()
        for whole in gone:
            del self._asked[whole]

    def _first(
        self,
        whole: Hashable,
        inputs: Mapping[str, Tensor],
        compute: Compute,
        of: Collection[object],
    ) -> Tensor:
        if self._recorder is None:
            self._recorder = self._new_recorder()
        places = {name: x.clone() for name, x in inputs.items()}
        out = self._recorder.warm_up(lambda: compute(**places))
        self._asked[whole] = _Asked(places, of, out.clone())
        self._drop(list(self._asked)[: -self._most])
        return out

    def _record(self, asked: _Asked, compute: Compute) -> bool:
        """Whether there is a recording now that gives what was computed the first time."""
        assert self._recorder is not None
        assert asked.expected is not None
        try:
            first = not any(other.replay for other in self._asked.values())
            replay, out = self._recorder.record(lambda: compute(**asked.inputs), first=first)
            replay()
            found = out.clone()
            right = _same_bits(found, asked.expected)
        # whatever it is that cannot be recorded: one by one, the operations give the same picture
        except Exception as error:
            self._fail(f"recording failed: {_line_of(error)}")
            return False
        if not right:
            self._fail("a replay gave other numbers than the operations one by one")
            return False
        asked.replay, asked.out, asked.expected = replay, out, None
        return True

    def _fail(self, reason: str) -> None:
        self.failure = reason
        trials.note(f"CUDA graphs: steps run one operation after the other, because {reason}")
        self.forget()


def _line_of(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _same_bits(found: Tensor, expected: Tensor) -> bool:
    """NaN is like NaN: whether a picture is sound is asked elsewhere."""
    if found.shape != expected.shape or found.dtype != expected.dtype:
        return False
    numbers = [x.contiguous().view(torch.uint8) for x in (found, expected)]
    return torch.equal(*numbers)
