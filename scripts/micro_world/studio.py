"""The studio on the small world: draws some portraits to upload, starts `pulid-generate serve` and
opens it in the browser.

    make studio        (or: PYTHONPATH=scripts python -m micro_world.studio [FLAGS OF SERVE])
"""

from __future__ import annotations

import os
import subprocess
import sys
import webbrowser
from pathlib import Path

from pulid_generate.demo.scenes import write_portraits
from pulid_generate.demo.world import CHECKOUT, DRAW, EXTRACT, FOLDER

# relative, so that the commands shown are short
MODELS = Path(os.path.relpath(CHECKOUT / FOLDER))

# where a browser can be: without a display a text browser would take the terminal
HAS_DISPLAY = sys.platform in ("darwin", "win32") or bool(
    os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
)


def command(folder: Path, flags: list[str]) -> list[str]:
    """The command line of the server. folder: of the demo, whose identities can be named."""
    line = [sys.executable, "-m", "pulid_generate", "serve", "--models-dir", str(MODELS), *DRAW]
    line += ["--extract-flags", " ".join(EXTRACT), "--output-dir", str(folder / "studio")]
    if (folder / "identities").is_dir():
        line += ["--identities", str(folder / "identities")]
    return line + flags


def main() -> None:
    folder = Path(os.path.relpath(CHECKOUT / "demo"))
    write_portraits(folder / "portraits")
    print(f"Portraits to drop on the page are in {folder / 'portraits'}.", flush=True)
    line = command(folder, sys.argv[1:])
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        if address:
            print(f"The studio is at {address}; Ctrl-C ends it.", flush=True)
            if HAS_DISPLAY:
                webbrowser.open(address)
        try:
            server.wait()
        # the server has heard it too, and finishes the picture in work
        except KeyboardInterrupt:
            server.wait()
    sys.exit(server.returncode)


if __name__ == "__main__":
    main()
