"""What a GPU does with this toolkit: right or wrong first, then times, as tables for
docs/performance.md.

    PYTHONPATH=.:scripts python -m bench.gpu [kernels] [step] [stages] [command] [extract] [--small]
        [--device cpu] [--dir build/full-size] [--portrait FILE]

Runs in a checkout, with torch, triton, numpy, gguf and what else a generation imports, without this
project installed. Every number comes from seeded tensors or files of the public sizes. Ends with
exit code 1 if a result is wrong. Each part takes less than three minutes on a GPU.

--small takes models of a few megabytes: with --device cpu, for a look at whether it works at all.
For `extract` these are whatever networks lie in --dir, with a --portrait in which they find a face;
it wants the libraries of an extraction as well.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from bench.full_size_files import SMALL, Sizes
from pulid_generate.kernels.availability import available


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--dir", type=Path, default=Path("build/full-size"))
    parser.add_argument("--portrait", type=Path)
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.parts) - set(PARTS))
    if unknown:
        sys.exit(f"gpu: unknown part {', '.join(unknown)}; expected some of {', '.join(PARTS)}")
    if arguments.device != "cpu" and (reason := available(arguments.device)) is not None:
        sys.exit(f"gpu: kernels cannot run: {reason}")
    name = "cpu" if arguments.device == "cpu" else torch.cuda.get_device_name()
    print(f"{name}, torch {torch.__version__}\n")
    wrong: list[str] = []
    with torch.inference_mode():
        for part in arguments.parts or list(PARTS):
            wrong += PARTS[part](arguments)
    if wrong:
        sys.exit("\n".join(f"gpu: wrong: {line}" for line in wrong))


def kernels(arguments: argparse.Namespace) -> list[str]:
    """Each kernel against the torch code."""
    from bench.gpu import kernels

    if arguments.device == "cpu":
        sys.exit("gpu: kernels: want a GPU; their tests run in Triton's interpreter")
    return kernels.measure()


def step(arguments: argparse.Namespace) -> list[str]:
    """A denoise step in every form of the weights."""
    from bench.gpu import step

    sizes = step.Sizes()
    if arguments.small:
        sizes = step.Sizes(256, 2, 4, sides=(64,), turns=1, compile=False)
    return step.measure(torch.device(arguments.device), sizes)


def stages(arguments: argparse.Namespace) -> list[str]:
    """CLIP, T5, Flux and the autoencoder one by one, and what the memory plan says of each."""
    from bench.gpu import stages

    if arguments.small:
        return stages.measure(arguments.device, SMALL, arguments.dir, sides=(64,))
    return stages.measure(arguments.device, Sizes(), arguments.dir)


def command(arguments: argparse.Namespace) -> list[str]:
    """From nothing to a picture, and A = B as files."""
    from bench.gpu import command

    if arguments.small:
        return command.measure(arguments.device, SMALL, arguments.dir, side=64)
    return command.measure(arguments.device, Sizes(), arguments.dir)


def extract(arguments: argparse.Namespace) -> list[str]:
    """One extraction, cold and warm, and whether a card gives the CPU's tokens."""
    from bench.gpu import extract

    folder = arguments.dir
    if not arguments.small:
        folder /= "extract"
    elif arguments.portrait is None:
        sys.exit("gpu: extract --small: wants --dir with networks, and --portrait")
    return extract.measure(arguments.device, folder, arguments.portrait)


PARTS: dict[str, Callable[[argparse.Namespace], list[str]]] = {
    "kernels": kernels,
    "step": step,
    "stages": stages,
    "command": command,
    "extract": extract,
}

if __name__ == "__main__":
    main()
