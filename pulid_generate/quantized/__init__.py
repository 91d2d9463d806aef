"""ggml's quantised weights: their layers, their numbers, and matrix products on a CPU. See each file."""

from pulid_generate.quantized.layers import Compute, QuantizedLinear, QuantizedWeight, compute_quantized

__all__ = ["Compute", "QuantizedLinear", "QuantizedWeight", "compute_quantized"]
