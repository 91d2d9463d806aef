"""`pulid-generate --best-of N`: draw N seeds, keep the picture that is most like the reference,
list the others.
"""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulid_extract.shared.cli import console
from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.writing import (
    check_not_input,
    check_writable,
    make_folder,
    write_atomically,
)
from pulid_generate.assembly import opening
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.requests import Drawing
from pulid_generate.errors import ScoringError
from pulid_generate.flags.commands.names import flag_name
from pulid_generate.flags.commands.tables import DrawFlags
from pulid_generate.pictures.saving import SavedPicture, encoded
from pulid_generate.pictures.score_lines import Score

if TYPE_CHECKING:
    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.request.job import Job

# fields that mean nothing without --best-of
NEED_BEST_OF = (
    "reference",
    "stranger",
    "recognizer",
    "antelopev2",
    "det_threshold",
    "keep_others",
)
# those that a detail pass recognises faces by
SERVE_DETAIL = ("reference", "antelopev2")


def usage_error(flags: DrawFlags, given: Collection[str]) -> str | None:
    """What is wrong with these flags, whatever their values."""
    if flags.best_of is None:
        for name in NEED_BEST_OF:
            if name in given and not (flags.ad_model and name in SERVE_DETAIL):
                return f"{flag_name(name)} needs '--best-of'."
        return None
    if not flags.reference:
        return "--best-of needs '--reference'."
    if flags.batch_count != 1:
        return "--best-of N draws N pictures and keeps one; leave --batch-count out."
    return None


class BestOf:
    """Seeds to try, and where their pictures go. path: of the one that is kept, None for standard
    output.
    """

    def __init__(self, flags: DrawFlags, path: Path | None, progress: Progress):
        """Raises InputError, OutputError."""
        self.flags, self.path, self.progress = flags, path, progress
        self.scorer = opening.scorer_of(flags, flags.models_dir, progress.log)
        self.others: Path | None = None
        if flags.keep_others is not None:
            self.others = make_folder(path_of(flags.keep_others), flag="--keep-others")
            check_writable(self.others / "0.png")

    def jobs(self, pipeline: Pipeline, drawing: Drawing) -> list[Job]:
        """One for each seed, each as a command of its own would draw it. Raises as `Pipeline.jobs`,
        and OutputError.
        """
        first = drawing.request
        jobs = []
        for number in range(self.flags.best_of or 0):
            request = replace(first, seed=first.seed + number)
            jobs.append(replace(drawing, request=request).job(pipeline))
        if self.others is not None:
            for job in jobs:
                check_not_input(self.others / self._name(job), self.inputs())
        return jobs

    def inputs(self) -> list[str | Path]:
        """Files that must not be overwritten."""
        return [*self.scorer.references, *self.scorer.strangers]

    def draw(self, pipeline: Pipeline, jobs: Sequence[Job]) -> None:
        """Draw, score, write, and print what was kept. Raises PackageError and ScoringError before
        anything is drawn, ScoringError if no picture has a face.
        """
        judges, _ = self.scorer.check()
        for subject in jobs[0].subjects:
            for note in judges.notes_on(subject.embedding):
                self.progress.note(note)
        started = time.monotonic()
        # its mode is 0700
        with tempfile.TemporaryDirectory(prefix="pulid-best-of-") as folder:
            files = [Path(folder) / self._name(job) for job in jobs]
            for file, picture in zip(files, pipeline.draw(jobs), strict=True):
                metadata = not self.flags.disable_image_metadata
                write_atomically(file, encoded(picture, file, metadata))
            # what the program says of all of them together (a mean, strangers) is not about one
            scorer = replace(self.scorer, log=lambda line: None)
            scores = list(scorer.scores(files))
            best = best_of(scores)
            self._list(jobs, scores, best)
            for index, file in enumerate(files):
                if self.others is not None and index != best:
                    write_atomically(self.others / file.name, file.read_bytes())
            if best is None:
                raise ScoringError(
                    f"none of {len(jobs)} pictures has a face to compare; nothing is written, "
                    "try other seeds or words"
                )
            data = files[best].read_bytes()
        if self.path is None:
            console.write_result(data)
            return
        write_atomically(self.path, data)
        if not self.flags.as_json:
            console.write_line(str(self.path))
            return
        seconds = time.monotonic() - started
        saved = SavedPicture.of(jobs[best], self.path, data, seconds, pipeline.arithmetic)
        tried = [_as_dict(job, score) for job, score in zip(jobs, scores, strict=True)]
        # under the name that it had before, too
        found = scores[best].likeness
        line = saved.as_dict() | {"likeness": found, "cosine": found, "best_of": tried}
        console.write_line(json.dumps(line))

    def _name(self, job: Job) -> str:
        """By its seed; as the kept one is called where that has a name."""
        path = self.path or Path("picture.png")
        return f"{path.stem}_{job.seed}{path.suffix}"

    def _list(self, jobs: Sequence[Job], scores: Sequence[Score], best: int | None) -> None:
        """A line on standard error for each seed, the most alike first, those without a face
        last.
        """
        if self.flags.quiet:
            return
        order = sorted(range(len(jobs)), key=lambda index: _likeness(scores[index]), reverse=True)
        for index in order:
            score = scores[index]
            text = f"{score.likeness:.3f}" if score.likeness is not None else score.status
            kept = " (kept)" if index == best else ""
            console.log(f"seed {jobs[index].seed}: {text}{kept}")


def best_of(scores: Sequence[Score]) -> int | None:
    """The index of the most alike, the first of equals; None if none has a face."""
    faces = [index for index, score in enumerate(scores) if score.likeness is not None]
    return max(faces, key=lambda index: _likeness(scores[index]), default=None)


def _likeness(score: Score) -> float:
    """Its number; less than any for a picture without a face."""
    return score.likeness if score.likeness is not None else -math.inf


def _as_dict(job: Job, score: Score) -> dict[str, Any]:
    """A seed that was tried, as it is printed."""
    return {
        "seed": job.seed,
        "status": score.status,
        "likeness": score.likeness,
        "cosine": score.likeness,
        "stranger": score.stranger,
        "faces": score.faces,
    }
