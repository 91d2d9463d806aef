"""onnxruntime, as everything here opens networks with it: it reports nothing to its maker and warns
of nothing, and runs where it can what is meant for a GPU. Knows no network.
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


CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# Convolutions chosen by rule: left to itself the provider times them and takes the fastest, so that
# the same portrait would not give the same bytes; and no TF32, which rounds to 10 bits.
CUDA_OPTIONS = {"cudnn_conv_algo_search": "HEURISTIC", "use_tf32": "0"}


def providers(device: str) -> list[str | tuple[str, dict[str, str]]]:
    """What an InferenceSession takes for "cuda" or another device: the CPU's wherever the installed
    onnxruntime has no CUDA.
    """
    if device == "cuda" and CUDA in load().get_available_providers():
        return [(CUDA, CUDA_OPTIONS), CPU]
    return [CPU]


def describe(device: str) -> str:
    """Where face detection and recognition run beside networks of torch on this device, for
    people.
    """
    if device != "cuda":
        return "face detection and ArcFace run on the CPU"
    if CUDA in load().get_available_providers():
        return "face detection and ArcFace run on cuda"
    return (
        "face detection and ArcFace run on the CPU, the installed onnxruntime having no CUDA; "
        "onnxruntime-gpu in its place has"
    )


def runs_on(session: Any) -> str:
    """ "cuda" or "cpu": where an opened session computes. A provider that cannot start, for want of
    a library, leaves its place to the CPU without an error.
    """
    return "cuda" if CUDA in session.get_providers() else "cpu"
