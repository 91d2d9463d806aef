"""onnxruntime, as everything here opens networks with it: it reports nothing to its maker and warns
of nothing. Knows no network.
"""

from __future__ import annotations

from typing import Any

from pulid_extract.shared import telemetry


def load() -> Any:
    """The module onnxruntime. To be called before insightface is imported, which imports it too."""
    telemetry.switch_off()
    import onnxruntime

    # errors only: its warnings go straight to the terminal
    onnxruntime.set_default_logger_severity(3)
    return onnxruntime
