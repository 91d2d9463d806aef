"""Where models run, in what arithmetic, and in how much memory. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import typer

# --dtype for every command that does not name another
DTYPE_VARIABLE = "PULID_DTYPE"
# as it is typed -> torch's name
DTYPES = {
    "auto": "auto",
    "float32": "float32",
    "f32": "float32",
    "bfloat16": "bfloat16",
    "bf16": "bfloat16",
    "float16": "float16",
    "f16": "float16",
}


def _show_devices(asked: bool) -> None:
    if asked:
        from pulid_generate.memory.devices import list_devices

        for line in list_devices():
            typer.echo(line)
        raise typer.Exit


@dataclass(frozen=True, kw_only=True)
class PlacementFlags:
    """Devices, arithmetic, and limits of memory."""

    HEADING = "Devices, arithmetic, memory"

    device: Annotated[
        str, typer.Option("--device", metavar="auto|cuda|cuda:N|mps|cpu", help="Where Flux runs.")
    ] = "auto"
    dtype: Annotated[
        Literal[tuple(DTYPES)],  # type: ignore[valid-type]
        typer.Option(
            "--dtype",
            envvar=DTYPE_VARIABLE,
            help="Arithmetic. auto: bfloat16 on cuda, on mps and on a CPU that multiplies it in "
            "hardware (AMX, AVX512-BF16, ARM's BF16), else float32 (16-bit weights kept if need "
            "be). On a CPU float32 is the exact one.",
        ),
    ] = "auto"
    dequantize: Annotated[
        bool,
        typer.Option(
            "--dequantize",
            help="Widen a GGUF's or fp8 file's weights once, when they load: faster, and the "
            "memory of a 16-bit file.",
        ),
    ] = False
    compute: Annotated[
        Literal["float", "int8", "fp8"],
        typer.Option(
            "--compute",
            help="int8: multiply a GGUF's matrices in 8-bit integers on a CPU; rounds less than "
            "sd-cli does. fp8: multiply Flux's large matrices in 8-bit floating point on a GPU of "
            "compute capability 8.9 or newer; half the memory, slightly other pictures.",
        ),
    ] = "float"
    weight_cache: Annotated[
        float,
        typer.Option(
            "--weight-cache",
            metavar="GIB",
            min=0,
            help="Keep so much of a GGUF's weights widened on a CPU: faster steps, for that much "
            "memory.",
        ),
    ] = 0.0
    compile_blocks: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="torch.compile Flux's blocks: up to minutes at the first start, whose code is "
            "kept, and faster steps.",
        ),
    ] = False
    cuda_graphs: Annotated[
        Literal["auto", "on", "off"],
        typer.Option(
            "--cuda-graphs",
            help="Record Flux's step on an NVIDIA GPU and replay it, where nothing streams: Python "
            "starts its operations once instead of at every step. auto: pictures up to 768x768, "
            "whose steps wait for Python. The picture is the same.",
        ),
    ] = "auto"
    backend: Annotated[
        str | None,
        typer.Option(
            "--backend",
            metavar="MODULE=DEVICE,..",
            help='Where each model runs, as sd-cli: "diffusion=cuda0,te=cpu,vae=cpu". Takes '
            "precedence over the flags below.",
        ),
    ] = None
    params_backend: Annotated[
        str | None,
        typer.Option(
            "--params-backend",
            metavar="MODULE=cpu|disk,..",
            help="Which models' weights wait in main memory, as sd-cli; --offload-to-cpu is all "
            "of them.",
        ),
    ] = None
    clip_on_cpu: Annotated[
        bool, typer.Option("--clip-on-cpu", help="Run CLIP and T5 on the CPU.")
    ] = False
    vae_on_cpu: Annotated[
        bool, typer.Option("--vae-on-cpu", help="Run the autoencoder on the CPU.")
    ] = False
    offload_to_cpu: Annotated[
        bool,
        typer.Option(
            "--offload-to-cpu",
            help="Keep weights in main memory, each layer on the device only while it runs.",
        ),
    ] = False
    max_vram: Annotated[
        str | None,
        typer.Option(
            "--max-vram",
            metavar="GIB|DEVICE=GIB,..",
            help="Use at most so much device memory: as many of Flux's blocks as fit stay there, "
            "the others stream through.",
        ),
    ] = None
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", "-t", metavar="N", help="Processor threads. Default: one per core."
        ),
    ] = None
    list_devices: Annotated[
        bool,
        typer.Option(
            "--list-devices",
            callback=_show_devices,
            is_eager=True,
            help="Print the devices and exit.",
        ),
    ] = False
    vae_tiling: Annotated[
        bool,
        typer.Option(
            "--vae-tiling",
            help="Decode in overlapping tiles of 256 pixels: less memory, slightly other pixels.",
        ),
    ] = False
    vae_tile_size: Annotated[
        str,
        typer.Option(
            "--vae-tile-size",
            metavar="WxH",
            help="Tile of --vae-tiling, in latent cells of 8 pixels.",
        ),
    ] = "32x32"
    vae_tile_overlap: Annotated[
        float,
        typer.Option(
            "--vae-tile-overlap", metavar="SHARE", help="Overlap of tiles, as a share of a tile."
        ),
    ] = 0.5
