"""Libraries that are installed and still cannot be imported: which one it is, and its cure. What
`doctor` says, and what becomes of such an error in every other command.

Known are the libraries of the system that wheels for Linux leave to it. Imports none of them.
"""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass

# distribution -> its module, where that has another name
MODULES = {
    "opencv-python-headless": "cv2",
    "opencv-contrib-python-headless": "cv2",
    "pillow": "PIL",
    "open_clip_torch": "open_clip",
    "protobuf": "google.protobuf",
    "prometheus-client": "prometheus_client",
    "python-multipart": "python_multipart",
}
# a file that the loader did not find -> what brings it
CURES = {
    r"libGL\.so": "pip uninstall -y opencv-python opencv-contrib-python, then pip install "
    "--force-reinstall opencv-contrib-python-headless; or apt-get install libgl1",
    r"libgthread|libglib": "apt-get install libglib2.0-0",
    r"libgomp": "apt-get install libgomp1",
    r"libstdc\+\+|GLIBCXX": "apt-get install libstdc++6",
    r"libcu\w+\.so|libnv\w+\.so|libnccl": "pip install --force-reinstall torch torchvision, both "
    "for the same CUDA, or from the index for CPUs",
    r"operator torchvision::|undefined symbol": "pip install --force-reinstall torch torchvision, "
    "two that belong together",
    r"numpy": "pip install --upgrade --force-reinstall numpy",
}
# what a loader says of a file that it lacks; OSError where ctypes asked
LACKS_FILE = re.compile(r"cannot open shared object file|image not found|DLL load failed")
# what it says where a file is there and finds no room: an address space that is limited
LACKS_MEMORY = re.compile(r"failed to map|[Cc]annot allocate memory|cannot create shared object")
MORE_MEMORY = "give it more memory: ulimit -v, or the limit of its container, is too small"


@dataclass(frozen=True)
class ImportProblem:
    """Why a library does not load; as a text it is one line."""

    # with the loader's words
    text: str
    # what to do, a command after "run: "
    cure: str

    def __str__(self) -> str:
        return f"{self.text}; {self.cure}"


def import_problem(error: BaseException) -> str | None:
    """One line for an import that failed, with its cure; None for another error, and for ours."""
    if isinstance(error, OSError):
        if not LACKS_FILE.search(str(error)) and not LACKS_MEMORY.search(str(error)):
            return None
    elif not isinstance(error, ImportError) or str(error.name).startswith("pulid_"):
        return None
    said = " ".join(str(error).split())[:200]
    name = getattr(error, "name", None) or "a library"
    return str(ImportProblem(f"{name} cannot be imported ({said})", cure_of(said, name)))


def cure_of(said: str, name: str) -> str:
    """What brings a library back. said: the loader's words. name: of the module or distribution."""
    if LACKS_MEMORY.search(said):
        return MORE_MEMORY
    for pattern, cure in CURES.items():
        if re.search(pattern, said):
            return f"run: {cure}"
    return f"run: pip install --force-reinstall {name.partition('.')[0]}"


def try_import(distribution: str) -> ImportProblem | None:
    """Import a library by the name that it is installed under; what went wrong, or None."""
    module = MODULES.get(distribution, distribution.replace("-", "_"))
    try:
        importlib.import_module(module)
    except MemoryError:
        return ImportProblem("cannot be imported (out of memory)", MORE_MEMORY)
    # whatever a library does when it loads
    except Exception as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        return ImportProblem(f"cannot be imported ({said})", cure_of(said, distribution))
    return None
