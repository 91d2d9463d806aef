"""Who may import whom. The rules are functions of support/import_rules.py; each is held against
the two packages; test_breaches.py breaks them.
"""

from __future__ import annotations

import re

import pytest
from support import import_rules
from support.import_rules import PACKAGES, Tree
from support.paths import ROOT

from docs import folder_tables

ORDER = folder_tables.ORDER
FOREIGN = {
    "pulid_extract": {
        *("diffusers", "transformers", "accelerate", "sentencepiece"),
        # seconds of every start, for networks that are modules of our own
        *("facexlib", "timm", "torchvision"),
    },
    "pulid_generate": {"insightface", "facexlib", "onnxruntime", "onnx", "cv2", "timm"},
}

# What is imported before there is work for torch: "*" is every file of a folder, -name all but it.
WITHOUT_TORCH = {
    "pulid_extract": "cli version",
    "pulid_extract.commands": "*",
    "pulid_extract.batch": "*",
    "pulid_extract.extraction": "* -extractor -identity -locating -cutting",
    "pulid_extract.flags": "*",
    "pulid_extract.faces": "* -crop -listing",
    "pulid_extract.networks": "fusion onnx_runtime",
    "pulid_extract.pictures": "*",
    "pulid_extract.files": "*",
    "pulid_extract.shared": "* -cpu_linear -cpu_bfloat16",
    "pulid_extract.shared.cluster": "*",
    "pulid_extract.shared.cli": "*",
    "pulid_extract.shared.model_files": "*",
    "pulid_generate": "cli errors version",
    "pulid_generate.commands": "*",
    "pulid_generate.server": "*",
    "pulid_generate.server.http": "*",
    "pulid_generate.server.intake": "*",
    "pulid_generate.server.work": "*",
    "pulid_generate.demo": "*",
    "pulid_generate.validation": "* -run",
    "pulid_generate.inspection": "*",
    "pulid_generate.assembly": "*",
    "pulid_generate.rows": "*",
    "pulid_generate.control": "files",
    "pulid_generate.lora": "choice leaves names peft",
    "pulid_generate.pictures": "*",
    "pulid_generate.flags": "*",
    "pulid_generate.flags.commands": "*",
    "pulid_generate.flags.generation": "*",
    "pulid_generate.flags.sdcli": "*",
    "pulid_generate.memory": "footprint plan planning residency stages",
    "pulid_generate.batch": "* -ray_command -ray_worker",
    "pulid_generate.pipeline": "text_cache callers face_pass",
    "pulid_generate.models": "weighted_prompts",
    "pulid_generate.detail": "*",
    "pulid_generate.request": "*",
    "pulid_generate.request.conditions": "*",
    "pulid_generate.request.passes": "*",
    "pulid_generate.request.people": "*",
    "pulid_generate.request.prompts": "*",
    "pulid_generate.sampling": "names",
    "pulid_generate.files": "*",
}


@pytest.fixture(scope="module")
def tree():
    return Tree(ROOT)


def without_torch(tree: Tree) -> list[str]:
    """The modules that WITHOUT_TORCH means, the folders' own among them."""
    modules = []
    for folder, words in WITHOUT_TORCH.items():
        names = words.split()
        modules.append(folder)
        if names[0] != "*":
            modules += [f"{folder}.{name}" for name in names]
            continue
        for module, path in tree.files.items():
            parent, _, name = module.rpartition(".")
            if parent == folder and path.stem == name and f"-{name}" not in names:
                modules.append(module)
    return modules


# ---------------------------------------------------------------------------------- the four rules


def test_no_import_hides_where_a_name_comes_from(tree):
    assert not import_rules.relative(tree)


def test_generate_imports_of_extract_only_what_is_shared(tree):
    assert not import_rules.between_packages(tree)


def test_folders_import_downwards(tree):
    assert not import_rules.unordered(tree, ORDER)
    assert not import_rules.upwards(tree, ORDER)


def test_no_files_import_each_other_in_a_circle(tree):
    assert not import_rules.circles(tree)


def test_no_folder_imports_anything_when_it_is_imported(tree):
    assert not import_rules.folders_that_import(tree)


def test_no_torch_before_there_is_work(tree):
    broken, numpy = import_rules.with_torch(ROOT, without_torch(tree))
    assert not broken
    assert numpy  # the modules were loaded


def test_importing_a_package_loads_nothing():
    assert import_rules.with_torch(ROOT, list(PACKAGES)) == ([], False)


def test_who_says_that_it_imports_no_torch_is_held_to_it(tree):
    held = without_torch(tree)
    for module, path in tree.files.items():
        said = folder_tables.docstring_of(path)
        if path.name != "__init__.py":  # what a folder says holds for its files
            said += folder_tables.docstring_of(path.parent / "__init__.py")
        if re.search(r"imports no\s+torch\.", said, re.IGNORECASE):
            assert module in held, f"{path}: not in WITHOUT_TORCH"


def test_a_folder_lists_its_files(tree):
    for module, path in tree.files.items():
        if path.name != "__init__.py" or module in PACKAGES:
            continue
        said = folder_tables.docstring_of(path)
        listed = re.findall(r"^ {4}(\w+\.py|\w+/) {2,}\S", said, re.MULTILINE)
        files = {file.name for file in path.parent.glob("*.py")} - {"__init__.py"}
        folders = {f"{file.parent.name}/" for file in path.parent.glob("*/__init__.py")}
        assert sorted(listed) == sorted(files | folders), module


def test_nothing_needs_a_module_that_windows_lacks(tree):
    assert not import_rules.posix_imports(tree)


def test_commands_are_for_the_command_line_alone(tree):
    assert not import_rules.commands_imported(tree)


@pytest.mark.parametrize("package", PACKAGES)
def test_neither_stage_needs_the_others_libraries(tree, package):
    for module, parsed in tree.parsed.items():
        if module.split(".")[0] == package:
            used = {name.split(".")[0] for _, name in import_rules.imported_names(parsed)}
            assert not used & FOREIGN[package], module
