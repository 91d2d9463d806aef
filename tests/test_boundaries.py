"""Who may import whom: read from the source with ast, so that an import inside a function or for a
type counts as well.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from conftest import ROOT

PACKAGES = ("pulid_extract", "pulid_generate")

# Not leaves: the commands and what they assemble, the one module of each package that knows the
# order of the stages, and the set of files and the models that it works with.
ABOVE = {
    "__init__",
    "__main__",
    "cli",
    "commands",
    "extractor",
    "fitting",
    "identity",
    "assembly",
    "pipeline",
    "loading",
    "model_set",
    "session",
}

# What a leaf may import of its own package beside `errors`. docs/architecture.md has the reasons.
LEAVES = {
    "pulid_extract": {
        ("face_crop", "checkpoint"),
        ("eva_clip", "checkpoint"),
        ("eva_clip", "cpu_linear"),
        ("idformer", "checkpoint"),
        ("idformer", "cpu_linear"),
        ("manifest", "records"),
        ("weights", "model_files"),
        ("kits", "model_files"),
        ("kits", "weights"),
        ("embedding_cache", "model_files"),
        ("file_hashes", "model_files"),
        ("choice", "portrait"),  # a box by hand
        ("cluster", "workers"),
        ("flags", "choice"),
        ("flags", "model_files"),
        ("flags", "portrait"),
        ("drawing", "captions"),
        ("preview", "drawing"),
        ("quality", "head_pose"),
    },
    "pulid_generate": {
        ("checkpoints", "packed"),
        ("checkpoints", "tensor_files"),
        ("denoiser", "injection"),
        ("denoiser", "job"),
        ("denoiser", "layer_skip"),
        ("denoiser", "request"),
        ("denoiser", "sampling"),
        ("description", "id_schedule"),
        ("description", "job"),
        ("description", "request"),
        ("description", "sampling_names"),
        ("flags", "placement"),  # --list-devices, when it is given
        ("flags", "sampling_names"),
        ("fp8", "quantized"),  # the memory that layers share
        ("injection", "pulid_attention"),
        ("injection", "tensor_files"),
        ("inspection", "description"),
        ("grid", "manifest"),
        ("grid", "prompt_text"),
        ("manifest", "flags"),  # its columns are options
        ("output_names", "picture"),  # suffixes
        ("job", "id_schedule"),
        ("job", "request"),
        ("kits", "vocabularies"),
        ("kits", "weights"),
        ("lora", "checkpoints"),
        ("lora", "prompt_text"),
        ("lora", "tensor_files"),
        ("output", "job"),  # a type
        ("output", "picture"),
        ("output", "request"),
        ("packed", "fp8"),
        ("packed", "quantized"),
        ("people", "id_schedule"),
        ("picture", "job"),
        ("plan", "footprint"),
        ("plan", "placement"),  # a type
        ("request", "id_schedule"),
        ("request", "prompt_weights"),
        ("request", "sampling_names"),
        ("request", "skip_guidance"),
        ("sampling", "sampling_names"),
        ("sheets", "picture"),
        ("sweep", "manifest"),
        ("sweep", "output_names"),
        ("tensor_files", "fp8"),
        ("tensor_files", "quantized"),
        ("text_encoders", "packed"),
        ("text_encoders", "prompt_weights"),
        ("text_encoders", "tensor_files"),
        ("text_encoders", "vocabularies"),
        ("verify", "request"),  # a type
    },
}
# What both stages share, torch-free.
SHARED = {
    *(
        "captions",
        "cluster",
        "console",
        "cpu_linear",
        "embedding_file",
        "errors",
        "interrupts",
        "model_files",
        "records",
        "workers",
    ),
}
GENERATE_WITHOUT_TORCH = (
    *(
        "assembly",
        "cli",
        "description",
        "errors",
        "flags",
        "footprint",
        "id_schedule",
        "init_image",
        "inspection",
        "job",
        "kits",
    ),
    *(
        "likeness",
        "lora.choice",
        "output",
        "people",
        "picture",
        "plan",
        "progress",
        "prompt_text",
        "prompt_weights",
        "regions",
        "request",
    ),
    *(
        "sampling_names",
        "sdcli_flags",
        "sheets",
        "skip_guidance",
        "sweep",
        "validation.page",
        "verify",
    ),
)
EXTRACT_WITHOUT_TORCH = (
    *(
        "choice",
        "cli",
        "drawing",
        "embedding_cache",
        "file_hashes",
        "flags",
        "fusion",
        "head_pose",
        "kits",
        "model_set",
    ),
    *("portrait", "preview", "quality"),
)
WITHOUT_TORCH = (
    *PACKAGES,
    *(f"pulid_extract.{module}" for module in sorted(SHARED - {"cpu_linear"})),
    *(f"pulid_generate.{module}" for module in GENERATE_WITHOUT_TORCH),
    *(f"pulid_extract.{module}" for module in EXTRACT_WITHOUT_TORCH),
)
FOREIGN = {
    "pulid_extract": {"diffusers", "transformers", "accelerate", "sentencepiece"},
    "pulid_generate": {"insightface", "facexlib", "onnxruntime", "onnx", "cv2", "timm"},
}


def modules(package: str) -> dict[str, ast.Module]:
    """Module name -> tree. A folder counts as one module, whose files may import each other."""
    trees = {
        path.stem: ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted((ROOT / package).glob("*.py"))
    }
    for folder in {path.parent for path in (ROOT / package).glob("*/*.py")}:
        trees[folder.name] = ast.parse(
            "\n".join(
                path.read_text(encoding="utf-8").replace("from __future__ import annotations", "")
                for path in sorted(folder.glob("*.py"))
            )
        )
    return trees


def imports(tree: ast.AST) -> Iterator[str]:
    """Dotted names of everything imported, to the last part: `from a import b` gives "a.b"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, (
                f"line {node.lineno}: relative imports hide where a name comes from"
            )
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_imported(tree: ast.AST, package: str) -> set[str]:
    """Names of the modules of `package` that are imported; "" for a name of the package itself,
    such as __version__.
    """
    found = set()
    for name in imports(tree):
        top, _, rest = name.partition(".")
        if top == package:
            module = rest.split(".")[0]
            here = ROOT / package / module
            found.add(module if here.is_dir() or here.with_suffix(".py").is_file() else "")
    return found


def test_the_walk_sees_every_form_of_import():
    source = "import a.b\nfrom c import d as e\nif TYPE_CHECKING:\n    import f\ndef g():\n    from h.i import j\n"
    assert list(imports(ast.parse(source))) == ["a.b", "c.d", "f", "h.i.j"]
    tree = ast.parse(
        "from pulid_extract import errors, __version__\nimport pulid_extract.faces.antelopev2\nimport pulid_extractor"
    )
    assert modules_imported(tree, "pulid_extract") == {"errors", "", "faces"}


def test_generate_imports_ten_leaves_of_extract():
    used = {
        name: modules_imported(tree, "pulid_extract")
        for name, tree in modules("pulid_generate").items()
    }
    assert not {name: found - SHARED for name, found in used.items() if found - SHARED}
    assert set().union(*used.values()) == SHARED


def test_extract_imports_nothing_of_generate():
    assert not {
        name
        for name, tree in modules("pulid_extract").items()
        if modules_imported(tree, "pulid_generate")
    }


@pytest.mark.parametrize("package", PACKAGES)
def test_neither_stage_needs_the_others_libraries(package):
    for name, tree in modules(package).items():
        used = {imported.split(".")[0] for imported in imports(tree)}
        assert not used & FOREIGN[package], name


@pytest.mark.parametrize("package", PACKAGES)
def test_leaves_import_only_what_is_declared(package):
    pairs = {
        (name, imported)
        for name, tree in modules(package).items()
        if name not in ABOVE and name != "errors"
        for imported in modules_imported(tree, package) - {"errors", "", name}
    }
    assert pairs == LEAVES[package]  # an exception that nobody needs any more goes, too


@pytest.mark.parametrize("package", PACKAGES)
def test_errors_import_no_module_of_their_package_and_nobody_imports_a_command(package):
    trees = modules(package)
    assert not modules_imported(trees["errors"], package)
    assert {name for name, tree in trees.items() if "cli" in modules_imported(tree, package)} == {
        "__main__"
    }
    order = {"extractor", "pipeline"}
    assert {name for name, tree in trees.items() if modules_imported(tree, package) & order} <= {
        *("cli", "commands", "assembly", "session", "__init__")
    }


def test_no_torch_before_there_is_work():
    code = (
        f"import importlib, sys\nfor name in {WITHOUT_TORCH!r}:\n    importlib.import_module(name)\n"
        "heavy = {'torch', 'torchvision', 'diffusers', 'transformers', 'insightface', 'cv2'} & set(sys.modules)\n"
        "print(sorted(heavy), 'numpy' in sys.modules)\n"  # numpy: the modules were loaded
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "[] True\n"), done.stderr


@pytest.mark.parametrize("package", PACKAGES)
def test_public_names_resolve(package):
    module = importlib.import_module(package)
    assert module.__all__ == sorted(module.__all__)
    assert all(getattr(module, name) is not None for name in module.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        module.no_such_name  # noqa: B018
    # what type checkers are told is what is there
    told = {
        alias.name
        for node in ast.walk(modules(package)["__init__"])
        if isinstance(node, ast.If)
        for alias in _names(node)
    }
    assert told == set(module.__all__)


def _names(node: ast.If) -> Iterator[ast.alias]:
    for statement in node.body:
        if isinstance(statement, ast.ImportFrom):
            yield from statement.names


def test_versions_and_entry_points_are_pyprojects():
    project = tomllib.loads(Path(ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {
        package: importlib.import_module(package).__version__ for package in PACKAGES
    } == dict.fromkeys(PACKAGES, project["version"])
    assert set(project["scripts"]) == {"pulid-extract", "pulid-generate"}
    for target in project["scripts"].values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_the_lock_is_hashed_and_names_no_index():
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text(encoding="utf-8")
        assert "://" not in text
        assert "index-url" not in text
        pins = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
        assert pins
        # each pin goes on with its hashes
        assert all("==" in pin and pin.endswith("\\") for pin in pins)
        assert text.count("--hash=sha256:") >= len(pins)


def test_each_extra_brings_what_its_stage_needs_and_nothing_of_the_other():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
    names = {
        extra: {re.split(r"[<>=\[; ]", line)[0] for line in lines}
        for extra, lines in extras.items()
    }
    assert not names["extract"] & {"diffusers", "transformers", "open_clip_torch", "accelerate"}
    assert not names["generate"] & {
        "insightface",
        "facexlib",
        "onnxruntime",
        "opencv-python-headless",
    }
    # spiece.model; protobuf otherwise only comes with the other stage
    assert {"sentencepiece", "protobuf"} <= names["generate"]


def test_numbers_that_two_leaves_must_agree_on():
    from pulid_extract.commands import cache
    from pulid_extract.faces import crop as face_crop
    from pulid_extract.pictures import portrait
    from pulid_generate.files import layouts
    from pulid_generate.injection import attention as pulid_attention
    from pulid_generate.models import t5 as text_encoders
    from pulid_generate.pipeline import text_cache
    from pulid_generate.request import generation as request
    from pulid_generate.sampling.noise import Rng
    from pulid_generate.sampling.packing import LATENT_SCALE, PATCH

    assert request.T5_LONGEST == text_encoders.T5_LONGEST
    assert cache.TEXT == text_cache.ENTRIES
    assert request.SIZE_UNIT == LATENT_SCALE * PATCH
    assert set(get_args(request.Rng)) == set(get_args(Rng)) == {"cpu", "cuda"}
    assert layouts.HEAD_WIDTH == pulid_attention.HEAD_WIDTH
    assert portrait.CROP_SIDE == face_crop.CROP_SIDE
    assert face_crop.BORDER_BGR[::-1] == portrait.PAD_RGB
