"""Who is in the picture: from the flags' words to embeddings, weights and regions.

The one place that knows which flags name a person. Loads no model; imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pulid_extract.shared.embedding_file import Embedding
from pulid_generate.errors import RequestError
from pulid_generate.flags.commands.tables import Flags
from pulid_generate.request.job import Subject
from pulid_generate.request.people.identities import PersonSpec, assemble, parse_person

if TYPE_CHECKING:
    import numpy as np

    from pulid_generate.request.generation import GenerationRequest


def people_of(flags: Flags) -> list[PersonSpec]:
    """Everybody whom the flags name, as typed. Raises RequestError."""
    named = [parse_person(text) for text in flags.identity or ()]
    if flags.pulid_id_embedding is not None:
        named.insert(0, PersonSpec(flags.pulid_id_embedding))
    return named


def identity_files(flags: Flags) -> list[str]:
    """The embeddings of everybody whom the flags name; "-" is standard input. Raises
    RequestError.
    """
    return [spec.file for spec in people_of(flags)]


def read_subjects(
    flags: Flags,
    request: GenerationRequest,
    read: Callable[[str], Embedding],
    references: Callable[[PersonSpec, int], tuple[bytes, ...]] = lambda spec, people: (),
    apart: bool = False,
) -> tuple[Subject, ...]:
    """The people of a picture, with all that decides their part in it.

    request: its weight and schedule hold for everybody. read: gives the embedding of a file.
    references: of one of so many people, what the face is recognised by in a detail pass. apart:
    without regions several files are several people, who are told apart by their references.
    Raises PulidError.
    """
    specs = people_of(flags)
    if not specs:
        return ()
    embeddings = [read(spec.file) for spec in specs]
    if apart and len(specs) > 1 and all(spec.everywhere for spec in specs):
        people = list(zip(specs, embeddings, strict=True))
    else:
        people = assemble(specs, embeddings, flags.identity_fusion)
    regions = [_region(spec, request) for spec, _ in people]
    if len(people) > 1 and all(region is not None for region in regions):
        from pulid_generate.request.people.regions import share_overlaps

        # several people have regions all, `assemble` has seen to it
        regions = list(share_overlaps([region for region in regions if region is not None]))
    subjects = []
    for (spec, embedding), region in zip(people, regions, strict=True):
        known = references(spec, len(people))
        if region is None and len(people) > 1 and not known:
            stem = Path(spec.file).stem
            raise RequestError(
                f"identity {spec.file}: of several people each has a region, or a --reference that "
                f"is called like the file, such as {stem}.png"
            )
        subjects.append(
            Subject(
                embedding,
                weight=request.id_weight * spec.weight,
                schedule=spec.schedule(request.id_schedule),
                region=region,
                box=spec.box,
                references=known,
            )
        )
    return tuple(subjects)


def _region(spec: PersonSpec, request: GenerationRequest) -> np.ndarray | None:
    """(L,) float32 in [0, 1] over the image tokens; None for the whole picture."""
    from pulid_generate.request.people.regions import box_region, mask_region

    where = f"identity {spec.file}"
    if spec.box is not None:
        return box_region(spec.box, request.width, request.height, f"{where}: box")
    if spec.mask is not None:
        return mask_region(spec.mask, request.width, request.height, f"{where}: mask")
    return None
