"""pulid-generate batch through the command line, on the micro models: the same files as single
commands, resumed, and what stops a run.
"""

from __future__ import annotations

import hashlib

import pytest
from safetensors.torch import load_file, save_file
from support.batch_rows import ROWS, SIZE, distance, flags_of, manifest
from support.programs.commands import lines

from pulid_generate.batch import running as batch_run
from pulid_generate.errors import IdentityError, OutputError
from pulid_generate.pipeline import loading, planning
from pulid_generate.pipeline.denoiser import Denoiser

# of 255, any channel: a row of a larger batch against the same row alone, float32 on a CPU;
# README.md names it
ROUNDING = 1


pytestmark = pytest.mark.usefixtures("own_cache")


def test_a_row_alone_is_the_single_commands_file(generate, models, rows, tmp_path, monkeypatch):
    loads = []
    for name in ("load_flux", "load_vae"):
        load = getattr(loading, name)
        monkeypatch.setattr(
            loading,
            name,
            lambda *a, name=name, load=load, **k: (loads.append(name), load(*a, **k))[1],
        )
    for name in ("ClipText", "T5Text"):
        kind = getattr(loading, name)
        load = kind.load
        monkeypatch.setattr(
            kind,
            "load",
            lambda *a, name=name, load=load, **k: (loads.append(name), load(*a, **k))[1],
        )
    run = generate("batch", rows, *models, "--output-dir", tmp_path / "out")
    assert run.code == 0, run.err
    assert loads == ["ClipText", "T5Text", "load_flux", "load_vae"]  # each once
    monkeypatch.undo()
    found = {line["output"]: line for line in lines(run)}
    assert sorted(line["row"] for line in found.values()) == [1, 2, 3, 4, 5, 6]
    single = tmp_path / "single"
    single.mkdir()
    for row in ROWS:
        alone = generate(*models, *flags_of({**row, "output": single / row["output"]}, tmp_path))
        assert alone.code == 0, alone.err
        drawn = tmp_path / "out" / row["output"]
        assert drawn.read_bytes() == (single / row["output"]).read_bytes(), row
        assert found[str(drawn)]["sha256"] == hashlib.sha256(drawn.read_bytes()).hexdigest()
        assert found[str(drawn)]["seed"] == row["seed"]
        assert found[str(drawn)]["error"] is None
        assert found[str(drawn)]["arithmetic"] == "float32"
    assert found[str(tmp_path / "out" / "two.png")]["identity"] is None
    assert len(found[str(tmp_path / "out" / "one.png")]["identity"]) == 64


def test_the_text_cache_changes_no_byte_and_saves_the_encoders(
    generate, models, rows, tmp_path, monkeypatch
):
    first = lines(generate("batch", rows, *models, "--output-dir", tmp_path / "a"))
    entries = list((tmp_path / "cache" / "text").iterdir())
    assert len(entries) == 4  # prompts, not rows
    assert {entry.stat().st_mode & 0o777 for entry in entries} == {0o600}
    with monkeypatch.context() as patch:
        patch.setattr(loading.T5Text, "load", lambda *a: pytest.fail("T5 was loaded"))
        second = lines(generate("batch", rows, *models, "--output-dir", tmp_path / "b"))
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:-3] + b"abc")  # damaged: encoded again
    third = lines(generate("batch", rows, *models, "--output-dir", tmp_path / "c"))
    for entry in entries:
        entry.unlink()
    fourth = lines(generate("batch", rows, *models, "--no-cache", "--output-dir", tmp_path / "d"))
    assert not list((tmp_path / "cache" / "text").iterdir())
    hashes = [sorted(line["sha256"] for line in run) for run in (first, second, third, fourth)]
    assert hashes[0] == hashes[1] == hashes[2] == hashes[3]


def test_larger_batches_differ_by_rounding_at_most(generate, models, people, tmp_path):
    grid = (
        "-p",
        "a cat",
        "--identities",
        people,
        "--seeds",
        "1-2",
        "-W",
        64,
        "-H",
        48,
        "--pulid-id-weight",
        3,
    )
    drawn = {}
    for size in (1, 3):
        run = generate(
            "batch", *grid, *models, "--batch-size", size, "--output-dir", tmp_path / str(size)
        )
        assert run.code == 0, run.err
        drawn[size] = sorted((tmp_path / str(size)).iterdir())
    assert [path.name for path in drawn[3]] == [
        "0001_ada_1.png",
        "0002_ada_2.png",
        "0003_bob_1.png",
        "0004_bob_2.png",
    ]
    for alone, together in zip(drawn[1], drawn[3], strict=True):
        assert distance(alone, together) <= ROUNDING
    # another person is further away than rounding
    assert distance(drawn[1][0], drawn[1][2]) > ROUNDING
    assert distance(drawn[1][0], drawn[1][1]) > ROUNDING


def test_a_batch_that_fails_is_tried_row_by_row(generate, models, people, tmp_path, monkeypatch):
    layers = Denoiser._layers

    def bad_ada(self, embedding, *more):
        if embedding.source.endswith("ada.pulidembd"):
            raise IdentityError("ada: cannot be folded")
        return layers(self, embedding, *more)

    monkeypatch.setattr(Denoiser, "_layers", bad_ada)
    grid = ("-p", "a cat", "--identities", people, "--seeds", "1-2", "-W", 64, "-H", 48)
    run = generate("batch", *grid, *models, "--batch-size", 4, "--output-dir", tmp_path / "out")
    status = {line["row"]: line["status"] for line in lines(run)}
    assert (run.code, status) == (1, {1: "failed", 2: "failed", 3: "done", 4: "done"})
    assert "2 of 4 pictures failed" in run.error
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "0003_bob_1.png",
        "0004_bob_2.png",
    ]


def test_all_problems_are_listed_before_anything_loads(
    generate, models, people, tmp_path, monkeypatch
):
    monkeypatch.setattr(loading, "load_flux", lambda *a, **k: pytest.fail("Flux was loaded"))
    monkeypatch.setattr(loading.ClipText, "load", lambda *a, **k: pytest.fail("CLIP was loaded"))
    good = {"prompt": "a cat", **SIZE}
    path = manifest(
        tmp_path / "rows.jsonl",
        {**good, "seed": 1, "output": "same.png"},
        {**good, "seeed": 1},
        {**good, "seed": "x"},
        {**good, "width": 50},
        {**good, "pulid_id_embedding": "people/eve.pulidembd"},
        {**good, "seed": 2, "output": "Same.png"},
        {**good, "vae": "other.safetensors", "device": "cuda"},
        {"seed": 3},
        {**good, "pulid_id_weight": 0.5},
        {**good, "output": "../x.png"},
        {**good, "output": "x.gif"},
        {**good, "prompt": "cat " * 600},
        {**good, "id_start_step": 9, "pulid_id_embedding": "people/ada.pulidembd"},
        {**good, "sampling_method": "magic"},
    )
    with open(path, "a") as file:
        file.write("{broken\n[1]\n")
    run = generate("batch", path, *models, "--output-dir", tmp_path / "out")
    assert "15 problems, listed above; nothing was started" in run.error
    told = [line for line in run.err.splitlines() if line.startswith("line ")]
    assert [int(line.split(":")[0][5:]) for line in told] == list(range(2, 17))
    for number, words in {
        2: "unknown option 'seeed'",
        3: "seed 'x': expected a whole number",
        4: "width 50: expected a multiple of 16",
        5: "eve.pulidembd",
        6: "as line 1 is",
        7: "'vae' is the same for all rows; give it on the command line; 'device' is the same",
        8: "missing option '--prompt'",
        9: "--pulid-id-weight needs '--pulid-id-embedding'",
        10: "below --output-dir",
        11: ".gif",
        12: "T5 tokens",
        13: "id-start-step",
        14: "magic",
        15: "is not JSON",
        16: "expected a JSON object",
    }.items():
        assert words in told[number - 2], told[number - 2]
    assert not (tmp_path / "out").exists()


def test_csv_defaults_and_names(generate, models, people, tmp_path):
    (tmp_path / "rows.csv").write_text(
        'prompt,seed,pulid-id-embedding\n"a cat, sleeping",1,people/ada.pulidembd\na dog,,\n'
    )
    run = generate(
        *(
            "batch",
            tmp_path / "rows.csv",
            *models,
            "--seed",
            9,
            "-W",
            64,
            "-H",
            48,
            "-b",
            2,
            "--output-dir",
            tmp_path / "out",
        ),
        *("--name", "{prompt}-{row:02d}-{identity}-{seed}.jpg"),
    )
    assert run.code == 0, run.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "a-cat-sleeping-01-ada-1.jpg",
        "a-cat-sleeping-01-ada-2.jpg",
        "a-dog-02-nobody-10.jpg",
        "a-dog-02-nobody-9.jpg",
    ]


def test_resume_skips_what_is_there_and_redraws_what_is_not_the_same(
    generate, models, rows, tmp_path, monkeypatch
):
    into = ("--output-dir", tmp_path / "out")
    first = {line["row"]: line["sha256"] for line in lines(generate("batch", rows, *models, *into))}
    with monkeypatch.context() as patch:
        patch.setattr(loading, "load_flux", lambda *a, **k: pytest.fail("Flux was loaded"))
        again = lines(generate("batch", rows, *models, *into, "--resume"))
    assert {line["row"]: (line["status"], line["sha256"]) for line in again} == {
        row: ("skipped", sha256) for row, sha256 in first.items()
    }
    assert {line["arithmetic"] for line in again} == {None}
    changed = [dict(row) for row in ROWS]
    changed[1]["seed"] = 20
    changed[2]["t5_max_length"] = 128  # seen in no prompt, size or seed
    manifest(rows, *changed)
    (tmp_path / "out" / "one.png").write_bytes((tmp_path / "out" / "one.png").read_bytes()[:-40])
    (tmp_path / "out" / "four.png").unlink()
    run = lines(generate("batch", rows, *models, *into, "--resume"))
    assert {line["row"] for line in run if line["status"] == "done"} == {1, 2, 3, 4}
    hashes = {line["row"]: line["sha256"] for line in run}
    assert {row for row in first if first[row] != hashes[row]} == {2, 3}
    error = generate("batch", rows, *models, *into, "--resume", "--disable-image-metadata").error
    assert "problems" in error


def test_no_row_replaces_an_input(generate, models, rows, tmp_path):
    manifest(
        rows,
        {"prompt": "x", **SIZE, "steps": 4, "strength": 0.5, "init_img": "start.png"},
        {"prompt": "y", **SIZE, "output": "start.png"},
    )
    run = generate("batch", rows, *models, "--output-dir", tmp_path)
    assert "1 problem," in run.error
    assert "line 2: " in run.err
    assert "is read as an input" in run.err


def test_where_the_autoencoder_does_not_fit_beside_flux(
    generate, models, rows, tmp_path, monkeypatch
):
    """The same bytes from the other order: a chunk is decoded once Flux has left."""
    together = {
        line["row"]: line["sha256"]
        for line in lines(generate("batch", rows, *models, "--output-dir", tmp_path / "a"))
    }
    nothing = dict.fromkeys(planning.BESIDE_FLUX, (frozenset(),))
    monkeypatch.setattr(planning, "BESIDE_FLUX", nothing)
    monkeypatch.setattr(batch_run, "CHUNK", 2)
    run = generate("batch", rows, *models, "--output-dir", tmp_path / "b", "--verbose")
    assert {line["row"]: line["sha256"] for line in lines(run)} == together
    assert run.err.count("loading Flux") == 3  # six rows, two in a chunk


def test_a_full_disk_is_one_line_and_stops(generate, models, rows, tmp_path, monkeypatch):
    def full(path, data):
        try:
            raise OSError(28, "No space left on device")
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from None

    monkeypatch.setattr("pulid_generate.batch.running.write_atomically", full)
    run = generate("batch", rows, *models, "--output-dir", tmp_path / "out")
    assert "No space left on device" in run.error
    assert "--resume" in run.error
    assert len(lines(run)) < len(ROWS)  # it did not go on to draw what cannot be written


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-p", "x"), "Missing argument 'MANIFEST|-'"),
        (("x.jsonl", "--seeds", "1"), "leave one of them out"),
        (("--seeds", "1", "-o", "x.png"), "--name PATTERN"),
        (("--seeds", "1", "--pulid-id-embedding", "-"), "Standard input"),
        (("-", "--batch-size", "2"), "line by line"),
    ],
)
def test_wrong_usage(generate, flags, words):
    run = generate("batch", *flags)
    assert (run.code, words in run.err) == (2, True), run.err


def test_an_adapter_with_nan_fails_rows_and_not_the_run(generate, models, micro, people, tmp_path):
    state = load_file(micro / "pulid_flux_v0.9.1.safetensors")
    state["pulid_ca.0.to_out.weight"][0, 0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    path = manifest(
        tmp_path / "rows.jsonl",
        {"prompt": "a", **SIZE, "pulid_id_embedding": "people/ada.pulidembd"},
        {"prompt": "b", **SIZE},
    )
    run = generate(
        "batch",
        path,
        *models,
        "--pulid-weights",
        tmp_path / "nan.safetensors",
        "--output-dir",
        tmp_path / "out",
    )
    assert {line["row"]: line["status"] for line in lines(run)} == {1: "failed", 2: "done"}
    assert "NaN" in next(line["error"] for line in lines(run) if line["error"])
    assert run.code == 1
