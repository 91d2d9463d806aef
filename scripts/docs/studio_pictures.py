"""docs/studio.png and docs/studio_phone.png: the studio as it is, on the small world, in Chromium.

PYTHONPATH=scripts python -m docs.studio_pictures [NAME OF THE BROWSER'S PROGRAM]
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from micro_world.studio import command
from PIL import Image

from pulid_generate.demo.scenes import write_portraits
from pulid_generate.demo.world import CHECKOUT

PROMPT = "a portrait of a person, smiling, in a red shirt, on a blue background"
# file -> the window, as Playwright has it
WINDOWS: dict[str, dict[str, Any]] = {
    "studio.png": {"viewport": {"width": 1280, "height": 1120}, "color_scheme": "light"},
    "studio_phone.png": {"viewport": {"width": 375, "height": 812}, "color_scheme": "dark"},
}
# of the palette; a page has few, its pictures are drawings
COLOURS = 192
# on a phone; a laptop shows the page from its top
TO_THE_PORTRAIT = """
window.scrollTo(0, innerWidth < 600 ? document.getElementById("portrait").offsetTop - 150 : 0)
"""


def main() -> None:
    from playwright.sync_api import sync_playwright

    program = sys.argv[1] if len(sys.argv) > 1 else "chromium"
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with (
        tempfile.TemporaryDirectory() as made,
        studio(Path(made)) as address,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=path_of(program), args=arguments)
        for name, window in WINDOWS.items():
            page = browser.new_context(**window).new_page()
            page.set_default_timeout(120_000)
            page.goto(address)
            page.wait_for_selector("body[data-ready]")
            _use(page, Path(made) / "portraits")
            _store(page.screenshot(), CHECKOUT / "docs" / name)
        browser.close()


@contextlib.contextmanager
def studio(folder: Path) -> Iterator[str]:
    """The address of a studio on portraits that are drawn for it."""
    write_portraits(folder / "portraits")
    line = command(folder, ["--port", "0", "--quiet"])
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


def _use(page: Any, portraits: Path) -> None:
    """From a portrait to a picture and the same seed without the person."""
    page.set_input_files("#portraits", str(portraits / "ada.png"))
    page.wait_for_selector("#seen-face[src]")
    page.fill("#person-name", "ada")
    page.click("#use")
    page.wait_for_selector("#people >> text=ada")
    page.fill("#prompt", PROMPT)
    page.check("#seed-lock")
    page.click("#draw")
    page.wait_for_selector("#current .likeness:not(:empty)")
    page.click("#compare")
    page.wait_for_selector("#comparison")
    page.evaluate("document.activeElement.blur()")
    page.evaluate("document.documentElement.style.scrollBehavior = 'auto'")
    page.evaluate(TO_THE_PORTRAIT)


def path_of(program: str) -> str:
    """Of the browser's program."""
    found = shutil.which(program)
    if found is None:
        raise SystemExit(f"{program}: not on the PATH; name the browser's program")
    return found


def _store(data: bytes, path: Path) -> None:
    """As a palette, which is a third of the bytes."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size >> 10} KiB")


if __name__ == "__main__":
    main()
