"""pulid.toml: defaults for options by their names, and model files by role. Read before a command
line is, which wins over it, as environment variables do.

In the working folder and in the user's configuration folder; where both say something, the working
folder's counts. Relative paths start at the file that holds them. Knows no option but by the
command that is asked. docs/configuration.md is its page.
"""

from __future__ import annotations

import difflib
import inspect
import os
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from pulid_extract.shared.errors import InputError
from pulid_extract.shared.file_names import path_of

FILE_NAME = "pulid.toml"
MODELS = "models"
# of both programs, since one file serves both; a test compares them with the tables of flags
MODEL_OPTIONS = (
    *("models_dir", "model", "diffusion_model", "vae", "clip_l", "t5xxl", "t5_tokenizer"),
    *("pulid_weights", "lora_model_dir", "antelopev2", "eva_clip", "retinaface", "bisenet"),
)
PROGRAMS = ("extract", "generate")
# what an option's metavar says of a value that is a path
PATHS = re.compile(r"FILE|FOLDER|PATH|PICTURE|PNG")
MAX_BYTES = 1 << 20
# in a context's `meta`
_FOUND = "pulid.settings"


@dataclass(frozen=True)
class Setting:
    """A value for an option, and the file that has it."""

    value: Any
    file: Path

    def fits(self, parameter: Any, name: str) -> Any:
        """The value as the command line would give it. Raises InputError."""
        if getattr(parameter, "is_flag", False):
            if isinstance(self.value, bool):
                return self.value
            raise InputError(f"{self.file}: {name} = {self.value!r}: expected true or false")
        values = self.value if isinstance(self.value, list) else [self.value]
        if (isinstance(self.value, list) and not parameter.multiple) or not all(
            isinstance(value, str | int | float) and not isinstance(value, bool) for value in values
        ):
            wanted = "a text, a number or a list of them" if parameter.multiple else "one value"
            raise InputError(f"{self.file}: {name} = {self.value!r}: expected {wanted}")
        texts = [self._text(parameter, value) for value in values]
        return texts if parameter.multiple else texts[0]

    def _text(self, parameter: Any, value: Any) -> str:
        text = str(value)
        metavar = str(parameter.metavar or "")
        # "-" and other words that stand for themselves
        if not PATHS.search(metavar) or text in metavar.split("|"):
            return text
        path = path_of(text)
        below = self.file.parent / path
        # a repository's id looks like a relative path
        if "REPO" in metavar and not path.is_absolute() and not below.exists():
            return text
        return str(below)


ConfigOption = Annotated[
    str | None,
    typer.Option(
        "--config",
        metavar="FILE",
        is_eager=True,
        rich_help_panel="Settings",
        help=f"Defaults of options and model files by role, in TOML. Default: {FILE_NAME} of the "
        "working folder, then the user's; see docs/configuration.md.",
    ),
]
NoConfigOption = Annotated[
    bool,
    typer.Option(
        "--no-config", is_eager=True, rich_help_panel="Settings", help=f"Read no {FILE_NAME}."
    ),
]
# of the commands that read the file: their parameters' names, types and defaults
PARAMETERS = {"config": (ConfigOption, None), "no_config": (NoConfigOption, False)}


def takes_settings(function: Callable[..., None]) -> Callable[..., None]:
    """A decorator for a command: it has --config and --no-config, which `use_settings` reads."""

    def command(**values: Any) -> None:
        for name in PARAMETERS:
            del values[name]
        function(**values)

    signature = inspect.signature(function, eval_str=True)
    parameters = list(signature.parameters.values())
    for name, (annotation, default) in PARAMETERS.items():
        parameters.append(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
            )
        )
    command.__name__, command.__doc__ = function.__name__, function.__doc__
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {one.name: one.annotation for one in parameters}
    return command


def use_settings(context: Any, given: Mapping[str, Any]) -> None:
    """Make what the files say the defaults of a command that is about to be read.

    given: parameter -> what the command line has. Nothing is read for what only prints, such as
    --help. Raises typer.BadParameter, InputError.
    """
    for parameter in context.command.get_params(context):
        if parameter.is_eager and parameter.name in given and parameter.name not in PARAMETERS:
            return
    if "no_config" in given:
        if "config" in given:
            raise typer.BadParameter("--no-config excludes it", param_hint="'--config'")
        return
    found: dict[str, Setting] = {}
    for file in _files(given.get("config")):
        found |= _settings_for(context, file)
    values = {}
    for parameter in context.command.params:
        if parameter.name in found:
            values[parameter.name] = found[parameter.name].fits(parameter, option_of(parameter))
    context.default_map = values
    context.meta[_FOUND] = found


def option_of(parameter: Any) -> str:
    """What a parameter is called in the file: its first long name, without dashes."""
    return max(parameter.opts, key=lambda name: name.startswith("--")).lstrip("-")


def used_settings(context: typer.Context) -> list[str]:
    """A line for each file whose values count in this command, naming the options: "pulid.toml:
    models-dir, steps".
    """
    by_file: dict[Path, list[str]] = {}
    found = context.meta.get(_FOUND, {})
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if source is not None and source.name == "DEFAULT_MAP":
            by_file.setdefault(found[parameter.name].file, []).append(option_of(parameter))
    return [f"{file}: {', '.join(names)}" for file, names in by_file.items()]


def setting_error(context: typer.Context, parameter: Any, message: str) -> InputError | None:
    """What to say of a parameter's value if it stands in a file; None if it does not."""
    source = context.get_parameter_source(parameter.name) if parameter is not None else None
    if source is None or source.name != "DEFAULT_MAP":
        return None
    file = context.meta[_FOUND][parameter.name].file
    return InputError(f"{file}: {option_of(parameter)}: {message}")


def user_folder() -> Path:
    """Where a user's own file is: pulid-flux-toolkit in $XDG_CONFIG_HOME, or ~/.config, or
    %APPDATA%.
    """
    base = os.environ.get("XDG_CONFIG_HOME")
    if not base and os.name == "nt":
        base = os.environ.get("APPDATA")
    return path_of(base or "~/.config") / "pulid-flux-toolkit"


def _files(named: str | None) -> list[Path]:
    """The files that are read, those that count less first."""
    if named is not None:
        return [path_of(named)]
    try:
        candidates = [user_folder() / FILE_NAME, Path.cwd() / FILE_NAME]
        return [path for path in candidates if path.is_file()]
    # no home, or a working folder that is gone
    except (OSError, RuntimeError):
        return []


def _settings_for(context: typer.Context, file: Path) -> dict[str, Setting]:
    """Parameter's name -> what the file says of it, for one command; the narrower table counts.
    Raises InputError for what the file may not say.
    """
    table = _read(file)
    root = context.find_root()
    program = str(root.info_name).removeprefix("pulid-")
    _check_names(file, "", table, (MODELS, *PROGRAMS))
    for name, value in table.items():
        if not isinstance(value, dict):
            raise InputError(f"{file}: {name}: expected a table, [{name}]")
    known = _options(root)
    commands = dict(getattr(root.command, "commands", {}))
    own = table.get(program, {})
    of_commands = {name: value for name, value in own.items() if isinstance(value, dict)}
    _check_names(file, f"{program}.", of_commands, commands)
    plain = {name: value for name, value in own.items() if name not in of_commands}
    found = dict(_named(file, MODELS, table.get(MODELS, {}), dict.fromkeys(MODEL_OPTIONS)))
    found |= _named(file, program, plain, known)
    for name, values in of_commands.items():
        where = f"{program}.{name}"
        settings = dict(_named(file, where, values, _options_of(commands[name])))
        if name == context.info_name and context.parent is not None:
            found |= settings
    return found


def _named(
    file: Path, table: str, values: Mapping[str, Any], known: Mapping[str, Any]
) -> Iterator[tuple[str, Setting]]:
    """(parameter's name, setting) of a table. known: name in the file, with _ -> parameter's name,
    None for the same.
    """
    _check_names(file, f"{table}: ", values, known)
    for name, value in values.items():
        plain = _plain(name)
        yield known[plain] or plain, Setting(value, file.absolute())


def _check_names(file: Path, where: str, names: Mapping[str, Any], known: Any) -> None:
    spelt = {_plain(name): name.replace("_", "-") for name in known}
    for name in names:
        if _plain(name) in spelt:
            continue
        near = difflib.get_close_matches(_plain(name), spelt, 1)
        hint = f"; known: {', '.join(spelt.values())}"
        if near:
            hint = f"; did you mean {spelt[near[0]]}?"
        raise InputError(f"{file}: {where}{name[:40]}: there is no such name{hint}")


def _plain(name: str) -> str:
    return name.replace("-", "_")


def _options(root: Any) -> dict[str, str]:
    """Of a program and of all its commands."""
    known = _options_of(root.command)
    for command in getattr(root.command, "commands", {}).values():
        known |= _options_of(command)
    return known


def _options_of(command: Any) -> dict[str, str]:
    """An option's long names, with _ -> its parameter's name. Those that only print are left
    out.
    """
    known = {}
    for parameter in command.params:
        if parameter.param_type_name == "argument" or parameter.is_eager or not parameter.name:
            continue
        for name in parameter.opts:
            if name.startswith("--"):
                known[_plain(name.lstrip("-"))] = parameter.name
    return known


def _read(file: Path) -> dict[str, Any]:
    try:
        with open(file, "rb") as stream:
            data = stream.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise InputError(f"{file}: is larger than {MAX_BYTES >> 20} MiB; no settings are")
        return tomllib.loads(data.decode())
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(f"{file}: cannot be read as TOML ({reason or error})") from None
    except RecursionError:
        raise InputError(f"{file}: is nested too deeply") from None
