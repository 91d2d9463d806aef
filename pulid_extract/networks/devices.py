"""Where the networks of torch run: which device a name means, exact arithmetic on it, and one line
when its memory runs out. Knows no network.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch

from pulid_extract.shared.cpu_bfloat16 import multiplies_bfloat16
from pulid_extract.shared.errors import InputError

# the same numbers, run after run, with all bits of float32: cuDNN would time its convolutions and
# take the fastest, and round their inputs to 10 bits (TF32)
EXACT_CUDNN = {"enabled": True, "benchmark": False, "deterministic": True, "allow_tf32": False}
# of matrix products; another program in this process may have allowed TF32
EXACT_PRODUCTS = "highest"


def choose_device(name: str) -> str:
    """ "auto" -> "cuda" or "cpu", by what this machine has; any other name as it is. Raises
    InputError for a device that it does not have.

    "auto" leaves out Apple's "mps", where this was never run: who names it gets it.
    """
    devices = []
    if torch.cuda.is_available():
        devices.append("cuda")
    if torch.backends.mps.is_available():
        devices.append("mps")
    devices.append("cpu")
    if name == "auto":
        return "cuda" if "cuda" in devices else "cpu"
    if name not in devices:
        raise InputError(
            f"--device {name}: not on this machine (here: {', '.join(devices)}); "
            "leave --device out to take what is there"
        )
    return name


def choose_arithmetic(device: str, fast: bool, log: Callable[[str], None]) -> torch.dtype:
    """In what EVA-CLIP and IDFormer compute: float32, or with --fast bfloat16 where the device
    multiplies it. log: gets a line if --fast changes nothing. device: of `choose_device`.
    """
    if not fast:
        return torch.float32
    if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.bfloat16
    if device == "cpu" and multiplies_bfloat16():
        return torch.bfloat16
    log(f"--fast changes nothing: {device} does not multiply bfloat16 here; computing in float32")
    return torch.float32


@contextlib.contextmanager
def exact_arithmetic() -> Iterator[None]:
    """Within it, float32 is multiplied with all of its bits, and the same input gives the same
    numbers. The settings are the process's: two threads that each enter it would restore what the
    other needs, so it is entered around both.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(EXACT_PRODUCTS)
    try:
        with torch.backends.cudnn.flags(**EXACT_CUDNN):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def naming_memory(network: str, device: str) -> Iterator[None]:
    """While a network is loaded or run, memory that runs out is an InputError of one line that says
    what helps.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise _out_of_memory(network, device) from None
    except RuntimeError as error:
        # the CPU's allocator, mps and cuBLAS raise a plain one
        words = str(error).lower()
        if not any(said in words for said in ("allocate memory", "out of memory", "alloc_failed")):
            raise
        raise _out_of_memory(network, device) from None


def _out_of_memory(network: str, device: str) -> InputError:
    helps = "end what else uses memory, or give a smaller portrait"
    if device != "cpu":
        helps = "end what else uses it, or take --device cpu"
    return InputError(f"{network}: out of memory on {device}; {helps}")
