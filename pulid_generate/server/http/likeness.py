"""How like the person a drawn picture is, for who asks: by `pulid-extract worker`, once for each
picture.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from pulid_generate.errors import PulidError
from pulid_generate.request.people.identities import parse_person
from pulid_generate.server.failures import not_found, without_folder
from pulid_generate.server.http.state import Server, beside, job_of, server_of
from pulid_generate.server.intake.people import People
from pulid_generate.server.intake.portraits import known_portraits
from pulid_generate.server.work.jobs import JobRecord

router = APIRouter()
UNKNOWN = "no portrait is known here: it has one if it was made of portraits in this session"


@router.get("/v1/jobs/{name}/pictures/{index}/likeness")
async def get_likeness(request: Request, name: str, index: int) -> dict[str, Any]:
    """How like each person of a job its picture is: the cosine of the face that is most like, by
    the network that PuLID is conditioned on; null and `why` where nobody can tell.
    """
    server, job = server_of(request), job_of(request, name)
    if not 0 <= index < len(job.pictures):
        raise not_found(f"picture {index}")
    if index not in job.likenesses:
        job.likenesses[index] = await beside(_compare, server, job, index)
    return {"people": job.likenesses[index]}


def _compare(server: Server, job: JobRecord, index: int) -> list[dict[str, Any]]:
    people = []
    for name in named_in(job):
        told: dict[str, Any] = {"name": Path(name).stem, "likeness": None, "faces": None}
        try:
            told |= _of_person(server, job, index, name)
        except PulidError as error:
            why = without_folder(str(error), job.folder)
            told["why"] = server.judge.without_folders(why)
        people.append(told)
    return people


def _of_person(server: Server, job: JobRecord, index: int, name: str) -> dict[str, Any]:
    """Raises PulidError."""
    everybodys = People((server.settings.identities,)).files().get(Path(name).stem)
    portraits = known_portraits(name, job.folder, everybodys)
    if portraits is None:
        return {"why": UNKNOWN}
    photo = str(job.folder / job.pictures[index].name)
    answer = server.worker.ask("score", {"photo": photo} | portraits)
    told = {part: answer[part] for part in ("likeness", "faces", "recognizer")}
    return told | ({"why": "no face was found"} if answer["likeness"] is None else {})


def named_in(job: JobRecord) -> list[str]:
    """The .pulidembd files of everybody in a job, by name."""
    names = []
    if job.asked.get("pulid_id_embedding") is not None:
        names.append(str(job.asked["pulid_id_embedding"]))
    for text in job.asked.get("identity") or []:
        names.append(parse_person(text).file)
    return list(dict.fromkeys(names))
