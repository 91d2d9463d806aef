"""What earlier extractions left for this one: hashes of the model files and results by their keys,
for one set of model files. Knows no network. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

from pulid_extract.extraction.comparison import Log, compare, say_quality
from pulid_extract.extraction.embedding_cache import EmbeddingCache, Key
from pulid_extract.extraction.job import Job
from pulid_extract.extraction.results import ExtractionResult
from pulid_extract.files.file_hashes import FileHashes, files_of
from pulid_extract.shared.background import BackgroundCall
from pulid_extract.shared.cache_folder import default_folder
from pulid_extract.shared.cli import console
from pulid_extract.shared.embedding_file import RECOGNIZER
from pulid_extract.shared.errors import EmbeddingError, InputError, OutputError
from pulid_extract.shared.model_files import FoundFile

# key of a .pulidembd -> role
PROVENANCE = {"weights.sha256": "pulid_weights", "eva_clip.sha256": "eva_clip"}
# value of --device -> where a result may have been made. What a card makes differs from a CPU's in
# the last bits, so who names a device gets what that device made; "auto" takes either, since which
# of them a run would be on only torch knows.
MADE_ON = {"auto": ("cuda", "cpu")}


class ResultCache:
    """The files are hashed beside the work, from the start; hashes that are known already are known
    at once.
    """

    def __init__(self, files: Mapping[str, FoundFile], device: str, off: bool):
        """files: role -> its file. device: the value of --device. off: keep and read nothing."""
        folder = None if off else default_folder()
        self.device = device
        self._paths = files_of(files)
        self._known_hashes = FileHashes(folder)
        # whether a key costs no time: gigabytes that are not hashed yet are hashed beside the work,
        # not before it
        self.is_ready = self._all_hashes_are_known()
        self._cache = None if folder is None else EmbeddingCache(folder)
        self._hashing = BackgroundCall(self._hash_files)

    def _all_hashes_are_known(self) -> bool:
        for paths in self._paths.values():
            for path in paths:
                if self._known_hashes.known(path) is None:
                    return False
        return True

    def _hash_files(self) -> dict[str, list[str]]:
        hashes = {}
        for role, paths in self._paths.items():
            hashes[role] = [self._known_hashes.of(path) for path in paths]
        return hashes

    def _hashes(self) -> dict[str, list[str]]:
        try:
            return self._hashing.result()
        except OSError as error:
            raise InputError(f"a model file cannot be read ({error})") from None

    def provenance(self, recognizer: Path) -> dict[str, str]:
        """SHA-256 of the files that shape the tokens most, as keys of a .pulidembd. Waits for the
        hashes. Raises InputError.

        recognizer: which file of the face pack gives the vectors.
        """
        hashes = self._hashes()
        provenance = {key: hashes[role][0] for key, role in PROVENANCE.items()}
        pairs = zip(self._paths["antelopev2"], hashes["antelopev2"], strict=True)
        for path, sha256 in pairs:
            if path.name == recognizer.name:
                provenance[RECOGNIZER] = sha256
        return provenance

    def key(self, job: Job, roles: Collection[str]) -> Key:
        """What names the job among those of this command line, by the files of these roles. Waits
        for the hashes. Raises InputError.
        """
        return self._key(job, roles, self.device)

    def _key(self, job: Job, roles: Collection[str], device: str) -> Key:
        hashes = {role: files for role, files in self._hashes().items() if role in roles}
        return job.key(hashes, device)

    def get(self, job: Job, roles: Collection[str], log: Log) -> ExtractionResult | None:
        """What `recall` finds of any device that --device allows; None as well if the cache is off.
        Waits for the hashes. Raises InputError.
        """
        if self._cache is None:
            return None
        for device in MADE_ON.get(self.device, (self.device,)):
            result = recall(job, self._cache, self._key(job, roles, device), log)
            if result is not None:
                return result
        return None

    def put(self, job: Job, roles: Collection[str], result: ExtractionResult) -> None:
        """Under the device that made it. If the cache cannot be written, that is said once and the
        work goes on.
        """
        if self._cache is None or result.is_cached:
            return
        try:
            self._cache.put(self._key(job, roles, result.device), result.to_cache())
        except OutputError as error:
            console.log(f"warning: the embedding cache is not used: {error}")
            self._cache = None


def recall(job: Job, cache: EmbeddingCache, key: Key, log: Log) -> ExtractionResult | None:
    """What was made of these portraits with these options and weights before, judged again: it says
    what the first time said. None if there is nothing.

    Raises FaceError as `comparison.compare`, for what --strict refuses.
    """
    stored = cache.get(key)
    if stored is None:
        return None
    try:
        result = ExtractionResult.from_cache(stored, [source.sha256 for source in job.sources])
    # it opens, and holds what another version or a bug has left: made anew
    except (EmbeddingError, ValueError, KeyError, TypeError, IndexError, OverflowError):
        cache.forget(key)
        return None
    advice = []
    for source, portrait in zip(job.sources, result.portraits, strict=True):
        advice.append(portrait.advice())
        say_quality(source.where, portrait.line, advice[-1], log)
    compare([source.where for source in job.sources], result.cosines, advice, job.flags, log)
    return result
