"""The sheet and the scores of a batch: what stands where, whatever came of the rows; the command
with a stand-in for the program that scores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from seeded.checkpoints import write_embedding
from support.programs.commands import lines

from pulid_extract.shared.embedding_file import encode_embedding
from pulid_generate.assembly import opening
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.references import references_of
from pulid_generate.batch.judging import Rows
from pulid_generate.batch.lines import PictureResult
from pulid_generate.batch.results import PictureOutcome, ResultCollector
from pulid_generate.batch.sheet import (
    batch_sheet,
    differing_options,
    option_text,
    people_names,
)
from pulid_generate.errors import ScoringError
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.pictures.score_lines import Score
from pulid_generate.rows.row import Row


def outcome(number, seed=1, *, output="a.png", error=None, score=None, references=(), **values):
    row = Row(number, number, f"line {number}", {"prompt": "a cat", "seed": seed, **values})
    flags, _ = row.merged(BatchFlags(), frozenset())
    drawn = result(number, seed, output, error)
    return PictureOutcome(row, flags, tuple(map(Path, references)), seed, drawn, score)


def texts(grid) -> list[list[list[str]]]:
    return [[[tile.caption for tile in cell] for cell in row] for row in grid.cells]


ADA, BOB = "people/ada.pulidembd", "people/bob.pulidembd"


def test_identities_down_prompts_across_seeds_under_them():
    rows = [
        outcome(
            1 + index,
            seed,
            prompt=prompt,
            pulid_id_embedding=person,
            references=[f"{Path(person).stem}.png"],
        )
        for index, (prompt, person, seed) in enumerate(
            (prompt, person, seed)
            for prompt in ("a cat", "a dog")
            for person in (ADA, BOB)
            for seed in (1, 2)
        )
    ]
    grid = batch_sheet(rows)
    assert [head.text for head in grid.columns] == ["a cat", "a dog"]
    assert [(head.text, str(head.picture)) for head in grid.rows] == [
        ("ada", "ada.png"),
        ("bob", "bob.png"),
    ]
    assert texts(grid) == [[["seed 1", "seed 2"]] * 2] * 2
    assert [
        head.picture
        for head in batch_sheet([outcome(1, references=["a.png"], pulid_id_embedding=ADA)]).rows
    ] == [Path("a.png")]
    same = [
        outcome(n, references=["a.png"], pulid_id_embedding=person)
        for n, person in enumerate((ADA, BOB))
    ]
    # it is of one of them at most
    assert [head.picture for head in batch_sheet(same).rows] == [None, None]


def test_nobody_needs_no_head_and_several_people_are_named_together():
    assert not batch_sheet([outcome(1), outcome(2, 2)]).rows
    grid = batch_sheet([outcome(1), outcome(2, identity=[ADA, f"{BOB},weight=0.5"])])
    assert [head.text for head in grid.rows] == ["nobody", "ada+bob"]
    assert people_names([("x/me.pulidembd",), ("y/me.pulidembd",)]) == {
        (f"{folder}/me.pulidembd",): f"{folder}/me.pulidembd" for folder in "xy"
    }


def test_what_differs_is_said_under_the_pictures_and_the_rest_is_not():
    rows = [
        outcome(1, steps=4, sampling_method="heun"),
        outcome(2, steps=8, sampling_method="heun"),
        outcome(3, prompt_weights=True),
    ]
    assert differing_options([row.flags for row in rows]) == [
        "prompt_weights",
        "steps",
        "sampling_method",
    ]
    assert texts(batch_sheet(rows)) == [
        [
            [
                "seed 1\nsteps 4, sampling-method heun",
                "seed 1\nsteps 8, sampling-method heun",
                "seed 1\nprompt-weights, sampling-method euler",
            ]
        ]
    ]
    assert texts(batch_sheet(rows[:1])) == [[["seed 1"]]]
    assert option_text("init_img", "a/b.png") == "init-img b.png"
    assert option_text("pulid_id_weight", 0.30000000001) == "pulid-id-weight 0.3"
    assert option_text("lora", ["a/b.safetensors:0.5"]) == "lora b.safetensors:0.5"
    assert option_text("steps", None) == ""


def test_rows_that_make_no_grid_stand_in_their_order():
    rows = [
        outcome(n, prompt=f"prompt {n}", pulid_id_embedding=f"p{n}.pulidembd") for n in range(1, 6)
    ]
    grid = batch_sheet(rows)
    assert (grid.columns, grid.rows) == ((), ())
    assert texts(grid)[0][0][0] == "seed 1\np1\nprompt 1"
    assert len(grid.cells[0][0]) == 5


def test_a_tile_says_why_it_is_empty_and_how_like_it_is():
    assert outcome(1, output=None, error="NaN").thumbnail().reason == "NaN"
    assert outcome(1, output=None, error="NaN").thumbnail().picture is None
    assert outcome(1).thumbnail() == outcome(1).thumbnail() or outcome(1).thumbnail().reason == ""
    assert outcome(1, score=Score("ok", 0.714)).thumbnail().caption == "seed 1\nlikeness 0.71"
    assert (
        outcome(1, score=Score("ok", 0.714, stranger=0.1)).thumbnail("x").caption
        == "seed 1\nx\nlikeness 0.71, stranger 0.10"
    )
    assert outcome(1, score=Score("no face")).thumbnail().caption == "seed 1\nno face"


def collector(tmp_path, rows, told, sheet="grid.png", **flags):
    many = Rows(BatchFlags(output_dir=str(tmp_path), prompt="a cat", **flags), frozenset())
    return ResultCollector(many, rows, str(tmp_path / sheet), Progress(quiet=True), told.append)


def result(number, seed, output=None, error=None):
    status = "done" if error is None else "failed"
    return PictureResult(status, number, number, output, "0", seed, error=error)


def test_an_interrupted_run_has_the_sheet_of_what_is_there(tmp_path, monkeypatch):
    told, grids = [], []
    rows = [
        Row(1, 1, "line 1", {"batch_count": 3, "seed": 5}),
        Row(2, 2, "line 2", {"seed": -1, "reference": ["me.png"]}),
    ]
    results = collector(tmp_path, rows, told)
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(opening, "Scorer", lambda **_: pytest.fail("nobody waits for scores"))

    def draw():
        results.add(result(1, 6, str(tmp_path / "a.png")))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results.draw_and_finish(
            draw, lambda outcomes: grids.append(batch_sheet(outcomes)) or grids[0]
        )
    tiles = [tile for row in grids[0].cells for cell in row for tile in cell]
    assert [(tile.caption, tile.reason) for tile in tiles] == [
        ("seed 5", "not drawn"),
        ("seed 6", ""),
        ("seed 7", "not drawn"),
        ("", "not drawn"),
    ]
    assert (tmp_path / "grid.png").stat().st_mode & 0o777 == 0o600
    assert [line.as_dict()["status"] for line in told] == ["done", "sheet"]


def test_scores_that_cannot_be_made_do_not_keep_the_sheet_away(tmp_path, monkeypatch):
    told = []
    results = collector(tmp_path, [Row(1, 1, "line 1", {"reference": ["me.png"], "seed": 1})], told)

    class Broken:
        def __init__(self, **options):
            assert options["references"] == ["me.png"]

        def scores(self, pictures):
            raise ScoringError("killed")

    monkeypatch.setattr(opening, "Scorer", Broken)
    with pytest.raises(ScoringError, match="killed"):
        results.draw_and_finish(
            lambda: results.add(result(1, 1, str(tmp_path / "a.png"))), batch_sheet
        )
    assert (tmp_path / "grid.png").is_file()


def test_scores_by_another_network_than_made_the_person_are_noted(tmp_path, monkeypatch, fake):
    """As drawing one picture and `validate` note it; a file that does not say is left alone."""
    fake("for path in pictures: likeness(1.0)")
    people = {"ada": {"recognizer.sha256": "cd" * 32}, "bob": {"recognizer.sha256": "ab" * 32}}
    rows = []
    for number, (name, made) in enumerate((people | {"cleo": {}}).items(), 1):
        file = tmp_path / f"{name}.pulidembd"
        file.write_bytes(encode_embedding(np.ones((1, 4)), provenance=made))
        values = {"reference": [f"{name}.png"], "pulid_id_embedding": str(file)}
        rows.append(Row(number, number, f"line {number}", values))
    # said once, and left to who judges the rows
    rows.append(Row(4, 4, "line 4", rows[0].values))
    rows.append(Row(5, 5, "line 5", {"reference": ["x.png"], "pulid_id_embedding": "none"}))
    # nobody scores it
    rows.append(Row(6, 6, "line 6", {"pulid_id_embedding": str(tmp_path / "ada.pulidembd")}))
    noted: list[str] = []
    results = collector(tmp_path, rows, [])
    monkeypatch.setattr(results.progress, "note", noted.append)
    results.check_references()
    assert len(noted) == 1
    assert "ada.pulidembd was made with another face recogniser" in noted[0]


def test_a_folder_of_references_is_one_picture_for_each_person(tmp_path):
    for name in ("ada.jpg", "bob.PNG", "bob.txt"):
        (tmp_path / name).write_bytes(b"")

    def references(**values):
        return references_of(outcome(1, reference=[str(tmp_path)], **values).flags)

    assert references(pulid_id_embedding=ADA) == (tmp_path / "ada.jpg",)
    assert references(identity=[BOB]) == (tmp_path / "bob.PNG",)
    assert references(identity=[ADA, BOB]) == references() == ()
    with pytest.raises(Exception, match=r"holds no picture eve.png"):
        references(pulid_id_embedding="eve.pulidembd")
    assert references_of(outcome(1, reference=["x.png", "y.png"]).flags) == (
        Path("x.png"),
        Path("y.png"),
    )


# -------------------------------------------------------------------------------------- the command


@pytest.fixture
def setting(micro, person, tmp_path, fake):
    """The command's flags: two people with portraits, two prompts; pictures of seed 2 have no face
    for the fake.
    """
    people = tmp_path / "people"
    people.mkdir()
    (people / "ada.pulidembd").write_bytes(person.read_bytes())
    write_embedding(people / "bob.pulidembd", seed=6)
    for name in ("ada", "bob"):
        Image.new("RGB", (40, 40), (200, 0, 0)).save(people / f"{name}.png")
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n")
    fake("for path in pictures: faceless() if path.endswith('_2.png') else likeness(0.5)")
    return (
        *(
            "batch",
            "--prompts",
            tmp_path / "prompts.txt",
            "--identities",
            people,
            "--seeds",
            "1-2",
            "--models-dir",
            micro,
        ),
        *(
            "--diffusion-model",
            micro / "flux1-schnell.safetensors",
            "--t5-tokenizer",
            micro / "tokenizer.json",
        ),
        *("--device", "cpu", "--steps", 1, "-W", 64, "-H", 48, "--output-dir", tmp_path / "out"),
    )


def test_the_command_scores_and_lays_out_what_is_there(generate, setting, tmp_path):
    sheet = ("--sheet", tmp_path / "out" / "grid.png")
    first = generate(*setting, *sheet)
    assert first.code == 0, first.err
    assert [line["status"] for line in lines(first)] == ["done"] * 8 + ["sheet"]
    assert lines(first)[-1]["output"] == str(tmp_path / "out" / "grid.png")
    plain = np.asarray(Image.open(tmp_path / "out" / "grid.png"))
    (tmp_path / "out" / "0003_bob_1.png").unlink()
    (tmp_path / "out" / "0003_bob_1.png").mkdir()  # cannot be written
    refused = generate(*setting, *sheet)
    assert "is a folder" in refused.err
    (tmp_path / "out" / "0003_bob_1.png").rmdir()
    again = generate(*setting, *sheet, "--resume", "--reference", tmp_path / "people")
    assert again.code == 0, again.err
    found = lines(again)
    assert [line["status"] for line in found] == ["skipped"] * 7 + ["done"] + ["scored"] * 8 + [
        "sheet"
    ]
    scores = {
        line["row"]: (line["likeness"], line["faces"])
        for line in found
        if line["status"] == "scored"
    }
    assert scores == {row: (0.5, 1) if row % 2 else (None, 0) for row in range(1, 9)}
    scored = np.asarray(Image.open(tmp_path / "out" / "grid.png"))
    assert (
        (scored == (200, 0, 0)).all(axis=2).sum(),
        (plain == (200, 0, 0)).all(axis=2).sum(),
    ) == (2 * 160 * 160, 0)
    assert scored.shape[0] > plain.shape[0]  # a line of likeness under each


def test_a_reference_without_a_face_is_known_before_anything_is_drawn(
    generate, setting, tmp_path, fake
):
    fake("for path in pictures: faceless() if path.endswith('bob.png') else likeness(1.0)")
    run = generate(*setting, "--reference", tmp_path / "people")
    assert "bob.png" in run.error
    assert "give another picture" in run.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--sheet", "out/0001_ada_1.png"), "is where the sheet goes"),
        (
            ("--sheet", "out/0001_ada.png", "--name", "{row:04d}_ada-{index}.png"),
            "is where the sheet goes",
        ),
        (("--sheet", "people/ada.png", "--reference", "people"), "is read as an input"),
        (("--sheet", "grid.pdf"), "is not that of a picture format"),
        (("--sheet", "nowhere/grid.png"), "its folder is not there"),
    ],
)
def test_a_sheet_that_cannot_be(generate, setting, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    run = generate(*setting, *flags)
    # a suffix is wrong whatever is in the folders
    code = 2 if "format" in words else 1
    assert (run.code, words in run.err) == (code, True), run.err
    assert not list((tmp_path / "out").glob("*.png"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-", "--sheet", "x.png"), "--sheet needs rows"),
        (("-", "--reference", "x.png"), "line by line"),
        (("--seeds", "1", "--sheet", "-"), "--sheet is a file"),
    ],
)
def test_wrong_usage(generate, flags, words):
    run = generate("batch", *flags)
    assert (run.code, words in run.err) == (2, True), run.err
