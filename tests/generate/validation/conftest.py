"""The flags of a validation on the micro models, and its pictures, which are drawn once."""

from __future__ import annotations

import shutil

import pytest
from PIL import Image
from seeded import astronaut
from seeded.checkpoints import write_embedding
from support.models.micro_flags import model_flags, pulid_flags
from support.programs.fake_reports import SCORES

SIZE = ("-W", 64, "-H", 48)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PULID_CACHE_DIR", str(tmp_path / "cache"))


@pytest.fixture
def models(micro):
    return *model_flags(micro), *pulid_flags(micro), "--steps", 2


@pytest.fixture
def base(models, person, tmp_path):
    """The flags of a run with two prompts, two seeds, a stranger, and somebody's portrait."""
    prompts, reference = tmp_path / "prompts.txt", tmp_path / "me & you.png"
    prompts.write_text("a cat\n\na <b>dog</b>\n")
    Image.fromarray(astronaut.portrait()).save(reference)
    stranger = write_embedding(tmp_path / "you.pulidembd", seed=6)
    return (
        *(
            *models,
            *SIZE,
            "--pulid-id-embedding",
            person,
            "--reference",
            reference,
            "--stranger",
            reference,
        ),
        *(
            "--stranger-embedding",
            stranger,
            "--prompts",
            prompts,
            "--seeds",
            "1-2",
            "--output-dir",
            tmp_path / "out",
        ),
    )


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """The pictures of `base`, once a test has drawn them."""
    return tmp_path_factory.mktemp("earlier") / "pictures"


@pytest.fixture
def drawn(base, earlier, generate, fake, tmp_path):
    """The flags of a run whose pictures are there already."""
    if not earlier.exists():
        fake(SCORES)
        done = generate("validate", *base)
        assert done.code == 0, done.err
        shutil.copytree(tmp_path / "out" / "pictures", earlier)
    else:
        shutil.copytree(earlier, tmp_path / "out" / "pictures")
    return (*base, "--resume")
