"""A row with many pictures is judged once, and each of its pictures is found by itself."""

from __future__ import annotations

import pytest

from pulid_extract.shared.embedding_file import read_embedding
from pulid_generate.batch.judging import RowJobs, Rows
from pulid_generate.batch.row_files import REMEMBERED, CachedReader, InputFiles
from pulid_generate.errors import OutputError
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.pipeline.fitting import Fitting
from pulid_generate.request.job import Job
from pulid_generate.rows.row import Row

MANY = 10_000


@pytest.fixture
def calls(monkeypatch):
    """How often a row was read, fitted to the model, and one of its pictures made of it."""
    counts = {"read": 0, "job": 0, "numbered": 0}
    for kind, name in ((Rows, "read"), (Fitting, "job"), (Job, "numbered")):
        plain = getattr(kind, name)

        def counted(*arguments, plain=plain, name=name, **options):
            counts[name] += 1
            return plain(*arguments, **options)

        monkeypatch.setattr(kind, name, counted)
    return counts


def test_the_work_for_many_pictures_of_a_row_grows_with_their_number(
    pipeline, person, tmp_path, calls
):
    rows = Rows(BatchFlags(output_dir=str(tmp_path), width=64, height=48), frozenset())
    values = {"prompt": "a cat", "batch_count": MANY, "pulid_id_embedding": str(person)}
    merged = rows.merge(Row(1, 1, "line 1", values))
    jobs = RowJobs(rows, pipeline, pipeline.engine(staying="autoencoder"))
    items = jobs.items(merged)
    assert len(items) == MANY
    assert calls["read"] == calls["job"] == 1
    assert calls["numbered"] <= MANY + 1
    assert len({item.path for item in items}) == MANY
    # equal prompts are one object, whatever the number of rows
    assert len({id(item.prompts[0]) for item in items}) == 1
    calls.update(dict.fromkeys(calls, 0))
    for item in items[:: MANY // 10]:
        assert jobs.job(merged, item.index).seed == item.seed
    assert calls == {"read": 10, "job": 10, "numbered": 10}


def test_a_name_is_given_once(pipeline, tmp_path):
    rows = Rows(BatchFlags(output_dir=str(tmp_path), width=64, height=48), frozenset())
    jobs = RowJobs(rows, pipeline, None)
    for number in (1, 2):
        row = Row(number, number, f"line {number}", {"prompt": "a cat", "output": "A.png"})
        if number == 1:
            jobs.items(rows.merge(row))
            continue
        with pytest.raises(OutputError, match="as line 1 is; give each an output of its own"):
            jobs.items(rows.merge(row))
        jobs.forget_names()
        assert jobs.items(rows.merge(row))[0].path == tmp_path / "A.png"


def test_a_file_is_read_again_once_it_has_changed(tmp_path):
    reads = []

    def read(name):
        reads.append(name)
        return open(name).read()

    cached = CachedReader(read)
    names = [str(tmp_path / f"{number}") for number in range(REMEMBERED + 1)]
    for name in names:
        with open(name, "w") as file:
            file.write("old")
    assert [cached(names[0]), cached(names[0])] == ["old", "old"]
    assert len(reads) == 1
    with open(names[0], "w") as file:
        file.write("newer")
    assert cached(names[0]) == "newer"
    for name in names[1:]:
        cached(name)
    del reads[:]
    cached(names[-1])
    assert not reads
    cached(names[0])  # the longest unused has left
    assert reads == [names[0]]
    with pytest.raises(FileNotFoundError):
        cached(str(tmp_path / "none"))


def test_inputs_are_known_by_their_inodes(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").write_bytes(b"a")
    (tmp_path / "link").symlink_to(tmp_path / "folder" / "a")
    inputs = InputFiles()
    inputs.add([tmp_path / "folder", tmp_path / "none"])
    with pytest.raises(OutputError, match="is read as an input"):
        inputs.check(tmp_path / "link")
    inputs.check(tmp_path / "none")
    (tmp_path / "b").write_bytes(b"b")
    inputs.check(tmp_path / "b")


def test_an_identity_is_read_once_for_all_rows(pipeline, person, tmp_path, monkeypatch):
    reads = []
    monkeypatch.setattr(
        "pulid_generate.batch.judging.read_embedding",
        lambda name: (reads.append(name), read_embedding(name))[1],
    )
    rows = Rows(BatchFlags(output_dir=str(tmp_path), width=64, height=48), frozenset())
    jobs = RowJobs(rows, pipeline, None)
    for number in range(1, 6):
        values = {"prompt": "a cat", "pulid_id_embedding": str(person)}
        jobs.items(rows.merge(Row(number, number, f"line {number}", values)))
    assert len(reads) == 1
