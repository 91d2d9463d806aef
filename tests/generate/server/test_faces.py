"""Somebody put into a picture that is there: a job with `detail_img` is the file of the command
`detail`, on every route, by a worker too, and says what stays.
"""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import pytest
from PIL import Image, ImageChops
from support.programs.fake_score import FACE_BOX, FINDS_A_FACE
from support.served import of_file, wait_for

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

from pulid_extract.shared.cluster.actor import Place
from pulid_generate.server.http.cluster import opener_of
from pulid_generate.server.work.ray_worker import DrawTask

ARGS = "mask_blur=1,inpaint_padding=8"
FACE = {"strength": 0.7, "extra_ad_args": ARGS, "width": 64, "height": 48, "seed": 7}


@pytest.fixture
def client(served, fake):
    fake(FINDS_A_FACE)
    with served.client() as client:
        yield client


@pytest.fixture
def beach(draw, tmp_path):
    """A picture that was drawn, with another prompt, and is larger than what is redrawn."""
    path = tmp_path / "beach.png"
    path.write_bytes(draw("-p", "a beach", "-W", 96, "-H", 64).data)
    return path


@pytest.fixture
def command(generate, kept, beach, fake, tmp_path):
    """command(*flags) -> the file of `pulid-generate detail`."""

    def run(*flags) -> bytes:
        fake(FINDS_A_FACE)
        out = tmp_path / "out.png"
        place = kept.base.index("-p")
        base = (*kept.base[:place], *kept.base[place + 2 :], *kept.pulid)
        own = ("--strength", 0.7, "--extra-ad-args", ARGS, "--seed", 7)
        done = generate("detail", beach, *base, *own, *flags, "-o", out)
        assert done.code == 0, done.err
        return out.read_bytes()

    return run


def ended(client, **fields) -> dict:
    posted = client.post("/v1/jobs", json=FACE | fields)
    assert posted.status_code == 202, posted.text
    told = wait_for(client, posted.json()["id"])
    assert told["state"] == "done", told
    return told


def picture(client, told: dict) -> bytes:
    return client.get(told["pictures"][0]["url"]).content


def test_a_face_is_redrawn_as_the_command_does_it(client, command, beach, kept):
    sent = {"detail_img": "beach.png", "files": {"beach.png": of_file(beach)}}
    told = ended(client, pulid_id_embedding="me", **sent)
    me = picture(client, told)
    assert me == command("--pulid-id-embedding", kept.me)
    assert (told["count"], told["notes"]) == (1, [])
    # base64 as the field itself, and the prompt by hand
    other = {"pulid_id_embedding": "you", "prompt": "rain", "detail_img": of_file(beach)}
    you = picture(client, ended(client, **other))
    assert you == command("--pulid-id-embedding", kept.you, "-p", "rain")
    assert you != me
    x, y, width, height = FACE_BOX
    differs = ImageChops.difference(opened(me), opened(beach.read_bytes()))
    left, top, right, bottom = differs.getbbox()
    assert x - 8 <= left < right <= x + width + 8
    assert y - 8 <= top < bottom <= y + height + 8


def test_a_servers_own_size_is_that_of_pictures(client, command, beach, kept):
    usual = {"width": None, "height": None, "pulid_id_embedding": "me"}
    told = ended(client, detail_img=of_file(beach), **usual)
    # the shorter side of what is there
    size = ("-W", 64, "-H", 64)
    assert picture(client, told) == command("--pulid-id-embedding", kept.me, *size)


def test_a_box_says_which_face_and_what_stays_is_said(client, command, beach, kept, capfdbinary):
    for box, notes in (
        ("8,0,48,48", []),
        (
            "48,0,48,64",
            ["the face at 20,10,24,24 is nobody's, it stays", "no face of me.pulidembd was found"],
        ),
    ):
        capfdbinary.readouterr()
        told = ended(client, detail_img=of_file(beach), identity=[f"me,box={box}"])
        # nobody else hears of it
        assert capfdbinary.readouterr().err == b""
        assert told["notes"] == notes
        assert picture(client, told) == command("--identity", f"{kept.me},box={box}")


def test_the_other_routes_and_a_worker_give_the_same_file(client, served, command, beach, kept):
    me = command("--pulid-id-embedding", kept.me)
    sent = FACE | {"detail_img": of_file(beach), "pulid_id_embedding": "me"}
    told = client.post("/v1/images/generations", json=sent | {"n": 1}).json()
    assert base64.b64decode(told["data"][0]["b64_json"]) == me
    told = client.post("/sdapi/v1/txt2img", json=sent | {"batch_size": 1}).json()
    assert base64.b64decode(told["images"][0]) == me
    judge = served.server.judge
    job = served.server.queue.get(ended(client, **sent)["id"])
    job.files.mkdir()
    (job.files / "detail_img").write_bytes(beach.read_bytes())
    (job.files / kept.me.name).write_bytes(kept.me.read_bytes())
    judged = judge.judge(job)
    worker = opener_of(judge)(Place("node", "host", 0, 0, False, 1))
    task = DrawTask(1, judged.drawing, 0, "PNG", True, judged.picture)
    [(_, reply)] = worker.work([(0, task)])
    assert reply.data == me
    everywhere = replace(judged.drawing.subjects[0], weight=0.0)
    nobody = replace(task, drawing=replace(judged.drawing, subjects=(everywhere,)))
    [(_, reply)] = worker.work([(0, nobody)])
    assert reply.data != me


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"init_img": "b.png"}, "--init-img is about a picture that is drawn anew"),
        ({"batch_count": 2}, "--batch-count is about a picture that is drawn anew"),
        ({"ref_image": "b.png"}, "--ref-image is about a picture that is drawn anew"),
        ({"hires": True}, "hires: the picture is there, and only its faces are redrawn"),
        ({"mask_grow": 3}, "--mask-grow is about a picture that is drawn anew"),
        ({"width": 4096, "height": 4096}, "4096x4096: expected at most 2.4 million pixels here"),
        ({"extra_ad_args": "inpaint_width=8192,inpaint_height=8192"}, "faces of 8192x8192"),
        ({"extra_ad_args": "steps=9999", "strength": 1}, "steps 9999: expected at most 100 here"),
        ({"detail_img": "nowhere.png"}, "detail_img: no file is called 'nowhere.png'"),
        ({"detail_img": "c.png"}, "c.png: "),
    ],
)
def test_what_leaves_no_room_or_is_too_much_is_one_sentence(fields, message, client, beach):
    files = {"b.png": of_file(beach), "c.png": base64.b64encode(b"no picture").decode()}
    sent = {"detail_img": "b.png", "files": files, "seed": 7} | fields
    told = client.post("/v1/jobs", json=sent)
    assert told.status_code == 400
    assert message in told.json()["detail"]


def test_the_second_pass_of_a_drawn_picture_keeps_the_limits(client):
    sent = {"prompt": "a cat", "ad_model": "antelopev2"}
    for args, message in (
        ("inpaint_width=8192,inpaint_height=8192", "faces of 8192x8192"),
        ("steps=9999,denoising_strength=1", "steps 9999: expected at most 100 here"),
    ):
        told = client.post("/v1/jobs", json=sent | {"extra_ad_args": args})
        assert (told.status_code, message in told.json()["detail"]) == (400, True)


def test_a_reference_says_whose_face_it_is(client, command, beach, draw, kept, tmp_path):
    reference = tmp_path / "me.png"
    reference.write_bytes(draw().data)
    files = {"me.png": of_file(reference), "beach.png": of_file(beach)}
    sent = {"reference": ["me.png"], "files": files, "pulid_id_embedding": "me"}
    me = picture(client, ended(client, detail_img="beach.png", **sent))
    assert me == command("--pulid-id-embedding", kept.me, "--reference", reference)
    # its hash is in the metadata
    assert me != command("--pulid-id-embedding", kept.me)
    told = client.post("/v1/jobs", json={"prompt": "a cat", **sent})
    assert told.status_code == 400
    assert "reference: recognises whose face is redrawn" in told.json()["detail"]


def test_metadata_of_a_redrawn_face_draws_it_again(client, beach):
    start = {"detail_img": of_file(beach)}
    for asked in (
        {
            "pulid_id_embedding": "me",
            "strength": 0.7,
            "extra_ad_args": ARGS,
            "steps": 3,
            "ad_prompt": "[PROMPT], smiling",
        },
        {
            "identity": ["me,box=8,0,48,48"],
            "extra_ad_args": "steps=4,denoising_strength=0.5",
            "cfg_scale": 2,
            "negative_prompt": "a",
        },
    ):
        usual = {"width": None, "height": None, "strength": None, "extra_ad_args": None}
        first = picture(client, ended(client, **start, **usual | asked))
        posted = client.post("/v1/parameters", json={"image": base64.b64encode(first).decode()})
        told = posted.json()
        assert told["missing"] == [
            "the picture whose faces were redrawn is not in it: choose it again"
        ]
        assert told["settings"]["picture"]["width"] == 96
        again = client.post("/v1/jobs", json=told["fields"] | start)
        assert again.status_code == 202, again.text
        second = picture(client, wait_for(client, again.json()["id"]))
        assert second == first


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")
