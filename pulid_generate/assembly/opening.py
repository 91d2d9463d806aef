"""TODO"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from pulid_extract.shared.cache_folder import default_folder
from pulid_generate.errors import RequestError, require_packages
from pulid_generate.files.model import Model
from pulid_generate.flags.commands import Flags
from pulid_generate.flags.likeness import LikenessFlags
from pulid_generate.flags.names import flag_name
from pulid_generate.flags.placement import DTYPES
from pulid_generate.memory.footprint import Footprint
from pulid_generate.pictures.scorer import Scorer

if TYPE_CHECKING:
    from pulid_generate.files.model_set import ModelFiles
    from pulid_generate.memory.placement import Placement
    from pulid_generate.pipeline.pipeline import OnStep, Pipeline
from pulid_generate.assembly.progress import Progress
from pulid_generate.flags.commands import BatchFlags
from pulid_generate.pipeline.text_cache import TextCache

if TYPE_CHECKING:
    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.pipeline.session import Session

# what the extra [generate] brings
PACKAGES = ("accelerate", "diffusers", "open_clip", "sentencepiece", "transformers")


def scorer_of(flags: LikenessFlags, models_dir: str | None, log: Callable[[str], None]) -> Scorer:
    """Who pictures are compared with. log: as of `Scorer`. Raises InputError."""
    return Scorer(
        references=flags.reference or (),
        strangers=flags.stranger or (),
        models_dir=models_dir,
        antelopev2=flags.antelopev2,
        recognizer=flags.recognizer,
        det_threshold=flags.det_threshold,
        log=log,
    )


def open_pipeline(
    flags: Flags,
    *,
    with_pulid: bool,
    note: Callable[[str], None],
    log: Callable[[str], None],
    on_step: OnStep,
) -> Pipeline:
    """The pipeline of the flags' files: headers read, everything placed, no model loaded.

    with_pulid: whether somebody is to be drawn. note: for what the user should know; log: for what
    happens. Raises PulidError.
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
    if not Footprint.of(files.flux.header, Model.FLUX.marker).has_packed():
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


def open_session(
    flags: BatchFlags, with_pulid: bool, progress: Progress, serving: bool = False
) -> tuple[Pipeline, Session]:
    """Headers read, nothing loaded. Raises PulidError."""
    pipeline = open_pipeline(
        flags, with_pulid=with_pulid, note=progress.note, log=progress.log, on_step=progress.step
    )
    from pulid_generate.pipeline.session import Session

    cache = TextCache(None if flags.no_cache else default_folder())
    return pipeline, Session(pipeline, cache, batch=flags.batch_size, serving=serving)
