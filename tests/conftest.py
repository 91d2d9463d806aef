"""What every test shares: a world without network or a user's caches, the golden tensors, and the
micro models with the command that draws with them.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path

import pytest
from hypothesis import settings
from support.paths import GOLDEN
from support.programs.fake_hub import Hub, running

from pulid_extract.shared import openmp, telemetry

# Threads of several tests that wait for each other cost more than they bring. What this file
# imports may not import torch, which reads the number once.
if workers := os.environ.get("PYTEST_XDIST_WORKER_COUNT"):
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // int(workers)))
    )
# from half a minute of processor time up
LONGEST = (
    "world/test_faces.py",
    "tests/test_recipes.py",
    "server/test_studio.py",
    "server/test_studio_people.py",
    "shared/test_ray.py",
    "server/test_hostile_requests.py",
    "injection/test_compiled_files.py",
    "injection/test_compiled_blocks.py",
    "validation/test_validate.py",
    "tests/test_privacy.py",
    "tests/test_package.py",
)

# the same examples in every run, and no file of them beside the tests
settings.register_profile("fixed", derandomize=True, database=None, deadline=None)
settings.load_profile("fixed")

telemetry.switch_off()
openmp.wait_asleep()
# before any library reads it; tests of downloads clear it for a child process
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("PULID_MODELS_DIR", None)
# or two runs that shall be equal were one; tests of the cache take a folder of their own
os.environ["PULID_NO_CACHE"] = "1"
# The arithmetic of every command that names no other, so that pictures are the same on machines
# that multiply bfloat16 and on those that do not. A test of the default takes it away.
os.environ["PULID_DTYPE"] = "float32"


def pytest_collection_modifyitems(items):
    """Files that take long go first: a worker that begins with one of them last would keep the
    others waiting. (Makefile: --no-loadscope-reorder, or xdist sorts by the number of tests.)
    """

    def place(item):
        path = item.path.as_posix()
        return next((n for n, name in enumerate(LONGEST) if path.endswith(name)), len(LONGEST))

    items.sort(key=place)


@pytest.fixture(scope="session", autouse=True)
def what_commands_only_read_is_made_once():
    """Commands in this process share what each of them would make again, and would not change:
    their own options, and CLIP's vocabulary. That is a third of what a small picture takes.
    """
    import typer.main

    from pulid_extract.networks import prompt_judge
    from pulid_generate.models import tokenizers

    with pytest.MonkeyPatch.context() as patch:
        for module, name in (
            (typer.main, "get_command"),
            (tokenizers, "open_clip_tokenizer"),
            (prompt_judge, "open_clip_tokenizer"),
        ):
            patch.setattr(module, name, cache(getattr(module, name)))
        yield


@pytest.fixture(scope="session")
def golden():
    """golden("flux") -> {name: float32 array} of tests/golden/flux.safetensors; see
    tests/golden/README.md.
    """
    from safetensors.numpy import load_file

    return lambda name: load_file(GOLDEN / f"{name}.safetensors")


@pytest.fixture(scope="session")
def golden_shapes():
    """golden_shapes("flux") -> the parsed tests/golden/flux_shapes.json."""
    return lambda name: json.loads((GOLDEN / f"{name}_shapes.json").read_text())


@pytest.fixture
def generate(capfdbinary, monkeypatch):
    """generate("-p", "a cat", ..) runs the pulid-generate command in this process, exactly as its
    entry point does.
    """
    from support.programs.commands import generate_command

    return generate_command(capfdbinary, monkeypatch)


@pytest.fixture(scope="session")
def micro(tmp_path_factory) -> Path:
    """A folder with the generation half of the micro models (schnell), and Flux dev beside it in
    `dev/`. Flux has 4 double and 6 single blocks, so that a picture takes a third of a second.
    """
    return write_generation(tmp_path_factory.mktemp("micro"), blocks=(4, 6))


@pytest.fixture(scope="session")
def deep(tmp_path_factory) -> Path:
    """As `micro`, with as many blocks as the published Flux."""
    return write_generation(tmp_path_factory.mktemp("deep"))


def write_generation(folder: Path, **options) -> Path:
    from seeded import micro_models

    wanted = ("flux1-", "pulid_flux", "ae.", "clip_l", "t5xxl", "tokenizer")
    for part in micro_models.parts(**options):
        if part.name.startswith(wanted):
            part.write(folder / part.name, 0)
    (folder / "dev").mkdir()
    dev = micro_models.parts(dev=True, **options)[0]
    dev.write(folder / "dev" / dev.name, 0)
    return folder


@pytest.fixture(scope="session")
def person(tmp_path_factory) -> Path:
    """A .pulidembd of nobody, without the unconditional tokens."""
    from seeded.checkpoints import write_embedding

    return write_embedding(tmp_path_factory.mktemp("person") / "me.pulidembd")


@pytest.fixture
def online(monkeypatch):
    """An empty hub that this process believes to be the Hugging Face one; nothing of the user's
    tokens.
    """
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    # read from the variable when it was imported
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nowhere")
    with running(Hub()) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        yield hub
