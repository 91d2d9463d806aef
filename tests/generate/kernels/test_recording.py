"""Computations recorded and replayed: by a tape on the CPU, and as CUDA graphs on a GPU."""

from __future__ import annotations

import pytest
import torch
from support.programs.tape import Tape, same

from pulid_generate.kernels import trials
from pulid_generate.kernels.recording import CudaRecorder, Recordings, has_cuda_graphs


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(trials, "_notes", {})


class Scaled:
    """x -> x * weight * factor + 1; counts how often Python computes."""

    def __init__(self, factor=1.0, weight=None):
        self.factor, self.calls = factor, 0
        self.weight = torch.arange(4.0) if weight is None else weight

    def __call__(self, x):
        self.calls += 1
        return x * self.weight * self.factor + 1


@pytest.fixture
def tape():
    return Tape()


@pytest.fixture
def recordings(tape):
    return Recordings(lambda: tape)


def x(number: float):
    return {"x": torch.full((4,), number)}


def test_recorded_once_and_replayed_with_new_inputs(recordings, tape):
    compute = Scaled()
    results = [recordings.run("key", x(number), compute) for number in (1.0, 2.0, 3.0, 4.0)]
    for number, result in enumerate(results, 1):
        assert same(result, Scaled()(**x(float(number))))
    # once by itself, once while it is recorded; the first replay is the trial
    assert compute.calls == 2
    assert tape.log == ["warm up", "record first", "replay", "replay", "replay", "replay"]
    assert not trials.take_notes()


def test_the_tape_is_as_blind_as_a_graph(recordings):
    """What Python decides and the key does not name is not noticed: or nothing here would show a
    stale number.
    """
    compute = Scaled()
    for _ in range(3):
        recordings.run("key", x(1.0), compute)
    compute.factor = 5.0
    assert same(recordings.run("key", x(2.0), compute), Scaled()(**x(2.0)))
    assert same(recordings.run("other", x(2.0), compute), Scaled(5.0)(**x(2.0)))


def test_keys_sizes_and_dtypes_have_recordings_of_their_own(recordings, tape):
    computes = {"one": Scaled(2.0), "two": Scaled(3.0)}
    for number in (1.0, 2.0, 3.0, 4.0):
        for key, compute in computes.items():
            assert same(
                recordings.run(key, x(number), compute), Scaled(compute.factor)(**x(number))
            )
        wide = {"x": torch.full((2, 4), number)}
        assert same(recordings.run("one", wide, computes["one"]), Scaled(2.0)(**wide))
        exact = {"x": torch.full((4,), number, dtype=torch.float64)}
        assert same(recordings.run("one", exact, computes["one"]), Scaled(2.0)(**exact))
    assert tape.log.count("record first") == 1
    assert tape.log.count("record") == 3


def test_a_replay_that_gives_other_numbers_is_never_used():
    tape = Tape(spoil=lambda out: out[:1].add_(1e-6))
    recordings = Recordings(lambda: tape)
    for number in (1.0, 2.0, 3.0):
        assert same(recordings.run("key", x(number), Scaled()), Scaled()(**x(number)))
    [note] = trials.take_notes()
    assert "one operation after the other, because a replay gave other numbers" in note
    # and nothing is recorded any more
    for number in (1.0, 2.0):
        recordings.run("other", x(number), Scaled())
    assert tape.log.count("record first") == 1
    assert not trials.take_notes()


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("operation not permitted when stream is capturing\nmore"),
        torch.OutOfMemoryError("out of memory"),
        ValueError(),
    ],
)
def test_what_cannot_be_recorded_is_computed(recordings, tape, monkeypatch, error):
    def fail(compute, *, first):
        compute()
        raise error

    monkeypatch.setattr(tape, "record", fail)
    for number in (1.0, 2.0, 3.0):
        assert same(recordings.run("key", x(number), Scaled()), Scaled()(**x(number)))
    [note] = trials.take_notes()
    reason = (str(error) or "ValueError").splitlines()[0]
    assert note.endswith(f"recording failed: {reason}")


def test_a_replay_that_fails_is_computed():
    def fail(_):
        if tape.log.count("replay") == 3:
            raise torch.OutOfMemoryError("out of memory")

    tape = Tape(spoil=fail)
    recordings = Recordings(lambda: tape)
    for number in (1.0, 2.0, 3.0, 4.0):
        assert same(recordings.run("key", x(number), Scaled()), Scaled()(**x(number)))
    assert tape.log.count("replay") == 3
    [note] = trials.take_notes()
    assert note.endswith("because a replay failed: out of memory")


def test_errors_of_the_computation_are_its_callers(recordings):
    def fail(x):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        recordings.run("key", x(1.0), fail)
    assert not recordings.failure
    assert same(recordings.run("key", x(1.0), Scaled()), Scaled()(**x(1.0)))


def test_nan_is_a_result_like_others(recordings):
    compute = Scaled(float("nan"))
    for number in (1.0, 2.0, 3.0):
        assert recordings.run("key", x(number), compute).isnan().all()
    assert compute.calls == 2


def test_what_is_let_go_takes_its_recordings_along(recordings, tape):
    mine, yours = (1.0,), (2.0,)
    for number in (1.0, 2.0):
        recordings.run("mine", x(number), Scaled(2.0), [mine])
        recordings.run("yours", x(number), Scaled(3.0), [mine, yours])
    tape.log.clear()
    recordings.forget(yours)
    # a graph that still runs must not go
    assert tape.log == ["wait"]
    recordings.run("mine", x(3.0), Scaled(2.0), [mine])
    assert tape.log == ["wait", "replay"]
    recordings.run("yours", x(3.0), Scaled(3.0), [mine, yours])
    assert tape.log == ["wait", "replay", "warm up"]
    recordings.forget()
    for number in (1.0, 2.0):
        assert same(recordings.run("mine", x(number), Scaled(7.0)), Scaled(7.0)(**x(number)))
    # the pool has lost its last recording
    assert tape.log.count("record first") == 1


def test_the_longest_unused_goes():
    tape = Tape()
    recordings = Recordings(lambda: tape, most=2)
    for key in "abaca":
        for number in (1.0, 2.0):
            recordings.run(key, x(number), Scaled(float(ord(key))))
    # b made room for c; a was used in between
    assert tape.log.count("warm up") == 3
    recordings.run("b", x(1.0), Scaled())
    assert tape.log.count("warm up") == 4


def test_only_nvidia_gpus_record(monkeypatch):
    assert not has_cuda_graphs(torch.device("cpu"))
    assert not has_cuda_graphs(torch.device("mps"))
    monkeypatch.setattr(torch.version, "hip", None)
    assert has_cuda_graphs(torch.device("cuda"))
    monkeypatch.setattr(torch.version, "hip", "6.2")
    assert not has_cuda_graphs(torch.device("cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_cuda_graphs():
    device = torch.device("cuda")
    recordings = Recordings(lambda: CudaRecorder(device))
    weight = torch.randn(256, 256, device=device)
    with torch.inference_mode():
        for turn in range(3):
            for key, factor in (("one", 2.0), ("two", 3.0)):
                inputs = {"x": torch.randn(64, 256, device=device)}

                def compute(x, factor=factor):
                    return (x @ weight).relu() * factor

                for _ in range(2):
                    assert same(recordings.run(key, inputs, compute), compute(**inputs))
            if turn == 1:
                recordings.forget()
    assert not recordings.failure
