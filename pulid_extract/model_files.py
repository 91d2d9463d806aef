"""Model files without torch: recognise one by its header, find it, fetch it; and write any result beside and rename.

A file is recognised by what is in its header, never by its name. Nothing of a pickle is executed: its strings are listed.
Knows nothing of models, pictures or command lines beyond the flag names it puts into messages.

Formats: safetensors (huggingface/safetensors README), torch zip and legacy pickles (pytorch torch/serialization.py),
gguf (by gguf-py). A folder of ONNX files is one model: insightface's pack.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pickletools
import struct
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pulid_extract.errors import OutputError, WeightsError

MAX_HEADER_BYTES = 100_000_000  # the limit of the safetensors library itself
MODELS_DIR_VARIABLE = "PULID_MODELS_DIR"


@dataclass(frozen=True)
class Header:
    """What a file says about itself before any weight is read.

    format: "safetensors", "torch", "gguf" or "onnx folder".
    tensors: name -> (dtype as the file spells it, shape). For "torch" only the names are known (dtype "", shape ());
        for an "onnx folder" the names are those of its .onnx files.
    """

    path: Path
    format: str
    tensors: Mapping[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.tensors)


@dataclass(frozen=True)
class Kind:
    """A kind of file: its name in messages, the test on its header, and why it cannot be used here (empty: it can)."""

    name: str
    test: Callable[[Header], bool]
    refusal: str = ""


@dataclass(frozen=True)
class Source:
    """Where a file comes from. repo and file: on the Hugging Face hub; else `url`. sha256: lower-case hex, "" where unknown."""

    repo: str = ""
    files: tuple[str, ...] = ()
    url: str = ""
    sha256: str = ""
    licence: str = ""

    @property
    def page(self) -> str:
        return self.url or f"https://huggingface.co/{self.repo} ({', '.join(self.files)})"


@dataclass(frozen=True)
class Role:
    """A part that a file plays in a stage: which kinds of file can fill it, and how to get one.

    fetch: whether a missing file is downloaded without being asked for (small and ungated files only).
    """

    name: str
    flag: str
    kinds: tuple[str, ...]
    source: Source
    fetch: bool = False


@dataclass(frozen=True)
class Found:
    """A file for a role, and the rule that found it: "flag", "models folder", "hugging face cache" or "download"."""

    path: Path
    rule: str
    header: Header


# ---------------------------------------------------------------------------------------------------------------- headers


def read_header(path: str | Path) -> Header:
    """Read a model file's header. Raises WeightsError for a file that is missing, truncated, or no model file at all."""
    path = Path(path)
    if path.is_dir():
        return Header(path, "onnx folder", {file.name: ("", ()) for file in sorted(path.glob("*.onnx"))})
    try:
        with open(path, "rb") as file:
            start = file.read(64)
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise WeightsError(f"{path}: the file is empty; download it again")
            if start[:4] == b"GGUF":
                return _gguf_header(path)
            # before the pickles: a header length may end in the byte that starts a pickle
            if start[8:9] == b"{" and int.from_bytes(start[:8], "little") <= size - 8:
                return _safetensors_header(path, file, size)
            if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
                return Header(path, "torch", dict.fromkeys(_pickle_strings(path, start), ("", ())))
            if start.lstrip()[:1] == b"<":
                raise WeightsError(f"{path}: is an HTML page saved under a model's name; download the file itself")
            if start.startswith(b"version https://git-lfs"):
                raise WeightsError(f"{path}: is a git-lfs pointer, not the file; run 'git lfs pull' or download it")
            if len(start) > 8 and start[8:9] == b"{":
                return _safetensors_header(path, file, size)
    except FileNotFoundError:
        raise WeightsError(f"{path}: no such file") from None
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror or error})") from None
    raise WeightsError(f"{path}: not a model file (expected safetensors, a torch .pt/.pth or .gguf)")


def _safetensors_header(path: Path, file, size: int) -> Header:
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise WeightsError(f"{path}: the header claims {length} bytes, the file has {size}; it is truncated or no safetensors")
    try:
        entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        tensors = {name: (entry["dtype"], tuple(entry["shape"])) for name, entry in entries.items()}
        end = max((int(entry["data_offsets"][1]) for entry in entries.values()), default=0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise WeightsError(f"{path}: the safetensors header is damaged; download the file again") from None
    if 8 + length + end != size:
        what = "truncated" if 8 + length + end > size else "longer than its header says"
        raise WeightsError(f"{path}: {what} ({size} bytes, the header needs {8 + length + end}); download it again")
    return Header(path, "safetensors", tensors)


def _gguf_header(path: Path) -> Header:
    """Names, type names ("Q4_K", "BF16", ..) and shapes in row-major order, by gguf-py."""
    import gguf

    try:
        tensors = gguf.GGUFReader(path).tensors
        shapes = {
            tensor.name: (tensor.tensor_type.name, tuple(int(axis) for axis in reversed(tensor.shape))) for tensor in tensors
        }
    except Exception as error:  # gguf-py raises whatever numpy makes of damaged bytes
        raise WeightsError(f"{path}: damaged or truncated GGUF file ({error}); download it again") from None
    return Header(path, "gguf", shapes)


def _pickle_strings(path: Path, start: bytes) -> list[str]:
    """All strings of a torch checkpoint's pickles: its keys are among them. Lists opcodes; executes nothing."""
    try:
        if start[:2] == b"PK":
            with zipfile.ZipFile(path) as archive:
                name = next(n for n in archive.namelist() if n.endswith("data.pkl"))
                return _strings_of(archive.read(name))
        strings: list[str] = []
        with open(path, "rb") as file:
            for _ in range(4):  # legacy layout: magic number, protocol, system info, the object itself
                strings += _strings_of(file)
        return strings
    except Exception:  # zipfile, zlib and pickletools raise whatever a damaged byte leads to
        raise WeightsError(f"{path}: damaged or truncated torch checkpoint; download it again") from None


def _strings_of(pickle) -> list[str]:
    return [argument for _, argument, _ in pickletools.genops(pickle) if isinstance(argument, str)]


# ------------------------------------------------------------------------------------------------------------- recognising


def kind_of(header: Header) -> Kind:
    """The first kind of KINDS whose test the header passes. Raises WeightsError for a file of no known kind."""
    for kind in KINDS:
        if kind.test(header):
            return kind
    names = sorted(header.names)
    seen = f"; first names in it: {', '.join(names[:3])}" if names else ""
    raise WeightsError(f"{header.path}: a {header.format} file of no known kind{seen}; see the table of files in README.md")


def _has(*wanted: str) -> Callable[[Header], bool]:
    """All of `wanted` are names in the file, after any of the prefixes that tools put in front."""
    return lambda header: any(all(prefix + name in header.names for name in wanted) for prefix in PREFIXES)


def _any_ends(*endings: str) -> Callable[[Header], bool]:
    return lambda header: any(name.endswith(endings) for name in header.names)


def _any_starts(start: str) -> Callable[[Header], bool]:
    return lambda header: any(name.startswith(start) for name in header.names)


# "model.diffusion_model." and "vae.": ComfyUI all-in-one files and sd.cpp; "module.": torch DataParallel
PREFIXES = ("", "model.diffusion_model.", "diffusion_model.", "vae.", "visual.trunk.", "visual.", "module.")

# Order matters: what must be refused is tested before what it resembles.
KINDS = (
    Kind("identity file (.pulidembd)", _has("pulid_id"), "it is no model; give it to pulid-generate as --pulid-id-embedding"),
    Kind(
        "T5 encoder in GGUF", _has("enc.blk.0.attn_q.weight"), "GGUF text encoders cannot be read yet; use t5xxl_fp16.safetensors"
    ),
    Kind(
        "PuLID file in GGUF",
        lambda header: header.format == "gguf" and _any_starts("pulid_ca.")(header),
        "PuLID's weights are read from safetensors only; use pulid_flux_v0.9.1.safetensors",
    ),
    Kind(
        "quanto-quantised Flux", _any_ends("._data", "._scale"), "quanto files are not supported; use the original bfloat16 file"
    ),
    Kind(
        "bitsandbytes nf4 file", _any_ends(".absmax", ".quant_map"), "nf4 files are not supported; use the original bfloat16 file"
    ),
    Kind("SVDQuant file", _any_ends(".qweight", ".wscales"), "SVDQuant files are not supported; use the original bfloat16 file"),
    Kind("PuLID-FLUX file", _any_starts("pulid_ca.")),
    Kind(
        "SDXL PuLID file (pulid_v1.1)",
        _any_starts("id_adapter"),
        "it belongs to SDXL; use pulid_flux_v0.9.1.safetensors from https://huggingface.co/guozinan/PuLID",
    ),
    Kind("Flux transformer", _has("img_in.weight", "double_blocks.0.img_attn.qkv.weight")),
    Kind(
        "diffusers Flux transformer",
        _has("x_embedder.weight", "context_embedder.weight"),
        "diffusers files are not supported here; use the BFL file (flux1-dev.safetensors or flux1-schnell.safetensors)",
    ),
    Kind("EVA-CLIP tower", _has("cls_token", "pos_embed", "patch_embed.proj.weight")),
    Kind("Flux autoencoder", _has("decoder.conv_in.weight", "decoder.mid.attn_1.q.weight")),
    Kind("CLIP-L text encoder", _has("text_model.embeddings.token_embedding.weight")),
    Kind("T5 encoder", _has("encoder.block.0.layer.0.SelfAttention.q.weight")),
    Kind("RetinaFace detector", _has("ClassHead.0.conv1x1.weight", "LandmarkHead.0.conv1x1.weight")),
    Kind("BiSeNet parser", _has("cp.resnet.conv1.weight", "ffm.convblk.conv.weight")),
    Kind("antelopev2 folder", lambda header: header.format == "onnx folder" and len(header.tensors) > 1),
)


# The one role that both stages have.
PULID = Role(
    "PuLID weights",
    "--pulid-weights",
    ("PuLID-FLUX file",),
    Source(repo="guozinan/PuLID", files=("pulid_flux_v0.9.1.safetensors",), licence="Apache-2.0"),
    fetch=True,
)


def check_role(header: Header, role: Role) -> None:
    """Raise WeightsError, naming what the file is, if it cannot fill the role."""
    kind = kind_of(header)
    if kind.refusal:
        raise WeightsError(f"{header.path}: is a {kind.name}: {kind.refusal}")
    if kind.name not in role.kinds:
        raise WeightsError(
            f"{header.path}: is a {kind.name}, {role.flag} wants a {' or '.join(role.kinds)}; get it from {role.source.page}"
        )


# ----------------------------------------------------------------------------------------------------------------- finding


def find(role: Role, explicit: str | Path | None = None, models_dir: str | Path | None = None) -> Found:
    """The file for a role, by the first rule that answers: flag, models folder, Hugging Face cache, download.

    Raises WeightsError if none does, if the file is of the wrong kind, or if the models folder holds two candidates.
    """
    if explicit is not None:
        path = Path(explicit).expanduser()
        if path.is_dir() and "antelopev2 folder" not in role.kinds:
            raise WeightsError(f"{path}: is a folder; {role.flag} wants a file: {role.source.page}")
        header = read_header(_nested(path))
        check_role(header, role)
        return Found(header.path, "flag", header)
    unreadable: list[str] = []
    if models_dir is not None:
        models_dir = Path(models_dir).expanduser()
        candidates = candidates_in(models_dir, role, unreadable)
        if len(candidates) > 1:
            listed = ", ".join(str(header.path) for header in candidates)
            raise WeightsError(
                f"{models_dir}: {len(candidates)} files can be the {role.name}: {listed}; choose one with {role.flag}"
            )
        if candidates:
            return Found(candidates[0].path, "models folder", candidates[0])
    stored, rule = cached(role.source), "hugging face cache"
    if stored is None and unreadable:  # one of these may be the file that was meant: say so before another copy is downloaded
        raise WeightsError(f"{role.name}: none in {models_dir}, but {unreadable[0]}; or give {role.flag} FILE")
    if stored is None and role.fetch and not is_offline():
        stored, rule = fetch(role, models_dir or downloads_dir()), "download"
    if stored is not None:
        header = read_header(stored)
        check_role(header, role)
        return Found(stored, rule, header)
    searched = f" (not in {models_dir} either)" if models_dir else ""
    raise WeightsError(f"{role.name}: no file given{searched}; give {role.flag} FILE, from {role.source.page}")


def candidates_in(folder: Path, role: Role, unreadable: list[str]) -> list[Header]:
    """Every file in a models folder and below whose header says it can fill the role.

    Files that cannot be read add their message to `unreadable`. Raises WeightsError if there is no such folder.
    """
    if not folder.is_dir():
        raise WeightsError(
            f"{folder}: the models folder does not exist; make it, or correct --models-dir or {MODELS_DIR_VARIABLE}"
        )
    onnx_folders = {path.parent for path in folder.rglob("*.onnx")}
    files = [path for ending in (".safetensors", ".pt", ".pth", ".gguf") for path in folder.rglob(f"*{ending}")]
    candidates = []
    for path in sorted({*files, *onnx_folders}):
        try:
            header = read_header(path)
        except WeightsError as error:
            unreadable.append(str(error))
            continue
        with contextlib.suppress(WeightsError):
            check_role(header, role)
            candidates.append(header)
    return candidates


def _nested(path: Path) -> Path:
    """antelopev2.zip unpacks to antelopev2/antelopev2/*.onnx: descend into the one nested folder."""
    if path.is_dir() and not any(path.glob("*.onnx")):
        inner = sorted({file.parent for file in path.glob("*/*.onnx")})
        if len(inner) == 1:
            return inner[0]
        raise WeightsError(f"{path}: the folder holds no .onnx files; expected scrfd_10g_bnkps.onnx and glintr100.onnx")
    return path


def cached(source: Source) -> Path | None:
    """The file (or, for several, their folder) if it was downloaded before; no network call."""
    if source.url:
        path = downloads_dir() / source.url.rsplit("/", 1)[-1]
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    paths = [try_to_load_from_cache(source.repo, file) for file in source.files]
    if not all(isinstance(path, str) for path in paths):
        return None
    return _whole([Path(str(path)) for path in paths])


def fetch(role: Role, folder: Path) -> Path:
    """Download a role's file: from the hub into the hub's cache, from a plain url into `folder`. Raises WeightsError."""
    source = role.source
    if source.url:
        target = folder / source.url.rsplit("/", 1)[-1]
        download(source.url, target, source.sha256)
        return target
    from huggingface_hub import hf_hub_download

    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it tells of every retry; the error below says it once
    try:
        return _whole([Path(hf_hub_download(source.repo, file)) for file in source.files])
    except (OSError, ValueError) as error:  # huggingface_hub's own errors are OSErrors or ValueErrors
        reason = str(error).strip().splitlines()[0]
        raise WeightsError(f"{role.name}: download from {source.page} failed ({reason}); give {role.flag} FILE") from None


def _whole(paths: list[Path]) -> Path:
    return paths[0] if len(paths) == 1 else paths[0].parent


def downloads_dir() -> Path:
    """Where files that are not on the Hugging Face hub are kept: beside the hub's own cache."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME) / "pulid"


def is_offline() -> bool:
    """True if the user forbade network calls, with the Hugging Face libraries' own variable."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def download(url: str, target: Path, sha256: str = "") -> None:
    """Fetch `url` to `target` (beside, then renamed). Raises WeightsError if it fails or the SHA-256 is another."""
    import urllib.request
    from http.client import HTTPException

    digest = hashlib.sha256()

    def chunks(response) -> Iterator[bytes]:
        got, length = 0, response.headers.get("Content-Length")
        try:
            while chunk := response.read(1 << 20):
                digest.update(chunk)
                got += len(chunk)
                yield chunk
        except (OSError, HTTPException) as error:
            raise WeightsError(f"{url}: download broke off after {got} bytes ({error}); try again") from None
        if length and got != int(length):  # http.client ends such a read without a word
            raise WeightsError(f"{url}: download broke off after {got} of {length} bytes; try again")
        if sha256 and digest.hexdigest() != sha256:
            raise WeightsError(f"{url}: SHA-256 is {digest.hexdigest()}, expected {sha256}; try again later")

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=60) as response:
            write_atomically(target, chunks(response))
    except (OSError, HTTPException) as error:
        raise WeightsError(f"{url}: download failed ({error}); fetch it by hand into {target.parent}") from None


# ----------------------------------------------------------------------------------------------------------------- writing


def check_writable(path: str | Path) -> None:
    """Raise OutputError now if a later `write_atomically(path)` cannot work, before minutes of work are spent."""
    path = Path(path)
    try:
        if path.is_dir():
            raise OutputError(f"{path}: is a folder; give a file name")
        if not _is_special(path):
            _make_beside(path).unlink()
    except OSError as error:  # a name that is too long
        raise OutputError(f"{str(path)[:80]}: cannot be written ({error.strerror or error}); give another name") from None


def check_not_input(output: str | Path, inputs: Iterable[str | Path]) -> None:
    """Raise OutputError if writing `output` would replace one of the files that are read. Folders among them stand for their files."""
    output = Path(output)
    if not output.is_file():
        return
    for path in map(Path, inputs):
        files = path.iterdir() if path.is_dir() else [path]
        if any(file.is_file() and output.samefile(file) for file in files):
            raise OutputError(f"{output}: is read as an input; give another name")


def write_atomically(path: str | Path, data: bytes | Iterable[bytes], mode: int | None = None) -> None:
    """Write beside `path`, flush to disk, rename: an existing file is replaced whole or not at all.

    mode: permission bits of the new file; None leaves what the umask gives. Raises OutputError.
    """
    path = Path(path)
    chunks = [data] if isinstance(data, bytes) else data
    beside = None if _is_special(path) else _make_beside(path)
    try:
        if beside is None:
            with open(path, "wb") as file:
                file.writelines(chunks)
            return
        with open(beside, "wb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        if mode is None:
            umask = os.umask(0)
            os.umask(umask)
            mode = 0o666 & ~umask
        beside.chmod(mode)
        beside.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        if beside is not None:
            beside.unlink(missing_ok=True)


def _is_special(path: Path) -> bool:
    """A device or a pipe (/dev/null, /dev/stdout, <(...)): renaming over it would replace the device itself."""
    return path.exists() and not path.is_file()


def _make_beside(path: Path) -> Path:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise OutputError(
            f"{path}: cannot be written ({error.strerror or error}); check that the folder exists and is writable"
        ) from None
    os.close(handle)
    return Path(name)
