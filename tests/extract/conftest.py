"""What the tests of pulid-extract share: networks that are loaded once."""

from __future__ import annotations

import functools
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


@pytest.fixture(scope="session", autouse=True)
def networks_are_loaded_once() -> Iterator[None]:
    """Commands in this process share their networks: loading them again takes longer than most of
    what the tests do with them. They are not changed by use.
    """
    from pulid_extract.networks import bisenet, eva_clip, idformer, retinaface

    loaders = (
        (retinaface, "load_retinaface"),
        (bisenet, "load_bisenet"),
        (eva_clip, "load_eva_clip"),
        (idformer, "load_idformer"),
    )
    with pytest.MonkeyPatch.context() as patch:
        for module, name in loaders:
            patch.setattr(module, name, once_for_each_file(getattr(module, name)))
        yield
