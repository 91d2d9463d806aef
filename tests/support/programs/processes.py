"""Programs in processes of their own, for tests of their start, their signals and their end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

from support.paths import ROOT


def started(
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    ignoring_interrupts: bool = False,
    **options: Any,
) -> subprocess.Popen[str]:
    """`python arguments..` of this checkout, with pipes for its output.

    Interrupts reach it as they reach what is started in a terminal, even if the tests themselves
    were started with SIGINT ignored; or not at all.
    """
    handler = signal.SIG_IGN if ignoring_interrupts else signal.SIG_DFL
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=partial(signal.signal, signal.SIGINT, handler),
        **options,
    )
