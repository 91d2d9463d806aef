"""How like a person pictures are: asks `pulid-extract score --json`, as a program. Imports no
torch.

The stages share files, not code: what finds and recognises faces belongs to the other stage and may
live in another environment. Knows no model, no prompt and no sheet; a picture is a file, a number
is what the program said.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pulid_extract.shared.embedding_file import Embedding
from pulid_extract.shared.json_text import read_object
from pulid_extract.shared.records import number, whole
from pulid_generate.errors import InputError, PackageError, ScoringError

PROGRAM = "pulid-extract"
# how its error messages begin
ERROR = f"{PROGRAM}: error: "
# without which our own environment's program could not score
LIBRARIES = ("cv2", "insightface", "onnxruntime")
# pictures of one call: command lines have an end
AT_ONCE = 500

ScoreStatus = Literal["ok", "no face", "failed"]


@dataclass(frozen=True)
class Score:
    """One picture, as `score --json` prints it; numbers are rounded to four places. Of several
    faces, the one that is most like the references is compared.
    """

    status: ScoreStatus
    # the mean of `cosines`, which is what counts; None unless status is "ok"
    cosine: float | None = None
    # of the face to each reference
    cosines: tuple[float, ...] = ()
    # the highest cosine of the face to the strangers; None without any
    stranger: float | None = None
    # how many the picture has
    faces: int = 0
    # of the face, in pixels: X, Y, width, height
    box: tuple[int, ...] | None = None
    # why there is no cosine
    error: str | None = None


@dataclass(frozen=True)
class Recognizer:
    """The network whose numbers they are."""

    # of its file
    name: str
    sha256: str
    # it is the one that PuLID is conditioned on, which flatters itself
    own: bool

    def note_on(self, person: Embedding) -> str:
        """What to say of scores by this network for a person whose tokens another one has made; ""
        if there is nothing to say.
        """
        made_by = person.recognizer
        if not self.own or made_by is None or made_by == self.sha256:
            return ""
        return (
            f"{person.source} was made with another face recogniser (SHA-256 {made_by[:12]}..) "
            f"than {self.name} ({self.sha256[:12]}..), which scores; extract it again with "
            "antelopev2"
        )


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Who is looked for, and by what: the options of `pulid-extract score`, None or empty for its
    defaults.

        scorer = Scorer(references=("me.jpg",), models_dir="models")
        scorer.check()                               # raises before anything is drawn
        for score in scorer.scores(["a.png", "b.png"]):
            print(score.status, score.cosine)        # "no face" and "failed" have None
    """

    # pictures of the person
    references: Sequence[str | Path]
    # pictures of somebody else, as a control
    strangers: Sequence[str | Path] = ()
    # where antelopev2 is
    models_dir: str | Path | None = None
    # its folder itself
    antelopev2: str | Path | None = None
    # another ArcFace-shaped .onnx
    recognizer: str | Path | None = None
    # the score from which something is a face
    det_threshold: float | None = None
    # gets each line that the program writes to standard error, at once
    log: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        """Raises InputError."""
        if not self.references:
            raise InputError("scores need a reference; name a picture of the person")
        if "-" in map(str, (*self.references, *self.strangers)):
            raise InputError("reference -: faces are compared with files; name one")

    def check(self) -> tuple[Recognizer, list[Score]]:
        """The network that judges, and what the references score themselves: 1 where there is one,
        and how like the strangers are to it.

        Raises PackageError if there is no program, ScoringError with the program's own line for a
        picture that cannot be read or has no face, a network that is missing, and so on.
        """
        lines = list(self._ask(self.references))
        network = lines[0]["recognizer"]
        recognizer = Recognizer(
            str(network["name"]), str(network["sha256"]), own=self.recognizer is None
        )
        return recognizer, [_score(line) for line in lines]

    def scores(self, pictures: Sequence[str | Path]) -> Iterator[Score]:
        """One for each picture file, in their order, as they are found.

        A picture without a face, or one that cannot be read, has a score that says so. Raises
        PackageError and ScoringError as `check`.
        """
        for start in range(0, len(pictures), AT_ONCE):
            for line in self._ask(pictures[start : start + AT_ONCE]):
                yield _score(line)

    def _ask(self, pictures: Sequence[str | Path]) -> Iterator[dict[str, Any]]:
        """The program's line for each picture. Its exit code is 1 as well when a picture cannot be
        read: then all lines are there.
        """
        command = [*program(), *self._arguments(), "--", *map(os.path.abspath, pictures)]
        last_line: deque[str] = deque(maxlen=1)
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
            )
        # it is not a program after all; too many words
        except OSError as error:
            raise ScoringError(
                f"{PROGRAM} score: cannot be run ({error.strerror or error})"
            ) from None
        assert child.stdout is not None
        reader = threading.Thread(target=self._pass_on, args=(child.stderr, last_line), daemon=True)
        reader.start()
        answered = failed = 0
        with child:
            for text in child.stdout:
                line = _parse(text)
                answered += 1
                failed += line["status"] == "failed"
                yield line
            code = child.wait()
            reader.join()
        if code != (1 if failed else 0) or answered != len(pictures):
            reason = _reason(code, last_line, answered, len(pictures))
            raise ScoringError(f"{PROGRAM} score: {reason}")

    def _arguments(self) -> list[str]:
        arguments = ["score", "--json"]
        arguments += [f"--reference={path}" for path in self.references]
        arguments += [f"--stranger={path}" for path in self.strangers]
        options = {
            "models-dir": self.models_dir,
            "antelopev2": self.antelopev2,
            "recognizer": self.recognizer,
            "det-threshold": self.det_threshold,
        }
        for name, value in options.items():
            if value is not None:
                arguments.append(f"--{name}={value}")
        return arguments

    def _pass_on(self, stream: Iterable[str], last_line: deque[str]) -> None:
        """Log the program's lines; the last one is why it failed, if it did."""
        for text in stream:
            line = text.rstrip()
            if not line:
                continue
            last_line.append(line)
            if not line.startswith(ERROR):
                self.log(line)


def program() -> list[str]:
    """How to start it: by this very Python if its libraries are here, else what the PATH has.
    Raises PackageError.
    """
    if all(importlib.util.find_spec(name) is not None for name in LIBRARIES):
        # -P: never a module of the folder that one happens to stand in
        return [sys.executable, "-P", "-m", "pulid_extract"]
    path = shutil.which(PROGRAM)
    if path is None:
        raise PackageError(
            f"scores are made by {PROGRAM}, which is not installed; run: "
            f"pip install 'pulid-flux-toolkit[extract]', or put {PROGRAM} of another environment "
            "on the PATH"
        )
    return [path]


def _parse(text: str) -> dict[str, Any]:
    """A line of the program's standard output. Raises ScoringError for any other."""
    try:
        line = read_object(text)
        _score(line)
        str(line["recognizer"]["name"]), str(line["recognizer"]["sha256"])
    except (ValueError, KeyError, TypeError, OverflowError):
        raise ScoringError(
            f"{PROGRAM} score: answered {text.strip()[:80]!r}, expected a line of its JSON; "
            "is it of another version?"
        ) from None
    return line


def _score(line: dict[str, Any]) -> Score:
    """Raises ValueError, KeyError, TypeError or OverflowError for what is not such a line."""
    status = line["status"]
    if status not in ("ok", "no face", "failed"):
        raise ValueError("status")
    error, box = line["error"], line["box"]
    if error is not None and not isinstance(error, str):
        raise TypeError("error")
    return Score(
        status=status,
        # without a face there is none
        cosine=_cosine(line["cosine"]) if status == "ok" else None,
        cosines=tuple(_cosine(value) for value in line["cosines"]),
        stranger=None if line["stranger"] is None else _cosine(line["stranger"]),
        faces=whole(line["faces"]),
        box=None if box is None else tuple(whole(value) for value in box),
        error=error,
    )


def _cosine(value: Any) -> float:
    cosine = number(value)
    # rounded to four places
    if isinstance(value, str) or not -1.001 <= cosine <= 1.001:
        raise ValueError("cosine")
    return cosine


def _reason(code: int, last_line: Sequence[str], answered: int, expected: int) -> str:
    """Why the program did not score all pictures. last_line: of its standard error, or nothing."""
    if code < 0:
        return f"was killed by signal {-code} after {answered} of {expected} pictures"
    if code == 0:
        return f"answered for {answered} of {expected} pictures; is it of another version?"
    line = last_line[0] if last_line else ""
    return line.removeprefix(ERROR) or f"failed with exit code {code} and no message"
