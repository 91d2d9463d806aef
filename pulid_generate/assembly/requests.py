"""From flags to what the pipeline takes: the request, the people, the picture to start from, the LoRAs, the files. Loads no model.

The one place that turns what was typed into objects, for every command that draws. Imports torch only to make the pipeline.
"""

from __future__ import annotations

import math
import secrets
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pulid_extract.shared.embedding_file import Embedding, read_embedding
from pulid_generate.errors import RequestError, require_packages
from pulid_generate.flags.commands import Flags
from pulid_generate.flags.likeness import LikenessFlags
from pulid_generate.flags.placement import DTYPES
from pulid_generate.lora.choice import choose_loras, file_sha256, parse_lora_flag
from pulid_generate.memory.footprint import Footprint
from pulid_generate.pictures.scorer import Scorer
from pulid_generate.request.generation import GenerationRequest
from pulid_generate.request.id_schedule import IdSchedule, parse_moment, parse_points
from pulid_generate.request.job import LoraUse, StartPicture, Subject
from pulid_generate.request.people import Person, PersonSpec, assemble, parse_person
from pulid_generate.request.prompt import read_prompt_file, refuse_lora_tags, take_lora_tags
from pulid_generate.request.skip_guidance import SkipGuidance, parse_layers

if TYPE_CHECKING:
    from pulid_generate.files.model_set import ModelFiles
    from pulid_generate.memory.placement import Placement
    from pulid_generate.pipeline.pipeline import OnStep, Pipeline

PACKAGES = ("accelerate", "diffusers", "open_clip", "sentencepiece", "transformers")  # what the extra [generate] brings
Given = Callable[[str], bool]  # whether a flag (by its field's name) stood on the command line or in the manifest's row

# Flags that mean nothing without another: field -> (the fields of which one must be there, how to say it)
IDENTITY = ("pulid_id_embedding", "identity")
NEEDS = {
    **dict.fromkeys(
        ("pulid_id_weight", "id_start_step", "id_end_step", "id_weight_schedule", "id_weight_double", "id_weight_single"),
        IDENTITY,
    ),
    "strength": ("init_img",),
    "mask": ("init_img",),
}
READERS = ("pulid_id_embedding", "prompt_file", "negative_prompt_file", "init_img", "mask")  # flags that take "-"


@dataclass(frozen=True, eq=False)
class Drawing:
    """What is to be drawn, read and checked as far as that is possible without the model's header."""

    request: GenerationRequest
    subjects: tuple[Subject, ...] = ()
    start: StartPicture | None = None
    loras: tuple[LoraUse, ...] = ()


def usage_error(flags: Flags, given: Given) -> str | None:
    """What is wrong with the usage, whatever the values: a missing flag, or one that means nothing without another."""
    if flags.prompt is None and flags.prompt_file is None:
        return "Missing option '--prompt' / '-p'."
    for text, file in (("prompt", "prompt_file"), ("negative_prompt", "negative_prompt_file")):
        if given(text) and given(file):
            return f"{flag_name(text)} and {flag_name(file)} both give the text; leave one of them out."
    for name, needed in NEEDS.items():
        if given(name) and not any(getattr(flags, other) for other in needed):
            return f"{flag_name(name)} needs '{flag_name(needed[0])}'."
    readers = [flag_name(name) for name in READERS if getattr(flags, name) == "-"]
    readers += ["--identity"] * sum(text.split(",")[0] == "-" for text in flags.identity or ())
    if len(readers) > 1:
        return f"{' and '.join(readers)} all want standard input; it can be read once."
    return None


@dataclass(frozen=True)
class Readers:
    """What reads files that several drawings share; a batch remembers what it read."""

    embedding: Callable[[str], Embedding] = read_embedding
    sha256: Callable[[Path], str] = file_sha256


def read_drawing(flags: Flags, given: Given, readers: Readers = Readers()) -> Drawing:
    """The request, the people and the pictures that the flags name. Raises PulidError."""
    folder = Path(flags.lora_model_dir).expanduser() if flags.lora_model_dir is not None else None
    prompt = read_prompt_file(flags.prompt_file) if flags.prompt_file is not None else flags.prompt or ""
    prompt, tags = take_lora_tags(prompt)
    loras = choose_loras([parse_lora_flag(text) for text in flags.lora or ()], tags, folder)
    request = replace(read_request(flags, given), prompt=prompt)
    refuse_lora_tags(request.negative_prompt)
    request, start = _read_start(flags, given, request)
    return Drawing(
        request=request,
        subjects=_read_subjects(flags, request, readers.embedding),
        start=start,
        loras=tuple(LoraUse(lora.path, lora.weight, readers.sha256(lora.path)) for lora in loras),
    )


def read_request(flags: Flags, given: Given) -> GenerationRequest:
    """The checked numbers and words of the flags; reads no file but a negative prompt's. Raises RequestError."""
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
            parse_layers(flags.skip_layers), flags.slg_scale, flags.skip_layer_start, flags.skip_layer_end
        ),
        id_weight=flags.pulid_id_weight,
        id_schedule=_read_schedule(flags),
        negative_id=flags.negative_id,
        sampling_method=flags.sampling_method,
        eta=flags.eta,
        scheduler=flags.scheduler,
        flow_shift=flags.flow_shift if flags.flow_shift in ("auto", "none") else float(flags.flow_shift),  # type: ignore[arg-type]
        sigmas=tuple(float(part) for part in flags.sigmas.split(",")) if flags.sigmas is not None else None,
        t5_max_length=flags.t5_max_length,
        strength=flags.strength,
        vae_tiling=flags.vae_tiling,
        vae_tile_size=flags.vae_tile_size,
        vae_tile_overlap=flags.vae_tile_overlap,
    )


def _read_schedule(flags: Flags) -> IdSchedule:
    return IdSchedule(
        start=parse_moment(flags.id_start_step, "id-start-step"),
        end=parse_moment(flags.id_end_step, "id-end-step") if flags.id_end_step is not None else None,
        points=parse_points(flags.id_weight_schedule) if flags.id_weight_schedule is not None else IdSchedule().points,
        double=flags.id_weight_double,
        single=flags.id_weight_single,
    )


def _read_start(flags: Flags, given: Given, request: GenerationRequest) -> tuple[GenerationRequest, StartPicture | None]:
    """The picture to start from, and the request in its size where none was asked for, as sd-cli does."""
    if flags.init_img is None:
        return request, None
    from pulid_generate.request.start_picture import init_image_size, read_init_image, read_mask, read_source

    source = read_source(flags.init_img)  # once: it may be standard input
    if not given("width") and not given("height"):
        width, height = init_image_size(source)
        request = replace(request, width=width, height=height)
    pixels = read_init_image(source, request.width, request.height)
    mask = read_mask(flags.mask, request.width, request.height, source) if flags.mask is not None else None
    return request, StartPicture(pixels, mask)


def _read_subjects(flags: Flags, request: GenerationRequest, read: Callable[[str], Embedding]) -> tuple[Subject, ...]:
    from pulid_generate.request.regions import box_region, mask_region, share_overlaps

    specs = [PersonSpec(flags.pulid_id_embedding)] if flags.pulid_id_embedding is not None else []
    specs += [parse_person(text) for text in flags.identity or ()]
    if not specs:
        return ()
    people = assemble(specs, [read(spec.file) for spec in specs], flags.identity_fusion)

    def region_of(person: Person):
        where = f"identity {person.spec.file}"
        if person.spec.box is not None:
            return box_region(person.spec.box, request.width, request.height, f"{where}: box")
        if person.spec.mask is not None:
            return mask_region(person.spec.mask, request.width, request.height, f"{where}: mask")
        return None

    regions = [region_of(person) for person in people]
    if len(people) > 1:
        regions = share_overlaps(regions)  # type: ignore[assignment]
    return tuple(
        Subject(person.embedding, person.spec.weight, person.spec.schedule(request.id_schedule), region)
        for person, region in zip(people, regions, strict=True)
    )


def scorer_of(flags: LikenessFlags, models_dir: str | None, say: Callable[[str], None]) -> Scorer:
    """Who pictures are compared with. say: as of `Scorer`. Raises InputError."""
    return Scorer(
        references=flags.reference or (),
        strangers=flags.stranger or (),
        models_dir=models_dir,
        antelopev2=flags.antelopev2,
        recognizer=flags.recognizer,
        det_threshold=flags.det_threshold,
        say=say,
    )


def open_pipeline(
    flags: Flags, *, with_pulid: bool, note: Callable[[str], None], log: Callable[[str], None], on_step: OnStep
) -> Pipeline:
    """The pipeline of the flags' files: headers read, everything placed, no model loaded.

    with_pulid: whether somebody is to be drawn. note: for what the user should know; log: for what happens. Raises PulidError.
    """
    require_packages(PACKAGES, "generate")
    warnings.simplefilter("ignore")  # the libraries' advice to their own developers
    from pulid_generate.pipeline.pipeline import Pipeline

    if flags.threads is not None:
        import torch

        if flags.threads > 0:  # sd-cli: -1 and 0 leave it to the machine
            torch.set_num_threads(flags.threads)
    if not math.isfinite(flags.weight_cache):
        raise RequestError(f"weight-cache {flags.weight_cache}: expected GiB, such as 4")
    placement = placement_of(flags)
    if placement.device.type == "cpu":
        for name in ("clip_on_cpu", "vae_on_cpu", "offload_to_cpu", "params_backend", "max_vram"):
            if getattr(flags, name):
                note(f"{flag_name(name)} changes nothing here, everything runs on the CPU")
    if not with_pulid and flags.pulid_weights is not None:
        note("--pulid-weights without --pulid-id-embedding: drawing without an identity")
    files = find_files(flags, with_pulid=with_pulid or flags.pulid_weights is not None)
    for role, found in files.by_role():
        log(f"{role.name}: {found.path} ({found.rule})")
    if not Footprint.of(files.flux.header, "Flux").has_packed():
        for name in ("dequantize", "weight_cache"):
            if getattr(flags, name):
                note(f"{flag_name(name)} has no effect: {files.flux.path} holds no packed weights")
    return Pipeline(
        files,
        placement,
        log,
        on_step,
        note=note,
        dequantize=flags.dequantize,
        compile=flags.compile_blocks,
        compute=flags.compute,
        weight_cache=int(flags.weight_cache * 2**30),
    )


def placement_of(flags: Flags) -> Placement:
    """Where the flags put the models. Raises RequestError."""
    from pulid_generate.memory.placement import Placement

    return Placement.choose(
        flags.device,
        DTYPES[flags.dtype],
        backend=flags.backend,
        params_backend=flags.params_backend,
        clip_on_cpu=flags.clip_on_cpu,
        vae_on_cpu=flags.vae_on_cpu,
        offload=flags.offload_to_cpu,
        max_vram=flags.max_vram,
    )


def find_files(flags: Flags, *, with_pulid: bool = True) -> ModelFiles:
    """The files of the flags, the models folder and the cache. Raises WeightsError."""
    from pulid_generate.files.model_set import ModelFiles

    return ModelFiles.find(
        model=flags.model,
        flux=flags.diffusion_model,
        vae=flags.vae,
        clip_l=flags.clip_l,
        t5xxl=flags.t5xxl,
        pulid=flags.pulid_weights,
        t5_tokenizer=flags.t5_tokenizer,
        models_dir=flags.models_dir or None,
        with_pulid=with_pulid,
    )


def input_files(flags: Flags, pipeline: Pipeline) -> Iterator[Path]:
    """Every file that is read and must not be replaced by a picture."""
    yield from (found.path for _, found in pipeline.files.by_role())
    named = [flags.pulid_id_embedding, flags.init_img, flags.mask, flags.prompt_file, flags.negative_prompt_file]
    for text in flags.identity or ():
        spec = parse_person(text)
        named += [spec.file, spec.mask]
    named += [str(parse_lora_flag(text).path) for text in flags.lora or ()]
    yield from (Path(name).expanduser() for name in named if name not in (None, "-"))


def idle_flags(flags: Flags, given: Given, dev: bool) -> Iterator[str]:
    """A line for every flag that was given and has no effect here; commands are copied from one model to another."""
    from pulid_generate.sampling.names import DEFAULT_ETA

    no_cfg = "" if flags.cfg_scale != 1 else "--cfg-scale is 1"
    someone = flags.pulid_id_embedding or flags.identity
    no_slg = "" if flags.slg_scale else "--slg-scale is 0"
    no_tiles = "" if flags.vae_tiling else "--vae-tiling is not given"
    several = len(flags.identity or ()) + (flags.pulid_id_embedding is not None) > 1
    reasons = {
        "guidance": "" if dev else "this Flux (schnell) has no guidance input",
        "negative_prompt": no_cfg,
        "negative_prompt_file": no_cfg,
        "cfg_start_step": no_cfg,
        "negative_id": "" if flags.cfg_scale != 1 and someone else "there is no negative branch with an identity",
        "identity_fusion": "" if several else "there is one embedding",
        "slg_scale": "" if flags.skip_layers.strip(" []") else "--skip-layers names no block",
        "skip_layers": no_slg,
        "skip_layer_start": no_slg,
        "skip_layer_end": no_slg,
        "eta": "" if flags.sampling_method in DEFAULT_ETA else f"{flags.sampling_method} adds no noise",
        "t5_max_length": "--prompt-weights takes pieces of 256 tokens" if flags.prompt_weights else "",
        "output_begin_idx": "" if flags.batch_count > 1 or "%" in flags.output else "one picture with a plain name is written",
        "vae_tile_size": no_tiles,
        "vae_tile_overlap": no_tiles,
    }
    for name, reason in reasons.items():
        if reason and given(name):
            yield f"{flag_name(name)} has no effect: {reason}"


def flag_name(name: str) -> str:
    """The flag of a field of Flags."""
    return {"as_json": "--json", "compile_blocks": "--compile"}.get(name, f"--{name.replace('_', '-')}")


def jobs_of(pipeline: Pipeline, drawing: Drawing) -> list:
    """The pipeline's jobs for a drawing. Raises as `Pipeline.jobs`."""
    return pipeline.jobs(drawing.request, drawing.subjects, drawing.start, drawing.loras)
