"""Model files without torch: recognise one by its header, find it, fetch it.

    headers.py            what a file says about itself before any weight is read
    safetensors_files.py  the header of a safetensors file, checked
    gguf_files.py         the header of a GGUF, checked
    kinds.py              kinds of files by the names in their headers
    roles.py              the parts they play, which kinds can play them, where to get one
    walking.py            what of a models folder is looked at: links, loops, hidden names
    candidates.py         what of a models folder can fill a role
    finding.py            the file for a role: flag, models folder, Hugging Face cache, download
    transfer.py           one file over the network, resumed and checked
    pulling.py            kits of files into one folder: what both programs' `pull` does
    checkup.py            what a run needs and whether it is here: both programs' `doctor`
    meter.py              how far a long read or download is

A file is recognised by what is in its header, never by its name. Knows nothing of models, pictures
or command lines beyond the flag names it puts into messages. What finding takes is imported from
here, as one library; the other files are for the commands that need them.
"""

from pulid_extract.shared.model_files.candidates import Candidates, Fit, candidates_in
from pulid_extract.shared.model_files.finding import (
    MODELS_DIR_VARIABLE,
    FoundFile,
    MissingFileError,
    all_missing,
    cached,
    download,
    downloads_dir,
    fetch,
    find,
    is_offline,
    open_given,
)
from pulid_extract.shared.model_files.gguf_files import GgufFile, GgufTensor, read_gguf
from pulid_extract.shared.model_files.headers import Header, read_header
from pulid_extract.shared.model_files.kinds import (
    ANTELOPEV2_NETWORKS,
    KINDS,
    OTHER_PACK,
    PREFIXES,
    Kind,
    kind_of,
    kinds_of,
    parts_of,
)
from pulid_extract.shared.model_files.roles import PULID, Role, Source, check_role, fills

__all__ = [
    "ANTELOPEV2_NETWORKS",
    "KINDS",
    "MODELS_DIR_VARIABLE",
    "OTHER_PACK",
    "PREFIXES",
    "PULID",
    "Candidates",
    "Fit",
    "FoundFile",
    "GgufFile",
    "GgufTensor",
    "Header",
    "Kind",
    "MissingFileError",
    "Role",
    "Source",
    "all_missing",
    "cached",
    "candidates_in",
    "check_role",
    "download",
    "downloads_dir",
    "fetch",
    "fills",
    "find",
    "is_offline",
    "kind_of",
    "kinds_of",
    "open_given",
    "parts_of",
    "read_gguf",
    "read_header",
]
