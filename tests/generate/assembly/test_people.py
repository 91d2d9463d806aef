"""Who the flags name: one reading of it for drawing, usage, names, reports and plans."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from seeded.checkpoints import write_embedding

from pulid_extract.shared.embedding_file import read_embedding
from pulid_generate.assembly.people import identity_files, people_of, read_subjects
from pulid_generate.assembly.references import references_of
from pulid_generate.assembly.usage import (
    input_files,
    shared_input_error,
    standard_input_readers,
    usage_error,
)
from pulid_generate.errors import RequestError
from pulid_generate.flags.commands.tables import BatchFlags, Flags
from pulid_generate.inspection import readiness
from pulid_generate.request.generation import GenerationRequest
from pulid_generate.request.people.id_schedule import IdSchedule
from pulid_generate.rows.manifest import read_row

WITH_COMMA = "ada, 2024.pulidembd"


def test_a_comma_in_a_name_is_part_of_it_wherever_a_person_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_embedding(tmp_path / WITH_COMMA)
    Path("ada, 2024.png").touch()
    text = f"{WITH_COMMA},weight=0.5"
    flags = BatchFlags(prompt="a cat", identity=[text], reference=[str(tmp_path)])
    assert identity_files(flags) == [WITH_COMMA]
    [subject] = read_subjects(flags, GenerationRequest("a cat", id_weight=0.5), read_embedding)
    assert (subject.embedding.source, subject.weight) == (WITH_COMMA, 0.25)
    # what must not be overwritten
    no_models = SimpleNamespace(files=SimpleNamespace(by_role=tuple))
    assert Path(WITH_COMMA) in list(input_files(flags, no_models))
    # the reference that belongs to the person
    assert references_of(flags) == (tmp_path / "ada, 2024.png",)
    # doctor's plan
    assert readiness._id_tokens(flags) == (32,)
    # a manifest's row, in a folder of its own
    row = read_row({"identity": [text]}, 1, 1, Path("people"))
    assert row.values["identity"] == [f"people/{WITH_COMMA},weight=0.5"]
    assert identity_files(BatchFlags(identity=row.values["identity"])) == [f"people/{WITH_COMMA}"]


def test_standard_input_is_read_once_whoever_wants_it():
    both = Flags(prompt="a cat", pulid_id_embedding="-", identity=["-,weight=0.5"])
    assert standard_input_readers(both) == ["--pulid-id-embedding", "--identity"]
    assert usage_error(both, ()) == (
        "--pulid-id-embedding and --identity all want standard input; it can be read once."
    )
    # a name that only begins with a dash and a comma is a file's
    plain = Flags(prompt="a cat", identity=["-, second.pulidembd"], init_img="-")
    assert standard_input_readers(plain) == ["--init-img"]
    assert usage_error(plain, ()) is None
    assert shared_input_error(Flags(identity=["-,start=2"])) is not None
    assert shared_input_error(Flags(identity=["a.pulidembd"])) is None
    with pytest.raises(RequestError, match="unknown part 'wieght'"):
        people_of(Flags(identity=["a.pulidembd,wieght=2"]))


def test_weight_and_schedule_are_settled_where_a_subject_is_made(tmp_path):
    file = str(write_embedding(tmp_path / "me.pulidembd"))
    everybody = IdSchedule(start=2, points=((0, 1.0), (4, 0.5)), double=0.5)
    request = GenerationRequest("a cat", id_weight=0.8, id_schedule=everybody)
    [plain] = read_subjects(Flags(pulid_id_embedding=file), request, read_embedding)
    assert (plain.weight, plain.schedule, plain.region) == (0.8, everybody, None)
    assert plain.weights_at(1, 8) == (0, 0)
    assert plain.weights_at(4, 8) == (0.8 * 0.25, 0.8 * 0.5)
    flags = Flags(
        identity=[f"{file},box=0,0,256,512,weight=0.5,start=0", f"{file},box=128,0,384,512"]
    )
    left, right = read_subjects(flags, request, read_embedding)
    assert (left.weight, right.weight) == (0.4, 0.8)
    assert (left.schedule.start, right.schedule.start) == (0, 2)
    assert float(np.max(left.region + right.region)) <= 1 + 1e-6
    assert read_subjects(Flags(), request, pytest.fail) == ()
