"""Requests that mean no good: a sentence, never a stack trace, a hang or a file where none belongs.
Everything goes to 127.0.0.1.
"""

from __future__ import annotations

import base64
import io
import json
import random
import socket
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from support.served import WAIT, of_file, wait_for

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

from pulid_extract.shared.embedding_file import encode_embedding
from pulid_generate.errors import InputError, RequestError
from pulid_generate.server.intake.people import check_name, take_tags
from pulid_generate.server.work.drawing import LocalDrawer

PROMPT = "a photo of a cat"


@pytest.mark.parametrize(
    "name",
    [
        "../me",
        "/etc/passwd",
        "..",
        ".hidden",
        "a/b",
        "a\\b",
        "a\0b",
        "",
        "x" * 200,
        "a,b",
        "a=b",
        "a\n",
    ],
)
def test_names_that_cannot_be(name):
    with pytest.raises(RequestError):
        check_name(name)


def test_tags_of_people():
    text, tags = take_tags("in the rain <id:me:0.8>, <id:my friend>")
    assert text == "in the rain ,"
    assert [(tag.name, tag.weight) for tag in tags] == [("me", "0.8"), ("my friend", "1")]
    assert take_tags(" as it stands ") == (" as it stands ", [])
    for wrong in ("<id:me", "<ID:me:1>", "<id::1>"):
        with pytest.raises(RequestError, match="is not a tag"):
            take_tags(wrong)


REFUSED = {
    "a path": {"pulid_id_embedding": "../secret.pulidembd"},
    "a path in a tag": {"prompt": "<id:../secret>"},
    "a path to start from": {"init_img": "/etc/passwd"},
    "a path of a mask": {"identity": ["me,mask=/etc/passwd"]},
    "a LoRA elsewhere": {"lora": ["../x:1"]},
    "a LoRA elsewhere in the prompt": {"prompt": "x <lora:/etc/passwd:1>"},
    "standard input": {"pulid_id_embedding": "-"},
    "an output": {"output": "/tmp/x.png"},
    "a prompt's file": {"prompt_file": "/etc/passwd"},
    "a folder": {"lora_model_dir": "/"},
    "a device": {"device": "cpu"},
    "too large": {"width": 8192, "height": 8192},
    "too many": {"batch_count": 9},
    "too long": {"steps": 101},
    "sigmas that are too many": {"sigmas": [1 - step / 200 for step in range(201)]},
    "a long prompt": {"prompt": "x" * 9000},
    "a broken embedding": {"pulid_id_embedding": "data:x;base64,R0dVRg=="},
    "portraits without files": {"portraits": ["a.png"]},
    "another format": {"output_format": "svg"},
    "no format at all": {"output_format": ["png"]},
    "a path whose faces are redrawn": {"detail_img": "/etc/passwd"},
    "a path of a reference": {"ad_model": "antelopev2", "reference": ["/etc/passwd"]},
    "faces that are too large": {
        "ad_model": "antelopev2",
        "extra_ad_args": "inpaint_width=8192,inpaint_height=8192",
    },
    "not a list": {"identity": {"me": 1}},
    "a text for a number": {"steps": "many"},
    "infinity": {"pulid_id_weight": 1e999},
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_request_that_is_refused(name, client, served):
    folder = served.server.settings.folder
    before = sorted(folder.rglob("*"))
    told = client.post(
        "/v1/jobs",
        content=json.dumps({"prompt": PROMPT} | REFUSED[name]),
        headers={"Content-Type": "application/json"},
    )
    assert told.status_code == 400, told.text
    sentence = told.json()["error"]["message"]
    assert sentence == told.json()["detail"]
    assert str(folder) not in sentence
    assert "\n" not in sentence
    after = sorted(folder.rglob("*"))
    assert [path for path in after if path not in before and path.name != "requests"] == []


@pytest.fixture
def narrow(tmp_path):
    """An embedding for another PuLID model."""
    path = tmp_path / "narrow.pulidembd"
    path.write_bytes(encode_embedding(np.ones((32, 48), np.float32)))
    return path


def test_an_identity_of_another_model_is_refused_without_a_folder(served, narrow):
    files = {narrow.name: of_file(narrow)}
    named = {"pulid_id_embedding": narrow.name, "files": files}
    expected = "wants rows of 2048; extract it again with that file"
    refused = [
        ("/v1/jobs", {"prompt": PROMPT} | named),
        # as the page uploads one, before anything is drawn with it
        ("/v1/identities", {"name": "somebody"} | named),
    ]
    with served.visitor() as client:
        for route, fields in refused:
            told = client.post(route, json=fields)
            sentence = told.json()["error"]["message"]
            assert (told.status_code, expected in sentence) == (400, True), sentence
            assert "pulid_flux_v0.9.1.safetensors" in sentence
            assert "/" not in sentence
        people = client.get("/v1/identities").json()["identities"]
    assert "somebody" not in [person["name"] for person in people]


def test_sentences_name_the_servers_files_and_no_folder(client, served, micro, monkeypatch):
    """Also those of a job that fails when its turn comes, and of the folder of LoRAs itself."""
    told = client.post("/v1/jobs", json={"prompt": "x <lora:nobody:1>"}).json()["detail"]
    assert "nobody" in told
    assert "/" not in told.replace("</lora", "")

    def lost(*_):
        raise InputError(f"{micro / 'ae.safetensors'}: has gone, and {Path.home() / 'x' / 'y'}")

    monkeypatch.setattr(LocalDrawer, "draw", lost)
    ended = wait_for(client, client.post("/v1/jobs", json={"prompt": PROMPT}).json()["id"])
    assert ended["error"] == "ae.safetensors: has gone, and ~/x/y"


def raw(served, data: bytes) -> bytes:
    """What comes back for these bytes, until the server closes or has answered."""
    port = int(served.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        connection.sendall(data)
        connection.settimeout(10)
        try:
            return connection.recv(65536)
        except TimeoutError:
            return b""


def test_bytes_that_are_not_http(served, client):
    for data in (b"\0\1\2\3\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"A" * 70000):
        answer = raw(served, data)
        assert answer.startswith((b"HTTP/1.1 4", b"")), answer
    head = b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
    for length in (b"999999999999", b"99999999999999999999999999", b"-1", b"x"):
        answer = raw(served, head + length + b"\r\n\r\n{")
        assert answer.startswith(b"HTTP/1.1 4"), answer
    assert client.get("/health").status_code == 200


def test_a_body_without_a_length_has_a_limit(served):
    def pieces():
        for _ in range(66):
            yield b"x" * (1 << 20)

    with served.client() as client:
        try:
            told = client.post("/v1/jobs", content=pieces())
        # the server may answer and close before all of it is sent
        except Exception:
            return
        assert told.status_code == 413


def bomb() -> bytes:
    """A small PNG that claims to be huge."""
    from PIL import Image

    stored = io.BytesIO()
    Image.new("L", (8, 8)).save(stored, "PNG")
    data = bytearray(stored.getvalue())
    data[16:24] = (60000).to_bytes(4, "big") * 2
    return bytes(data)


def fuzzed(chance: random.Random) -> dict:
    """Fields with values of any kind."""
    names = [
        *("prompt", "seed", "width", "height", "steps", "identity", "init_img", "mask", "files"),
        *("portraits", "lora", "sigmas", "guidance", "n", "size", "batch_size", "sampler_name"),
        *("image", "init_images", "scheduler", "response_format", "", "\0", "__class__", "a" * 500),
        *("pulid_id_embedding", "pulid_id_weight", "reference", "prompts", "seeds", "name", "key"),
        *("ref_image", "control_image", "face_at", "face_index", "output_format", "enable_hr"),
        *("hr_scale", "hr_resize_x", "extra_images", "n_iter", "batch_count", "cfg_scale"),
        *("detail_img", "extra_ad_args"),
    ]
    values = [
        *(
            None,
            True,
            -1,
            0,
            10**30,
            1e308,
            "",
            "x",
            "../../etc/passwd",
            "\0",
            "\ud800",
            "<id:me:x>",
        ),
        *([], [[]], {}, {"a": {"b": []}}, ["me,box=0,0,1e9,1"], ["me,box=a"], "data:;base64,!!"),
        *({"a.png": base64.b64encode(bomb()).decode()}, {"../x": "eA=="}, "64x48", "0x0", [1, 2]),
    ]
    body = {chance.choice(names): chance.choice(values) for _ in range(chance.randrange(8))}
    # no picture of it all is wanted
    return body | {"steps": "many"} if chance.random() < 0.9 else body


ROUTES = (
    *("/v1/jobs", "/v1/images/generations", "/v1/images/edits", "/sdapi/v1/txt2img"),
    *("/sdapi/v1/img2img", "/v1/identities", "/v1/crops", "/v1/faces", "/v1/parameters"),
    *("/v1/session", "/sdapi/v1/options", "/v1/jobs/x", "/v1/jobs/../x", "/page/../state.py"),
    *("/v1/validations", "/v1/validations/x/report", "/v1/validations/..%2f", "/v1/jobs/x/events"),
    *("/v1/jobs/x/pictures/-1", "/v1/jobs/x/pictures/0/likeness", "/v1/jobs/x/pictures/9e9"),
    *("/v1/identities/..%2f..%2fsecret", "/sdapi/v1/interrupt", "/sdapi/v1/loras", "/metrics"),
)
METHODS = (*("POST",) * 12, "GET", "GET", "DELETE", "PUT", "OPTIONS", "PATCH", "HEAD")
HEADERS = (
    {"Host": "evil.example.com"},
    {"Host": "[::1"},
    {"Origin": "http://evil.example.com"},
    {"Origin": "null"},
    {"Authorization": "Basic !!"},
    {"Authorization": "Bearer " + "x" * 5000},
    {"Cookie": "pulid_session=../../x; pulid_session=" + "0" * 64},
    {"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "evil.example.com"},
    {"Range": "bytes=0-99999999999"},
    {"Expect": "100-continue"},
    {"Content-Type": "application/json; charset=utf-16"},
    {"Content-Type": "multipart/form-data; boundary="},
    {"Content-Type": "multipart/form-data; boundary=x"},
    {"Content-Type": "text/html"},
    {"Content-Encoding": "gzip"},
)
FILE_NAMES = ("../../x.png", "/etc/passwd", "a\\b", ".x", "x" * 300, "a.png", "me.pulidembd", "")


def hostile(chance: random.Random) -> dict:
    """A request, as httpx wants it."""
    asked: dict = {"method": chance.choice(METHODS), "url": chance.choice(ROUTES)}
    headers = dict(chance.choice(HEADERS)) if chance.random() < 0.3 else {}
    noise = bytes(chance.randrange(256) for _ in range(chance.randrange(300)))
    kind = chance.random()
    if kind < 0.25:
        data = chance.choice([noise, bomb(), b"GGUF" + noise])
        part = chance.choice(["files", "files", "image", "mask[]", "portraits"])
        asked["files"] = [(part, (chance.choice(FILE_NAMES), data))]
        asked["data"] = {"steps": "many", chance.choice(["prompt", "portraits", "x"]): "a.png"}
    else:
        asked["content"] = noise if kind < 0.5 else json.dumps(fuzzed(chance))
        headers.setdefault("Content-Type", "application/json")
    return asked | {"headers": headers}


def test_a_mistake_of_ours_tells_its_place_and_no_word_of_the_request(
    client, served, monkeypatch, capfd
):
    def broken(*arguments, **options):
        raise KeyError("a word nobody logs")

    monkeypatch.setattr(type(served.server.submission), "job", broken)
    told = client.post("/v1/jobs", json={"prompt": "a word nobody logs"})
    assert told.status_code == 500
    assert told.json()["detail"] == "the server made a mistake (KeyError); see its log"
    # a form that is none: the library that reads it would quote it
    bad = client.post(
        "/v1/jobs",
        content=b"nobody logs",
        headers={"Content-Type": "multipart/form-data; boundary=x"},
    )
    assert bad.status_code == 400
    said = capfd.readouterr().err
    assert "bug: KeyError at" in said
    assert "nobody logs" not in said
    assert "Traceback" not in said
    assert "boundary" not in said


@pytest.mark.slow
def test_two_thousand_hostile_requests(served):
    chance = random.Random(5)
    folder = served.server.settings.folder
    beside = sorted(folder.parent.iterdir())
    statuses: Counter[int] = Counter()
    with served.client() as client:
        for _ in range(2000):
            # a hang fails by its time
            told = client.request(**hostile(chance), timeout=WAIT)
            statuses[told.status_code] += 1
            assert told.status_code < 500 or told.status_code == 503, told.text
        assert client.get("/health").status_code == 200
    print(statuses)
    assert statuses[400] > 400
    assert {403, 404, 405, 421} <= statuses.keys()
    names = {path.name for path in folder.iterdir()}
    assert names <= {"requests"} | {name for name in names if len(name) == 32}
    assert not list(folder.rglob("*.part"))
    assert sorted(folder.parent.iterdir()) == beside
