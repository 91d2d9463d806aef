"""What a line of `pulid-extract score --json` says: one picture's score, and the networks whose
numbers it holds. Imports no torch.

Knows no program and no file of a picture; a line is text, and every name and number in it is
checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pulid_extract.shared.embedding_file import Embedding
from pulid_extract.shared.json_text import read_object
from pulid_extract.shared.records import number, whole

ScoreStatus = Literal["ok", "no face", "failed"]


@dataclass(frozen=True)
class Pose:
    """Of a head, in degrees; all 0 when it looks into the camera."""

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True)
class Score:
    """One picture, as `score --json` prints it; numbers are rounded to four places. Of several
    faces, the one that is most like the references is compared.
    """

    status: ScoreStatus
    # the mean of `cosines`, which is what counts; None unless status is "ok"
    likeness: float | None = None
    # of the face to each reference
    cosines: tuple[float, ...] = ()
    # the highest cosine of the face to the strangers; None without any
    stranger: float | None = None
    # the mean cosine of the face to other photographs of the person; None without any
    truth: float | None = None
    # how much nearer it is to the references than to those, -1 to 1; None without any
    copy_paste: float | None = None
    # likeness by each recogniser, the first one's first; empty without a face
    by_each: tuple[float | None, ...] = ()
    # 100 times CLIP's cosine of picture and prompt; None where nobody asked
    prompt: float | None = None
    # how many the picture has
    faces: int = 0
    # of the face, in pixels: X, Y, width, height
    box: tuple[int, int, int, int] | None = None
    # of the face; None where its landmarks tell none
    pose: Pose | None = None
    # why there is no likeness
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


@dataclass(frozen=True)
class PromptJudge:
    """The CLIP that says whether a picture shows its prompt."""

    # of its file
    name: str
    sha256: str


@dataclass(frozen=True)
class Judges:
    """All networks whose numbers they are."""

    # the first one's likeness is the one that counts
    recognizers: tuple[Recognizer, ...]
    # None where prompts are not judged
    prompt: PromptJudge | None = None

    def notes_on(self, person: Embedding) -> list[str]:
        """What to say of scores for a person, by `Recognizer.note_on`."""
        notes = [recognizer.note_on(person) for recognizer in self.recognizers]
        return [note for note in notes if note]


@dataclass(frozen=True)
class ScoreLine:
    """All that a line says."""

    score: Score
    judges: Judges


def read_line(text: str) -> ScoreLine:
    """A line of the program's standard output. Raises ValueError for any other."""
    try:
        line = read_object(text)
        return ScoreLine(_score(line), _judges(line))
    except (ValueError, KeyError, TypeError, OverflowError):
        raise ValueError(f"{text.strip()[:80]!r} is not a line of scores") from None


def _judges(line: dict[str, Any]) -> Judges:
    """As `_score`."""
    recognizers = []
    for network in line["recognizers"]:
        named = Recognizer(str(network["name"]), str(network["sha256"]), bool(network["own"]))
        recognizers.append(named)
    judge, prompt = line["prompt_judge"], None
    if judge is not None:
        prompt = PromptJudge(str(judge["name"]), str(judge["sha256"]))
    return Judges(tuple(recognizers), prompt)


def _score(line: dict[str, Any]) -> Score:
    """Raises ValueError, KeyError, TypeError or OverflowError for what is not such a line."""
    status = line["status"]
    if status not in ("ok", "no face", "failed"):
        raise ValueError("status")
    error = line["error"]
    if error is not None and not isinstance(error, str):
        raise TypeError("error")
    box = None
    if line["box"] is not None:
        left, top, width, height = (whole(value) for value in line["box"])
        box = (left, top, width, height)
    pose = None
    if line["pose"] is not None:
        yaw, pitch, roll = (number(line["pose"][name]) for name in ("yaw", "pitch", "roll"))
        pose = Pose(yaw, pitch, roll)
    by_each: list[float | None] = []
    if status == "ok":
        by_each = [_share(network["likeness"]) for network in line["recognizers"]]
    return Score(
        status=status,
        # without a face there is none
        likeness=_share(line["likeness"]) if status == "ok" else None,
        cosines=tuple(_cosine(value) for value in line["cosines"]),
        stranger=_share(line["stranger"]),
        truth=_share(line["truth"]),
        copy_paste=_share(line["copy_paste"]),
        by_each=tuple(by_each),
        prompt=_points(line["prompt_score"]),
        faces=whole(line["faces"]),
        box=box,
        pose=pose,
        error=error,
    )


def _share(value: Any) -> float | None:
    """A number from -1 to 1, if there is one."""
    return None if value is None else _cosine(value)


def _points(value: Any) -> float | None:
    """100 times a cosine, if there is one."""
    if value is None:
        return None
    points = number(value)
    _cosine(points / 100)
    return points


def _cosine(value: Any) -> float:
    cosine = number(value)
    # rounded to four places
    if isinstance(value, str) or not -1.001 <= cosine <= 1.001:
        raise ValueError("cosine")
    return cosine
