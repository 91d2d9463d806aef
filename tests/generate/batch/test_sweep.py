"""Axes of a sweep: what their texts mean and what is refused; the command: one sheet, the same
pictures as single commands draw.
"""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from support.programs.commands import lines

from pulid_generate.batch import sweep as sweep_run
from pulid_generate.batch.lines import PictureResult
from pulid_generate.batch.results import PictureOutcome
from pulid_generate.errors import RequestError
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.rows.axes import SWEPT, expand, parse_axis, sweep_rows


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0,0.25,..,1.5", "0 0.25 0.5 0.75 1 1.25 1.5"),
        ("0.1,0.2,..,0.5", "0.1 0.2 0.3 0.4 0.5"),  # not 0.30000000000000004
        ("10,8,..,4", "10 8 6 4"),
        ("1, 2, .., 4, 8", "1 2 3 4 8"),
        ("0,1,..,3,5,..,9", "0 1 2 3 5 7 9"),
        ("1,2,..,3", "1 2 3"),
        ("100,200,..,400", "100 200 300 400"),
        ("euler,heun", "euler heun"),
        ("7", "7"),
    ],
)
def test_two_dots_go_on(text, values):
    assert expand(text, "x") == values.split()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("id-weight", "expected an option and its values"),
        ("id-weight=", "expected an option and its values"),
        ("id-weight=0,..,1", "stands after two numbers"),
        ("id-weight=..,1", "stands after two numbers"),
        ("id-weight=0,1,..", "comes the last value"),
        ("id-weight=0,1,..,x", "stands after two numbers"),
        ("id-weight=0,nan,..,1", "stands after two numbers"),
        ("id-weight=0,0.25,..,1.4", "in steps of 0.25 from 0 one does not meet 1.4"),
        ("id-weight=1,2,..,0", "does not come to 0"),
        ("id-weight=1,1,..,2", "does not come to 2"),
        ("id-weight=0,0.001,..,900", "more than 1000"),
        ("id-weight=0,1,1.0", "1.0 is given twice"),
        ("id-weight=a,b", "pulid_id_weight 'a': expected a number"),
        ("steps=1,2.5", "steps '2.5': expected a whole number"),
        ("rng=cuda,tpu", "expected one of cuda, cpu"),
        ("skip-layers=7,8", "may hold commas"),
        ("prompt=a,b", "may hold commas"),
        ("output=a.png,b.png", "not an option that changes pictures"),
        ("batch-count=1,2", "not an option that changes pictures"),
        ("device=cpu,cuda", "not an option that changes pictures"),
        ("seeeds=1,2", "known: "),
    ],
)
def test_what_is_no_axis(text, words):
    with pytest.raises(RequestError, match="--over") as caught:
        parse_axis(text)
    assert words in str(caught.value), caught.value


def test_every_option_of_numbers_and_words_may_be_swept():
    assert {
        "pulid_id_weight",
        "id_start_step",
        "steps",
        "seed",
        "guidance",
        "cfg_scale",
        "width",
        "strength",
        "rng",
    } <= set(SWEPT)
    assert {
        "sampling_method",
        "scheduler",
        "negative_id",
        "eta",
        "flow_shift",
        "vae_tiling",
        "pulid_id_embedding",
    } <= set(SWEPT)
    axes = [parse_axis(text) for text in ("--pulid-id-weight=0,1", "vae-tiling=yes,no")]
    assert [row.values for row in sweep_rows(axes)] == [
        {
            "pulid_id_weight": weight,
            "vae_tiling": tiled,
            "output": f"000{number}_pulid-id-weight-{weight:g}_vae-tiling-{word}.png",
        }
        for number, (word, tiled, weight) in enumerate(
            (
                (word, tiled, weight)
                for word, tiled in (("yes", True), ("no", False))
                for weight in (0.0, 1.0)
            ),
            1,
        )
    ]
    with pytest.raises(RequestError, match="given twice"):
        sweep_rows([parse_axis("id-weight=0,1"), parse_axis("pulid-id-weight=0,1")])


def grid(*texts, seeds=(42,), **common):
    axes = [parse_axis(text) for text in texts]
    flags = BatchFlags(prompt="in the rain", pulid_id_embedding="x/me.pulidembd", **common)
    outcomes = [
        PictureOutcome(
            row,
            row.merged(flags, frozenset())[0],
            (),
            seed,
            PictureResult("done", row.number, output=f"{row.number}.png"),
        )
        for row in sweep_rows(axes)
        for seed in seeds
    ]
    return sweep_run.sweep_sheet(axes, outcomes)


def test_the_first_axis_goes_across_and_the_second_down():
    found = grid("id-weight=0,0.5,1", "id-start-step=0,2")
    assert [head.text for head in found.columns] == ["id-weight 0", "id-weight 0.5", "id-weight 1"]
    assert [head.text for head in found.rows] == ["id-start-step 0", "id-start-step 2"]
    assert [[[str(tile.picture) for tile in cell] for cell in row] for row in found.cells] == [
        [["1.png"], ["2.png"], ["3.png"]],
        [["4.png"], ["5.png"], ["6.png"]],
    ]
    assert found.title == "in the rain, me, seed 42"
    assert found.cells[0][0][0].caption == ""
    one = grid("steps=1,2", seeds=(1, 2))
    assert (one.rows, len(one.cells)) == ([], 1)
    assert [tile.caption for tile in one.cells[0][0]] == ["seed 1", "seed 2"]
    assert one.title == "in the rain, me"
    many = grid("seed=1,2,..,30")
    assert (many.columns, len(many.cells[0][0]), many.cells[0][0][4].caption) == ((), 30, "seed 5")


# -------------------------------------------------------------------------------------- the command


@pytest.fixture
def flags(micro, person):
    return (
        *(
            "-p",
            "a cat",
            "--pulid-id-embedding",
            person,
            "--models-dir",
            micro,
            "--t5-tokenizer",
            micro / "tokenizer.json",
        ),
        *(
            "--diffusion-model",
            micro / "flux1-schnell.safetensors",
            "--device",
            "cpu",
            "--steps",
            2,
            "-W",
            64,
            "-H",
            48,
        ),
    )


def test_the_pictures_are_the_single_commands_and_kept_if_asked(generate, flags, tmp_path):
    out = tmp_path / "out"
    axes = ("--over", "id-weight=0,1.5", "--over", "id-start-step=0,1")
    sweep = ("sweep", *axes, *flags, "--output-dir", out, "-o", tmp_path / "s.png")
    run = generate(*sweep)
    assert run.code == 0, run.err
    assert [line["status"] for line in lines(run)] == ["done"] * 4 + ["sheet"]
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "0001_id-weight-0_id-start-step-0.png",
        "0002_id-weight-1.5_id-start-step-0.png",
        "0003_id-weight-0_id-start-step-1.png",
        "0004_id-weight-1.5_id-start-step-1.png",
    ]
    alone = generate(
        *flags, "--pulid-id-weight", 1.5, "--id-start-step", 1, "-o", tmp_path / "alone.png"
    )
    assert alone.code == 0, alone.err
    assert (out / names[3]).read_bytes() == (tmp_path / "alone.png").read_bytes()
    assert (out / names[1]).read_bytes() != (tmp_path / "alone.png").read_bytes()
    again = generate(*sweep, "--resume")
    assert [line["status"] for line in lines(again)] == ["skipped"] * 4 + ["sheet"]
    assert lines(again)[-1]["sha256"] == lines(run)[-1]["sha256"]


def test_without_a_folder_there_is_the_sheet_alone_with_scores(
    generate, flags, tmp_path, monkeypatch, fake
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    fake("for path in pictures: likeness(0.5)")
    Image.new("RGB", (40, 40), (200, 0, 0)).save("me.png")
    run = generate(
        "sweep", "--over", "id-weight=0,1", *flags, "--reference", "me.png", "--no-cache"
    )
    assert run.code == 0, run.err
    found = lines(run)
    assert [(line["status"], line["output"]) for line in found] == [
        *[("done", None)] * 2,
        *[("scored", None)] * 2,
        ("sheet", "sweep.png"),
    ]
    assert {line["likeness"] for line in found if line["status"] == "scored"} == {0.5}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "me.png", "sweep.png"]
    assert ((np.asarray(Image.open("sweep.png")) == (200, 0, 0)).all(axis=2)).sum() == 160 * 160


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "Missing option '--over'"),
        (
            ("--over", "steps=1,2", "--over", "seed=1,2", "--over", "id-weight=0,1"),
            "columns and rows",
        ),
        (("--over", "steps=1,2", "--steps", 3), "--steps and --over steps both give it"),
        (("--over", "steps=1,2", "-o", "-"), "--output is the sheet"),
        (("--over", "steps=1,2", "--resume"), "--resume needs '--output-dir'"),
        (("--over", "id-weight=0,1"), "--pulid-id-weight needs '--pulid-id-embedding'"),
        (("--over", "strength=0.1,1"), "--strength needs '--init-img'"),
        (("--over", "steps=1,2", "--pulid-id-embedding", "-"), "Standard input"),
    ],
)
def test_wrong_usage(generate, more, words):
    run = generate("sweep", "-p", "a cat", *more)
    assert (run.code, words in run.err) == (2, True), run.err


def test_a_value_that_cannot_be_is_wrong_usage_before_anything_loads(generate, flags, tmp_path):
    run = generate(
        "sweep", "--over", "width=64,65", *flags[:10], "--device", "cpu", "-o", tmp_path / "s.png"
    )
    assert "width 65: expected a multiple of 16" in run.usage_error
    assert not list(tmp_path.iterdir())
