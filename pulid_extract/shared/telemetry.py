"""What libraries would report to their makers, switched off by the variables that they read.

They read them once, when they are imported or first used: whoever imports one of them calls
`switch_off` before. The commands do so at their start, workers before they open their work. Knows
none of the libraries but by its variable.
"""

from __future__ import annotations

import os

# variable -> the value that forbids
OFF = {
    # onnxruntime 1.29 and newer: a device id and a queue of events in ~/.cache/Microsoft, sent to
    # its maker. Its function disable_telemetry_events comes too late: both files are there by then
    "ORT_DISABLE_TELEMETRY": "1",
    # huggingface_hub 2.4, and diffusers and transformers through it: versions of libraries in every
    # request, and a list of coding agents that is fetched once a day to name the one that asks
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # Ray 2.60: how a cluster is used, hourly
    "RAY_USAGE_STATS_ENABLED": "0",
    # consoledonottrack.com, for whatever comes next
    "DO_NOT_TRACK": "1",
}


def switch_off() -> None:
    """Set the variables for this process and those that it starts, whatever they were: the promise
    of docs/privacy.md has no exception.
    """
    os.environ.update(OFF)
