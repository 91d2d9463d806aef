"""From flags to models: where they run, which files they are, and the pipeline or the engine that
loads them. Headers are read, no weights.

Imports torch only once something is opened.
"""

from __future__ import annotations

import gc
import math
import warnings
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from pulid_extract.shared.cache_folder import default_folder
from pulid_extract.shared.cli import console
from pulid_extract.shared.file_names import path_of
from pulid_extract.shared.model_files import Header
from pulid_extract.shared.writing import check_not_input, check_writable
from pulid_generate.assembly.progress import Progress
from pulid_generate.assembly.usage import doubtful_flags, idle_flags, input_files
from pulid_generate.errors import OutputError, RequestError, require_packages
from pulid_generate.files.kontext import is_kontext
from pulid_generate.files.model import Model
from pulid_generate.files.read_ahead import read_ahead
from pulid_generate.flags.commands.likeness import LikenessFlags
from pulid_generate.flags.commands.names import flag_name
from pulid_generate.flags.commands.tables import BatchFlags, Flags
from pulid_generate.flags.generation.placement import DTYPES
from pulid_generate.memory.footprint import Footprint
from pulid_generate.pictures.face_finder import FaceFinder
from pulid_generate.pictures.picture import format_of
from pulid_generate.pictures.scorer import Scorer
from pulid_generate.pipeline.text_cache import TextCache
from pulid_generate.request.passes.upscaling import UpscaleSettings

if TYPE_CHECKING:
    from pulid_generate.files.model_set import ModelFiles
    from pulid_generate.memory.placement import Placement
    from pulid_generate.pipeline.engine import Engine
    from pulid_generate.pipeline.pipeline import Pipeline
    from pulid_generate.pipeline.planning import Staying
    from pulid_generate.pipeline.previewing import PreviewSettings

# what the extra [generate] brings
PACKAGES = ("diffusers", "open_clip", "sentencepiece", "tokenizers")


def open_pipeline(flags: Flags, *, with_pulid: bool, progress: Progress) -> Pipeline:
    """The pipeline of the flags' files: headers read, everything placed, no model loaded.

    with_pulid: whether somebody is to be drawn. progress: hears of everything. Raises PulidError.
    """
    require_packages(PACKAGES, "generate")
    # the libraries' advice to their own developers
    warnings.simplefilter("ignore")
    files = find_files(flags, with_pulid=with_pulid or flags.pulid_weights is not None)
    # in the order in which they are loaded
    read_ahead(found.path for found in (files.clip_l, files.t5xxl, files.flux, files.vae))
    from pulid_generate.pipeline.pipeline import Pipeline

    # The engine collects garbage between its stages. What the libraries have made, and will never
    # let go, is left out of that: looking through it took half of a small picture's time.
    gc.freeze()
    # sd-cli: -1 and 0 leave it to the machine
    if flags.threads is not None and flags.threads > 0:
        import torch

        torch.set_num_threads(flags.threads)
    if not math.isfinite(flags.weight_cache):
        raise RequestError(f"weight-cache {flags.weight_cache}: expected GiB, such as 4")
    placement = placement_of(flags)
    for line in _idle_placement(flags, placement, files, with_pulid):
        progress.note(line)
    for role, found in files.by_role():
        progress.log(f"{role.name}: {found.path} ({found.rule})")
    return Pipeline(
        files,
        placement,
        progress.log,
        progress.step,
        note=progress.note,
        on_denoised=progress.on_denoised,
        dequantize=flags.dequantize,
        compile=flags.compile_blocks,
        compute=flags.compute,
        weight_cache=int(flags.weight_cache * 2**30),
        cuda_graphs=flags.cuda_graphs,
        finder=FaceFinder(flags.models_dir or None, progress.log),
        kontext=flags.kontext,
        preview=_preview_of(flags),
        upscale=_upscale_of(flags),
    )


def _upscale_of(flags: Flags) -> UpscaleSettings | None:
    """Raises RequestError."""
    if flags.upscale_model is None:
        return None
    return UpscaleSettings(
        path=path_of(flags.upscale_model),
        repeats=flags.upscale_repeats,
        tile=flags.upscale_tile_size,
    )


def _preview_of(flags: Flags) -> PreviewSettings | None:
    """Raises OutputError for a file that cannot be written."""
    path = preview_file(flags)
    if path is None or flags.preview == "none":
        return None
    from pulid_generate.pipeline.previewing import PreviewSettings

    format_of(path)
    check_writable(path)
    return PreviewSettings(flags.preview, path, flags.preview_interval, flags.preview_noisy)


def preview_file(flags: Flags) -> Path | None:
    """What previews are written to; None without any. Raises OutputError for standard output."""
    if flags.preview == "none":
        return None
    if flags.preview_path == "-":
        raise OutputError(
            "preview-path -: previews are one file that is written again and again; name it"
        )
    return Path(flags.preview_path).expanduser()


def check_preview(flags: Flags, outputs: Iterable[Path]) -> None:
    """Raise OutputError for previews that would take the place of a picture that is drawn."""
    preview = preview_file(flags)
    if preview is None:
        return
    if preview.resolve() in {output.resolve() for output in outputs}:
        raise OutputError(f"{preview}: is a picture that is drawn; give another --preview-path")


def open_engine(
    flags: BatchFlags, *, with_pulid: bool, progress: Progress, staying: Staying = "autoencoder"
) -> tuple[Pipeline, Engine]:
    """The pipeline, and the engine that draws many pictures with it. staying: models that should
    stay beside Flux. Raises PulidError.
    """
    pipeline = open_pipeline(flags, with_pulid=with_pulid, progress=progress)
    folder = None if flags.no_cache else default_folder()
    cache = TextCache(folder, warn=lambda line: console.log(f"warning: {line}"))
    return pipeline, pipeline.engine(cache, staying=staying, batch=flags.batch_size)


def open_drawing(
    flags: Flags,
    given: Collection[str],
    outputs: Collection[Path],
    *,
    with_pulid: bool,
    progress: Progress,
    inputs: Collection[str | Path] = (),
) -> Pipeline:
    """The pipeline for a drawing whose pictures go to `outputs`, none of which is a file that is
    read; flags that have no effect are noted.

    inputs: further files that are read. Raises PulidError.
    """
    pipeline = open_pipeline(flags, with_pulid=with_pulid, progress=progress)
    read = [*input_files(flags, pipeline), *inputs]
    check_preview(flags, outputs)
    for path in filter(None, (*outputs, preview_file(flags))):
        check_not_input(path, read)
    for line in (*idle_flags(flags, given, pipeline.dev), *doubtful_flags(flags)):
        progress.note(line)
    return pipeline


def scorer_of(flags: LikenessFlags, models_dir: str | None, log: Callable[[str], None]) -> Scorer:
    """Who pictures are compared with. log: as of `Scorer`. Raises InputError."""
    return Scorer(
        references=flags.reference or (),
        strangers=flags.stranger or (),
        models_dir=models_dir,
        antelopev2=flags.antelopev2,
        recognizers=flags.recognizer or (),
        det_threshold=flags.det_threshold,
        log=log,
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
        tae=flags.tae,
        tae_for_previews=flags.taesd_preview_only,
    )


def _idle_placement(
    flags: Flags, placement: Placement, files: ModelFiles, with_pulid: bool
) -> list[str]:
    """A line for every flag about models that has no effect with these."""
    lines = []
    if placement.device.type == "cpu":
        for name in ("clip_on_cpu", "vae_on_cpu", "offload_to_cpu", "params_backend", "max_vram"):
            if getattr(flags, name):
                lines.append(f"{flag_name(name)} changes nothing here, everything runs on the CPU")
    if flags.cuda_graphs == "on" and (reason := _why_steps_are_not_recorded(flags, placement)):
        lines.append(f"--cuda-graphs on changes nothing {reason}")
    if not with_pulid and flags.pulid_weights is not None:
        lines.append("--pulid-weights without --pulid-id-embedding: drawing without an identity")
    if flags.ref_image and not flags.kontext and _may_be_kontext(files.flux.header):
        lines.append(
            f"{files.flux.path} does not say that it is FLUX.1 Kontext; another Flux was never "
            "taught to read reference pictures (--kontext: it is Kontext)"
        )
    if not Footprint.of(files.flux.header, Model.FLUX.marker).has_packed():
        for name in ("dequantize", "weight_cache"):
            if getattr(flags, name):
                lines.append(
                    f"{flag_name(name)} has no effect: {files.flux.path} holds no packed weights"
                )
    return lines


def _may_be_kontext(header: Header) -> bool:
    """Whether nothing says that it is Kontext or another; schnell is another."""
    from pulid_generate.models.flux import flux_shape

    return is_kontext(header) == "unknown" and flux_shape(header).guidance


def _why_steps_are_not_recorded(flags: Flags, placement: Placement) -> str:
    """ "" if they can be."""
    from pulid_generate.kernels.recording import has_cuda_graphs

    if not has_cuda_graphs(placement.device):
        return f"on {placement.device}: they are for NVIDIA GPUs"
    if placement.streams(Model.FLUX):
        return "where Flux's weights stream: Python copies them in the middle of a step"
    if flags.control_net:
        return "with --control-net: Python decides in the middle of a step"
    if flags.cache_mode not in (None, "easycache"):
        return f"with --cache-mode {flags.cache_mode}: Python decides in the middle of a step"
    return ""
