"""The detail pass of a drawn picture, on both sides of the models: from the picture to what is
redrawn of it, and from what was redrawn to the picture.

Knows where faces are found and whose they are; neither loads nor runs a model. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from pulid_generate.detail.choice import Wanted, choose_faces
from pulid_generate.detail.crops import FaceCrop, crop_of, cut_out, put_back
from pulid_generate.detail.faces import FoundFace, counted_faces
from pulid_generate.errors import PackageError
from pulid_generate.files.layouts import TOKEN_PIXELS
from pulid_generate.pictures.face_finder import FaceFinder
from pulid_generate.pictures.picture import Picture
from pulid_generate.request.job import Job, StartPicture, Subject

Log = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class FaceJob:
    """One face that is redrawn."""

    job: Job
    crop: FaceCrop = field(repr=False)


class FacePass:
    """Finds the faces of pictures, and puts them back."""

    def __init__(self, finder: FaceFinder | None, note: Log, log: Log = lambda text: None):
        """finder: None where no picture has such a pass. note: hears of faces that stay as they
        are. log: hears of those that are redrawn.
        """
        self._finder, self.note, self.log = finder, note, log

    def check(self, job: Job) -> None:
        """See that faces can be found, before anything is drawn. Raises PackageError,
        ScoringError.
        """
        detail = job.request.detail
        if detail is not None:
            self.finder.check(detail.detector, detail.confidence)

    @property
    def finder(self) -> FaceFinder:
        if self._finder is None:
            raise PackageError("a detail pass needs a FaceFinder; give the pipeline one")
        return self._finder

    def close(self) -> None:
        """End the process that finds faces; the next picture starts another."""
        if self._finder is not None:
            self._finder.close()

    def jobs(self, picture: Picture, label: str, note: Log | None = None) -> list[FaceJob]:
        """What is redrawn of a picture: each face with its own person. Raises PackageError,
        ScoringError.

        note: hears what stays as it is; None tells everybody, under the label.
        """
        note = note or partial(self._say, label)
        job, detail = picture.job, picture.job.request.detail
        if detail is None:
            return []
        height, width = picture.pixels.shape[:2]
        people = {str(place): subject for place, subject in enumerate(job.last.people_seen)}
        references = {name: subject.references for name, subject in people.items()}
        found = self.finder.find(picture.pixels, detail.detector, detail.confidence, references)
        faces = counted_faces(found, detail, width, height)
        if not faces:
            note("no face was found, nothing is redrawn")
            return []
        owners = self._owners(faces, list(people.values()), picture, note)
        jobs = []
        for number, (face, owner) in enumerate(zip(faces, owners, strict=True)):
            pattern = job.faces[min(number, len(job.faces) - 1)]
            if owner is None or pattern is None:
                continue
            made = _face_job(picture, face, pattern, owner, number)
            if made is not None:
                jobs.append(made)
        self.log(f"{label}: {len(jobs)} of {len(faces)} faces are redrawn")
        return jobs

    def _owners(
        self,
        faces: Sequence[FoundFace],
        people: Sequence[Subject],
        picture: Picture,
        note: Log,
    ) -> list[tuple[Subject, ...] | None]:
        """For each face who is drawn in it, None for one that stays as it is. Of a picture with
        nobody in it every face is redrawn, as sd-cli does.
        """
        if not people:
            return [picture.job.last.subjects[:1]] * len(faces)
        wanted = []
        for place, subject in enumerate(people):
            wanted.append(Wanted(str(place), _grid(subject, picture)))
        owners: list[tuple[Subject, ...] | None] = []
        for face, owner in zip(faces, choose_faces(faces, wanted), strict=True):
            owners.append(None if owner is None else (people[owner],))
            if owner is None:
                x, y, width, height = face.box
                note(f"the face at {x},{y},{width},{height} is nobody's, it stays")
        for place, subject in enumerate(people):
            if (subject,) not in owners:
                note(f"no face of {wanted_name(subject, place)} was found")
        return owners

    def _say(self, label: str, text: str) -> None:
        self.note(f"{label}: {text}" if label else text)

    def finished(self, picture: Picture, drawn: Sequence[tuple[FaceJob, np.ndarray]]) -> Picture:
        """The picture with the redrawn faces, uint8 RGB (H, W, 3) each, in their places."""
        detail = picture.job.request.detail
        assert detail is not None
        pixels = picture.pixels
        for face, redrawn in drawn:
            pixels = put_back(pixels, redrawn, face.crop, detail.mask_blur)
        return replace(picture, pixels=pixels)


def wanted_name(subject: Subject, place: int) -> str:
    """What notes call a person: the file, or a number where it has none."""
    return subject.embedding.source or f"person {place + 1}"


def _grid(subject: Subject, picture: Picture) -> np.ndarray | None:
    """A region as (rows, columns), None for the whole picture."""
    if subject.region is None:
        return None
    columns = picture.job.last.request.width // TOKEN_PIXELS
    return subject.region.reshape(-1, columns)


def _face_job(
    picture: Picture,
    face: FoundFace,
    pattern: Job,
    owner: tuple[Subject, ...],
    number: int,
) -> FaceJob | None:
    """The pattern for one face; None for one that the settings leave nothing of."""
    detail = picture.job.request.detail
    assert detail is not None
    height, width = picture.pixels.shape[:2]
    target = pattern.request.width, pattern.request.height
    crop = crop_of(face.box, (width, height), detail, target)
    if crop is None:
        return None
    pixels, mask = cut_out(picture.pixels, crop, target, detail.mask_blur)
    seed = picture.job.seed + number
    job = replace(
        pattern,
        request=replace(pattern.request, seed=seed),
        seed=seed,
        subjects=tuple(person.close_up() for person in owner),
        # towards its edge the crop agrees more and more with what lies around
        start=StartPicture(pixels, mask, late=True),
    )
    return FaceJob(job, crop)
