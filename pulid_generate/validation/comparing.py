"""Drawn pictures become shots with numbers: scores, what the identity changed, how heads are
turned. Reads pictures; draws none. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.picture_file import pillow_reads
from pulid_generate.assembly.progress import Progress
from pulid_generate.errors import InputError, PulidError, ScoringError
from pulid_generate.pictures.description import parse_description
from pulid_generate.pictures.picture import read_parameters
from pulid_generate.pictures.score_lines import Judges, Pose, Score
from pulid_generate.pictures.scorer import Scorer
from pulid_generate.pictures.three_way import mean_change
from pulid_generate.validation.measures import angle_between
from pulid_generate.validation.prompts import Trial
from pulid_generate.validation.report import (
    PERSON,
    WITHOUT,
    KnownPicture,
    Memory,
    Report,
    Requirement,
    Shot,
    ValidatedIdentity,
)
from pulid_generate.version import __version__

if TYPE_CHECKING:
    import numpy as np

# of a face's box, on each side: what belongs to the head
HEAD_MARGIN = 0.25

# of a picture's metadata: not what all share
OF_EACH = ("prompt", "seed", "identity", "t5_tokens", "sigmas", "pulid_generate")

Box = tuple[int, int, int, int]


def open_judges(
    scorer: Scorer, must_judge: bool, log: Callable[[str], None]
) -> tuple[Scorer, Judges, list[Score], str | None]:
    """The scorer that judges prompts if it can, its networks, what the references score, and why
    prompts are not judged. must_judge: whether that is an error. Raises PackageError, ScoringError.
    """
    with_prompts = replace(scorer, judges_prompts=True)
    if must_judge or scorer.prompt_judge is not None or scorer.eva_clip is not None:
        return with_prompts, *with_prompts.check(), None
    # a judge that is there is asked; none is fetched for that
    try:
        silent = replace(with_prompts, is_offline=True, log=lambda line: None)
        return with_prompts, *silent.check(), None
    except ScoringError as error:
        log(f"prompts are not judged: {error}")
        return scorer, *scorer.check(), str(error)


def compared_report(
    shots: Sequence[Shot],
    folder: Path,
    opened: tuple[Scorer, Judges, list[Score], str | None],
    progress: Progress,
    *,
    command: str,
    identity: ValidatedIdentity,
    memory: Memory | None = None,
    requirements: Sequence[Requirement] = (),
) -> Report:
    """What the drawn pictures come to. folder: where they are. opened: as `open_judges` gives it.
    command: that asked for it. Raises PackageError, ScoringError.
    """
    scorer, judges, own_scores, unjudged = opened
    # what the program says of all of them together is not about one
    silent = replace(scorer, log=lambda line: None)
    shots = compare(shots, folder, silent, own_scores, progress)
    references = []
    for path, score in zip(scorer.references, own_scores, strict=True):
        references.append(known_picture(path, score))
    return Report(
        tool=f"pulid-generate {__version__}",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        identity=identity,
        references=references,
        strangers=[known_picture(path) for path in scorer.strangers],
        truths=[known_picture(path) for path in scorer.truths],
        judges=judges,
        unjudged=unjudged,
        settings=shared_settings(shots, folder),
        shots=shots,
        memory=memory,
        requirements=list(requirements),
    )


def compare(
    shots: Sequence[Shot],
    folder: Path,
    scorer: Scorer,
    references: Sequence[Score],
    progress: Progress,
) -> list[Shot]:
    """The shots with their scores, and how far each is from the one at weight 0. references: what
    the portraits score themselves. Raises PackageError, ScoringError.
    """
    drawn = [shot for shot in shots if shot.sha256 is not None]
    pictures = [folder / shot.output for shot in drawn]
    prompts = [shot.trial.text for shot in drawn]
    scores: dict[str, Score] = {}
    for shot, score in zip(drawn, scorer.scores(pictures, prompts), strict=True):
        scores[shot.output] = score
        progress.step("scores", len(scores), len(drawn))

    bases: dict[tuple[Trial, int], Shot] = {}
    for shot in drawn:
        if shot.run == WITHOUT and scores[shot.output].status != "failed":
            bases[shot.trial, shot.seed] = shot
    poses = [score.pose for score in references if score.pose is not None]
    compared = []
    for shot in shots:
        if shot.output not in scores:
            compared.append(shot)
            continue
        score, base = scores[shot.output], bases.get((shot.trial, shot.seed))
        shot = _with_score(shot, score, poses)
        if shot.run != WITHOUT and score.status != "failed" and base is not None:
            boxes = [one.box for one in (score, scores[base.output]) if one.box is not None]
            shot = _with_change(shot, _pixels(folder, shot), _pixels(folder, base), boxes)
        compared.append(shot)
    return compared


def _with_score(shot: Shot, score: Score, poses: Sequence[Pose]) -> Shot:
    """poses: of the references."""
    turned = None
    if score.pose is not None:
        pose = score.pose
        turned = min((angle_between(pose, other) for other in poses), default=None)
    return replace(
        shot,
        # a picture that is "failed" was not drawn
        status="unreadable" if score.status == "failed" else score.status,
        likeness=score.likeness,
        stranger=score.stranger,
        truth=score.truth,
        copy_paste=score.copy_paste,
        by_each=score.by_each,
        prompt_score=score.prompt,
        faces=score.faces,
        pose=score.pose,
        turned=turned,
        error=score.error,
    )


def _with_change(shot: Shot, pixels: np.ndarray, base: np.ndarray, boxes: Sequence[Box]) -> Shot:
    """pixels, base: (H, W, 3) uint8 RGB. boxes: of the faces in either."""
    outside = outside_heads((pixels.shape[0], pixels.shape[1]), boxes)
    disruption = None
    if outside.any():
        disruption = mean_change(pixels[outside], base[outside])
    return replace(shot, moved=mean_change(pixels, base), disruption=disruption)


def outside_heads(size: tuple[int, int], boxes: Sequence[Box]) -> np.ndarray:
    """bool (H, W): False in the boxes of faces, grown by HEAD_MARGIN on each side. size: (H, W)."""
    import numpy as np

    height, width = size
    outside = np.ones((height, width), bool)
    for left, top, across, down in boxes:
        more_across, more_down = round(across * HEAD_MARGIN), round(down * HEAD_MARGIN)
        rows = slice(max(0, top - more_down), max(0, top + down + more_down))
        columns = slice(max(0, left - more_across), max(0, left + across + more_across))
        outside[rows, columns] = False
    return outside


def _pixels(folder: Path, shot: Shot) -> np.ndarray:
    """(H, W, 3) uint8 RGB."""
    import numpy as np
    from PIL import Image

    path = folder / shot.output
    with pillow_reads(str(path)), Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def known_picture(path: str | Path, score: Score | None = None) -> KnownPicture:
    """What the report says of a photograph: no folder, which would say more than is needed. score:
    of a reference, with the others. Raises InputError.
    """
    try:
        data = path_of(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None
    name, sha256 = Path(path).name, hashlib.sha256(data).hexdigest()
    if score is None:
        return KnownPicture(name, sha256)
    return KnownPicture(name, sha256, score.likeness, score.stranger, score.truth)


def shared_settings(shots: Sequence[Shot], folder: Path) -> dict[str, Any]:
    """What the pictures share, from the metadata of the person's first; nothing if they carry
    none.
    """
    for shot in shots:
        if shot.run == PERSON and shot.sha256 is not None:
            try:
                facts = parse_description(read_parameters((folder / shot.output).read_bytes()))
            except (PulidError, OSError):
                return {}
            return {name: value for name, value in facts.items() if name not in OF_EACH}
    return {}
