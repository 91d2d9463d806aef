"""Libraries that are installed and still cannot be imported: which one it is, and its cure. What
`doctor` says, and what becomes of such an error in every other command.

Known are the libraries of the system that wheels for Linux leave to it. Imports none of them.
"""

from __future__ import annotations

import importlib
import re

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


def import_problem(error: BaseException) -> str | None:
    """One line for an import that failed, with its cure; None for another error, and for ours."""
    if isinstance(error, OSError):
        if not LACKS_FILE.search(str(error)):
            return None
    elif not isinstance(error, ImportError) or str(error.name).startswith("pulid_"):
        return None
    said = " ".join(str(error).split())[:200]
    name = getattr(error, "name", None) or "a library"
    return f"{name} cannot be imported ({said}); run: {cure_of(said, name)}"


def cure_of(said: str, name: str) -> str:
    """What brings a library back. said: the loader's words. name: of the module or distribution."""
    for pattern, cure in CURES.items():
        if re.search(pattern, said):
            return cure
    return f"pip install --force-reinstall {name.partition('.')[0]}"


def try_import(distribution: str) -> str | None:
    """Import a library by the name that it is installed under; what went wrong, with its cure, or
    None.
    """
    module = MODULES.get(distribution, distribution.replace("-", "_"))
    try:
        importlib.import_module(module)
    # whatever a library does when it loads
    except Exception as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        return f"cannot be imported ({said}); run: {cure_of(said, distribution)}"
    return None
