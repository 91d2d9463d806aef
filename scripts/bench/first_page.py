"""How long the studio's first page takes in a browser while a picture is drawn: from the request of
the address to the moment that everything on it can be used, in a browser that has nothing cached.

    PYTHONPATH=scripts python -m bench.first_page [NAME OF THE BROWSER'S PROGRAM]
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from docs.studio_pictures import path_of, studio
from playwright.sync_api import sync_playwright

VISITS = 7
STEPS = 100


def main() -> None:
    program = path_of(sys.argv[1] if len(sys.argv) > 1 else "chromium")
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with (
        tempfile.TemporaryDirectory() as made,
        studio(Path(made)) as address,
        sync_playwright() as play,
    ):
        browser = play.chromium.launch(executable_path=program, args=arguments)
        _seconds(browser, address)
        idle = [_seconds(browser, address) for _ in range(VISITS)]
        drawing = browser.new_context().new_page()
        drawing.goto(address)
        drawing.wait_for_selector("body[data-ready]")
        busy = []
        while len(busy) < VISITS:
            if not drawing.locator("#jobs .state >> text=/^step/").count():
                drawing.fill("#prompt", "a person")
                drawing.fill("#steps", str(STEPS))
                drawing.click("#draw")
                drawing.wait_for_selector("#jobs .state >> text=/^step/")
            seconds = _seconds(browser, address)
            # a visit during which the picture was finished counts for nothing
            if drawing.locator("#jobs .state >> text=/^step/").count():
                busy.append(seconds)
        browser.close()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    for name, taken in (("nothing is drawn", idle), ("a picture is drawn", busy)):
        print(f"{name}: median {statistics.median(taken):.2f} s, slowest {max(taken):.2f} s")


def _seconds(browser: Any, address: str) -> float:
    context = browser.new_context()
    page = context.new_page()
    began = time.monotonic()
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    seconds = time.monotonic() - began
    context.close()
    return seconds


if __name__ == "__main__":
    main()
