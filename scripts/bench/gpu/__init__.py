"""What a card does: kernels alone, a step, the stages of a picture, the command, an extraction.

    __main__.py   the parts by name, one after the other
    kernels.py    each kernel against the same in torch
    step.py       a step of Flux, in every form that its weights have
    stages.py     each stage beside what the memory plan says of it
    command.py    the whole command, cold and with what earlier ones have kept
    extract.py    an extraction, and how far its tokens are from the CPU's
    tables.py     what is printed

Run with PYTHONPATH=.:scripts python -m bench.gpu.
"""
