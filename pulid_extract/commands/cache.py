"""`pulid-extract cache [list|clear]`: what the embedding cache holds, and how to be rid of it."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pulid_extract.shared.cli import console

if TYPE_CHECKING:
    from pulid_extract.extraction.embedding_cache import EmbeddingCache

# pulid_generate's, in the same folder; a test compares the names
TEXT, COMPILED = "text", "compiled"


def cache(
    action: Annotated[
        Literal["list", "clear"],
        typer.Argument(help="list: what is there. clear: delete all of it."),
    ] = "list",
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one line of JSON for each entry; for clear, one.")
    ] = False,
) -> None:
    """List or delete what earlier runs left for the next time: embeddings, and the encoded prompts
    of `pulid-generate batch`.

    An embedding can be opened only with the portrait it was made from. The folder is
    PULID_CACHE_DIR, or pulid-flux-toolkit in the user's cache folder; --no-cache and
    PULID_NO_CACHE=1 turn the cache off.
    """
    from pulid_extract.extraction.embedding_cache import EmbeddingCache
    from pulid_extract.shared.cache_folder import default_folder

    folder = default_folder()
    store = EmbeddingCache(folder)
    if action == "clear":
        _clear(folder, store, as_json)
    else:
        _list(folder, store, as_json)


def _clear(folder: Path, store: EmbeddingCache, as_json: bool) -> None:
    from pulid_extract.files.file_hashes import MEMORY

    size = sum(entry.size for entry in store.entries())
    count = store.clear()
    for name in (TEXT, COMPILED):
        shutil.rmtree(folder / name, ignore_errors=True)
    # which model files there were
    (folder / MEMORY).unlink(missing_ok=True)
    line = f"{store.folder}: {count} deleted ({size / 1e6:.1f} MB)"
    if as_json:
        line = json.dumps({"folder": str(store.folder), "deleted": count, "bytes": size})
    console.write_line(line)


def _list(folder: Path, store: EmbeddingCache, as_json: bool) -> None:
    entries = store.entries()
    for entry in entries:
        used = datetime.fromtimestamp(entry.used, UTC)
        line = f"{entry.name[:16]}  {entry.size:>9}  {used:%Y-%m-%d %H:%M:%S} UTC"
        if as_json:
            record = {
                "entry": entry.name,
                "bytes": entry.size,
                "used": used.isoformat(timespec="seconds"),
            }
            line = json.dumps(record)
        console.write_line(line)
    size = sum(entry.size for entry in entries)
    console.log(
        f"{store.folder}: {len(entries)} entries, {size / 1e6:.1f} of at most "
        f"{store.limit / 1e6:.0f} MB"
    )
    texts = folder / TEXT
    size = sum(path.stat().st_size for path in texts.rglob("*") if path.is_file())
    console.log(f"{texts}: {size / 1e6:.1f} MB of encoded prompts")
