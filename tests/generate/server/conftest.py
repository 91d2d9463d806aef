"""What the tests of the server share: a server of the micro models, and the studio on the small
world with its visitors.
"""

from __future__ import annotations

import os

import pytest
from PIL import Image
from support.pictures.micro_drawing import write_lora
from support.visits import CHROMIUM, EXTRACT, MODELS, Visit

from pulid_generate.flags.commands.tables import ServeFlags


@pytest.fixture(scope="module")
def served(micro, tmp_path_factory, kept):
    from support.served import micro_serve_flags, serving

    folder = tmp_path_factory.mktemp("served")
    people = folder / "people"
    people.mkdir()
    for file in (kept.me, kept.you):
        (people / file.name).write_bytes(file.read_bytes())
    # beside the folder whose people may be named
    (folder / "secret.pulidembd").write_bytes(kept.you.read_bytes())
    loras = folder / "loras"
    loras.mkdir()
    write_lora(loras / "style.safetensors")
    flags = micro_serve_flags(
        micro, folder, identities=str(people), lora_model_dir=str(loras), max_queue=6
    )
    with serving(flags) as running:
        yield running


@pytest.fixture
def client(served):
    with served.client() as client:
        yield client


@pytest.fixture(scope="module")
def portraits(tmp_path_factory):
    """ada.png; two.png, of ada and ben beside each other; turned.jpg, 4000x3000 by its EXIF."""
    from micro_world.dataset import PORTRAIT
    from micro_world.drawing import draw
    from micro_world.people import FIRST_TEST_PERSON, Person
    from micro_world.scenes import Scene

    folder = tmp_path_factory.mktemp("portraits")
    scene = Scene(background=7, clothes=5)
    faces = []
    for number in (4, 5):
        person = Person.of(FIRST_TEST_PERSON + number)
        faces.append(Image.fromarray(draw(person, scene, PORTRAIT).pixels))
    faces[0].save(folder / "ada.png")
    width, height = faces[0].size
    two = Image.new("RGB", (2 * width, height))
    for place, face in enumerate(faces):
        two.paste(face, (place * width, 0))
    two.save(folder / "two.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    upright = faces[0].resize((3000, 4000))
    upright.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.jpg", exif=exif)
    return folder


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    from support.served import serving

    folder = tmp_path_factory.mktemp("studio")
    flags = ServeFlags(
        models_dir=str(MODELS),
        device="cpu",
        width=96,
        height=96,
        steps=4,
        t5_max_length=32,
        output_dir=str(folder / "studio"),
        extract_flags=" ".join((*EXTRACT, "--no-cache")),
        quiet=True,
    )
    with serving(flags) as running:
        yield running


@pytest.fixture(scope="module")
def chromium():
    from playwright.sync_api import sync_playwright

    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium, studio):
    opened: list[Visit] = []

    def start(**options) -> Visit:
        opened.append(Visit(chromium, studio, **options))
        return opened[-1]

    yield start
    for one in opened:
        one.close()
