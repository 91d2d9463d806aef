"""What the metadata takes from the project's address, `HOME_URL` of pulid_extract/shared/home.py:
URLs, and links of the long description that work on a package's page. All else is in
pyproject.toml.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path

from setuptools import setup

ROOT = Path(__file__).parent
HOME = runpy.run_path(str(ROOT / "pulid_extract" / "shared" / "home.py"))
LINK = re.compile(r"(!?)\[([^]]*)\]\((?!https?://|#)([^)]+)\)")


def described(text: str) -> str:
    """README.md with absolute links. Without an address a link's words stay, a picture goes."""

    def absolute(link: re.Match[str]) -> str:
        mark, words, target = link.groups()
        if not HOME["HOME_URL"]:
            return "" if mark else words
        address = HOME["raw"] if mark else HOME["page"]
        return f"{mark}[{words}]({address(target)})"

    return LINK.sub(absolute, text)


def urls() -> dict[str, str]:
    home = HOME["HOME_URL"]
    if not home:
        return {}
    return {
        "Homepage": home,
        "Documentation": HOME["page"]("docs/guide.md"),
        "Changelog": HOME["page"]("CHANGELOG.md"),
        "Issues": f"{home}/issues",
    }


if __name__ == "__main__":
    setup(
        long_description=described((ROOT / "README.md").read_text(encoding="utf-8")),
        long_description_content_type="text/markdown",
        project_urls=urls(),
    )
