"""From flags to what the pipeline takes: the request, the people, the picture to start from, the
LoRAs, the files. Loads no model.

The one place that turns what was typed into objects, for every command that draws. Imports torch
only to make the pipeline.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pulid_extract.shared.embedding_file import Embedding, read_embedding
from pulid_generate.assembly.people import read_subjects
from pulid_generate.flags.commands import Flags
from pulid_generate.lora.choice import choose_loras, file_sha256, parse_lora_flag
from pulid_generate.request.generation import GenerationRequest
from pulid_generate.request.id_schedule import IdSchedule, parse_moment, parse_points
from pulid_generate.request.job import LoraUse, StartPicture, Subject
from pulid_generate.request.prompt import read_prompt_file, refuse_lora_tags, take_lora_tags
from pulid_generate.request.skip_guidance import SkipGuidance, parse_layers

if TYPE_CHECKING:
    from pulid_generate.pipeline.pipeline import Pipeline


@dataclass(frozen=True, eq=False)
class Drawing:
    """What is to be drawn, read and checked as far as that is possible without the model's
    header.
    """

    request: GenerationRequest
    subjects: tuple[Subject, ...] = ()
    start: StartPicture | None = None
    loras: tuple[LoraUse, ...] = ()


@dataclass(frozen=True)
class Readers:
    """What reads files that several drawings share; a batch remembers what it read."""

    embedding: Callable[[str], Embedding] = read_embedding
    sha256: Callable[[Path], str] = file_sha256


def read_drawing(flags: Flags, given: Collection[str], readers: Readers = Readers()) -> Drawing:
    """The request, the people and the pictures that the flags name. Raises PulidError."""
    folder = Path(flags.lora_model_dir).expanduser() if flags.lora_model_dir is not None else None
    prompt = (
        read_prompt_file(flags.prompt_file) if flags.prompt_file is not None else flags.prompt or ""
    )
    prompt, tags = take_lora_tags(prompt)
    loras = choose_loras([parse_lora_flag(text) for text in flags.lora or ()], tags, folder)
    request = replace(read_request(flags), prompt=prompt)
    refuse_lora_tags(request.negative_prompt)
    request, start = _read_start(flags, given, request)
    return Drawing(
        request=request,
        subjects=read_subjects(flags, request, readers.embedding),
        start=start,
        loras=tuple(LoraUse(lora.path, lora.weight, readers.sha256(lora.path)) for lora in loras),
    )


def read_request(flags: Flags) -> GenerationRequest:
    """The checked numbers and words of the flags; reads no file but a negative prompt's. Raises
    RequestError.
    """
    negative = flags.negative_prompt
    if flags.negative_prompt_file is not None:
        negative = read_prompt_file(flags.negative_prompt_file, may_be_empty=True)
    return GenerationRequest(
        prompt=flags.prompt or "",
        negative_prompt=negative,
        prompt_weights=flags.prompt_weights,
        width=flags.width,
        height=flags.height,
        steps=flags.steps,
        seed=flags.seed if flags.seed >= 0 else secrets.randbelow(2**31),
        batch_count=flags.batch_count,
        rng=flags.rng,
        guidance=flags.guidance,
        cfg_scale=flags.cfg_scale,
        cfg_start_step=flags.cfg_start_step,
        skip_guidance=SkipGuidance(
            parse_layers(flags.skip_layers),
            flags.slg_scale,
            flags.skip_layer_start,
            flags.skip_layer_end,
        ),
        id_weight=flags.pulid_id_weight,
        id_schedule=_read_schedule(flags),
        negative_id=flags.negative_id,
        sampling_method=flags.sampling_method,
        eta=flags.eta,
        scheduler=flags.scheduler,
        flow_shift=flags.flow_shift
        if flags.flow_shift in ("auto", "none")
        else float(flags.flow_shift),  # type: ignore[arg-type]
        sigmas=tuple(float(part) for part in flags.sigmas.split(","))
        if flags.sigmas is not None
        else None,
        t5_max_length=flags.t5_max_length,
        strength=flags.strength,
        vae_tiling=flags.vae_tiling,
        vae_tile_size=flags.vae_tile_size,
        vae_tile_overlap=flags.vae_tile_overlap,
    )


def _read_schedule(flags: Flags) -> IdSchedule:
    return IdSchedule(
        start=parse_moment(flags.id_start_step, "id-start-step"),
        end=parse_moment(flags.id_end_step, "id-end-step")
        if flags.id_end_step is not None
        else None,
        points=parse_points(flags.id_weight_schedule)
        if flags.id_weight_schedule is not None
        else IdSchedule().points,
        double=flags.id_weight_double,
        single=flags.id_weight_single,
    )


def _read_start(
    flags: Flags, given: Collection[str], request: GenerationRequest
) -> tuple[GenerationRequest, StartPicture | None]:
    """The picture to start from, and the request in its size where none was asked for, as sd-cli
    does.
    """
    if flags.init_img is None:
        return request, None
    from pulid_generate.request.start_picture import (
        init_image_size,
        read_init_image,
        read_mask,
        read_source,
    )

    source = read_source(flags.init_img)  # once: it may be standard input
    if "width" not in given and "height" not in given:
        width, height = init_image_size(source)
        request = replace(request, width=width, height=height)
    pixels = read_init_image(source, request.width, request.height)
    mask = (
        read_mask(flags.mask, request.width, request.height, source)
        if flags.mask is not None
        else None
    )
    return request, StartPicture(pixels, mask)


def jobs_of(pipeline: Pipeline, drawing: Drawing) -> list:
    """The pipeline's jobs for a drawing. Raises as `Pipeline.jobs`."""
    return pipeline.jobs(drawing.request, drawing.subjects, drawing.start, drawing.loras)
