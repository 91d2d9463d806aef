"""A hub that holds one file, and a release of it elsewhere."""

from __future__ import annotations

import pytest
from support.programs.pulled import BODY, FILE, REPO


@pytest.fixture
def hub(online):
    online.files |= {f"{REPO}/{FILE}": BODY, "release/net.pth": BODY}
    return online
