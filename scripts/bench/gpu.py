"""What a GPU does with this toolkit: right or wrong first, then times, as tables for
docs/performance.md.

    PYTHONPATH=.:scripts python -m bench.gpu [kernels]

Runs in a checkout, with torch, triton, numpy and gguf, without this project installed. Every number
comes from seeded tensors of the public sizes; no model file is needed. Ends with exit code 1 if a
result is wrong. Each part takes less than three minutes.
"""

from __future__ import annotations

import sys

import torch

from pulid_generate.kernels.availability import available


def main() -> None:
    wanted = sys.argv[1:] or list(PARTS)
    unknown = sorted(set(wanted) - set(PARTS))
    if unknown:
        sys.exit(f"gpu: unknown part {', '.join(unknown)}; expected some of {', '.join(PARTS)}")
    reason = available("cuda")
    if reason is not None:
        sys.exit(f"gpu: kernels cannot run: {reason}")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}\n")
    wrong: list[str] = []
    with torch.inference_mode():
        for name in wanted:
            wrong += PARTS[name]()
    if wrong:
        sys.exit("\n".join(f"gpu: wrong: {line}" for line in wrong))


def kernels() -> list[str]:
    """Each kernel against the torch code."""
    from bench import gpu_kernels

    return gpu_kernels.measure()


PARTS = {"kernels": kernels}

if __name__ == "__main__":
    main()
