"""How like a person pictures are: asks `pulid-extract score --json`, as a program. Imports no
torch.

The stages share files, not code: what finds and recognises faces belongs to the other stage and may
live in another environment. Knows no model, no prompt and no sheet; a picture is a file, a number
is what the program said.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pulid_generate.errors import InputError, PackageError, ScoringError

PROGRAM = "pulid-extract"
# without which our own environment's program could not score
LIBRARIES = ("cv2", "insightface", "onnxruntime")
AT_ONCE = 500  # pictures of one call: command lines have an end
ERROR = f"{PROGRAM}: error: "

Status = Literal["ok", "no face", "failed"]


@dataclass(frozen=True)
class Score:
    """One picture, as `score --json` says it; numbers are rounded to four places.

    cosines: of the picture's face to each reference, of the face that is most like them; cosine:
    their mean, which is what counts; both empty or None unless status is "ok". stranger: the
    highest cosine of that face to the strangers, None without any. faces: how many the picture has.
    box: X, Y, width, height in its pixels. error: why there is no cosine.
    """

    status: Status
    cosine: float | None = None
    cosines: tuple[float, ...] = ()
    stranger: float | None = None
    faces: int = 0
    box: tuple[int, ...] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Recognizer:
    """Whose numbers they are: the network's file name and SHA-256. own: it is the one that PuLID is
    conditioned on, which flatters itself.
    """

    name: str
    sha256: str
    own: bool


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Who is looked for, and by what: the options of `pulid-extract score`, None or empty for its
    defaults.

    references: pictures of the person. strangers: pictures of somebody else, as a control.
    models_dir: where antelopev2 is (antelopev2: its folder itself). recognizer: another
    ArcFace-shaped .onnx. det_threshold: the score from which something is a face. say: gets each
    line that the program says on standard error, as it says it.

        scorer = Scorer(references=("me.jpg",), models_dir="models")
        scorer.check()                               # raises before anything is drawn
        for score in scorer.scores(["a.png", "b.png"]):
            print(score.status, score.cosine)        # "no face" and "failed" have None
    """

    references: Sequence[str | Path]
    strangers: Sequence[str | Path] = ()
    models_dir: str | Path | None = None
    antelopev2: str | Path | None = None
    recognizer: str | Path | None = None
    det_threshold: float | None = None
    say: Callable[[str], None] = lambda line: None

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
        judge = lines[0]["recognizer"]
        return Recognizer(str(judge["name"]), str(judge["sha256"]), self.recognizer is None), [
            _score(line) for line in lines
        ]

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
        said: deque[str] = deque(maxlen=1)
        try:
            child = subprocess.Popen(
                [
                    *program(),
                    *self._arguments(),
                    "--",
                    *(os.path.abspath(picture) for picture in pictures),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
            )
        except OSError as error:  # it is no program after all; too many words
            raise ScoringError(
                f"{PROGRAM} score: cannot be run ({error.strerror or error})"
            ) from None
        assert child.stdout is not None
        listener = threading.Thread(target=self._listen, args=(child.stderr, said), daemon=True)
        listener.start()
        found = failed = 0
        with child:
            for text in child.stdout:
                line = _parse(text)
                found, failed = found + 1, failed + (line["status"] == "failed")
                yield line
            code = child.wait()
            listener.join()
        if code != (1 if failed else 0) or found != len(pictures):
            raise ScoringError(f"{PROGRAM} score: {_reason(code, said, found, len(pictures))}")

    def _arguments(self) -> list[str]:
        given = {
            "models-dir": self.models_dir,
            "antelopev2": self.antelopev2,
            "recognizer": self.recognizer,
            "det-threshold": self.det_threshold,
        }
        return [
            *("score", "--json"),
            *(f"--reference={path}" for path in self.references),
            *(f"--stranger={path}" for path in self.strangers),
            *(f"--{name}={value}" for name, value in given.items() if value is not None),
        ]

    def _listen(self, stream: Any, said: deque[str]) -> None:
        """Pass lines on; the last one is why it failed, if it did."""
        for line in filter(None, map(str.rstrip, stream)):
            said.append(line)
            if not line.startswith(ERROR):
                self.say(line)


def scores(
    pictures: Sequence[str | Path], references: Sequence[str | Path], **options: Any
) -> list[Score]:
    """One score for each picture. options: as of `Scorer`. Raises as `Scorer.scores`."""
    return list(Scorer(references=references, **options).scores(pictures))


def program() -> list[str]:
    """How to start it: by this very Python if its libraries are here, else what the PATH has.
    Raises PackageError.
    """
    if all(importlib.util.find_spec(name) is not None for name in LIBRARIES):
        # -P: never a module of the folder that one happens to stand in
        return [sys.executable, "-P", "-m", "pulid_extract"]
    found = shutil.which(PROGRAM)
    if found is None:
        raise PackageError(
            f"scores are made by {PROGRAM}, which is not installed; run: pip install 'pulid-flux-toolkit[extract]', or put {PROGRAM} "
            f"of another environment on the PATH"
        )
    return [found]


def _parse(text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
        _score(line)
        str(line["recognizer"]["name"]), str(line["recognizer"]["sha256"])
    except (ValueError, KeyError, TypeError):
        raise ScoringError(
            f"{PROGRAM} score: answered {text.strip()[:80]!r}, expected a line of its JSON; is it of another version?"
        ) from None
    return line


def _score(line: dict[str, Any]) -> Score:
    if line["status"] not in ("ok", "no face", "failed"):
        raise ValueError("status")
    return Score(
        status=line["status"],
        cosine=line["cosine"],
        cosines=tuple(line["cosines"]),
        stranger=line["stranger"],
        faces=line["faces"],
        box=tuple(line["box"]) if line["box"] is not None else None,
        error=line["error"],
    )


def _reason(code: int, said: Sequence[str], found: int, expected: int) -> str:
    if code < 0:
        return f"was killed by signal {-code} after {found} of {expected} pictures"
    if code == 0:
        return f"answered for {found} of {expected} pictures; is it of another version?"
    line = said[0] if said else ""
    return line.removeprefix(ERROR) or f"failed with exit code {code} and no word"
