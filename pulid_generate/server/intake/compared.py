"""What a picture was made with against what is here: people, LoRAs and models, by their hashes
where both are known, else by their names. Imports no torch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pulid_generate.errors import PulidError
from pulid_generate.flags.commands.tables import BatchFlags
from pulid_generate.lora.choice import file_sha256, find_lora
from pulid_generate.request.passes.hires import find_model

# facts of people -> fields that hold for everybody
OF_EVERYBODY = {
    "schedule": "id_weight_schedule",
    "weight_double": "id_weight_double",
    "weight_single": "id_weight_single",
    "negative": "negative_id",
}
# .. and those that each of several people may have
OF_PERSON = {
    "weight": "pulid_id_weight",
    "start_step": "id_start_step",
    "end_step": "id_end_step",
}
# letters of a hash
SHOWN = 12


@dataclass
class Restored:
    """What a picture's metadata comes to."""

    fields: dict[str, Any] = field(default_factory=dict)
    # sentences
    missing: list[str] = field(default_factory=list)


# ------------------------------------------------------------------------------------------ models


def compare_models(facts: Mapping[str, Any], restored: Restored, here: Mapping[str, Any]) -> None:
    """here: as `Judge.facts` tells it. Raises AttributeError, KeyError or TypeError for metadata
    that was altered.
    """
    missing = restored.missing
    for role, name in facts.get("models", {}).items():
        own = here["models"].get(role, name)
        if own != name:
            missing.append(f"it was drawn by {name}, and this server has {own}")
    missing += _of_file("tiny autoencoder", facts.get("tae"), here["tae"], "name")
    missing += _of_file("model that enlarges pictures", facts.get("upscale"), here["upscale"])
    missing += _of_hires(facts.get("hires", {}), here["hires_upscalers_dir"])
    for told in facts.get("controls", ()):
        missing += _of_control(told, here["controls"])


def _of_file(
    what: str, told: Mapping[str, Any] | None, own: Mapping[str, Any] | None, name: str = "model"
) -> list[str]:
    """A sentence for each difference of a file with its settings, None where there is none. name:
    the fact that names it.
    """
    if told is None and own is None:
        return []
    if told is None or own is None:
        if own is not None:
            shown = _shown(own[name], own["sha256"])
            return [f"it was drawn without the {what} of this server, {shown}"]
        assert told is not None
        return [f"this server lacks its {what}, {_shown(told[name], told['sha256'])}"]
    if told["sha256"] != own["sha256"]:
        theirs, ours = _shown(told[name], told["sha256"]), _shown(own[name], own["sha256"])
        return [f"its {what} was {theirs}, and this server has {ours}"]
    found = []
    for setting in sorted({*told, *own} - {name, "sha256"}):
        if told.get(setting) != own.get(setting):
            values = f"{told.get(setting)}, here {own.get(setting)}"
            found.append(f"its {what} had another {setting}: {values}")
    return found


def _of_hires(told: Mapping[str, Any], folder: Path | None) -> list[str]:
    """The model between two passes."""
    if "upscaler_sha256" not in told:
        return []
    name, sha256 = told["upscaler"], told["upscaler_sha256"]
    lacking = f"what enlarged it between two passes is not here: {_shown(name, sha256)}"
    if folder is None:
        return [lacking]
    try:
        own = file_sha256(find_model(str(name), folder))
    except PulidError:
        return [lacking]
    return [] if own == sha256 else [f"{lacking}; {_shown(name, own)} is another file"]


def _of_control(told: Mapping[str, Any], own: Mapping[str, Callable[[], str]]) -> list[str]:
    """own: name -> what reads its hash."""
    name, sha256 = told["name"], told["sha256"]
    hashes = {other: read() for other, read in own.items()}
    if sha256 in hashes.values():
        return []
    if name not in hashes:
        return [f"this server was started without its ControlNet, {_shown(name, sha256)}"]
    return [f"its ControlNet was {_shown(name, sha256)}, here it is {_shown(name, hashes[name])}"]


def take_loras(facts: Mapping[str, Any], restored: Restored, folder: Path | None) -> None:
    """Those of the picture that are here. folder: where they are."""
    given = []
    for told in facts.get("loras", ()):
        name = str(told["name"])
        try:
            own = file_sha256(find_lora(name, folder))
        except PulidError:
            restored.missing.append(f"the LoRA {name} is not here")
            continue
        if own != told["sha256"]:
            theirs = _shown(name, told["sha256"])
            restored.missing.append(f"its LoRA was {theirs}, here it is {_shown(name, own)}")
        given.append(f"{name}:{told['weight']:g}")
    restored.fields["lora"] = given or None


def _shown(name: object, sha256: object) -> str:
    return f"{name} (SHA-256 {str(sha256)[:SHOWN]}..)"


# ------------------------------------------------------------------------------------------ people


def take_people(
    facts: Mapping[str, Any], restored: Restored, defaults: BatchFlags, names: Mapping[str, str]
) -> None:
    """defaults: the server's. names: SHA-256 of a .pulidembd -> the name of who is here."""
    people = facts.get("identities", ())
    if "identity" in facts:
        people = [facts["identity"]]
    for told in people[:1]:
        _take_options(told, OF_EVERYBODY, restored, defaults)
    if len(people) == 1 and "region_sha256" not in people[0] and "box" not in people[0]:
        _take_options(people[0], OF_PERSON, restored, defaults)
        person = _name(people[0]["sha256"], restored, names)
        if person is not None:
            restored.fields["pulid_id_embedding"] = person
        return
    own = []
    for fact, part in (("start_step", "start"), ("end_step", "end")):
        if len({told.get(fact) for told in people}) > 1:
            own.append((fact, part))
        elif people:
            _take_options(people[0], {fact: OF_PERSON[fact]}, restored, defaults)
    placed = []
    for told in people:
        person = _name(told["sha256"], restored, names)
        if person is not None:
            placed.append(_placed(told, person, own, restored))
    if placed:
        restored.fields["identity"] = placed
        if defaults.pulid_id_weight != 1:
            # each one's own is all of it
            restored.fields["pulid_id_weight"] = 1.0


def _take_options(
    told: Mapping[str, Any], table: Mapping[str, str], restored: Restored, defaults: BatchFlags
) -> None:
    for fact, option in table.items():
        # moments are texts there
        if fact in told and str(told[fact]) != str(getattr(defaults, option)):
            restored.fields[option] = told[fact]


def _placed(
    told: Mapping[str, Any], person: str, own: Sequence[tuple[str, str]], restored: Restored
) -> str:
    """One of several people, or one with a place. own: (fact, part) of what is not everybody's."""
    text = f"{person},weight={told['weight']}"
    for fact, part in own:
        if fact in told:
            text += f",{part}={told[fact]}"
    if "box" in told:
        return f"{text},box={','.join(str(int(side)) for side in told['box'])}"
    restored.missing.append(
        f"where {person} was is not in it, but for a mask's hash: place it again"
    )
    return text


def _name(sha256: str, restored: Restored, names: Mapping[str, str]) -> str | None:
    if sha256 in names:
        return names[sha256]
    restored.missing.append(
        f"its person is not among those here (SHA-256 {sha256[:SHOWN]}..): add the .pulidembd"
    )
    return None


def hashes_of(files: Mapping[str, Path]) -> dict[str, str]:
    """name -> SHA-256 of its file; those that cannot be read are left out. files: name -> path."""
    found = {}
    for name, path in files.items():
        try:
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError:
            continue
    return found
