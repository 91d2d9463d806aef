"""`pulid-generate demo`: the order of its commands, its sheet, and where the small world's models
come from. CI runs the whole of it (`make demo`).
"""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from support.programs.fake_hub import Hub, running

from docs import cli_reference
from pulid_extract.shared import home
from pulid_generate.demo import running as demo_running
from pulid_generate.demo import scenes, world
from pulid_generate.errors import PulidError, WeightsError

COUNT = len(scenes.PROMPTS)


class FakePrograms:
    """Writes pictures as `batch` would, and says that everybody is the most alike in all but one
    picture.
    """

    def __init__(self):
        self.lines = []

    def __call__(self, program, *arguments):
        words = [str(argument) for argument in arguments]
        self.lines.append([program, *words])
        if words[0] == "verify":
            return "A 1\nB 1\nC 2\nPASSED: A = B\n"
        if words[0] == "score":
            return "".join(json.dumps({"cosines": row}) + "\n" for row in self.rows())
        if program == "pulid-generate":
            folder = words[words.index("--output-dir") + 1]
            for name in (*scenes.PEOPLE, scenes.NOBODY):
                for number in range(COUNT):
                    picture = Image.new("RGB", (16, 16), (number * 40, 90, 90))
                    picture.save(f"{folder}/{name}_{number}.png")
        return ""

    def rows(self):
        people = len(scenes.PEOPLE)
        for row in range(people + 1):
            for number in range(COUNT):
                wrong = row == 1 and number == 2
                cosines = [0.1] * people
                if row < people:
                    cosines[(row + wrong) % people] = 0.9
                yield [] if row == people and number == 0 else cosines


def test_each_step_is_a_command_and_all_of_it_is_on_the_sheet(tmp_path, monkeypatch, generate):
    programs = FakePrograms()
    monkeypatch.setattr(demo_running, "called", programs)
    (tmp_path / "pictures").mkdir()
    done = generate("demo", "--output-dir", tmp_path)
    assert done.code == 0, done.err
    steps = [line[:2] for line in programs.lines]
    assert steps == [
        ["pulid-extract", "batch"],
        ["pulid-generate", "batch"],
        ["pulid-extract", "score"],
        ["pulid-generate", "verify"],
    ]
    known = {**cli_reference.flags("pulid-extract"), **cli_reference.flags("pulid-generate")}
    for line in programs.lines:
        flags = {word for word in line if word.startswith("-")}
        assert flags <= known[" ".join(line[:2])], line
    told = done.out.decode()
    # nobody's face in the first picture without PuLID does not count
    assert "the right one of 4 people is the most alike in 19 of 20 pictures" in told
    assert "PASSED: A = B" in told
    assert str(tmp_path / "sheet.png") in told
    # what to do next, line by line
    assert "\n  pulid-generate pull schnell-q4 --models-dir models\n" in done.err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > COUNT * 16
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == (len(scenes.PEOPLE) + 1) * COUNT
    assert ["pulid-id-embedding" in row for row in rows] == [True] * 20 + [False] * 5


def test_a_command_that_fails_ends_it_in_one_line(capfd):
    with pytest.raises(PulidError, match=r"exit code 2 of pulid-generate inspect --no-such"):
        demo_running.called("pulid-generate", "inspect", "--no-such")
    assert "$ pulid-generate inspect --no-such\n" in capfd.readouterr().err


def test_the_packages_know_the_files_of_the_checkout():
    """Else run `python -m micro_world.demo_files`."""
    from micro_world import demo_files

    assert demo_files.hashes() == world.FILES
    for name in scenes.PEOPLE:
        drawn = demo_files.portrait(name).astype(int)
        with Image.open(demo_files.PORTRAITS / f"{name}.png") as kept:
            # edges differ by a shade between versions of OpenCV
            assert np.abs(np.asarray(kept).astype(int) - drawn).mean() < 1, name


# ------------------------------------------------------------------------------- where models are


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """As from a wheel, with two small files: no checkout around it, an empty cache folder."""
    files = {"ae.safetensors": b"autoencoder", "judge/recogniser.onnx": b"judge"}
    table = {}
    for name, data in files.items():
        table[name] = (len(data), hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(world, "FILES", table)
    monkeypatch.setattr(world, "CHECKOUT", tmp_path / "nowhere")
    monkeypatch.setenv("PULID_CACHE_DIR", str(tmp_path / "cache"))
    return files


@pytest.fixture
def served(installed, online, monkeypatch):
    """The project's address, which has the files; the hub behind it."""
    place = f"someone/toolkit/raw/v{world.__version__}/{world.FOLDER}"
    with running(Hub({f"{place}/{name}": data for name, data in installed.items()})) as hub:
        monkeypatch.setattr(home, "HOME_URL", f"{hub.address}/someone/toolkit")
        yield hub


def test_a_checkout_has_them():
    assert world.models_folder(None) == world.CHECKOUT / world.FOLDER
    assert world.models_folder(str(world.CHECKOUT / world.FOLDER)).is_dir()


def test_a_folder_that_is_named_has_all_of_them(tmp_path):
    (tmp_path / "ae.safetensors").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"clip_l\.safetensors, .* not found"):
        world.models_folder(str(tmp_path))


def test_they_are_downloaded_once(served, installed):
    folder = world.models_folder(None)
    assert {name: (folder / name).read_bytes() for name in installed} == installed
    asked = len(served.calls)
    assert asked
    assert world.models_folder(None) == folder
    assert len(served.calls) == asked
    # what was damaged since is fetched again
    (folder / "ae.safetensors").write_bytes(b"autoencodeR")
    world.models_folder(None)
    assert (folder / "ae.safetensors").read_bytes() == b"autoencoder"


def test_other_bytes_are_refused(served, installed):
    [name] = [name for name in served.files if name.endswith("ae.safetensors")]
    served.files[name] = b"something"
    with pytest.raises(WeightsError, match="SHA-256"):
        world.models_folder(None)


def test_offline_nothing_is_asked(served, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE is set"):
        world.models_folder(None)
    assert served.calls == []


def test_without_an_address_the_checkouts_folder_is_named(installed, generate, tmp_path):
    line = generate("demo", "--output-dir", tmp_path / "demo").error
    assert "scripts/micro_world/models of a checkout of the project" in line
    assert not (tmp_path / "demo").exists()
