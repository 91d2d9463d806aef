"""From flags to what a pipeline takes: the request, the people, the picture to start from, the
LoRAs. Loads no model; imports no torch.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pulid_extract.shared.embedding_file import Embedding, read_embedding
from pulid_extract.shared.file_names import path_of
from pulid_generate.assembly.detail import read_detail, read_references
from pulid_generate.assembly.people import read_subjects
from pulid_generate.errors import InputError, RequestError
from pulid_generate.files.layouts import TOKEN_PIXELS
from pulid_generate.flags.commands.tables import Flags
from pulid_generate.lora.choice import LoraChoice, choose_loras, file_sha256, parse_lora_flag
from pulid_generate.request.conditions.bundle import NO_CONDITIONS, Conditions
from pulid_generate.request.conditions.mask_edge import MaskEdge
from pulid_generate.request.generation import GenerationRequest
from pulid_generate.request.job import StartPicture, Subject
from pulid_generate.request.passes.detail import parse_detail_args
from pulid_generate.request.passes.hires import UPSCALERS, HiresSettings, find_model, upscaler_named
from pulid_generate.request.people.id_schedule import IdSchedule, parse_moment, parse_points
from pulid_generate.request.people.identities import mixed_recognizers
from pulid_generate.request.prompts.prompt import read_prompt_file, refuse_lora_tags, take_lora_tags
from pulid_generate.request.prompts.prompt_weights import parse_weights
from pulid_generate.request.prompts.tokens import LoraUse
from pulid_generate.request.skip_guidance import SkipGuidance, parse_layers
from pulid_generate.request.step_cache import StepCache

if TYPE_CHECKING:
    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.request.conditions.control_picture import ControlUse
    from pulid_generate.request.conditions.start_picture import PictureBytes
    from pulid_generate.request.job import Job


@dataclass(frozen=True, eq=False)
class Drawing:
    """What is to be drawn, read and checked as far as that is possible without the model's
    header.
    """

    request: GenerationRequest
    subjects: tuple[Subject, ...] = ()
    start: StartPicture | None = None
    loras: tuple[LoraUse, ...] = ()
    conditions: Conditions = NO_CONDITIONS

    def job(self, pipeline: Pipeline) -> Job:
        """The first of its pictures. Raises as `Pipeline.job`."""
        return pipeline.job(self.request, self.subjects, self.start, self.loras, self.conditions)

    def notes(self) -> list[str]:
        """What of the people is odd, and can be drawn all the same."""
        mixed = mixed_recognizers([subject.embedding for subject in self.subjects])
        if not mixed:
            return []
        return [f"{mixed}: one of them will look like a stranger; extract both with antelopev2"]

    def jobs(self, pipeline: Pipeline) -> list[Job]:
        """All of its pictures. Raises as `Pipeline.jobs`."""
        return pipeline.jobs(self.request, self.subjects, self.start, self.loras, self.conditions)


@dataclass(frozen=True)
class Readers:
    """What reads files that several drawings share; a batch remembers what it read."""

    embedding: Callable[[str], Embedding] = read_embedding
    sha256: Callable[[Path], str] = file_sha256


def read_drawing(flags: Flags, given: Collection[str], readers: Readers = Readers()) -> Drawing:
    """The request, the people and the pictures that the flags name.

    given: the fields that were given. Raises PulidError.
    """
    prompt, choices = read_prompt(flags)
    init_img = _read_init_img(flags)
    width, height = flags.width, flags.height
    # in the picture's own size where none was asked for, as sd-cli does
    if init_img is not None and "width" not in given and "height" not in given:
        from pulid_generate.request.conditions.start_picture import init_image_size

        width, height = init_image_size(init_img)
    elif flags.ref_image and "width" not in given and "height" not in given:
        from pulid_generate.request.conditions.reference_picture import drawing_size

        width, height = drawing_size(flags.ref_image[0])
    request = read_request(flags, prompt, width, height)
    refuse_lora_tags(request.negative_prompt)
    return Drawing(
        request=request,
        start=_read_start(flags, init_img, width, height),
        subjects=read_subjects(flags, request, readers.embedding, partial(read_references, flags)),
        loras=_read_loras(choices, readers),
        conditions=_read_conditions(flags, width, height),
    )


def check_values(flags: Flags) -> None:
    """Raise RequestError for values that could be drawn with no files, as far as flags alone show
    it: a command that makes many pictures of its flags refuses them once, before its rows.
    """
    alone = replace(flags, negative_prompt_file=None)
    read_request(alone, flags.prompt or "", flags.width, flags.height)


def read_faces_drawing(
    flags: Flags,
    given: Collection[str],
    width: int,
    height: int,
    readers: Readers = Readers(),
) -> Drawing:
    """The same for the faces of a picture of that size that is there: several people are always
    several. given: `width` and `height` among it are what faces are redrawn in. Raises PulidError.
    """
    if flags.hires:
        raise RequestError(
            "hires: the picture is there, and only its faces are redrawn; leave it out, or draw "
            "over the picture with --init-img"
        )
    prompt, choices = read_prompt(flags)
    request = read_request(flags, prompt, _whole_tokens(width), _whole_tokens(height))
    refuse_lora_tags(request.negative_prompt)
    assert request.detail is not None
    named = parse_detail_args(flags.extra_ad_args)
    size = {
        f"inpaint_{name}": getattr(flags, name) for name in ("width", "height") if name in given
    }
    # as sd-cli's --mode adetailer
    own = {"denoising_strength": flags.strength, **size} | named
    request = replace(request, detail=replace(request.detail, **own))
    references = partial(read_references, flags)
    return Drawing(
        request=request,
        subjects=read_subjects(flags, request, readers.embedding, references, apart=True),
        loras=_read_loras(choices, readers),
    )


def _whole_tokens(side: int) -> int:
    return -(-side // TOKEN_PIXELS) * TOKEN_PIXELS


def _read_loras(choices: Sequence[LoraChoice], readers: Readers) -> tuple[LoraUse, ...]:
    uses = []
    for choice in choices:
        uses.append(LoraUse(choice.path, choice.weight, readers.sha256(choice.path)))
    return tuple(uses)


def read_prompt(flags: Flags) -> tuple[str, tuple[LoraChoice, ...]]:
    """The prompt without its tags, and the LoRAs of flags and tags. Raises RequestError,
    InputError.
    """
    text = flags.prompt or ""
    if flags.prompt_file is None:
        prompt, tags = take_lora_tags(text)
    else:
        text = read_prompt_file(flags.prompt_file)
        try:
            prompt, tags = take_lora_tags(text)
            if flags.prompt_weights:
                parse_weights(prompt)
        except RequestError as error:
            raise InputError(f"{flags.prompt_file}: {error}") from None
    folder = None
    if flags.lora_model_dir is not None:
        folder = path_of(flags.lora_model_dir)
    named = [parse_lora_flag(text) for text in flags.lora or ()]
    return prompt, choose_loras(named, tags, folder)


def read_request(flags: Flags, prompt: str, width: int, height: int) -> GenerationRequest:
    """The checked numbers and words of the flags; reads no file but a negative prompt's. Raises
    RequestError, InputError.
    """
    negative = flags.negative_prompt
    if flags.negative_prompt_file is not None:
        negative = read_prompt_file(flags.negative_prompt_file, may_be_empty=True)
    return GenerationRequest(
        prompt=prompt,
        negative_prompt=negative,
        prompt_weights=flags.prompt_weights,
        width=width,
        height=height,
        steps=flags.steps,
        seed=flags.seed if flags.seed >= 0 else secrets.randbelow(2**31),
        batch_count=flags.batch_count,
        rng=flags.rng,
        guidance=flags.guidance,
        cfg_scale=flags.cfg_scale,
        cfg_start_step=flags.cfg_start_step,
        skip_guidance=_skip_guidance(flags),
        step_cache=_step_cache(flags),
        id_weight=flags.pulid_id_weight,
        id_schedule=_id_schedule(flags),
        negative_id=flags.negative_id,
        sampling_method=flags.sampling_method,
        eta=flags.eta,
        scheduler=flags.scheduler,
        flow_shift=_flow_shift(flags.flow_shift),
        sigmas=_sigmas(flags.sigmas),
        t5_max_length=flags.t5_max_length,
        strength=flags.strength,
        vae_tiling=flags.vae_tiling,
        vae_tile_size=flags.vae_tile_size,
        vae_tile_overlap=flags.vae_tile_overlap,
        detail=read_detail(flags),
        hires=_hires(flags),
    )


# -------------------------------------------------------------------------------------------- parts


def _read_init_img(flags: Flags) -> PictureBytes | None:
    """The file of the picture to start from, read once: it may be standard input."""
    if flags.init_img is None:
        return None
    from pulid_generate.request.conditions.start_picture import read_source

    return read_source(flags.init_img)


def _read_start(
    flags: Flags, init_img: PictureBytes | None, width: int, height: int
) -> StartPicture | None:
    if init_img is None:
        return None
    from pulid_generate.request.conditions.start_picture import read_init_image, read_mask

    edge = MaskEdge(flags.mask_grow, flags.mask_blur)
    pixels = read_init_image(init_img, width, height)
    if flags.mask is None:
        return StartPicture(pixels)
    mask = read_mask(flags.mask, width, height, init_img, edge.grow)
    return StartPicture(pixels, mask, edge.blur)


def _read_conditions(flags: Flags, width: int, height: int) -> Conditions:
    controls = _read_controls(flags, width, height)
    if not flags.ref_image:
        return Conditions(controls=controls) if controls else NO_CONDITIONS
    from pulid_generate.request.conditions.reference_picture import (
        ReferenceOptions,
        read_reference_pictures,
    )

    options = ReferenceOptions.parse(
        flags.ref_image_args,
        increase=flags.increase_ref_index,
        resize=not flags.disable_auto_resize_ref_image,
    )
    references = read_reference_pictures(flags.ref_image, options, width, height)
    return Conditions(references, controls)


def _read_controls(flags: Flags, width: int, height: int) -> tuple[ControlUse, ...]:
    if not flags.control_net:
        return ()
    from pulid_generate.request.conditions.control_picture import ControlTexts, read_controls

    texts = ControlTexts(
        nets=flags.control_net,
        images=flags.control_image or (),
        strengths=flags.control_strength or (),
        starts=flags.control_start or (),
        ends=flags.control_end or (),
        modes=flags.control_mode or (),
        canny=flags.canny,
    )
    return read_controls(texts, width, height)


def _skip_guidance(flags: Flags) -> SkipGuidance:
    layers = parse_layers(flags.skip_layers)
    return SkipGuidance(layers, flags.slg_scale, flags.skip_layer_start, flags.skip_layer_end)


def _step_cache(flags: Flags) -> StepCache | None:
    if flags.cache_mode is None:
        return None
    return StepCache.parse(flags.cache_mode, flags.cache_option, flags.scm_mask, flags.scm_policy)


def _hires(flags: Flags) -> HiresSettings | None:
    if not flags.hires:
        return None
    name, model = hires_upscaler(flags)
    return HiresSettings(
        upscaler=name,
        model=model,
        tile=flags.hires_upscale_tile_size,
        scale=flags.hires_scale,
        width=flags.hires_width,
        height=flags.hires_height,
        steps=flags.hires_steps,
        denoising_strength=flags.hires_denoising_strength,
        sigmas=_sigmas(flags.hires_sigmas),
    )


def hires_upscaler(flags: Flags) -> tuple[str, Path | None]:
    """What enlarges between the two passes: its name, and its file if it is a model. Raises
    RequestError for a model that is not there.
    """
    name = upscaler_named(flags.hires_upscaler)
    if name in UPSCALERS or flags.hires_upscalers_dir is None:
        return name, None
    model = find_model(name, path_of(flags.hires_upscalers_dir))
    return model.name, model


def _id_schedule(flags: Flags) -> IdSchedule:
    end, points = None, IdSchedule().points
    if flags.id_end_step is not None:
        end = parse_moment(flags.id_end_step, "id-end-step")
    if flags.id_weight_schedule is not None:
        points = parse_points(flags.id_weight_schedule)
    return IdSchedule(
        start=parse_moment(flags.id_start_step, "id-start-step"),
        end=end,
        points=points,
        double=flags.id_weight_double,
        single=flags.id_weight_single,
    )


def _flow_shift(text: str) -> Literal["auto", "none"] | float:
    # the flag's own check has let nothing but numbers through
    return text if text in ("auto", "none") else float(text)  # type: ignore[return-value]


def _sigmas(text: str | None) -> tuple[float, ...] | None:
    return tuple(float(part) for part in text.split(",")) if text is not None else None
