"""How far a download is, for terminals and for files."""

from __future__ import annotations

import io

import pytest

from pulid_extract.shared.model_files.meter import Meter, size_text


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_on_a_terminal_overwrites_itself():
    times = iter([0.0, 0.0, 1.0, 2.0, 3.0])
    stream = Terminal()
    meter = Meter("x.gguf", stream, lambda: next(times))
    for done in (2_000_000, 4_000_000, 6_000_000, 10_000_000):  # the first 2 MB were there before
        meter(done, 10_000_000)
    assert stream.getvalue().count("\n") == 1
    assert "x.gguf: 40 % of 10.0 MB, 2.00 MB/s, 3 s left" in stream.getvalue()
    assert stream.getvalue().rstrip().endswith("x.gguf: 100 % of 10.0 MB, 2.67 MB/s")


def test_progress_in_a_file_is_a_line_per_tenth_and_not_more_than_one_in_two_seconds():
    clock = [0.0]
    stream = io.StringIO()
    meter = Meter("x.gguf", stream, lambda: clock[0])
    for done in range(1001):
        clock[0] += 0.05
        meter(done, 1000)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert "\r" not in stream.getvalue()


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.00 kB"),
        (16_923_827, "16.9 MB"),
        (23_802_932_552, "23.8 GB"),
    ],
)
def test_sizes_for_people(count, text):
    assert size_text(count) == text
