"""The detail pass wherever many pictures are drawn: the very file of the single command, which is
the picture as it was with its face redrawn as that person.
"""

from __future__ import annotations

import io
import json
import os
import pickle
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from support.models.micro_flags import micro_files
from support.programs.fake_score import FACE_BOX, FINDS_A_FACE

from pulid_extract.shared.cluster.actor import Place
from pulid_generate import Pipeline, Placement
from pulid_generate.batch.judging import RowJobs, Rows
from pulid_generate.batch.ray_worker import DrawTask, DrawWorker, WorkerSetup, facts_of
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.pictures.face_finder import FaceFinder
from pulid_generate.rows.row import Row

# else the scores of pictures by their seed
PROGRAM = f"""{FINDS_A_FACE}
refuse_prompts()
for picture in pictures: likeness(0.6 if "43" in os.path.basename(picture) else 0.2)
"""
DETAIL = {
    "ad_model": "antelopev2",
    "extra_ad_args": "denoising_strength=0.7,mask_blur=1,inpaint_padding=8",
}
FLAGS = []
for _name, _value in DETAIL.items():
    FLAGS += [f"--{_name.replace('_', '-')}", _value]


@pytest.fixture
def base(kept, fake):
    """Nobody yet."""
    fake(PROGRAM)
    return (*kept.base, *kept.pulid)


@pytest.fixture
def single(base, draw, kept):
    """single(a person's file, seed) -> the file of the single command."""

    def run(person, seed=42, *more):
        someone = (*kept.pulid, "--pulid-id-embedding", person)
        return draw(*someone, "--seed", seed, *FLAGS, *more).data

    return run


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_face_is_the_persons(generate, base, single, draw, kept, tmp_path):
    """The plain picture with the detail pass by itself; with another person's or nobody's identity
    in that, it is another picture.
    """
    me = ("--pulid-id-embedding", kept.me)
    plain = tmp_path / "plain.png"
    plain.write_bytes(draw(*kept.pulid, *me).data)
    wanted = tmp_path / "wanted.png"
    wanted.write_bytes(single(kept.me))
    place = kept.base.index("-W")
    faces = {}
    for name, somebody in {
        "me": me,
        "you": ("--pulid-id-embedding", kept.you),
        "nobody": (),
    }.items():
        out = tmp_path / f"{name}.png"
        run = generate(
            *("detail", plain, *base[:place], *base[place + 4 :], *somebody, *FLAGS[2:]),
            *("-o", out),
        )
        assert run.code == 0, run.err
        faces[name] = pixels(out)
    assert np.array_equal(faces["me"], pixels(wanted))
    x, y, width, height = FACE_BOX
    for name in ("you", "nobody"):
        differs = (faces[name] != faces["me"]).any(-1)
        assert differs[y : y + height, x : x + width].mean() > 0.2
        assert not differs[:, 60:].any()


def test_rows_of_a_batch_and_of_a_sweep(generate, base, single, kept, tmp_path):
    rows = []
    for name, person in {"me": kept.me, "you": kept.you}.items():
        row = {"pulid_id_embedding": str(person), "seed": 42, "output": f"{name}.png"}
        rows.append(row | DETAIL)
    manifest = tmp_path / "rows.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    run = generate("batch", manifest, *base, "--output-dir", out)
    assert run.code == 0, run.err
    for name, person in {"me": kept.me, "you": kept.you}.items():
        assert (out / f"{name}.png").read_bytes() == single(person)
    assert single(kept.me) != single(kept.you)
    run = generate(
        *("sweep", "--over", "seed=42,43", *base, "--pulid-id-embedding", kept.me, *FLAGS),
        *("--output-dir", tmp_path / "swept", "-o", tmp_path / "sheet.png"),
    )
    assert run.code == 0, run.err
    files = {path.read_bytes() for path in (tmp_path / "swept").glob("*.png")}
    assert files == {single(kept.me), single(kept.me, 43)}


def test_the_best_of_some_and_a_validation(generate, base, single, kept, tmp_path):
    reference = tmp_path / "me.png"
    Image.new("RGB", (64, 48), (200, 10, 10)).save(reference)
    somebody = ("--pulid-id-embedding", kept.me, "--reference", reference)
    best = tmp_path / "best.png"
    run = generate(*base, *somebody, *FLAGS, "--best-of", 2, "-o", best)
    assert run.code == 0, run.err
    assert "seed 43: 0.600 (kept)" in run.err
    assert pixels_of(best) == pixels_of(single(kept.me, 43, "--reference", reference))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a photo of a cat\n")
    place = base.index("-p")
    common = (*base[:place], *base[place + 2 :], *somebody, *FLAGS)
    run = generate(
        *("validate", *common, "--stranger-embedding", kept.you, "--prompts", prompts),
        *("--seeds", "42", "--output-dir", tmp_path / "report"),
    )
    assert run.code == 0, run.err
    folder = tmp_path / "report" / "pictures"
    for name, person in {"person": kept.me, "stranger": kept.you}.items():
        [picture] = folder.glob(f"*_{name}.png")
        assert pixels_of(picture) == pixels_of(single(person)), name


def pixels_of(source) -> bytes:
    data = io.BytesIO(source) if isinstance(source, bytes) else source
    return Image.open(data).convert("RGB").tobytes()


def test_a_worker_of_a_cluster(base, single, kept, micro, tmp_path):
    """What Ray sends, and what the worker gives back."""
    files = {
        "diffusion_model": "flux1-schnell.safetensors",
        "vae": "ae.safetensors",
        "clip_l": "clip_l.safetensors",
        "t5xxl": "t5xxl_fp16.safetensors",
        "t5_tokenizer": "tokenizer.json",
        "pulid_weights": "pulid_flux_v0.9.1.safetensors",
    }
    flags = BatchFlags(
        **{name: str(micro / file) for name, file in files.items()},
        device="cpu",
        dtype="float32",
        output_dir=str(tmp_path),
        no_cache=True,
    )
    rows = Rows(flags, frozenset())
    values = {
        "prompt": "a photo of a cat",
        "width": 64,
        "height": 48,
        "steps": 2,
        "seed": 42,
        "pulid_id_embedding": str(kept.me),
        **DETAIL,
    }
    merged = rows.merge(Row(1, 1, "line 1", values))
    finder = FaceFinder()
    pipeline = Pipeline(micro_files(micro), Placement.choose("cpu", "float32"), finder=finder)
    drawing = rows.read(merged)
    with pipeline.engine() as engine, closing(finder):
        [item] = RowJobs(rows, pipeline, engine).items(merged)
    setup = WorkerSetup(
        flags=flags,
        folder=os.getcwd(),
        with_pulid=True,
        examples=(drawing,),
        prompts=item.prompts,
        facts=facts_of(pipeline),
    )
    setup, task = pickle.loads(pickle.dumps((setup, DrawTask(item, drawing))))
    worker = DrawWorker(replace(setup), Place("node", "host", 0, 0, False, 1))
    try:
        [(_, [result])] = worker.work([(0, [task])])
    finally:
        worker.engine.__exit__()
    assert result.error is None
    assert result.data == single(kept.me)
