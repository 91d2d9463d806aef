"""The words of a detail pass: keys and prompts as sd-cli reads them, or one line of refusal."""

from __future__ import annotations

import pytest

from pulid_generate.errors import RequestError
from pulid_generate.request.passes.detail import DetailSettings, parse_detail_args, prompts_of


def settings(text: str) -> DetailSettings:
    return DetailSettings(**parse_detail_args(text))


def test_defaults_are_sd_clis():
    usual = settings("")
    assert usual == DetailSettings()
    assert (usual.denoising_strength, usual.inpaint_padding, usual.mask_blur) == (0.4, 32, 4)
    assert (usual.dilate_erode, usual.max_detections, usual.steps, usual.cfg_scale) == (
        *(4, 100, 0),
        -1,
    )
    assert usual.size_in(1024, 1536) == (512, 512)
    # no larger than a picture of a model that draws small ones
    assert usual.size_in(96, 130) == (96, 96)


def test_keys_are_read_as_sd_cli_reads_them():
    read = settings(" Denoising_Strength = 0.6, inpaint_width=768,sort_by=left-to-right,,steps=12")
    assert (read.denoising_strength, read.inpaint_width, read.steps) == (0.6, 768, 12)
    assert read.sort_by == "left_to_right"
    assert read.size_in(512, 512) == (768, 512)
    assert settings("input_size=640,nms=0.5,merge_masks=false,mask_mode=none").idle == (
        *("input_size", "nms"),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("denoising_strength", "expected key=value"),
        ("strength=0.4", "strength: unknown key; expected one of"),
        ("steps=many", "steps=many: expected a whole number"),
        ("denoising_strength=nan", "denoising_strength=nan: expected a number"),
        ("denoising_strength=1.5", "denoising_strength=1.5: expected 0 to 1"),
        ("inpaint_width=500", "inpaint_width=500: expected a multiple of 16; try 496"),
        ("mask_blur=-1", "mask_blur=-1: expected 0 to 512"),
        ("mask_min_ratio=0.5,mask_max_ratio=0.1", "leaves no face"),
        ("sort_by=colour", "sort_by=colour: expected none, left_to_right"),
        ("sample_method=plms", "sampling-method 'plms'"),
        ("scheduler=ays", "scheduler ays: its noise levels"),
        ("merge_masks=1", "each face is redrawn with its own person"),
        ("mask_mode=merge_invert", "each face is redrawn with its own person"),
        ("detector=yolo", "detector: unknown key"),
    ],
)
def test_what_is_no_key_or_value_is_refused(text, words):
    with pytest.raises(RequestError, match=words):
        settings(text)


@pytest.mark.parametrize(
    ("template", "prompts"),
    [
        ("", ["a cat"]),
        ("a face", ["a face"]),
        ("[PROMPT], close", ["a cat, close"]),
        ("one [SEP] [SEP]three", ["one", "a cat", "three"]),
        ("[SKIP][SEP]two", [None, "two"]),
    ],
)
def test_prompts_of_faces(template, prompts):
    assert prompts_of(template, "a cat") == prompts
