"""`pulid-extract cache [list|clear]`: what the embedding cache holds, and how to be rid of it.
Imports no torch.
"""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer

from pulid_extract.extraction.embedding_cache import EmbeddingCache
from pulid_extract.files.file_hashes import MEMORY
from pulid_extract.shared.cache_folder import default_folder
from pulid_extract.shared.cli import console

TEXT = "text"  # pulid_generate's, in the same folder; a test compares the names


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
    folder = default_folder()
    store = EmbeddingCache(folder)
    entries = store.entries()
    size = sum(entry.size for entry in entries)
    if action == "clear":
        store.clear()
        shutil.rmtree(folder / TEXT, ignore_errors=True)
        (folder / MEMORY).unlink(missing_ok=True)  # which model files there were
        if as_json:
            console.write_line(
                json.dumps({"folder": str(store.folder), "deleted": len(entries), "bytes": size})
            )
        else:
            console.write_line(f"{store.folder}: {len(entries)} deleted ({size / 1e6:.1f} MB)")
        return
    for entry in entries:
        used = datetime.fromtimestamp(entry.used, UTC)
        if as_json:
            console.write_line(
                json.dumps(
                    {
                        "entry": entry.name,
                        "bytes": entry.size,
                        "used": used.isoformat(timespec="seconds"),
                    }
                )
            )
        else:
            console.write_line(f"{entry.name[:16]}  {entry.size:>9}  {used:%Y-%m-%d %H:%M:%S} UTC")
    console.log(
        f"{store.folder}: {len(entries)} entries, {size / 1e6:.1f} of at most {store.limit / 1e6:.0f} MB"
    )
    console.log(f"{folder / TEXT}: {_bytes_in(folder / TEXT) / 1e6:.1f} MB of encoded prompts")


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
