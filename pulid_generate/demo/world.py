"""The small world: its models, where they are or come from, and the flags it wants. Imports no
torch.

The wheel does not carry the models: they are 48 MB beside 0.7 MB of code, for a command that is run
once. They lie in the checkout and in the source archive, or are downloaded once from the project's
address, into the cache folder, each checked.
"""

from __future__ import annotations

from pathlib import Path

from pulid_extract.shared import home
from pulid_extract.shared.cache_folder import default_folder
from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.model_files import is_offline
from pulid_extract.shared.model_files.transfer import download, file_sha256
from pulid_generate.errors import WeightsError
from pulid_generate.version import __version__

# of the repository
FOLDER = "scripts/micro_world/models"
CHECKOUT = Path(__file__).resolve().parents[2]
# the second recogniser, which conditions nothing
JUDGE = "judge/recogniser.onnx"
# one size of network is missing: facexlib's
EXTRACT = ("--aligner", "antelopev2", "--parser", "none")
# Flux knows prompts of 32 tokens and pictures of 96 pixels; and the arithmetic, so that pictures
# are the same on every processor
DRAW = (
    *("-W", "96", "-H", "96", "--steps", "8", "--t5-max-length", "32"),
    *("--dtype", "float32"),
)
# name -> bytes, SHA-256; `python -m micro_world.demo_files` prints it
FILES = {
    "EVA02_CLIP_L_336_psz14_s6B.safetensors": (
        6885840,
        "ecf22c6a323a94fe0f019fcad4a538d626a7e24f32b46a87fe6997d426ae17a2",
    ),
    "ae.safetensors": (
        5141788,
        "2d24d2ddcc1ccb81bbadded2ba2586144420fadf06d46e1f8984d69e13289072",
    ),
    "antelopev2/glintr100.onnx": (
        2613473,
        "76073b5b5580b0ac949ac9c31f578bb21b9b6964f19cbffce2ab6227a8466f49",
    ),
    "antelopev2/scrfd_10g_bnkps.onnx": (
        2135999,
        "ce06ee9014d05c1825c6d14c532a1d065c6f94013c6daccc76471a924980159f",
    ),
    "clip_l.safetensors": (
        6538320,
        "79fd588363552ba9f32a844d708267ed6ae7deb3f9a088fc45f964d07dcd625b",
    ),
    "flux1-schnell-Q8_0.gguf": (
        13416288,
        "1028a2e361bfb94dd0ccf8bd142a162920d0adce5cda8d015ea799949be2f647",
    ),
    "judge/recogniser.onnx": (
        1521275,
        "e58d1f5e6cd3aff9d62edeb04a6b15187c663d64f854d4218dd52c80c8e02296",
    ),
    "pulid_flux_v0.9.1.safetensors": (
        8128736,
        "6b6f200a5ff11ed72f491aa5bf62ffbf7bd1055a6895d36d9dc16378c7c2b1f5",
    ),
    "t5xxl_fp16.safetensors": (
        1092512,
        "956adf777b5214573c04964e10e89005c335729d35cb4eb365d86644944e5b33",
    ),
    "tokenizer.json": (
        15016,
        "68997398127543305de2ef8a153975601cf93af20486dce37bab23afedcfce7f",
    ),
}


def models_folder(named: str | None) -> Path:
    """Where the small world's models are: the folder named, else the checkout's, else what was
    downloaded before or is downloaded now.

    Raises WeightsError: a file is missing or another, or there is nowhere to have it from.
    """
    if named is not None:
        return _complete(path_of(named))
    there = CHECKOUT / FOLDER
    if there.is_dir():
        return there
    return _downloaded(default_folder() / "small-world" / __version__)


def _complete(folder: Path) -> Path:
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise WeightsError(
            f"{folder}: is not the small world's: {', '.join(missing)} not found; it is "
            f"{FOLDER} of a checkout of the project"
        )
    return folder


def _downloaded(folder: Path) -> Path:
    """Raises WeightsError, OutputError."""
    for name, (size, sha256) in FILES.items():
        path = folder / name
        if path.is_file() and path.stat().st_size == size and file_sha256(path) == sha256:
            continue
        if not home.HOME_URL:
            raise WeightsError(
                f"the small world's models are not here; they are in {FOLDER} of a checkout of the "
                "project: name that folder with --models-dir"
            )
        if is_offline():
            raise WeightsError(
                f"{path}: is not there, and HF_HUB_OFFLINE is set, so it was not fetched; unset "
                f"it, or name {FOLDER} of a checkout with --models-dir"
            )
        download(home.raw(f"{FOLDER}/{name}", f"v{__version__}"), path, sha256)
    return folder
