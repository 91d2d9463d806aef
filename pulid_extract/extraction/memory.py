"""What earlier extractions left: hashes of the model files and the embedding cache, for one set of
files that was found. No torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from pulid_extract.extraction.embedding_cache import EmbeddingCache, Key
from pulid_extract.extraction.job import Job, Log, Made, recall
from pulid_extract.extraction.opening import Beside
from pulid_extract.files.file_hashes import FileHashes, files_of
from pulid_extract.shared.cache_folder import default_folder
from pulid_extract.shared.cli import console
from pulid_extract.shared.errors import OutputError
from pulid_extract.shared.model_files import Found

# key of a .pulidembd -> role
PROVENANCE = {"weights.sha256": "pulid_weights", "eva_clip.sha256": "eva_clip"}


class Memory:
    """Hashes are computed beside the work, from the start; what is known already is known at once.
    off: keep and read nothing.
    """

    def __init__(self, found: Mapping[str, Found], device: str, off: bool):
        folder = None if off else default_folder()
        files, known = files_of(found), FileHashes(folder)
        self.device = device
        self.is_ready = all(
            known.known(path) is not None for paths in files.values() for path in paths
        )
        self._cache = None if folder is None else EmbeddingCache(folder)
        self._hashes = Beside(
            lambda: {name: [known.of(path) for path in paths] for name, paths in files.items()}
        )

    def provenance(self) -> dict[str, str]:
        """SHA-256 of the files that shape the tokens most, as keys of a .pulidembd. Waits for the
        hashes. Raises InputError.
        """
        hashes = self._hashes.result()
        return {key: hashes[role][0] for key, role in PROVENANCE.items()}

    def key(self, job: Job, roles: Collection[str]) -> Key:
        """The job's key, by the files of these roles. Waits for the hashes. Raises InputError."""
        return job.key(
            {name: found for name, found in self._hashes.result().items() if name in roles},
            self.device,
        )

    def recall(self, job: Job, key: Key, log: Log) -> Made | None:
        """See `job.recall`; None as well if the cache is off."""
        return None if self._cache is None else recall(job, self._cache, key, log)

    def keep(self, key: Key, made: Made) -> None:
        """If the cache cannot be written, that is said once and the work goes on."""
        if self._cache is None or made.cached:
            return
        try:
            self._cache.put(key, made.stored)
        except OutputError as error:
            console.log(f"warning: the embedding cache is not used: {error}")
            self._cache = None
