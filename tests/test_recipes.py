"""Every command line of README.md and docs/ is run, as it stands there, on the small world.

A fenced block of `sh` runs in bash, in the order of its page, in a folder with the files that the
pages speak of. `sh needs X` is not run: X says what is not there. Sizes are divided by eight. The
generated pages have no such blocks.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.paths import ROOT
from support.programs.command_server import write_programs

MODELS = ROOT / "scripts" / "micro_world" / "models"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "CONTRIBUTING.md"]
BLOCK = re.compile(r"^```(sh[^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# what a block may need that is not here
NEEDS = (
    "the real files",
    "the network",
    "a GPU",
    "a cluster",
    "a server",
    "sd-cli",
    "make",
    "a minute",
)
SIZES = re.compile(r"(?<![\w.])(512|768|1024|1536)(?![\w.])")


def blocks(page: Path) -> list[tuple[str, str]]:
    """(what it needs, or "", its lines) of each block of a shell."""
    found = []
    for info, body in BLOCK.findall(page.read_text(encoding="utf-8")):
        assert info == "sh" or info.removeprefix("sh needs ") in NEEDS, f"{page.name}: ```{info}"
        found.append((info.removeprefix("sh").removeprefix(" needs "), body))
    return found


def runnable(page: Path) -> list[str]:
    return [body for needs, body in blocks(page) if not needs]


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    """A folder for PATH with both programs, which answer without starting."""
    folder = tmp_path_factory.mktemp("bin")
    address = folder / "socket"
    write_programs(folder, address)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    server = subprocess.Popen(
        [sys.executable, ROOT / "tests" / "support" / "programs" / "command_server.py", address],
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    yield folder
    server.kill()
    server.wait()


def shell(folder: Path, programs: Path, lines: str) -> subprocess.CompletedProcess[str]:
    """Run by bash, which ends at the first command that fails."""
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(folder / "home"),
        "PULID_CACHE_DIR": str(folder / "cache"),
        "PULID_MODELS_DIR": "models",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "LANG": "C.UTF-8",
    }
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", lines],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture(scope="module")
def stock(tmp_path_factory, programs) -> Path:
    """The files that the pages speak of."""
    from micro_world.drawing import draw
    from micro_world.people import FIRST_TEST_PERSON, Person
    from micro_world.scenes import Scene

    folder = tmp_path_factory.mktemp("stock")
    for name in ("me", "people", "loras", "home"):
        (folder / name).mkdir()
    (folder / "models").symlink_to(MODELS)
    (folder / "other.onnx").symlink_to(MODELS / "judge" / "recogniser.onnx")

    def portrait(person: int, background: int = 7, side: int = 192) -> Image.Image:
        scene = Scene(background=background, clothes=5)
        return Image.fromarray(draw(Person.of(FIRST_TEST_PERSON + person), scene, side).pixels)

    portrait(4).save(folder / "me.jpg", quality=95)
    portrait(4).save(folder / "photo.png")
    portrait(9).save(folder / "beach.jpg", quality=95)
    portrait(4, 2).save(folder / "me2.jpg", quality=95)
    portrait(5).save(folder / "you.jpg", quality=95)
    for number in range(3):
        portrait(4, number).save(folder / "me" / f"{number}.jpg", quality=95)
    for name, number in (("anna", 12), ("ben", 9)):
        portrait(number).save(folder / "people" / f"{name}.jpg", quality=95)
    group = Image.new("RGB", (600, 200), (150, 160, 170))
    for place, number in enumerate((12, 4, 9)):
        group.paste(portrait(number, 3, 160), (30 + 190 * place, 20))
    group.save(folder / "group.jpg", quality=95)
    mask = np.zeros((192, 192), np.uint8)
    mask[50:150, 50:150] = 255
    Image.fromarray(mask).save(folder / "face.png")
    write_lora(folder / "style.safetensors")
    shutil.copy(folder / "style.safetensors", folder / "loras")
    (folder / "prompts.txt").write_text("in the rain\nas a knight\n")
    (folder / "rows.jsonl").write_text('{"prompt": "as a knight", "pulid-id-weight": 0.8}\n')
    done = shell(
        folder,
        programs,
        "pulid-extract batch people --out-dir . > batch.jsonl\n"
        "pulid-extract --portrait me.jpg --with-uncond --out me.pulidembd\n"
        "pulid-extract --portrait you.jpg --out you.pulidembd\n"
        "cp anna.pulidembd ben.pulidembd people/\n",
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(folder / "cache", ignore_errors=True)
    return folder


def write_lora(path: Path) -> None:
    """Of rank 2, for the small world's Flux, in Kohya's names."""
    from safetensors.numpy import save_file

    draw = np.random.default_rng(3)
    name = "lora_unet_double_blocks_0_img_attn_proj"
    save_file(
        {
            f"{name}.lora_down.weight": draw.normal(0, 0.02, (2, 256)).astype(np.float32),
            f"{name}.lora_up.weight": draw.normal(0, 0.02, (256, 2)).astype(np.float32),
            f"{name}.alpha": np.array(2, np.float32),
        },
        path,
    )


@pytest.mark.slow  # some sixty commands
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)], ids=lambda p: p.name)
def test_command_lines_run(page, stock, programs, tmp_path):
    folder = tmp_path / "work"
    shutil.copytree(stock, folder, symlinks=True)
    for number, body in enumerate(runnable(page)):
        lines = SIZES.sub(lambda size: str(int(size[1]) // 8), body)
        done = shell(folder, programs, lines)
        assert done.returncode == 0, f"block {number} of {page.name}:\n{lines}\n{done.stderr}"
        assert "Traceback" not in done.stderr


def test_a_block_that_fails_is_seen(tmp_path):
    (tmp_path / "page.md").write_text("```sh\nfalse\n```\n```sh needs a GPU\nfalse\n```\n")
    [body] = runnable(tmp_path / "page.md")
    assert shell(tmp_path, tmp_path, body).returncode == 1
    (tmp_path / "page.md").write_text("```sh needs luck\nfalse\n```\n")
    with pytest.raises(AssertionError, match="needs luck"):
        runnable(tmp_path / "page.md")
