"""The pulid-generate command: parse, build the request, call the pipeline, write, print. Thin; imports torch only once it has work to do.

Standard output carries results (paths, JSON lines, or the picture itself), standard error everything else.
`console.run` is the one place where an expected error becomes a line and an exit code.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pulid_extract import console
from pulid_extract.model_files import check_not_input, check_writable, write_atomically
from pulid_generate.errors import OutputError, PulidError, RequestError, require_packages
from pulid_generate.flags import DTYPES, Flags, takes_flags

if TYPE_CHECKING:
    from pulid_extract.embedding_file import Embedding
    from pulid_generate.pipeline import Pipeline
    from pulid_generate.request import GenerationRequest

PROGRAM = "pulid-generate"
PACKAGES = ("accelerate", "diffusers", "open_clip", "sentencepiece", "transformers")  # what the extra [generate] brings
NUMBERED = re.compile(r"%(\d{0,3})d")  # as sd-cli: out_%03d.png
NEEDS_IDENTITY = ("pulid_id_weight", "id_start_step")  # flags that mean nothing without --pulid-id-embedding

app = console.new_app()


@app.callback(invoke_without_command=True)
@takes_flags
def generate(context: typer.Context, flags: Flags) -> None:
    """Draw pictures with Flux.1, and with the person of a .pulidembd.

    Example: pulid-generate --diffusion-model flux1-schnell.safetensors --vae ae.safetensors --clip_l clip_l.safetensors
    --t5xxl t5xxl_fp16.safetensors --pulid-weights pulid_flux_v0.9.1.safetensors --pulid-id-embedding me.pulidembd
    -p "candid photograph on a beach at sunset" -o out.png
    """
    if context.invoked_subcommand is not None:
        console.refuse_options(context)
        return
    request = build_request(context, flags)
    paths = output_paths(flags.output, request.batch_count)
    if flags.output == "-" and flags.as_json:
        context.fail("--json and '--output -' both want standard output.")
    for path in paths:
        if path is not None:
            check_writable(path)
    started = time.monotonic()
    pipeline, embedding = build_pipeline(flags)
    check_not_inputs(paths, flags, pipeline)
    jobs = pipeline.jobs(request, embedding)
    _note_idle_flags(context, flags, pipeline.dev)
    for path, picture in zip(paths, pipeline.draw(jobs), strict=True):
        png = picture.png(metadata=not flags.disable_image_metadata)
        if path is None:
            console.write_result(png)
            continue
        write_atomically(path, png)
        facts = {
            "output": str(path),
            "sha256": hashlib.sha256(png).hexdigest(),
            "seed": picture.job.seed,
            "width": request.width,
            "height": request.height,
            "steps": picture.job.request.steps,
            "identity": embedding.sha256 if embedding else None,
            "id_weight": request.id_weight if embedding else None,
            "seconds": round(time.monotonic() - started, 3),
        }
        console.write_line(json.dumps(facts) if flags.as_json else str(path))


@app.command()
@takes_flags
def verify(context: typer.Context, flags: Flags) -> None:
    """Prove the injection: draw without PuLID (A), with weight 0 (B) and with the weight given (C), compare SHA-256.

    Exit 0 only if A and B are the same file, byte for byte, and C is another picture. With --output FILE.png the pictures are kept as
    FILE_A.png, FILE_B.png and FILE_C.png.
    """
    from pulid_generate.verify import as_table, compare, three_requests

    request = build_request(context, flags)
    if flags.pulid_id_embedding is None:
        context.fail("Missing option '--pulid-id-embedding'.")
    if request.batch_count != 1 or flags.output == "-" or request.id_weight == 0:
        context.fail(
            "verify draws one picture with a weight other than 0 and writes files: no --batch-count, no '--output -', no weight 0."
        )
    keep = console.was_given(context, "output")
    [output] = output_paths(flags.output, 1)
    paths = {run: output.with_stem(f"{output.stem}_{run}") for run in "ABC"} if keep and output else {}
    for path in paths.values():
        check_writable(path)
    pipeline, embedding = build_pipeline(flags)
    check_not_inputs(list(paths.values()), flags, pipeline)
    _note_idle_flags(context, flags, pipeline.dev)
    pictures = pipeline.draw(
        [job for run, with_id in three_requests(request) for job in pipeline.jobs(run, embedding if with_id else None)]
    )
    files, pixels = {}, {}
    for run, picture in zip("ABC", pictures, strict=True):
        files[run], pixels[run] = picture.png(metadata=not flags.disable_image_metadata), picture.pixels
        if run in paths:
            write_atomically(paths[run], files[run])
    verdict = compare(files, pixels)
    console.write_line(json.dumps(verdict.as_dict()) if flags.as_json else as_table(verdict))
    if not verdict.passed:
        raise PulidError(f"verify: {verdict.reason}")


def build_request(context: typer.Context, flags: Flags) -> GenerationRequest:
    """The checked request of the flags. Raises RequestError; wrong usage ends in exit code 2."""
    import secrets

    from pulid_generate.request import GenerationRequest

    if flags.prompt is None:
        context.fail("Missing option '--prompt' / '-p'.")
    if flags.pulid_id_embedding is None:
        for name in NEEDS_IDENTITY:
            if console.was_given(context, name):
                context.fail(f"{_flag(name)} needs '--pulid-id-embedding'.")
    return GenerationRequest(
        prompt=flags.prompt,
        negative_prompt=flags.negative_prompt,
        width=flags.width,
        height=flags.height,
        steps=flags.steps,
        seed=flags.seed if flags.seed >= 0 else secrets.randbelow(2**31),
        batch_count=flags.batch_count,
        rng=flags.rng,
        guidance=flags.guidance,
        cfg_scale=flags.cfg_scale,
        cfg_start_step=flags.cfg_start_step,
        id_weight=flags.pulid_id_weight,
        id_start_step=flags.id_start_step,
        negative_id=flags.negative_id,
        flow_shift=flags.flow_shift if flags.flow_shift in ("auto", "none") else float(flags.flow_shift),  # type: ignore[arg-type]
        sigmas=tuple(float(part) for part in flags.sigmas.split(",")) if flags.sigmas is not None else None,
        t5_max_length=flags.t5_max_length,
        vae_tiling=flags.vae_tiling,
    )


def build_pipeline(flags: Flags) -> tuple[Pipeline, Embedding | None]:
    """The pipeline of the flags' files, and the identity. Reads headers and the embedding, loads no model. Raises PulidError."""
    from pulid_extract.embedding_file import read_embedding

    require_packages(PACKAGES, "generate")
    embedding = read_embedding(flags.pulid_id_embedding) if flags.pulid_id_embedding is not None else None
    if embedding is None and flags.pulid_weights is not None:
        console.log("note: --pulid-weights without --pulid-id-embedding: drawing without an identity")
    warnings.simplefilter("ignore")  # the libraries' advice to their own developers
    from pulid_generate.model_set import ModelFiles
    from pulid_generate.pipeline import Pipeline
    from pulid_generate.placement import Placement

    placement = Placement.choose(
        flags.device,
        DTYPES[flags.dtype],
        clip_on_cpu=flags.clip_on_cpu,
        vae_on_cpu=flags.vae_on_cpu,
        offload=flags.offload_to_cpu,
    )
    if placement.device.type == "cpu":
        for name in ("clip_on_cpu", "vae_on_cpu", "offload_to_cpu"):
            if getattr(flags, name):
                console.log(f"note: {_flag(name)} changes nothing here, everything runs on the CPU")
    files = ModelFiles.find(
        flux=flags.diffusion_model,
        vae=flags.vae,
        clip_l=flags.clip_l,
        t5xxl=flags.t5xxl,
        pulid=flags.pulid_weights,
        t5_tokenizer=flags.t5_tokenizer,
        models_dir=flags.models_dir or None,
        with_pulid=embedding is not None or flags.pulid_weights is not None,
    )
    for role, found in files.by_role():
        console.log(f"{role.name}: {found.path} ({found.rule})")
    return Pipeline(files, placement, console.log, _show_step, dequantize=flags.dequantize), embedding


def check_not_inputs(paths: Sequence[Path | None], flags: Flags, pipeline: Pipeline) -> None:
    """Raise OutputError if a picture would replace the identity or a model file."""
    inputs = [found.path for _, found in pipeline.files.by_role()]
    if flags.pulid_id_embedding not in (None, "-"):
        inputs.append(Path(str(flags.pulid_id_embedding)))
    for path in paths:
        if path is not None:
            check_not_input(path, inputs)


def output_paths(output: str, count: int) -> Sequence[Path | None]:
    """Where each picture goes; None is standard output. As sd-cli: %03d is a number from 0, else several get _0, _1, .. before the suffix."""
    if output == "-":
        if count > 1:
            raise RequestError("output -: standard output takes one picture; leave --batch-count out or name a file")
        if sys.stdout is not None and sys.stdout.isatty():
            raise OutputError("output -: standard output is a terminal; redirect it to a file or a pipe")
        return [None]
    if Path(output).suffix.lower() != ".png":
        raise RequestError(f"output {output}: expected a name that ends in .png")
    if NUMBERED.search(output):
        return [Path(_numbered(output, index)) for index in range(count)]
    path = Path(output)
    return [path] if count == 1 else [path.with_stem(f"{path.stem}_{index}") for index in range(count)]


def _numbered(output: str, index: int) -> str:
    return NUMBERED.sub(lambda match: f"{index:{match[1]}d}", output)


def _note_idle_flags(context: typer.Context, flags: Flags, dev: bool) -> None:
    """Say of every flag that was given and has no effect here that it has none; commands are copied from one model to another."""
    idle = {
        "guidance": "" if dev else "this Flux (schnell) has no guidance input",
        "negative_prompt": "" if flags.cfg_scale != 1 else "--cfg-scale is 1",
        "cfg_start_step": "" if flags.cfg_scale != 1 else "--cfg-scale is 1",
        "negative_id": ""
        if flags.cfg_scale != 1 and flags.pulid_id_embedding
        else "there is no negative branch with an identity",
    }
    for name, reason in idle.items():
        if reason and console.was_given(context, name):
            console.log(f"note: {_flag(name)} has no effect: {reason}")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _show_step(label: str, done: int, total: int) -> None:
    """A counter that overwrites itself; nothing where standard error is a file."""
    if sys.stderr.isatty():
        print(f"\r{label}: step {done} of {total}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def main() -> None:
    """Entry point; see `console.run`."""
    console.run(app, PROGRAM)
