"""Where the identity is added: what hangs on Flux's blocks while it runs, and comes off again.

    adapter.py      PuLID's layers from their file, bound to one identity
    fused.py        a folded layer and its addition by kernels, where the card runs them
    attention.py    one PuLID layer, as the reference writes it and folded for one identity
    terms.py        who is added to a block's output, where, and how strongly
    hooks.py        where PuLID's layers meet Flux: `inject` and `attach`
    host_caches.py  diffusers' step caches on the same model
    layer_skip.py   blocks that are left out of a forward
    compiling.py    torch.compile for the blocks

Knows no prompt and no schedule.
"""
