"""What the tests of pulid-extract share: networks that are loaded once."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def once_for_each_file(load: Callable[..., Any]) -> Callable[..., Any]:
    """The same network for the same file, as long as the file is not changed."""

    @functools.cache
    def of_content(path: Path, state: tuple[int, int], *more: Any) -> Any:
        return load(path, *more)

    def remembered(path: str | Path, *more: Any) -> Any:
        state = Path(path).stat()
        return of_content(Path(path), (state.st_size, state.st_mtime_ns), *more)

    return remembered


def remembers(load: Callable[..., Any], kept: int = 8) -> Callable[..., Any]:
    """The loader of a network that answers from memory what it was asked before. kept: for how many
    pictures.
    """

    def copied(answer: Any) -> Any:
        if isinstance(answer, tuple):
            return tuple(tensor.clone() for tensor in answer)
        return answer.clone()

    def loaded(*arguments: Any) -> Any:
        network = load(*arguments)
        compute = network.forward
        known: dict[bytes, Any] = {}

        def forward(pixels: Any) -> Any:
            kind = f"{pixels.shape} {pixels.dtype}".encode()
            asked = hashlib.sha256(kind + pixels.cpu().float().numpy().tobytes()).digest()
            if asked not in known:
                if len(known) == kept:
                    del known[next(iter(known))]
                known[asked] = copied(compute(pixels))
            return copied(known[asked])

        network.forward = forward
        return network

    return loaded


@pytest.fixture(scope="session", autouse=True)
def networks_are_loaded_once() -> Iterator[None]:
    """Commands in this process share their networks: loading them again takes longer than most of
    what the tests do with them. They are not changed by use. The two large ones of convolutions,
    which take most of an extraction, see few pictures, and each once.
    """
    from pulid_extract.networks import bisenet, eva_clip, idformer, retinaface

    loaders = (
        (retinaface, "load_retinaface"),
        (bisenet, "load_bisenet"),
        (eva_clip, "load_eva_clip"),
        (idformer, "load_idformer"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retinaface, "load_retinaface", remembers(retinaface.load_retinaface))
        patch.setattr(bisenet, "load_bisenet", remembers(bisenet.load_bisenet))
        for module, name in loaders:
            patch.setattr(module, name, once_for_each_file(getattr(module, name)))
        yield
