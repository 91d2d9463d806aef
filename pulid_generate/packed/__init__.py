"""Where the bytes of a GGUF or of fp8 become a matrix: weights that stay packed in memory.

    ggml.py           weights in ggml's quantised types, and the linear layer that keeps them so
    ggml_blocks.py    a block of ggml's bytes -> float32 numbers
    int8_products.py  matrix products through 8-bit integers
    fp8.py            weights in 8-bit floating point with their scales, and their linear layer
    fp8_products.py   matrix products in 8-bit floating point
    layers.py         puts either kind into a model in place of its linear layers
    opaque.py         layers that a compiled graph calls as they are
    slice_threads.py  slices of a weight by several threads at once
    widening.py       16-bit weights that are float32 only while their layer runs
    workspace.py      memory that is written again and again

Knows no model and no file.
"""
