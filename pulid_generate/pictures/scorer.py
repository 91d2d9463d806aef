"""How like a person pictures are, and whether they show their prompts: asks `pulid-extract score
--json`, as a program. Imports no torch.

The stages share files, not code: what finds and recognises faces belongs to the other stage and may
live in another environment. Knows no model, no prompt and no sheet; a picture is a file, a number
is what the program said.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pulid_generate.errors import InputError, PackageError, ScoringError
from pulid_generate.pictures.score_lines import Judges, Score, ScoreLine, read_line

PROGRAM = "pulid-extract"
# how its error messages begin
ERROR = f"{PROGRAM}: error: "
# without which our own environment's program could not score
LIBRARIES = ("cv2", "insightface", "onnxruntime")
# pictures of one call: command lines have an end
AT_ONCE = 500
# what references are compared with to see whether prompts can be judged
PROBE = "a photograph of a person"
# of huggingface_hub's variables: nothing is fetched
OFFLINE = "HF_HUB_OFFLINE"


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """Who is looked for, and by what: the options of `pulid-extract score`, None or empty for its
    defaults.

        scorer = Scorer(references=("me.jpg",), models_dir="models")
        scorer.check()                               # raises before anything is drawn
        for score in scorer.scores(["a.png", "b.png"]):
            print(score.status, score.likeness)      # "no face" and "failed" have None
    """

    # pictures of the person
    references: Sequence[str | Path]
    # pictures of somebody else, as a control
    strangers: Sequence[str | Path] = ()
    # further pictures of the person
    truths: Sequence[str | Path] = ()
    # where antelopev2 is, and the CLIP of the extraction
    models_dir: str | Path | None = None
    # its folder itself
    antelopev2: str | Path | None = None
    # other ArcFace-shaped .onnx files; "antelopev2" for the pack's own
    recognizers: Sequence[str | Path] = ()
    # whether pictures are also compared with their prompts
    judges_prompts: bool = False
    # a CLIP as .onnx that does so
    prompt_judge: str | Path | None = None
    # the EVA02-CLIP that does so otherwise
    eva_clip: str | Path | None = None
    # the score from which something is a face
    det_threshold: float | None = None
    # whether files that are missing are not to be fetched
    is_offline: bool = False
    # gets each line that the program writes to standard error, at once
    log: Callable[[str], None] = lambda line: None

    def __post_init__(self) -> None:
        """Raises InputError."""
        if not self.references:
            raise InputError("scores need a reference; name a picture of the person")
        if "-" in map(str, (*self.references, *self.strangers, *self.truths)):
            raise InputError("reference -: faces are compared with files; name one")

    def check(self) -> tuple[Judges, list[Score]]:
        """The networks that judge, and what the references score themselves: 1 where there is one,
        and how like the strangers are to it.

        Raises PackageError if there is no program, ScoringError with the program's own line for a
        picture that cannot be read or has no face, a network that is missing, and so on.
        """
        return self.judged(self.references)

    def judged(self, pictures: Sequence[str | Path]) -> tuple[Judges, list[Score]]:
        """The networks that judge, and what these pictures score, one at least; as `check`."""
        lines: list[ScoreLine] = []
        for start in range(0, len(pictures), AT_ONCE):
            some = pictures[start : start + AT_ONCE]
            prompts = [PROBE] * len(some) if self.judges_prompts else None
            lines += self._ask(some, prompts)
        return lines[0].judges, [line.score for line in lines]

    def scores(
        self, pictures: Sequence[str | Path], prompts: Sequence[str] | None = None
    ) -> Iterator[Score]:
        """One for each picture file, in their order, as they are found. prompts: of each, which it
        is compared with if `judges_prompts`.

        A picture without a face, or one that cannot be read, has a score that says so. Raises
        PackageError and ScoringError as `check`.
        """
        if not self.judges_prompts:
            prompts = None
        for start in range(0, len(pictures), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            of_some = prompts[some] if prompts is not None else None
            for line in self._ask(pictures[some], of_some):
                yield line.score

    def _ask(
        self, pictures: Sequence[str | Path], prompts: Sequence[str] | None
    ) -> Iterator[ScoreLine]:
        """The program's line for each picture. Its exit code is 1 as well when a picture cannot be
        read: then all lines are there.
        """
        with _file_of(prompts) as file:
            arguments = self._arguments()
            if file is not None:
                arguments.append(f"--prompts={file}")
            command = [*program(), *arguments, "--", *map(os.path.abspath, pictures)]
            yield from self._answers(command, len(pictures))

    def _answers(self, command: Sequence[str], count: int) -> Iterator[ScoreLine]:
        """count: of the lines that are expected."""
        last_line: deque[str] = deque(maxlen=1)
        try:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                env=os.environ | ({OFFLINE: "1"} if self.is_offline else {}),
                # a Ctrl-C at the terminal is for this program to handle
                start_new_session=True,
            )
        # it is not a program after all; too many words
        except OSError as error:
            raise ScoringError(
                f"{PROGRAM} score: cannot be run ({error.strerror or error})"
            ) from None
        assert child.stdout is not None
        reader = threading.Thread(target=self._pass_on, args=(child.stderr, last_line), daemon=True)
        answered = failed = 0
        with child:
            try:
                reader.start()
                for text in child.stdout:
                    line = _line(text)
                    answered += 1
                    failed += line.score.status == "failed"
                    yield line
                code = child.wait()
            except BaseException:
                # a signal, or nobody wants the rest: it writes nothing that could be cut short
                child.kill()
                raise
            finally:
                # before its streams are closed
                if reader.ident is not None:
                    reader.join()
        if code != (1 if failed else 0) or answered != count:
            reason = _reason(code, last_line, answered, count)
            raise ScoringError(f"{PROGRAM} score: {reason}")

    def _arguments(self) -> list[str]:
        arguments = ["score", "--json"]
        arguments += [f"--reference={path}" for path in self.references]
        arguments += [f"--stranger={path}" for path in self.strangers]
        arguments += [f"--truth={path}" for path in self.truths]
        arguments += [f"--recognizer={path}" for path in self.recognizers]
        options = {
            "models-dir": self.models_dir,
            "antelopev2": self.antelopev2,
            "det-threshold": self.det_threshold,
        }
        if self.judges_prompts:
            options |= {"prompt-judge": self.prompt_judge, "eva-clip": self.eva_clip}
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


@contextlib.contextmanager
def _file_of(prompts: Sequence[str] | None) -> Iterator[Path | None]:
    """A file with a prompt in each line, for us alone, and only for a while."""
    if prompts is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="pulid-prompts-") as folder:
        path = Path(folder) / "prompts.txt"
        lines = [" ".join(prompt.split()) for prompt in prompts]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        yield path


def _line(text: str) -> ScoreLine:
    """Raises ScoringError."""
    try:
        return read_line(text)
    except ValueError:
        raise ScoringError(
            f"{PROGRAM} score: answered {text.strip()[:80]!r}, expected a line of its JSON; "
            "is it of another version?"
        ) from None


def _reason(code: int, last_line: Sequence[str], answered: int, expected: int) -> str:
    """Why the program did not score all pictures. last_line: of its standard error, or nothing."""
    if code < 0:
        return f"was killed by signal {-code} after {answered} of {expected} pictures"
    if code == 0:
        return f"answered for {answered} of {expected} pictures; is it of another version?"
    line = last_line[0] if last_line else ""
    return line.removeprefix(ERROR) or f"failed with exit code {code} and no message"
