"""Flags become a request: every field of it, from the words of the command line."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image

from pulid_generate.assembly.requests import Readers, read_drawing, read_request
from pulid_generate.errors import InputError, RequestError
from pulid_generate.flags.commands.tables import Flags
from pulid_generate.request.generation import GenerationRequest
from pulid_generate.request.passes.detail import DetailSettings
from pulid_generate.request.passes.hires import HiresSettings
from pulid_generate.request.people.id_schedule import IdSchedule
from pulid_generate.request.skip_guidance import SkipGuidance
from pulid_generate.request.step_cache import StepCache

PLAIN = GenerationRequest("a cat")
NOBODY = Readers(embedding=pytest.fail, sha256=lambda path: "0")

# flag's field, what was typed -> the request's field, its value
TABLE = [
    ("prompt", "a dog", "prompt", "a dog"),
    ("negative_prompt", "blurry", "negative_prompt", "blurry"),
    ("prompt_weights", True, "prompt_weights", True),
    ("width", 256, "width", 256),
    ("height", 768, "height", 768),
    ("steps", 7, "steps", 7),
    ("seed", 5, "seed", 5),
    ("batch_count", 3, "batch_count", 3),
    ("rng", "cpu", "rng", "cpu"),
    ("guidance", 4.0, "guidance", 4.0),
    ("cfg_scale", 2.0, "cfg_scale", 2.0),
    ("cfg_start_step", 2, "cfg_start_step", 2),
    ("slg_scale", 2.5, "skip_guidance", SkipGuidance(scale=2.5)),
    ("skip_layers", "[1, 2]", "skip_guidance", SkipGuidance(layers=(1, 2))),
    ("skip_layer_start", 0.1, "skip_guidance", SkipGuidance(start=0.1)),
    ("skip_layer_end", 0.9, "skip_guidance", SkipGuidance(end=0.9)),
    ("pulid_id_weight", 0.7, "id_weight", 0.7),
    ("id_start_step", "4", "id_schedule", IdSchedule(start=4)),
    ("id_start_step", "0.5", "id_schedule", IdSchedule(start=0.5)),
    ("id_end_step", "8", "id_schedule", IdSchedule(end=8)),
    ("id_weight_schedule", "0:0,4:1", "id_schedule", IdSchedule(points=((0, 0.0), (4, 1.0)))),
    ("id_weight_double", 0.5, "id_schedule", IdSchedule(double=0.5)),
    ("id_weight_single", 0.5, "id_schedule", IdSchedule(single=0.5)),
    ("negative_id", "same", "negative_id", "same"),
    ("sampling_method", "heun", "sampling_method", "heun"),
    ("eta", 0.5, "eta", 0.5),
    ("scheduler", "karras", "scheduler", "karras"),
    ("flow_shift", "none", "flow_shift", "none"),
    ("flow_shift", "1.15", "flow_shift", 1.15),
    ("sigmas", "1,0.5,0", "sigmas", (1.0, 0.5, 0.0)),
    ("t5_max_length", 128, "t5_max_length", 128),
    ("strength", 0.4, "strength", 0.4),
    ("vae_tiling", True, "vae_tiling", True),
    ("vae_tile_size", "48x16", "vae_tile_size", "48x16"),
    ("vae_tile_overlap", 0.25, "vae_tile_overlap", 0.25),
    ("cache_mode", "easycache", "step_cache", StepCache.parse("easycache")),
    ("ad_model", "antelopev2", "detail", DetailSettings()),
    ("hires", True, "hires", HiresSettings()),
]


@pytest.mark.parametrize(("flag", "typed", "field", "value"), TABLE)
def test_a_flag_is_one_field_and_no_other(flag, typed, field, value):
    flags = Flags(**{"prompt": "a cat", flag: typed})
    drawing = read_drawing(flags, {flag}, NOBODY)
    assert drawing.request == replace(PLAIN, **{field: value})
    assert drawing.request != PLAIN
    assert (drawing.subjects, drawing.start, drawing.loras) == ((), None, ())


def test_every_field_of_a_request_comes_from_a_flag():
    assert {field for _, _, field, _ in TABLE} == {item.name for item in fields(GenerationRequest)}
    assert read_drawing(Flags(prompt="a cat"), (), NOBODY).request == PLAIN


def test_a_negative_seed_is_a_random_one():
    seeds = {read_request(Flags(seed=-1), "a cat", 64, 64).seed for _ in range(4)}
    assert len(seeds) > 1
    assert min(seeds) >= 0


def test_a_starting_picture_gives_its_size_where_none_was_asked_for(tmp_path):
    Image.new("RGB", (100, 70), "red").save(tmp_path / "start.png")
    Image.new("L", (100, 70), 255).save(tmp_path / "mask.png")
    flags = Flags(
        prompt="a cat", init_img=str(tmp_path / "start.png"), mask=str(tmp_path / "mask.png")
    )
    own = read_drawing(flags, {"init_img", "mask"}, NOBODY)
    assert (own.request.width, own.request.height) == (96, 64)
    assert own.start.pixels.shape == (64, 96, 3)
    assert own.start.mask.shape == (64, 96)
    asked = read_drawing(replace(flags, width=32), {"init_img", "mask", "width"}, NOBODY)
    assert (asked.request.width, asked.request.height) == (32, 512)
    assert np.all(asked.start.pixels == (255, 0, 0))
    without = read_drawing(replace(flags, mask=None), {"init_img"}, NOBODY)
    assert without.start.mask is None


def test_prompts_come_from_files_and_tags_become_loras(tmp_path):
    (tmp_path / "p.txt").write_text("a cat<lora:style:0.5>\n")
    (tmp_path / "n.txt").write_text("")
    (tmp_path / "style.safetensors").write_bytes(b"")
    flags = Flags(
        prompt_file=str(tmp_path / "p.txt"),
        negative_prompt_file=str(tmp_path / "n.txt"),
        lora_model_dir=str(tmp_path),
        lora=[f"{tmp_path / 'style.safetensors'}:1"],
    )
    drawing = read_drawing(flags, (), NOBODY)
    assert (drawing.request.prompt, drawing.request.negative_prompt) == ("a cat", "")
    [lora] = drawing.loras
    assert (lora.name, lora.weight, lora.sha256) == ("style", 1.5, "0")
    with pytest.raises(RequestError, match="negative prompt"):
        read_drawing(Flags(prompt="x", negative_prompt="<lora:style:1>"), (), NOBODY)
    with pytest.raises(InputError, match="no such prompt file"):
        read_drawing(Flags(prompt_file=str(tmp_path / "none.txt")), (), NOBODY)
