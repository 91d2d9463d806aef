"""What a field is called on the command line, and what one command's flags are for another."""

from __future__ import annotations

from dataclasses import fields

import pytest
import typer

from pulid_generate.cli import app
from pulid_generate.flags.commands.names import flag_name
from pulid_generate.flags.commands.tables import BatchFlags, DrawFlags, SweepFlags, ValidateFlags


@pytest.mark.parametrize(
    ("field", "flag"),
    [
        ("as_json", "--json"),
        ("compile_blocks", "--compile"),
        ("clip_l", "--clip_l"),
        ("pulid_id_weight", "--pulid-id-weight"),
        ("keep_others", "--keep-others"),
        ("over", "--over"),
        ("sheet", "--sheet"),
        ("min_similarity", "--min-similarity"),
    ],
)
def test_a_field_is_called_as_its_option_is(field, flag):
    assert flag_name(field) == flag


def test_what_is_not_an_option_has_no_name():
    with pytest.raises(KeyError):
        flag_name("manifest")  # an argument


def test_every_name_is_an_option_of_its_command():
    command = typer.main.get_command(app)
    tables = [
        (command, DrawFlags),
        (command.commands["batch"], BatchFlags),
        (command.commands["sweep"], SweepFlags),
        (command.commands["validate"], ValidateFlags),
    ]
    for one, table in tables:
        options = {parameter.name: parameter.opts for parameter in one.params}
        for field in fields(table):
            if field.name != "manifest":
                assert flag_name(field.name) in options[field.name]


def test_a_batch_of_another_command_has_its_flags_and_what_is_its_own():
    sweep = SweepFlags(over=["steps=1,2"], prompt="a cat", seed=7, resume=True, output="s.png")
    batch = BatchFlags.of_command(sweep, sheet=sweep.output, output_dir="out")
    assert (batch.prompt, batch.seed, batch.resume) == ("a cat", 7, True)
    assert (batch.sheet, batch.output_dir) == ("s.png", "out")
    assert batch.name == BatchFlags.name
