"""What GPUs run in one pass: kernels in Triton for packed weights, for PuLID's folded layer, and
for what stands between a Flux block's products.

    availability.py       whether a device can run them, or why not; needs neither triton nor a GPU
    ggml.py               blocks of ggml's types -> numbers
    fp8.py                8-bit floating point with its scales -> numbers
    products.py           one token times a matrix of ggml's types, from its bytes
    fp8_rows.py           rows of numbers -> 8-bit floating point with a scale each
    identity.py           PuLID's folded layer and its addition to the image tokens
    block_steps.py        norms, modulation, gates, rotation, GELU
    trials.py             whether a kernel gives what torch gives on its card, and a word if not
    identity_check.py     the trial of identity
    products_check.py     the trial of products
    block_steps_check.py  the trial of block_steps
    recording.py          a computation recorded once and replayed (CUDA graphs)

They compute what the torch code of `packed`, `injection` and `networks` computes, with fewer
launches and less memory traffic. Those folders ask `availability` and import the other files only
where it names no reason against it: they import triton, and nothing else does. What a compiled
graph must see through is also a torch operator of the namespace `pulid_generate`.
"""
