"""Where the memory plan is made: which model runs where, and whether its memory suffices, settled
before the first weight.

    devices.py    names of devices, and how much memory is free on them
    placement.py  which model runs where, where its weights wait, in what arithmetic
    footprint.py  bytes of a model and of its forward, from headers and sizes
    residency.py  which blocks stay on a device while the others stream
    plan.py       the values of a plan, and how it is shown
    stages.py     what each stage needs, and what is chosen so that it fits
    planning.py   the plan of one generation, or the flag that would make it fit
    streaming.py  blocks that wait in main memory and pass through the device

Only devices, placement and streaming import torch.
"""
