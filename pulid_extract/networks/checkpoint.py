"""Tensors out of a checkpoint file, and into a module, strictly. Knows files and state dicts,
nothing of any one model.

Code in a pickle is never run: `.pt` and `.pth` files load with `weights_only=True`.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch.overrides import TorchFunctionMode

from pulid_extract.shared.errors import WeightsError

# Wrappers that training scripts put around a state dict (timm's checkpoint_filter_fn knows the same
# ones).
WRAPPERS = ("state_dict", "model", "module")


def read_tensors(
    path: Path, wanted: Callable[[str], bool] = lambda name: True
) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors or torch file whose names are wanted, on the CPU, in the file's
    dtypes.

    A `module.` prefix (DataParallel) is taken off before `wanted` is asked. Raises WeightsError for
    a damaged file.
    """
    with open(path, "rb") as file:
        is_pickle = file.read(2)[:1] in (b"P", b"\x80")
    return _read_pickle(path, wanted) if is_pickle else _read_safetensors(path, wanted)


def _read_safetensors(path: Path, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = file.keys()  # the file itself cannot be iterated
            return {_plain(name): file.get_tensor(name) for name in names if wanted(_plain(name))}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: damaged safetensors file ({error}); download it again"
        ) from None


def _read_pickle(path: Path, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
    try:
        # mmap: of EVA-CLIP's file only the image tower is then ever read from disk. Legacy pickles
        # cannot be mapped.
        loaded = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    # torch's readers raise whatever a damaged byte leads to, and UnpicklingError for code
    except Exception as error:
        reason = str(error).splitlines()[0][:160] if str(error) else type(error).__name__
        raise WeightsError(
            f"{path}: torch cannot load it as plain tensors ({reason}); download it again, or "
            "convert it to safetensors"
        ) from None
    for wrapper in WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict):
        raise WeightsError(f"{path}: holds a {type(loaded).__name__}, expected a dict of tensors")
    tensors = {}
    for name, value in loaded.items():
        if isinstance(value, torch.Tensor) and wanted(_plain(name)):
            tensors[_plain(name)] = value
    return tensors


def _plain(name: object) -> str:
    return str(name).removeprefix("module.")


def load_strictly(
    module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: Path, what: str
) -> None:
    """Copy `tensors` into `module` in the module's own dtype. Raises WeightsError that names what
    does not fit.

    Every parameter and persistent buffer must be there, with its shape, and nothing else.
    """
    wanted = module.state_dict()
    # counters of batch norms, of no use in eval mode: torch itself lets files from before they
    # existed leave them out
    counters = {
        name: tensor for name, tensor in wanted.items() if name.endswith("num_batches_tracked")
    }
    tensors = counters | dict(tensors)
    wrong_shapes = []
    for name in wanted.keys() & tensors.keys():
        shape, wanted_shape = tuple(tensors[name].shape), tuple(wanted[name].shape)
        if shape != wanted_shape:
            wrong_shapes.append(f"{name} {shape} for {wanted_shape}")
    problems = [
        *_listed("missing", wanted.keys() - tensors.keys()),
        *_listed("unknown", tensors.keys() - wanted.keys()),
        *_listed("wrong shape", wrong_shapes),
    ]
    if problems:
        raise WeightsError(f"{path}: does not fit {what}: {'; '.join(problems)}")
    module.load_state_dict(tensors, strict=True)
    module.eval().requires_grad_(False)


def size_of(
    tensors: Mapping[str, torch.Tensor], name: str, axis: int, path: Path, what: str
) -> int:
    """Length of one axis of a tensor that the sizes of `what` are read from. Raises WeightsError if
    it is missing.
    """
    if name not in tensors or tensors[name].ndim <= axis:
        raise WeightsError(f"{path}: does not fit {what}: missing {name}")
    return int(tensors[name].shape[axis])


def count_of(names: Iterable[str], prefix: str) -> int:
    """How many numbered items follow `prefix`: different N of `prefix`N.… A name alone can claim
    that there are a billion.
    """
    numbers = {name[len(prefix) :].split(".", 1)[0] for name in names if name.startswith(prefix)}
    return sum(number.isdecimal() for number in numbers)


def _listed(problem: str, names: Iterable[str]) -> list[str]:
    names = sorted(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{problem} {', '.join(names[:3])}{more}"] if names else []


class without_init(TorchFunctionMode):
    """Leave new parameters unset while a module is built: a strict load follows. Buffers are
    computed as ever.

    Filling 300 million parameters with random numbers that are then thrown away takes 6 of 7
    seconds. Building on the meta device would be shorter still, but leaves non-persistent buffers
    (the towers' rope tables) empty without a word.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if (
            args
            and isinstance(args[0], torch.nn.Parameter)
            and name.endswith("_")
            and not name.startswith("_")
        ):
            return args[0] if name != "requires_grad_" else func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))
