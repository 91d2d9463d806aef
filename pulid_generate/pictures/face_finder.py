"""Where the faces of a picture are, and how like somebody: asks `pulid-extract worker`, a process
of its own that keeps its networks. Imports no torch.

The stages share files, not code. Knows no model of this stage and no request; pictures and
references go through a folder that its owner alone can read.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulid_extract.shared.writing import write_atomically
from pulid_generate.detail.faces import FoundFace
from pulid_generate.errors import PackageError, ScoringError
from pulid_generate.pictures.extract_process import ExtractProcess
from pulid_generate.pictures.picture import encode_pixels
from pulid_generate.pictures.scorer import PROGRAM

if TYPE_CHECKING:
    import numpy as np

# main memory of the process, 1.25 GiB: 0.73 were measured with the small world's networks, of which
# libraries are nearly all; SCRFD and ArcFace of the public pack are files of 17 and 261 MB
PROCESS_BYTES = 5 << 28


class FaceFinder:
    """Finds faces; starts the process when it is first wanted. One thread at a time."""

    def __init__(
        self,
        models_dir: str | Path | None = None,
        log: Callable[[str], None] = lambda line: None,
    ):
        """models_dir: where antelopev2 is looked for. log: gets the process's lines."""
        self.models_dir, self.log = models_dir, log
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        # (antelopev2's folder, the score from which something is a face) -> the process
        self._processes: dict[tuple[str | None, float | None], ExtractProcess] = {}
        # those that have answered
        self._checked: set[tuple[str | None, float | None]] = set()

    def check(self, detector: str | None, threshold: float | None) -> None:
        """Start the process, and see that it finds its networks. Raises PackageError,
        ScoringError.
        """
        import numpy as np

        key = (detector, threshold)
        if key not in self._checked:
            self.find(np.zeros((64, 64, 3), np.uint8), detector, threshold, {})
            self._checked.add(key)

    def find(
        self,
        pixels: np.ndarray,
        detector: str | None,
        threshold: float | None,
        people: Mapping[str, Sequence[bytes]],
    ) -> list[FoundFace]:
        """Every face of uint8 RGB (H, W, 3), the largest first.

        detector: antelopev2's folder, None for that of the models folder. threshold: the score from
        which something is a face, None for the detector's own. people: who is looked for, name ->
        the files of references. Raises PackageError if there is no program, ScoringError with the
        program's own line.
        """
        folder = self._open_folder()
        photo = folder / "picture.png"
        write_atomically(photo, encode_pixels(pixels, "PNG", None))
        task = {
            "task": "faces",
            "photo": str(photo),
            "allow_none": True,
            "people": {name: self._write(files) for name, files in people.items() if files},
        }
        try:
            answer = self._process(detector, threshold).ask(task)
        except PackageError:
            raise PackageError(
                f"the faces of --ad-model are found by {PROGRAM}, which is not installed; run: "
                f"pip install 'pulid-flux-toolkit[extract]', or put {PROGRAM} of another "
                "environment on the PATH"
            ) from None
        if answer.get("status") != "done":
            raise ScoringError(str(answer.get("error") or f"{PROGRAM} worker: gave no reason"))
        try:
            return [_face(face) for face in answer["faces"]]
        except (KeyError, TypeError, ValueError):
            raise ScoringError(
                f"{PROGRAM} worker: gave an answer that is not a list of faces; "
                "is it of another version?"
            ) from None

    def close(self) -> None:
        """End the processes; a later picture starts them again."""
        for process in self._processes.values():
            process.stop()
        self._processes.clear()
        self._checked.clear()
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None

    def _process(self, detector: str | None, threshold: float | None) -> ExtractProcess:
        key = (detector, threshold)
        if key not in self._processes:
            arguments = []
            options = {
                "models-dir": self.models_dir,
                "antelopev2": detector,
                "det-threshold": threshold,
            }
            for name, value in options.items():
                if value is not None:
                    arguments.append(f"--{name}={value}")
            self._processes[key] = ExtractProcess(arguments, self.log)
        return self._processes[key]

    def _open_folder(self) -> Path:
        if self._folder is None:
            # its mode is 0700
            self._folder = tempfile.TemporaryDirectory(prefix="pulid-faces-")
        return Path(self._folder.name)

    def _write(self, files: Sequence[bytes]) -> list[str]:
        """The references as files, each once."""
        paths = []
        for data in files:
            path = self._open_folder() / hashlib.sha256(data).hexdigest()
            if not path.exists():
                path.write_bytes(data)
            paths.append(str(path))
        return paths


def _face(told: Mapping[str, Any]) -> FoundFace:
    """Raises KeyError, TypeError or ValueError for what is no face."""
    x, y, width, height = (int(value) for value in told["box"])
    likeness = {name: float(value) for name, value in told.get("likeness", {}).items()}
    return FoundFace((x, y, width, height), float(told["score"]), likeness)
