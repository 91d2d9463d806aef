"""Who may ask, and what comes of requests that mean no good: a sentence, never a stack trace, a hang
or a file where none belongs. Everything goes to 127.0.0.1.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
import json
import random
import socket
import stat
import subprocess
import sys
import time
from collections import Counter

import pytest
from support.paths import ROOT
from support.served import WAIT, micro_serve_flags, serving, wait_for

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

from pulid_extract.shared.locking import locked_folder
from pulid_generate.errors import InputError, OutputError, RequestError
from pulid_generate.server.intake.people import check_name, take_tags
from pulid_generate.server.settings import read_settings

KEY = "a-key-of-this-test-0123456789"
PROMPT = "a photo of a cat"


@pytest.fixture(scope="module")
def served(micro, tmp_path_factory, kept):
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "people").mkdir()
    (folder / "people" / "me.pulidembd").write_bytes(kept.me.read_bytes())
    (folder / "secret.pulidembd").write_bytes(kept.you.read_bytes())
    flags = micro_serve_flags(micro, folder, identities=str(folder / "people"), max_queue=4)
    with serving(flags) as running:
        yield running


@pytest.fixture
def client(served):
    with served.client() as client:
        yield client


# ------------------------------------------------------------------------------------ who may ask


def test_an_address_that_others_reach_wants_a_key(micro, tmp_path):
    with pytest.raises(RequestError, match="--api-key-file"):
        read_settings(micro_serve_flags(micro, tmp_path, host="0.0.0.0"))
    keys = tmp_path / "keys"
    for text, words in (("", "holds no key"), ("short\n", "fewer than 16")):
        keys.write_text(text)
        with pytest.raises(InputError, match=words):
            read_settings(micro_serve_flags(micro, tmp_path, api_key_file=str(keys)))
    keys.write_text(f"{KEY}\n")
    settings = read_settings(
        micro_serve_flags(micro, tmp_path, host="0.0.0.0", api_key_file=str(keys))
    )
    assert len(settings.keys) == 1
    assert KEY.encode() not in b"".join(settings.keys)


def test_a_folder_that_others_read_is_not_taken(micro, tmp_path):
    folder = tmp_path / "studio"
    folder.mkdir(mode=0o755)
    (folder / "file").touch()
    with pytest.raises(OutputError, match="chmod 700"):
        read_settings(micro_serve_flags(micro, tmp_path))


def test_a_key_opens_every_route_but_the_first_page(micro, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"another-key-0123456789\n{KEY}\n")
    flags = micro_serve_flags(micro, tmp_path, api_key_file=str(keys))
    basic = base64.b64encode(f"user:{KEY}".encode()).decode()
    with serving(flags) as running:
        for path in (
            "/v1/capabilities",
            "/v1/jobs",
            "/metrics",
            "/openapi.json",
            "/sdapi/v1/options",
        ):
            with running.client() as client:
                assert client.get(path).status_code == 401, path
                for shown in (f"Bearer {KEY}", f"Basic {basic}"):
                    told = client.get(path, headers={"Authorization": shown})
                    assert told.status_code == 200, path
                for shown in (f"Bearer {KEY}x", "Bearer", "Basic %%%", f"Digest {KEY}"):
                    told = client.get(path, headers={"Authorization": shown})
                    assert told.status_code == 401, shown
        with running.visitor() as visitor:
            assert visitor.get("/v1/session").json() == {"session": True, "needs_key": True}
            assert visitor.post("/v1/session", json={"key": "wrong"}).status_code == 401
            assert visitor.get("/v1/capabilities").status_code == 401
            assert visitor.post("/v1/session", json={"key": KEY}).status_code == 200
            assert visitor.get("/v1/capabilities").status_code == 200


def test_names_and_pages_that_are_not_the_servers(client, served):
    port = served.address.rpartition(":")[2]
    for host in ("evil.example.com", f"evil.example.com:{port}", "localhost.evil.com", ""):
        assert client.get("/health", headers={"Host": host}).status_code == 421, host
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}", "LOCALHOST"):
        assert client.get("/health", headers={"Host": host}).status_code == 200, host
    for origin in ("http://evil.example.com", "null", "https://localhost.evil.com"):
        told = client.post("/v1/jobs", json={"prompt": PROMPT}, headers={"Origin": origin})
        assert told.status_code == 403, origin
        assert "access-control-allow-origin" not in told.headers
    own = client.get("/health", headers={"Origin": served.address})
    assert own.status_code == 200
    assert own.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'self'" in own.headers["content-security-policy"]


def test_an_origin_that_is_allowed_may_ask(micro, tmp_path):
    origin = "https://chat.example.org"
    flags = micro_serve_flags(micro, tmp_path, allow_origin=[origin])
    with serving(flags) as running, running.client() as client:
        told = client.get("/health", headers={"Origin": origin})
        assert told.headers["access-control-allow-origin"] == origin
        other = client.get("/health", headers={"Origin": "https://evil.example.org"})
        assert other.status_code == 403


def test_two_visitors_do_not_see_each_others_pictures(served, kept):
    with served.visitor() as one, served.visitor() as two, served.client() as nobody:
        name = one.post("/v1/jobs", json={"prompt": PROMPT}).json()["id"]
        told = wait_for(one, name)
        url = told["pictures"][0]["url"]
        assert one.get(url).status_code == 200
        assert [job["id"] for job in one.get("/v1/jobs").json()["jobs"]] == [name]
        file = {"a.pulidembd": base64.b64encode(kept.you.read_bytes()).decode()}
        body = {"name": "mine", "files": file, "pulid_id_embedding": "a.pulidembd"}
        assert one.post("/v1/identities", json=body).json()["saved"] == "mine"
        assert one.get("/v1/identities/mine").content == kept.you.read_bytes()
        for other in (two, nobody):
            assert other.get(url).status_code == 404
            assert other.get(f"/v1/jobs/{name}/events").status_code == 404
            assert other.delete(f"/v1/jobs/{name}").status_code == 404
            assert other.get("/v1/jobs").json() == {"jobs": []}
            assert other.get("/v1/identities/mine").status_code == 404
            refused = other.post("/v1/jobs", json={"prompt": "<id:mine>"})
            assert refused.status_code == 400
            assert "nobody has this name" in refused.json()["detail"]
        folder = served.server.queue.get(name).folder.parent
        for path in (folder, *folder.rglob("*")):
            wanted = 0o700 if path.is_dir() else 0o600
            assert stat.S_IMODE(path.stat().st_mode) == wanted, path
        assert one.delete("/v1/session").json() == {"deleted": True}
        assert not folder.exists()
        assert one.get(url).status_code == 404


# -------------------------------------------------------------------------------- what they bring


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


# --------------------------------------------------------------------------------------- the process


def test_sigterm_ends_it_in_time_and_says_nothing_of_requests(micro, tmp_path):
    flags = micro_serve_flags(micro, tmp_path)
    command = [sys.executable, "-m", "pulid_generate", "serve", "--port", "0", "--device", "cpu"]
    for name in ("diffusion_model", "vae", "t5xxl", "t5_tokenizer", "pulid_weights", "output_dir"):
        command += [f"--{name.replace('_', '-')}", getattr(flags, name)]
    command += ["--clip_l", flags.clip_l, "-W", "64", "-H", "48", "--steps", "2"]
    import httpx

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as child:
        address = child.stdout.readline().strip()
        assert address.startswith("http://127.0.0.1:")
        with httpx.Client(base_url=address, timeout=WAIT) as client:
            done = client.post("/v1/images/generations", json={"prompt": "a word nobody logs"})
            assert done.status_code == 200
            assert client.post("/v1/jobs", json={"prompt": "x", "foo": 1}).status_code == 400
        child.terminate()
        out, err = child.communicate(timeout=WAIT)
    assert child.returncode == 0
    assert "nobody logs" not in out + err
    assert "Traceback" not in err
    assert not list((tmp_path / "studio").rglob("*.png"))


def test_who_only_opens_the_page_keeps_nobody_out(tmp_path, monkeypatch):
    from pulid_generate.server.failures import RefusedError
    from pulid_generate.server.intake import visitors

    monkeypatch.setattr(visitors, "MAX_SESSIONS", 3)
    known = visitors.Visitors(tmp_path)
    first = known.new_token()
    known.folder_of(known.name(first))
    others = [known.new_token() for _ in range(5)]
    assert known.name(first) is not None
    assert [known.name(token) is not None for token in others] == [False] * 3 + [True] * 2
    for token in others[3:]:
        known.folder_of(known.name(token))
    with pytest.raises(RefusedError, match="too many sessions"):
        known.new_token()


# ---------------------------------------------------------------------------------- slow requests


def test_a_head_that_takes_too_long_is_answered_and_closed(served, monkeypatch):
    from pulid_generate.server.http import protocol

    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.4)
    host, port = served.address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=WAIT) as slow:
        # each byte is in time, all of them are not
        answer = b""
        for byte in b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 400:
            with contextlib.suppress(ConnectionError):
                slow.send(bytes([byte]))
            slow.settimeout(0.02)
            with contextlib.suppress(TimeoutError, ConnectionError):
                answer += slow.recv(200)
            if answer:
                break
        assert answer.startswith(b"HTTP/1.1 408")
        slow.settimeout(WAIT)
        assert slow.recv(1) == b""
    with socket.create_connection((host, int(port)), timeout=WAIT) as silent:
        assert silent.recv(200).startswith(b"HTTP/1.1 408")
    # a connection that is kept is not told to hurry while it waits; http.client opens no other
    kept = http.client.HTTPConnection(host, int(port), timeout=WAIT)
    kept.connect()
    used = kept.sock
    for pause in (0, 1):
        time.sleep(pause)
        kept.request("GET", "/health")
        answer = kept.getresponse()
        assert answer.status == 200
        assert answer.read()
    assert kept.sock is used
    kept.close()


def test_two_servers_do_not_share_a_folder(generate, tmp_path):
    """Each would draw what waits for the other, and delete what that has drawn."""
    with locked_folder(tmp_path):
        refused = generate("serve", "--output-dir", tmp_path, "--port", 0)
    assert "another server uses it" in refused.error
    assert list(tmp_path.iterdir()) == []
