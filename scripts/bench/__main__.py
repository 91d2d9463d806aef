"""The tables of docs/performance.md: what PuLID costs. Ratios are measured side by side in one run,
because machines are shared and noisy.

    make bench
    PYTHONPATH=scripts python -m bench [folded] [share] [memory] [help] [steps] [extract] [batch]
        [ray] [http] [load] [--sd-cli PATH]

Prints Markdown tables on standard output, progress on standard error. Weights are random and of the
real shape; no file is needed.
"""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bench.batch import batch
from bench.beside_sdcli import beside
from bench.extract import extract
from bench.load import load
from bench.ray import ray
from bench.server import overhead
from bench.steps import steps
from pulid_generate.injection.adapter import PulidAdapter
from pulid_generate.injection.attention import FoldedAttention, PerceiverAttentionCA, PlainAttention
from pulid_generate.injection.hooks import attach
from pulid_generate.sampling.packing import position_ids

WIDTH, TOKEN_WIDTH, HEADS, ID_TOKENS = 3072, 2048, 16, 32  # of the published Flux and PuLID files
DOUBLE, SINGLE, HOOKS = 19, 38, 20
TEXT_TOKENS, T5_WIDTH, CLIP_WIDTH = 256, 4096, 768
# blocks built for the share of a step: hooks after double 0, 2 and single 0, 4
BENCH_DOUBLE, BENCH_SINGLE = 3, 5


def main() -> None:
    wanted, sdcli = _arguments(sys.argv[1:])
    unknown = set(wanted) - set(TABLES)
    if unknown:
        sys.exit(
            f"bench: unknown table {', '.join(sorted(unknown))}; expected some of "
            f"{', '.join(TABLES)}"
        )
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads\n"
    )
    with torch.inference_mode():
        for name in wanted:
            print(f"measuring: {name}", file=sys.stderr)
            print(TABLES[name](), flush=True)
    if sdcli:
        print(beside(sdcli), flush=True)


def _arguments(given: list[str]) -> tuple[list[str], str | None]:
    """The tables, and sd-cli's path: with it and without names, nothing else is measured."""
    if "--sd-cli" not in given:
        return given or list(TABLES), None
    place = given.index("--sd-cli")
    if place + 1 == len(given):
        sys.exit("bench: --sd-cli wants the program's path")
    return given[:place] + given[place + 2 :], given[place + 1]


def folded_against_plain() -> str:
    """One PuLID layer on L image tokens, as the reference writes it and folded, turn by turn."""
    rows = []
    layer, tokens = _layer(0), torch.randn(ID_TOKENS, TOKEN_WIDTH)
    for dtype in (torch.float32, torch.bfloat16):
        plain = PlainAttention(
            PerceiverAttentionCA.from_state({n: t.to(dtype) for n, t in layer.items()}),
            tokens.to(dtype),
        )
        folded = FoldedAttention(PerceiverAttentionCA.from_state(layer), tokens, dtype, "cpu")
        for length in (1024, 4096):
            img = torch.randn(1, length, WIDTH, dtype=dtype)
            slow, fast = _side_by_side(
                [
                    lambda plain=plain, img=img: plain(img),
                    lambda folded=folded, img=img: folded(img),
                ],
                15,
            )
            rows.append(
                (
                    _name(dtype),
                    length,
                    f"{slow * 1e3:.1f}",
                    f"{fast * 1e3:.1f}",
                    f"{slow / fast:.1f}x",
                )
            )
    return _table(
        "One PuLID layer, plain against folded (goal in float32: 3.5x)",
        ("dtype", "image tokens", "plain, ms", "folded, ms", "folded is faster by"),
        rows,
    )


@dataclass(frozen=True)
class StepShare:
    """Median seconds of one hook and of one block of each kind, timed inside the same forwards."""

    dtype: torch.dtype
    # of the picture, in pixels
    side: int
    hook: float
    double: float
    single: float

    @property
    def step(self) -> float:
        """Seconds of all blocks without PuLID."""
        return DOUBLE * self.double + SINGLE * self.single

    def row(self) -> tuple[str, ...]:
        return (
            _name(self.dtype),
            f"{self.side}x{self.side}",
            f"{self.hook * 1e3:.1f}",
            f"{self.double * 1e3:.0f}",
            f"{self.single * 1e3:.0f}",
            f"{self.step:.1f}",
            f"{HOOKS * self.hook / self.step:.2%}",
        )


def share_of_a_step() -> str:
    """20 x the median hook over 19 x the median double block + 38 x the median single block, timed
    inside the same forwards.
    """
    rows = []
    for dtype, side in (
        (torch.float32, 512),
        (torch.float32, 1024),
        (torch.bfloat16, 512),
        (torch.bfloat16, 1024),
    ):
        flux = _flux(dtype)
        adapter = PulidAdapter([_layer(0)] * (-(-BENCH_DOUBLE // 2) + -(-BENCH_SINGLE // 4)))
        times: dict[str, list[float]] = defaultdict(list)
        with attach(flux) as injection:
            bound = adapter.bind(torch.randn(ID_TOKENS, TOKEN_WIDTH), dtype, "cpu")
            injection.layers = bound
            handles = [handle for module in bound for handle in _time(module, times["hook"])]
            handles += [
                handle
                for kind in ("transformer_blocks", "single_transformer_blocks")
                for index, block in enumerate(getattr(flux, kind))
                # blocks without a hook of PuLID's, so that its time is not counted twice
                if index % (2 if kind == "transformer_blocks" else 4)
                for handle in _time(block, times[kind])
            ]
            for _ in range(5 if side == 512 else 2):
                _forward(flux, side, dtype)
            for handle in handles:
                handle.remove()
        medians = {kind: statistics.median(spent[1:]) for kind, spent in times.items()}
        taken = StepShare(
            dtype,
            side,
            medians["hook"],
            medians["transformer_blocks"],
            medians["single_transformer_blocks"],
        )
        rows.append(taken.row())
        del flux
    return _table(
        "PuLID's share of a denoise step, blocks of the real width (goal: at most 1 %)",
        (
            "dtype",
            "picture",
            "hook, ms",
            "double block, ms",
            "single block, ms",
            "57 blocks, s",
            "20 hooks are",
        ),
        rows,
    )


def resident_bytes() -> str:
    """What one identity keeps in memory while denoising, against the layers it came from."""
    adapter = PulidAdapter([_layer(0)] * HOOKS)
    tokens = torch.randn(ID_TOKENS, TOKEN_WIDTH)
    layers = HOOKS * sum(tensor.numel() for tensor in _layer(0).values()) * 2
    rows = []
    for dtype in (torch.bfloat16, torch.float32):
        start = time.perf_counter()
        modules = adapter.bind(tokens, dtype, "cpu")
        seconds = time.perf_counter() - start
        size = sum(
            buffer.numel() * buffer.element_size()
            for module in modules
            for buffer in module.buffers()
        )
        whole = layers * dtype.itemsize // 2
        rows.append(
            (
                _name(dtype),
                f"{whole / 1e6:.1f}",
                f"{size / 1e6:.1f}",
                f"{whole / size:.1f}x",
                f"{seconds:.1f}",
            )
        )
    return _table(
        "Memory of one identity of 32 tokens, real shape (goal in bfloat16: at most 130 MB)",
        ("dtype", "20 layers, MB", "folded, MB", "smaller by", "folding takes, s"),
        rows,
    )


def help_time() -> str:
    """Wall time of `--help`, and whether torch was imported on the way."""
    rows = []
    for program in ("pulid_extract", "pulid_generate"):
        command = [sys.executable, "-m", program, "--help"]
        taken = []
        for _ in range(9):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            taken.append(time.perf_counter() - start)
        trace = subprocess.run(
            [sys.executable, "-X", "importtime", *command[1:]],
            check=True,
            capture_output=True,
            text=True,
        ).stderr
        imported = (
            "yes"
            if any(line.rsplit("|", 1)[-1].strip() == "torch" for line in trace.splitlines())
            else "no"
        )
        rows.append(
            (
                program.replace("_", "-"),
                f"{statistics.median(taken):.2f}",
                f"{max(taken):.2f}",
                imported,
            )
        )
    return _table(
        "--help (goal: under 0.4 s)",
        ("program", "median, s", "slowest of 9, s", "imports torch"),
        rows,
    )


TABLES: dict[str, Callable[[], str]] = {
    "folded": folded_against_plain,
    "share": share_of_a_step,
    "memory": resident_bytes,
    "help": help_time,
    "steps": steps,
    "extract": extract,
    "batch": batch,
    "ray": ray,
    "http": overhead,
    "load": load,
}


def _layer(seed: int) -> dict[str, torch.Tensor]:
    """A PuLID layer of the published shape, random, float32."""
    generator = torch.Generator().manual_seed(seed)
    inner = HEADS * 128
    shapes = {
        "to_q.weight": (inner, WIDTH),
        "to_kv.weight": (2 * inner, TOKEN_WIDTH),
        "to_out.weight": (WIDTH, inner),
    }
    state = {
        name: torch.randn(shape, generator=generator) / shape[1] ** 0.5
        for name, shape in shapes.items()
    }
    for norm, width in (("norm1", TOKEN_WIDTH), ("norm2", WIDTH)):
        state |= {f"{norm}.weight": torch.ones(width), f"{norm}.bias": torch.zeros(width)}
    return state


def _flux(dtype: torch.dtype) -> torch.nn.Module:
    """A diffusers Flux of the published width with a few blocks, random."""
    from diffusers import FluxTransformer2DModel

    torch.set_default_dtype(dtype)
    with torch.device("meta"):
        flux: Any = FluxTransformer2DModel(
            num_layers=BENCH_DOUBLE, num_single_layers=BENCH_SINGLE, guidance_embeds=False
        )
    torch.set_default_dtype(torch.float32)
    flux = flux.to_empty(device="cpu")
    for parameter in flux.parameters():
        parameter.uniform_(-0.02, 0.02)
    return flux.eval()


def _forward(flux, side: int, dtype: torch.dtype) -> None:
    ids = position_ids(side, side)
    flux(
        hidden_states=torch.randn(1, len(ids), 64, dtype=dtype),
        encoder_hidden_states=torch.randn(1, TEXT_TOKENS, T5_WIDTH, dtype=dtype),
        pooled_projections=torch.randn(1, CLIP_WIDTH, dtype=dtype),
        timestep=torch.tensor([0.5]),
        img_ids=ids,
        txt_ids=torch.zeros(TEXT_TOKENS, 3),
        return_dict=False,
    )


def _time(module, into: list[float]):
    started = []
    yield module.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))
    yield module.register_forward_hook(lambda *_: into.append(time.perf_counter() - started.pop()))


def _side_by_side(functions: list[Callable[[], object]], turns: int) -> list[float]:
    """Median seconds of each, called turn by turn so that a busy neighbour slows all of them
    alike.
    """
    times: list[list[float]] = [[] for _ in functions]
    for turn in range(turns + 2):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            if turn >= 2:  # two to warm up
                taken.append(time.perf_counter() - start)
    return [statistics.median(taken) for taken in times]


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _table(title: str, head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [f"**{title}**", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
