"""`pulid-extract worker`: tasks in lines of JSON, answered one after the other by networks that are
loaded once.

A task's file is the same, byte for byte, as the single command's: both are made by
extraction/stages.py. One task that fails ends nothing. Imports torch only once there is work for
it.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from pulid_extract.batch import task_fields
from pulid_extract.batch.rows import judged_flags
from pulid_extract.batch.task_fields import PICTURES, people_of, take_flag, values_of
from pulid_extract.batch.work import LoadedNetworks, unexpected
from pulid_extract.extraction.job import Job, OwnChoice, decoded, read_job
from pulid_extract.extraction.opening import find_models
from pulid_extract.extraction.pictures import ExtractionPictures
from pulid_extract.extraction.result_cache import ResultCache
from pulid_extract.extraction.results import ExtractionResult, PortraitResult, report_of
from pulid_extract.extraction.stages import CroppedPortraits, crop_portraits, encode_identity
from pulid_extract.faces.choice import Order
from pulid_extract.files.model_set import needed_roles
from pulid_extract.flags.extract import ONE_PORTRAIT, ExtractFlags
from pulid_extract.flags.outputs import check_outputs
from pulid_extract.flags.worker import WorkerFlags
from pulid_extract.pictures.drawing import encode_png
from pulid_extract.pictures.portrait import check_portrait, decode_portrait, read_portrait_bytes
from pulid_extract.pictures.preview import colour_labels, named_labels
from pulid_extract.shared import records
from pulid_extract.shared.cli.standard_output import ResultLines, quiet
from pulid_extract.shared.errors import FaceError, InputError, PulidError
from pulid_extract.shared.writing import write_atomically

if TYPE_CHECKING:
    from pulid_extract.faces.antelopev2 import Face
    from pulid_extract.faces.scorer import FaceScorer

# a picture that no flag asks for alone: the parse map
PARSE = "parse_image"
# fields that may be each portrait's own
OF_EACH = ("face_index", "face_order", "face_at", "face_box", "landmarks", "mask", "box")
# fields of a task that lists faces
OF_FACES = ("photo", "face_order", "allow_none", "people")


def answer_all(flags: WorkerFlags) -> None:
    """A line in, a line out, until standard input ends. Raises InputError, OutputError for streams
    that are closed.
    """
    if sys.stdin is None:
        raise InputError(
            "standard input: is closed; pipe tasks into it, such as " + task_fields.EXAMPLE
        )
    worker = Worker(flags)
    with ResultLines() as lines, quiet(), worker.networks():
        while data := sys.stdin.buffer.readline(records.MAX_LINE + 1):
            if data.strip():
                lines.write(json.dumps(worker.answer(data)))


class Worker:
    """Does tasks."""

    def __init__(self, flags: WorkerFlags):
        self.flags = flags
        self._networks = LoadedNetworks({}, flags.device, flags.fast)
        self._defaults: dict[str, Any] = {}
        for item in fields(ExtractFlags):
            if hasattr(flags, item.name):
                self._defaults[item.name] = getattr(flags, item.name)
        # what the task in work would have said at a terminal
        self._notes: list[str] = []
        # for likeness, made when somebody is first looked for; SHA-256 of a reference's file ->
        # (D,) float32
        self._scorer: FaceScorer | None = None
        self._references: dict[str, np.ndarray] = {}
        self._tasks: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "extract": self._extract,
            "crops": self._crops,
            "faces": self._faces,
            "score": self._score,
        }

    def networks(self) -> Any:
        """Holds what is loaded; to be entered once."""
        return self._networks.stack

    def answer(self, data: bytes) -> dict[str, Any]:
        """One line's answer; whatever goes wrong is in it."""
        told: dict[str, Any] = {"id": None, "task": None}
        self._notes = []
        try:
            task = task_fields.parse_task(data)
            told |= {"id": task.pop("id", None), "task": task.pop("task", None)}
            if told["task"] not in self._tasks:
                known = ", ".join(self._tasks)
                raise InputError(f"task {str(told['task'])[:40]!r}: expected one of {known}")
            told |= {"status": "done"} | self._tasks[told["task"]](task)
        except PulidError as error:
            told |= {"status": "failed", "error": str(error)}
        except Exception as error:
            told |= {"status": "failed", "error": str(unexpected("task", error))}
        return told | {"notes": self._notes}

    # ------------------------------------------------------------------------------------ the tasks

    def _extract(self, task: dict[str, Any]) -> dict[str, Any]:
        out = task.pop("out", None)
        if not isinstance(out, str) or not out or out == "-":
            raise InputError("out: expected the name of the .pulidembd")
        wants_vectors = take_flag(task, "vectors")
        job = self._job(task, {"--out": out})
        cache = self._find(job)
        roles = _roles_of(job)
        pictures = ExtractionPictures(job.flags)
        result = None
        vectors: list[list[float]] = []
        # a cached result has no pictures, and no face vectors
        if cache.is_ready and not pictures.paths and not wants_vectors:
            result = cache.get(job, roles, self._note)
        if result is None:
            cropped = self._crop(job, pictures)
            vectors = [crop.vector.tolist() for crop in cropped.crops]
            result = encode_identity(cropped, self._networks.extractor, cache.provenance)
            cache.put(job, roles, result)
        _write(pictures)
        write_atomically(out, result.data, mode=0o600)
        told = self._told(job, result) | {"output": out}
        return told | {"vectors": vectors} if wants_vectors else told

    def _crops(self, task: dict[str, Any]) -> dict[str, Any]:
        parse_image = task.pop(PARSE, None)
        if not isinstance(parse_image, str | None):
            raise InputError(f"{PARSE}: expected the name of a picture")
        job = self._job(task, {} if parse_image is None else {"--parse-image": parse_image})
        if parse_image is not None and len(job.sources) > 1:
            raise InputError(f"{PARSE} is about the pixels of one portrait")
        self._find(job)
        pictures = ExtractionPictures(job.flags)
        cropped = self._crop(job, pictures)
        _write(pictures)
        is_parsed = job.flags.parser != "none"
        if parse_image is not None and is_parsed:
            [crop] = cropped.crops
            parts = encode_png(colour_labels(crop.labels, crop.crop))
            write_atomically(parse_image, parts, mode=0o600)
        portraits = []
        for source, crop in zip(job.sources, cropped.crops, strict=True):
            portrait = PortraitResult.of(source, crop)
            facts = portrait.to_json() | {"advice": portrait.advice()}
            facts["labels"] = named_labels(crop.labels) if is_parsed else None
            portraits.append({"portrait": source.path} | facts)
        return {"portraits": portraits}

    def _faces(self, task: dict[str, Any]) -> dict[str, Any]:
        photo = task.pop("photo", None)
        if not isinstance(photo, str) or not photo or photo == "-":
            raise InputError("photo: expected the name of a picture")
        order = task.pop("face_order", None) or self.flags.face_order or "largest"
        allow_none = take_flag(task, "allow_none")
        people = people_of(task.pop("people", {}))
        if task:
            raise InputError(
                f"unknown field {next(iter(task))[:40]!r}; expected {', '.join(OF_FACES)}"
            )
        data, where = read_portrait_bytes(photo)
        image = decode_portrait(data, where)
        from pulid_extract.extraction.identity import Options
        from pulid_extract.faces.antelopev2 import sorted_faces
        from pulid_extract.faces.listing import list_faces

        if order not in get_args(Order):
            raise InputError(
                f"face_order {str(order)[:40]!r}: expected {', '.join(get_args(Order))}"
            )
        self._look_for({"antelopev2"})
        extractor = self._networks.extractor
        extractor.options = Options(det_threshold=self.flags.det_threshold or Options.det_threshold)
        try:
            found = extractor.detect(image)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if not found and not allow_none:
            raise FaceError(f"{where}: no face found; give the region by hand, or another picture")
        ordered = sorted_faces(found, order, image)
        told = [face.to_json() for face in list_faces(found, image, order)]
        if people:
            for face, likeness in zip(told, self._likeness(image, ordered, people), strict=True):
                face["likeness"] = likeness
        return {
            "portrait": photo,
            "width": image.shape[1],
            "height": image.shape[0],
            "faces": told,
        }

    def _likeness(
        self, image: np.ndarray, faces: Sequence[Face], people: Mapping[str, Sequence[str]]
    ) -> list[dict[str, float]]:
        """Of each face to each person, the mean cosine to the person's references. image: uint8 RGB
        (H, W, 3). Raises InputError, FaceError, WeightsError.
        """
        scorer = self._opened_scorer()
        vectors: dict[str, list[np.ndarray]] = {}
        for name, references in people.items():
            vectors[name] = []
            for path in references:
                # what the file is now: a name may get another picture
                data, _ = read_portrait_bytes(path)
                sha256 = hashlib.sha256(data).hexdigest()
                if sha256 not in self._references:
                    known = scorer.known_face(path, "reference")
                    self._references[sha256] = known.vectors[0]
                vectors[name].append(self._references[sha256])
        told = []
        for face in faces:
            likeness = {}
            for name, known_vectors in vectors.items():
                cosines = scorer.cosines(image, face, known_vectors)
                likeness[name] = round(sum(cosines) / len(cosines), 4)
            told.append(likeness)
        return told

    def _score(self, task: dict[str, Any]) -> dict[str, Any]:
        photo = task.pop("photo", None)
        if not isinstance(photo, str) or not photo or photo == "-":
            raise InputError("photo: expected the name of a picture")
        vectors, references = task.pop("vectors", None), task.pop("reference", None)
        if task or (vectors is None) == (references is None):
            raise InputError("score: expected photo, and reference or vectors")
        from pulid_extract.extraction.identity import Options
        from pulid_extract.faces.scorer import KnownFaces, faces_of_vectors

        self._look_for({"antelopev2"})
        extractor = self._networks.extractor
        extractor.options = Options(det_threshold=self.flags.det_threshold or Options.det_threshold)
        scorer = self._opened_scorer()
        recognizer = scorer.recognizers[0]
        if references is not None:
            try:
                paths = task_fields.references_of(references)
            except (ValueError, TypeError):
                raise InputError("reference: expected a list of names of pictures") from None
            known = [scorer.known_face(path, "reference") for path in paths]
        else:
            known = faces_of_vectors(vectors)
        if not known:
            raise InputError("score: expected at least one reference")
        [found] = replace(scorer, known=KnownFaces(known)).scores([photo])
        if found.score.status == "failed":
            raise InputError(found.score.error or "cannot be read")
        likeness = found.score.likeness
        return {
            "likeness": None if likeness is None else round(likeness, 4),
            "faces": found.score.faces,
            "box": found.box,
            "recognizer": {
                "name": recognizer.name,
                "sha256": recognizer.sha256,
                # not of another pack, which PuLID knows nothing of
                "own": not extractor.files["antelopev2"].warning,
            },
        }

    # ---------------------------------------------------------------------------------------- parts

    def _opened_scorer(self) -> FaceScorer:
        """With the pack's own recogniser, which stays open."""
        from pulid_extract.faces.recognizer import Recognizer
        from pulid_extract.faces.scorer import FaceScorer

        if self._scorer is None:
            extractor = self._networks.extractor
            pack = extractor.files["antelopev2"].path
            self._scorer = FaceScorer(extractor.detect, [Recognizer.of_pack(pack)])
        return self._scorer

    def _note(self, line: str) -> None:
        self._notes.append(line)

    def _job(self, task: dict[str, Any], outputs: Mapping[str, str]) -> Job:
        """What is to be extracted, read and checked before any network. Raises InputError."""
        each = task.pop("each", None)
        values = values_of(task)
        names = values.pop("names", [])
        portraits = values["portrait"]
        if len(portraits) > 1:
            for name in ONE_PORTRAIT:
                if name in values:
                    raise InputError(
                        f"{name} is about the pixels of one portrait; {len(portraits)} are named"
                    )
        flags, choice, boxes = judged_flags(values, self._defaults)
        named = {f"--{name.replace('_', '-')}": getattr(flags, name) for name in PICTURES}
        paths = {flag: path for flag, path in named.items() if path is not None}
        job = read_job(portraits, flags, choice, boxes, self._note)
        if each is not None:
            job = replace(job, own=self._own(each, job, values))
        masks = [own.mask for own in job.own.values()]
        inputs = [mask.path for mask in (job.mask, *masks) if mask is not None]
        check_outputs({**outputs, **paths}, [*portraits, *inputs])
        if names:
            job = _named(job, dict(zip(portraits, names, strict=False)))
        for source in job.sources:
            check_portrait(source.data, source.where)
        return job

    def _own(self, each: object, job: Job, values: Mapping[str, Any]) -> dict[str, OwnChoice]:
        """What is meant on each of the portraits: SHA-256 -> its choice. each: path -> fields of
        an extraction. Raises InputError.
        """
        given: dict[str, Any] = each if isinstance(each, dict) else {"": each}
        known = set(given) <= set(values["portrait"])
        if not known or not all(isinstance(one, dict) for one in given.values()):
            raise InputError("each: expected an object, a name of 'portrait' -> its own fields")
        self._check_counted(given, job)
        own = {}
        for source in job.sources:
            fields_of_one = given.get(source.path, {})
            for name in fields_of_one:
                if name not in OF_EACH:
                    raise InputError(f"each: {name[:40]!r} is none of {', '.join(OF_EACH)}")
            one = values_of({"portrait": [source.path]} | fields_of_one)
            flags, choice, boxes = judged_flags({**values, **one}, self._defaults)
            alone = read_job([source.path], flags, choice, boxes, self._note)
            own[source.sha256] = OwnChoice(choice, alone.mask, boxes)
        return own

    def _check_counted(self, given: Mapping[str, Any], job: Job) -> None:
        """Raise InputError if a portrait that counts once is given with two meanings."""
        for path in given.keys() - {source.path for source in job.sources}:
            data, where = read_portrait_bytes(path)
            for source in job.sources:
                if source.data == data and given.get(source.path, {}) != given[path]:
                    raise InputError(
                        f"each: {where} is the same picture as {source.where}, which counts once; "
                        "say there which face is meant"
                    )

    def _find(self, job: Job) -> ResultCache:
        self._look_for(_roles_of(job))
        files = {role: self._networks.files[role] for role in _roles_of(job)}
        return ResultCache(files, self.flags.device, self.flags.no_cache)

    def _look_for(self, roles: set[str]) -> None:
        """Files that no task has needed before."""
        missing = roles - self._networks.files.keys()
        if missing:
            self._networks.files |= find_models(self.flags, missing)
        extractor = self._networks.extractor
        extractor.files = dict(self._networks.files)
        extractor.log = self._note

    def _crop(self, job: Job, pictures: ExtractionPictures) -> CroppedPortraits:
        from pulid_extract.extraction.identity import Options

        extractor, flags = self._networks.extractor, job.flags
        threshold = flags.det_threshold or Options.det_threshold
        extractor.options = Options(flags.aligner, flags.parser, threshold)
        return crop_portraits(job, decoded(job), extractor, self._note, pictures.add)

    def _told(self, job: Job, result: ExtractionResult) -> dict[str, Any]:
        return {
            "sha256": hashlib.sha256(result.data).hexdigest(),
            **report_of(job, result),
            "tokens": list(result.shape),
            "uncond": result.has_uncond,
            "device": result.device,
            "arithmetic": result.arithmetic,
            "cached": result.is_cached,
        }


def _named(job: Job, names: Mapping[str, str]) -> Job:
    """The job with other names of its portraits in messages and pictures. names: path -> name."""
    sources = []
    for source in job.sources:
        sources.append(replace(source, where=names.get(source.path, source.where)))
    return replace(job, sources=tuple(sources))


def _roles_of(job: Job) -> set[str]:
    return needed_roles(job.detects, job.flags.aligner, job.flags.parser)


def _write(pictures: ExtractionPictures) -> None:
    """For their owner alone."""
    for path, data in pictures.encoded().items():
        write_atomically(path, data, mode=0o600)
