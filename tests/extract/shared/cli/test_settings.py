"""pulid.toml: what it may say, what wins over it, where its paths start."""

from __future__ import annotations

import re

import pytest
import typer
from support.paths import ROOT
from support.programs.commands import call

from docs import cli_reference
from pulid_extract.files.roles import ROLES
from pulid_extract.shared.cli import settings
from pulid_extract.shared.cli.settings import MODEL_OPTIONS, use_settings, used_settings
from pulid_extract.shared.errors import InputError


def of(program: str, path: str, given: dict | None = None) -> dict:
    """The defaults of a command, by parameter, as the files in the working folder give them."""
    for name, _, context in cli_reference.commands(program):
        if name == f"{program} {path}".strip():
            context.default_map = None
            use_settings(context, given or {})
            return context.default_map
    raise AssertionError(path)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    return tmp_path / "here"


def test_tables_by_program_and_command_and_paths_beside_the_file(folder, tmp_path):
    user = tmp_path / "config" / "pulid-flux-toolkit"
    user.mkdir(parents=True)
    (user / "pulid.toml").write_text('[models]\nvae = "ae.safetensors"\nmodels-dir = "far"\n')
    (folder / "flux.gguf").touch()
    (folder / "pulid.toml").write_text(
        """
        [models]
        models_dir = "models"
        diffusion-model = "flux.gguf"
        antelopev2 = "~/faces"
        [generate]
        width = 896
        model = "org/repo"
        lora = ["a.safetensors:0.5"]
        true-cfg = 2
        studio = false
        [generate.sweep]
        width = 512
        over = ["steps=1,2"]
        [extract]
        with-uncond = true
        """
    )
    here = str(folder)
    drawn = of("pulid-generate", "")
    assert drawn["models_dir"] == f"{here}/models"
    assert drawn["vae"] == str(user / "ae.safetensors")
    assert drawn["diffusion_model"] == f"{here}/flux.gguf"
    assert drawn["model"] == "org/repo"
    assert drawn["lora"] == [f"{here}/a.safetensors:0.5"]
    assert (drawn["width"], drawn["cfg_scale"]) == ("896", "2")
    assert not drawn["antelopev2"].startswith((here, "~"))
    assert "over" not in drawn
    assert of("pulid-generate", "sweep")["width"] == "512"
    assert of("pulid-generate", "serve")["studio"] is False
    assert of("pulid-generate", "pull") == {"models_dir": f"{here}/models"}
    extracted = of("pulid-extract", "")
    assert extracted["with_uncond"] is True
    assert "width" not in extracted
    # nothing is read for what only prints, and with --no-config
    assert of("pulid-generate", "", {"help": True}) is None
    assert of("pulid-generate", "", {"no_config": True}) is None
    (tmp_path / "other.toml").write_text("[generate]\nsteps = 3\n")
    assert of("pulid-generate", "", {"config": str(tmp_path / "other.toml")}) == {"steps": "3"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[generate]\nwidht = 3", "generate: widht: there is no such name; did you mean width?"),
        ("[models]\nflux = 3", "models: flux: there is no such name; known: models-dir"),
        ("[genrate]\nwidth = 3", "genrate: there is no such name; did you mean generate?"),
        ("[generate.swep]\n", "generate.swep: there is no such name; did you mean sweep?"),
        ("[generate.sweep]\nhost = 'x'", "generate.sweep: host: there is no such name"),
        ("[generate]\nversion = true", "there is no such name"),
        ("[generate.batch]\nmanifest = 'x'", "there is no such name"),
        ("generate = 3", "expected a table, [generate]"),
        ("[generate]\nwidth = [1]", "width = [1]: expected one value"),
        ("[generate]\nwidth = true", "width = True: expected one value"),
        ("[generate]\nquiet = 'yes'", "quiet = 'yes': expected true or false"),
        ("[generate]\nlora = [[1]]", "expected a text, a number or a list of them"),
        ("[generate", "cannot be read as TOML"),
        ("[generate]\na = " + "[" * 3000, "pulid.toml: "),
        ("\udcff", "cannot be read as TOML"),
    ],
)
def test_what_it_may_not_say_is_one_line(folder, text, words):
    (folder / "pulid.toml").write_text(text, errors="surrogateescape")
    with pytest.raises(InputError) as error:
        of("pulid-generate", "")
    assert str(error.value).startswith(str(folder / "pulid.toml"))
    assert words in str(error.value)


def test_config_and_no_config_exclude_each_other_and_a_file_must_be_there():
    with pytest.raises(typer.BadParameter, match="excludes"):
        of("pulid-generate", "", {"config": "x", "no_config": True})
    with pytest.raises(InputError, match=r"none.toml: cannot be read as TOML \(No such file"):
        of("pulid-generate", "", {"config": "none.toml"})


def test_the_command_line_and_the_environment_win(folder, generate_in_process, monkeypatch):
    (folder / "pulid.toml").write_text('[models]\nmodels-dir = "a"\n[generate]\nsteps = "many"\n')
    run = generate_in_process
    assert run("-p", "x") == (1, f"{folder}/pulid.toml: steps: 'many' is not an integer")
    assert run("-p", "x", "--steps", "2")[1].startswith(f"{folder}/a: the models folder does not")
    monkeypatch.setenv("PULID_MODELS_DIR", "b")
    said = run("-p", "x", "--steps", "2")[1]
    assert said.startswith(f"b: the models folder does not exist in {folder}, where a relative")
    assert run("-p", "x", "--no-config", "--models-dir", str(folder), "-v")[1].startswith("4 model")
    # a command that only prints is not troubled
    assert run("--help") == (0, "")
    (folder / "pulid.toml").write_text("[generate]\nsteps = 0\n")
    # wrong on the command line is 2
    assert run("-p", "x", "--steps", "0") == (2, "steps 0: expected 1 to 10000")
    (folder / "pulid.toml").write_text("[generate]\nsteps = 5\nverbose = true\n")
    assert f"settings of {folder}/pulid.toml: steps, verbose" in run("-p", "x", said=True)


@pytest.fixture
def generate_in_process(capfd, monkeypatch):
    import sys

    from pulid_generate import cli

    def run(*arguments: str, said: bool = False):
        monkeypatch.setattr(sys, "argv", ["pulid-generate", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
        err = capfd.readouterr().err
        assert "Traceback" not in err
        if said:
            return err
        lines = [line.partition("error: ")[2] for line in err.splitlines() if "error: " in line]
        return end.value.code or 0, "".join(lines).rstrip(".")

    return run


def test_used_settings_name_files_and_options(folder):
    (folder / "pulid.toml").write_text("[extract]\ndevice = 'cpu'\n")
    [(_, command, context)] = [
        found for found in cli_reference.commands("pulid-extract") if found[0] == "pulid-extract"
    ]
    context = command.make_context("pulid-extract", ["--portrait", "x.png"])
    assert used_settings(context) == [f"{folder}/pulid.toml: device"]


def test_the_names_under_models_are_options_of_a_program():
    known = set()
    for program in cli_reference.PROGRAMS:
        for _, command, _ in cli_reference.commands(program):
            known |= {parameter.name for parameter in command.params}
    assert set(MODEL_OPTIONS) <= known
    assert set(ROLES) <= set(MODEL_OPTIONS)


def test_the_page_names_what_the_code_does(folder):
    page = (ROOT / "docs" / "configuration.md").read_text()
    [example] = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    (folder / "pulid.toml").write_text(example)
    assert of("pulid-generate", "sweep")["steps"] == "12"
    assert of("pulid-extract", "batch")["resume"] is True
    assert settings.FILE_NAME in page


def test_extract_reads_it_too(folder, capfd, monkeypatch):
    (folder / "pulid.toml").write_text("[extract]\naligner = 'antelope'\n")
    code, out, err = call(capfd, monkeypatch, "--portrait", "x.png", "-o", "x")
    assert (code, out) == (1, "")
    assert f"{folder}/pulid.toml: aligner: 'antelope' is not one of" in err
