"""From a request to a job: names become files in the job's own folder, portraits an identity, and
all of it is judged before it waits. Imports no torch.

What the flags of a command name, a request names too; but every file that a request names came with
it, or is an identity that is there. No name becomes a path.
"""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from pulid_extract.shared.records import whole
from pulid_extract.shared.writing import make_folder
from pulid_generate.errors import PulidError, RequestError
from pulid_generate.lora.choice import find_lora
from pulid_generate.request.passes.detail import ANTELOPEV2
from pulid_generate.request.people.identities import parse_person, rename_files
from pulid_generate.server.failures import naming_files_of
from pulid_generate.server.intake.extraction import ExtractWorker
from pulid_generate.server.intake.fields import face_choice
from pulid_generate.server.intake.people import SUFFIX, People, take_tags
from pulid_generate.server.intake.portraits import copy_vectors, save_vectors
from pulid_generate.server.intake.uploads import Body, write_files
from pulid_generate.server.intake.visitors import Visitors
from pulid_generate.server.settings import MAX_PROMPT, Settings
from pulid_generate.server.work.jobs import DETAIL_IMG, FILES, FORMATS, JobRecord

if TYPE_CHECKING:
    from pulid_generate.server.work.judging import Judge

NOTHING: Mapping[str, Any] = MappingProxyType({})
# what an identity's file begins with
GGUF = b"GGUF"
PORTRAITS = "portraits" + SUFFIX


@dataclass(frozen=True)
class Submission:
    """Makes jobs of requests."""

    settings: Settings
    judge: Judge
    visitors: Visitors
    worker: ExtractWorker

    def people(self, visitor: str | None) -> People:
        """Who can be named: those that the visitor saved, then everybody's."""
        own = self.visitors.identities_of(visitor) if visitor else None
        return People((own, self.settings.identities))

    def new_name(self) -> str:
        """Of a job, which nobody can guess."""
        return secrets.token_hex(16)

    def job(
        self,
        options: Mapping[str, Any],
        body: Body,
        visitor: str | None,
        own: Mapping[str, Any] = NOTHING,
    ) -> JobRecord:
        """A job that can be drawn, in a folder of its own; not in the queue yet.

        options: fields of a generation. own: the server's own, see `fields.OWN`. Raises PulidError.
        """
        output_format = str(own.get("output_format") or "png")
        if output_format not in FORMATS:
            raise RequestError(f"output_format {output_format[:20]!r}: expected {_or(FORMATS)}")
        name = self.new_name()
        folder = self.visitors.folder_of(visitor) / name
        make_folder(folder, mode=0o700)
        try:
            with naming_files_of(folder), naming_files_of(folder / FILES):
                naming = _Naming(self, body, visitor, folder / FILES)
                asked = naming.asked(options, own)
                job = JobRecord(name, folder, visitor, asked, output_format)
                judged = self.judge.judge(job, self.settings)
        except PulidError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        job.count = len(judged.jobs)
        job.notes = judged.notes
        return job


class _Naming:
    """The files of one request, by the names that its fields give them."""

    def __init__(self, submission: Submission, body: Body, visitor: str | None, folder: Path):
        self.worker, self.body, self.folder = submission.worker, body, folder
        self.people = submission.people(visitor)
        self.lora_folder = submission.judge.lora_folder
        # that have come, or were made or copied
        self.files: dict[str, bytes] = {}

    def asked(self, options: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
        """What is asked for with names of files in the folder, which are written. Raises
        PulidError.
        """
        asked, portraits, face = dict(options), own.get("portraits"), face_choice(own)
        if own.get(DETAIL_IMG) is not None:
            asked[DETAIL_IMG] = own[DETAIL_IMG]
            # clients of other servers always send it
            if str(asked.get("batch_count")) == "1":
                del asked["batch_count"]
        self._read_prompt(asked)
        if asked.get("ad_model") not in (None, ANTELOPEV2):
            raise RequestError(f"ad_model: expected {ANTELOPEV2}, the pack of the server")
        for name in ("init_img", "mask", DETAIL_IMG):
            if asked.get(name) is not None:
                asked[name] = self._came(self.body.take_file(asked[name], name))
        if face and portraits is None:
            raise RequestError(f"{next(iter(face))}: is about portraits; send some")
        for field in ("ref_image", "control_image", "reference"):
            if asked.get(field) is not None:
                asked[field] = [
                    self._came(self.body.take_file(name, field))
                    for name in _names(asked[field], field)
                ]
        if portraits is not None:
            if asked.get("pulid_id_embedding") is not None:
                raise RequestError("portraits and pulid_id_embedding both say who it is")
            asked["pulid_id_embedding"] = self._extract(
                _names(portraits, "portraits"), PORTRAITS, face
            )
        elif asked.get("pulid_id_embedding") is not None:
            asked["pulid_id_embedding"] = self._person(asked["pulid_id_embedding"])
        if asked.get("identity") is not None:
            asked["identity"] = [
                self._placed(text) for text in _names(asked["identity"], "identity")
            ]
        if asked.get("lora") is not None:
            asked["lora"] = [self._lora(text) for text in _names(asked["lora"], "lora")]
        if asks_for_any(asked.get("seed")):
            # now: the job is read more than once
            asked["seed"] = any_seed()
        write_files(self.files, self.folder)
        return asked

    def _read_prompt(self, asked: dict[str, Any]) -> None:
        """Take the people out of the prompt."""
        for name in ("prompt", "negative_prompt"):
            text = asked.get(name)
            if isinstance(text, str) and len(text) > MAX_PROMPT:
                raise RequestError(f"{name}: {len(text)} characters; expected at most {MAX_PROMPT}")
        prompt = asked.get("prompt")
        if not isinstance(prompt, str):
            return
        asked["prompt"], tags = take_tags(prompt)
        if tags:
            named = _names(asked.get("identity") or [], "identity")
            if asked.get("pulid_id_embedding") is not None:
                named.insert(0, asked.pop("pulid_id_embedding"))
            asked["identity"] = named + [f"{tag.name},weight={tag.weight}" for tag in tags]

    def _came(self, name: str) -> str:
        self.files[name] = self.body.files[name]
        return name

    def _placed(self, text: str) -> str:
        """One of several people, with a box or a mask."""
        spec = parse_person(text)

        def change(name: str) -> str:
            if name == spec.mask:
                return self._came(self.body.take_file(name, "identity: mask"))
            return self._person(name)

        return rename_files(text, change)

    def _person(self, name: object) -> str:
        """The .pulidembd of a person who is named: one that came, one of a portrait that came, or
        one that is there.
        """
        if not isinstance(name, str):
            raise RequestError("identity: expected a name")
        if name not in self.body.files and name.startswith("data:"):
            name = self.body.take_file(name, "pulid_id_embedding")
        if name in self.body.files:
            if self.body.files[name].startswith(GGUF):
                return self._came(name)
            return self._extract([name], name + SUFFIX)
        path = self.people.find(name)
        try:
            self.files[path.name] = path.read_bytes()
            copy_vectors(path, self.folder.parent)
        except OSError as error:
            raise RequestError(f"identity {name}: cannot be read ({error.strerror})") from None
        return path.name

    def _extract(
        self, portraits: list[str], name: str, face: Mapping[str, Any] | None = None
    ) -> str:
        """The .pulidembd of one person on some portraits, as the command makes it."""
        taken = {self.body.take_file(portrait, "portraits"): None for portrait in portraits}
        if not taken:
            raise RequestError("portraits: names no file")
        write_files({key: self.body.files[key] for key in taken}, self.folder)
        paths = [str(self.folder / key) for key in taken]
        out = self.folder / name
        task = {"portrait": paths, "names": list(taken), "out": str(out)} | dict(face or {})
        answer = self.worker.ask("extract", task | {"vectors": True})
        # the portraits go when the job ends, and pictures are compared afterwards
        save_vectors(self.folder.parent / name, answer.get("vectors"))
        self.files[name] = out.read_bytes()
        return name

    def _lora(self, text: str) -> str:
        """NAME[:WEIGHT] of the server's folder of LoRAs."""
        name, colon, weight = text.rpartition(":")
        if not colon:
            name, weight = text, "1"
        return f"{find_lora(name, self.lora_folder)}:{weight}"


def asks_for_any(seed: object) -> bool:
    """Whether a seed, of JSON or of a form's text, is a negative number."""
    try:
        return whole(seed) < 0
    except ValueError:
        return False


def any_seed() -> int:
    """One that nobody chose."""
    return secrets.randbelow(2**31)


def _names(value: object, name: str) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise RequestError(f"{name}: expected a list of texts")
    return list(value)


def _or(words: Collection[str]) -> str:
    return " or ".join(words)
