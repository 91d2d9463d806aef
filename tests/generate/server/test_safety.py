"""Who may ask, and what a server's process says and leaves. Everything goes to 127.0.0.1."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import stat
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
from support.paths import ROOT
from support.served import WAIT, micro_serve_flags, serving, wait_for

pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

from pulid_extract.shared.locking import locked_folder
from pulid_generate.assembly.progress import Progress
from pulid_generate.errors import InputError, OutputError, RequestError
from pulid_generate.server import settings
from pulid_generate.server.http.running import open_server
from pulid_generate.server.settings import read_settings

KEY = "a-key-of-this-test-0123456789"
PROMPT = "a photo of a cat"


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


def test_a_disk_without_room_is_said_at_the_start_and_by_ready(
    served, micro, tmp_path, monkeypatch, capfd
):
    usage = SimpleNamespace(free=settings.MIN_FREE - 1)
    monkeypatch.setattr(settings.shutil, "disk_usage", lambda folder: usage)
    problem = settings.disk_problem(served.server.settings.folder)
    assert problem.startswith("the disk of --output-dir has 127 MiB free; a picture")
    flags = micro_serve_flags(micro, tmp_path)
    open_server(flags, frozenset(), settings.read_settings(flags), Progress())
    assert problem in " ".join(capfd.readouterr().err.split())
    with served.client() as client:
        told = client.get("/ready")
        assert (told.status_code, told.json()["reasons"]) == (503, [problem])
        usage.free += 1
        told = client.get("/ready")
        assert (told.status_code, told.json()["reasons"]) == (200, [])
