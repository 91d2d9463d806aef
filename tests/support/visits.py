"""A visitor of the studio in a real browser."""

from __future__ import annotations

import os
import shutil
import time
from typing import TYPE_CHECKING

import pytest
from support.paths import ROOT

if TYPE_CHECKING:
    from support.served import Served

CHROMIUM = shutil.which("chromium")
REQUIRED = os.environ.get("PULID_REQUIRE_BROWSER") == "1"
MODELS = ROOT / "scripts" / "micro_world" / "models"
EXTRACT = ("--aligner", "antelopev2", "--parser", "none")
SECONDS = 120


def needs_browser() -> None:
    """Skip a module where there is none, with the reason."""
    if REQUIRED:
        return
    pytest.importorskip("fastapi", reason="the extra [serve] is not installed")
    pytest.importorskip("playwright", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on the PATH", allow_module_level=True)


def wait(condition) -> None:
    """Until it holds; the page's policy lets nothing be evaluated that waits there."""
    until = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.02)


class Visit:
    """One visitor's page."""

    def __init__(self, chromium, studio: Served, **options):
        self.context = chromium.new_context(accept_downloads=True, **options)
        self.context.set_default_timeout(SECONDS * 1000)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("request", lambda request: self._see(request.url, studio.address))
        self.page.goto(studio.address)
        self.page.wait_for_selector("body[data-ready]")

    def _hear(self, message) -> None:
        if message.type == "error":
            self.errors.append(message.text)

    def _see(self, url: str, address: str) -> None:
        if not url.startswith((address, "data:", "blob:")):
            self.elsewhere.append(url)

    def give(self, path) -> None:
        """A portrait; waits until its faces are framed."""
        self.page.set_input_files("#portraits", str(path))
        self.page.wait_for_selector("#faces button")

    def save(self, name: str) -> None:
        """The chosen face as a person of that name."""
        self.page.fill("#person-name", name)
        self.page.click("#use")
        self.page.wait_for_selector(f"#people >> text={name}")

    def point(self, x: float, y: float, canvas_id: str = "#portrait") -> tuple[float, float]:
        """Where a share of the portrait, or of another canvas, is in the window."""
        canvas = self.page.locator(canvas_id)
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        return box["x"] + box["width"] * x, box["y"] + box["height"] * y

    def drag(
        self, start: tuple[float, float], end: tuple[float, float], canvas: str = "#portrait"
    ) -> None:
        self.page.mouse.move(*self.point(*start, canvas))
        self.page.mouse.down()
        self.page.mouse.move(*self.point(*end, canvas), steps=6)
        self.page.mouse.up()

    def close(self) -> None:
        self.context.close()
        assert self.errors == []
        assert self.elsewhere == []
