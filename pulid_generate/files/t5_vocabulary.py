"""TODO"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pulid_extract.shared.model_files import Header, Role, Source, cached, fetch, is_offline
from pulid_generate.errors import CheckpointError

# what most T5 files lack: their vocabulary
T5_TOKENIZER = Role(
    "T5 tokenizer",
    "--t5-tokenizer",
    (),
    Source(repo="google/t5-v1_1-xxl", files=("spiece.model",), licence="Apache-2.0"),
    fetch=True,
)


def find_t5_tokenizer(
    given: str | Path | None, folders: Iterable[Path], encoder: Header | None = None
) -> Path:
    """The file of T5's vocabulary.

    given: a folder, a tokenizer.json, a spiece.model or a GGUF that carries one; None takes that of
    the `encoder` file if it is such a GGUF, then looks in `folders`, then in the Hugging Face
    cache, then on the hub. Raises WeightsError.
    """
    if given is not None:
        path = Path(given).expanduser()
        if not path.exists():
            raise CheckpointError(
                f"{path}: no such T5 tokenizer; give a folder, a tokenizer.json, a spiece.model or a T5 GGUF"
            )
        found = _tokenizer_in(path) if path.is_dir() else path
        if found is None:
            raise CheckpointError(
                f"{path}: holds no tokenizer.json and no spiece.model; give one of them"
            )
        return found
    if encoder is not None and encoder.metadata.get("tokenizer.ggml.model") == "t5":
        return encoder.path
    searched = list(folders)
    found = next(filter(None, map(_tokenizer_in, searched)), None) or cached(T5_TOKENIZER.source)
    if found is None and is_offline():
        where = " nor in ".join(map(str, searched))
        raise CheckpointError(
            f"T5 tokenizer: neither in {where} nor in the Hugging Face cache; give {T5_TOKENIZER.flag} FILE"
        )
    return found or fetch(T5_TOKENIZER, Path())


def _tokenizer_in(folder: Path) -> Path | None:
    return next(
        (folder / name for name in ("tokenizer.json", "spiece.model") if (folder / name).is_file()),
        None,
    )
