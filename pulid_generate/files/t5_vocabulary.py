"""Where T5's vocabulary is: most T5 files lack it. Reading it is for models/tokenizers."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.model_files import Header, Role, Source, cached, fetch, is_offline
from pulid_generate.errors import CheckpointError

# in the order they are looked for
VOCABULARIES = ("tokenizer.json", "spiece.model")
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
    cache, then on the hub. Raises WeightsError, CheckpointError among them.
    """
    if given is not None:
        path = path_of(given)
        if not path.exists():
            raise CheckpointError(
                f"{path}: no such T5 tokenizer; "
                "give a folder, a tokenizer.json, a spiece.model or a T5 GGUF"
            )
        vocabulary = _vocabulary_in(path) if path.is_dir() else path
        if vocabulary is None:
            raise CheckpointError(
                f"{path}: holds no tokenizer.json and no spiece.model; give one of them"
            )
        return vocabulary
    if encoder is not None and encoder.metadata.get("tokenizer.ggml.model") == "t5":
        return encoder.path
    searched = list(folders)
    for folder in searched:
        vocabulary = _vocabulary_in(folder)
        if vocabulary is not None:
            return vocabulary
    vocabulary = cached(T5_TOKENIZER.source)
    if vocabulary is not None:
        return vocabulary
    if is_offline():
        where = " nor in ".join(map(str, searched))
        raise CheckpointError(
            f"T5 tokenizer: neither in {where} nor in the Hugging Face cache; "
            f"give {T5_TOKENIZER.flag} FILE"
        )
    return fetch(T5_TOKENIZER, Path())


def _vocabulary_in(folder: Path) -> Path | None:
    for name in VOCABULARIES:
        if (folder / name).is_file():
            return folder / name
    return None
