"""What the tests of pulid-generate share: pictures that are drawn once, a program that scores."""

from __future__ import annotations

import os

import pytest
from seeded.checkpoints import write_embedding
from support.models.micro_flags import micro_files, model_flags, pulid_flags
from support.pictures.micro_drawing import HEIGHT, WIDTH, Drawn, Kept
from support.programs.fake_score import HEAD

from pulid_extract.shared.embedding_file import encode_embedding, read_embedding
from pulid_generate.pictures import scorer as likeness


@pytest.fixture(scope="module")
def kept(micro, tmp_path_factory):
    """me, you: two people, `me` with an unconditional identity."""
    folder = tmp_path_factory.mktemp("drawn")
    tokens = read_embedding(write_embedding(folder / "seeded.pulidembd", 5)).tokens
    (folder / "me.pulidembd").write_bytes(encode_embedding(tokens, tokens[::-1] * 0.5))
    base = (
        *model_flags(micro),
        *("-p", "a photo of a cat", "-W", WIDTH, "-H", HEIGHT, "--steps", 2),
    )
    pulid = pulid_flags(micro)
    return Kept(
        folder,
        base,
        pulid,
        folder / "me.pulidembd",
        write_embedding(folder / "you.pulidembd", 9),
        {},
    )


@pytest.fixture(scope="module")
def pipeline(micro):
    """Of the micro models; it loads them when a test draws."""
    from pulid_generate import Pipeline, Placement

    return Pipeline(micro_files(micro), Placement.choose("cpu", "float32"))


@pytest.fixture
def draw(generate, kept):
    """draw("--steps", 3, ..) -> Drawn. Flags are added to `kept.base`; people need kept.pulid."""

    def run(*flags, suffix: str = ".png", stdin: bytes = b"") -> Drawn:
        key = (suffix, repr(stdin), *map(str, flags))
        if key not in kept.drawn:
            path = kept.folder / f"{len(kept.drawn)}{suffix}"
            done = generate(*kept.base, *flags, "-o", path, stdin=stdin)
            assert done.code == 0, done.err
            kept.drawn[key] = Drawn(path.read_bytes(), done)
        return kept.drawn[key]

    return run


@pytest.fixture(scope="session")
def kontext(micro, tmp_path_factory):
    """The micro dev model under Kontext's name."""
    path = tmp_path_factory.mktemp("kontext") / "flux1-kontext-dev.safetensors"
    path.hardlink_to(micro / "dev" / "flux1-dev.safetensors")
    return path


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """fake("body in Python") stands on the PATH in place of pulid-extract, with the names of
    HEAD.
    """

    def write(body: str) -> None:
        path = tmp_path / "bin" / "pulid-extract"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"{HEAD}{body}\n")
        path.chmod(0o755)
        monkeypatch.setattr(likeness, "LIBRARIES", ("no_such_library_anywhere",))
        monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")

    return write


@pytest.fixture(scope="session")
def golden_files(tmp_path_factory, golden_shapes):
    """The golden Flux models and PuLID layers as files in the public layouts."""
    from safetensors.torch import save_file
    from support.models.golden_flux import tensors

    folder, shapes = tmp_path_factory.mktemp("flux"), golden_shapes("flux")
    for name in ("dev", "schnell"):
        save_file(tensors(shapes[name]), folder / f"{name}.safetensors")
    save_file(tensors(shapes["pulid_ca"]), folder / "pulid.safetensors")
    return folder
