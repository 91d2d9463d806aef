"""The part `step` of bench.gpu: one denoise step of Flux in every form of its weights, with and
without an identity, eager and compiled; and whether each form predicts what it should.

Weights are seeded and made where they are wanted: no file is written. Knows no prompt.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from seeded.q4_k import random_q4_k
from torch import Tensor, nn

from bench.gpu.tables import print_table
from pulid_generate.files.fp8_layers import multiplies_in_fp8
from pulid_generate.injection.adapter import PulidAdapter
from pulid_generate.injection.compiling import compile_blocks
from pulid_generate.injection.hooks import attach
from pulid_generate.injection.terms import Term
from pulid_generate.kernels.availability import ask
from pulid_generate.kernels.recording import CudaRecorder, Recordings, has_cuda_graphs
from pulid_generate.networks.flux import FluxTransformer
from pulid_generate.packed.fp8 import Fp8Weight
from pulid_generate.packed.fp8_products import check_products, reason_against, use_fp8_products
from pulid_generate.packed.ggml import QuantizedWeight, multiply_single_tokens
from pulid_generate.packed.layers import keep_packed
from pulid_generate.sampling.packing import position_ids

DEVIATION = 0.02  # of the weights
DTYPE = torch.bfloat16
TEXT_TOKENS, T5_WIDTH, CLIP_WIDTH = 512, 4096, 768
TOKEN_WIDTH, HEADS, ID_TOKENS = 2048, 16, 32
# distance of velocities from those of the same numbers in bfloat16, eager and in torch's operations
ROUNDING, OF_FP8 = 0.05, 0.2


@dataclass(frozen=True)
class Sizes:
    """What is measured; the defaults are the published Flux dev."""

    width: int = 3072
    double: int = 19
    single: int = 38
    sides: tuple[int, ...] = (1024, 512)
    turns: int = 7
    compile: bool = True


def measure(device: torch.device, sizes: Sizes) -> list[str]:
    """Print the table; return a line for every result that is wrong."""
    ask(device)
    rows, wrong = [], []
    for name, build in FORMS.items():
        # on a CPU the same rounding is computed another way
        reason = reason_against(device, DTYPE) if device.type == "cuda" else ""
        if build is _fp8_products and reason:
            print(f"{name}: left out, {reason}\n")
            continue
        model = build(sizes, device)
        rows += _times(name, model, device, sizes, wrong)
        del model
        if device.type == "cuda":
            torch.cuda.empty_cache()
    heads = ("weights", "picture", "blocks", "without PuLID, ms", "with PuLID, ms", "PuLID's share")
    print_table(
        f"A denoise step, {sizes.double} + {sizes.single} blocks of width {sizes.width}, "
        f"{TEXT_TOKENS} text tokens",
        (*heads, "weights, GB", "peak, GB"),
        rows,
    )
    return wrong


def _times(name: str, model: nn.Module, device: torch.device, sizes: Sizes, wrong: list[str]):
    """Rows of one form; adds to `wrong`."""
    rows = []
    weights = sum(t.nbytes for t in (*model.parameters(), *model.buffers())) / 1e9
    layers = _identity(sizes, device)
    eager: dict[int, Tensor] = {}
    for compiled in (False, True) if sizes.compile else (False,):
        with compile_blocks(model) if compiled else contextlib.nullcontext():
            for side, recorded in _ways(sizes, device):
                _reset_peak(device)
                with attach(model) as injection:
                    recordings = Recordings(partial(CudaRecorder, device)) if recorded else None
                    step = _step(model, side, device, recordings, injection.reads)
                    plain = _settled(step)
                    expected = eager.setdefault(side, plain)
                    if not torch.isfinite(plain).all():
                        wrong.append(f"{name}, {side}: NaN or infinite numbers")
                    if (far := _distance(plain, expected)) > ROUNDING:
                        wrong.append(f"{name}, {side}: compiled is {far:.3f} from eager")
                    without = _time(step, device, sizes.turns)
                    injection.terms = (Term(layers),)
                    injection.weight = 0.0
                    if not torch.equal(_settled(step), plain):
                        wrong.append(f"{name}, {side}: an identity of weight 0 changes the result")
                    injection.weight = 1.0
                    if torch.equal(_settled(step), plain):
                        wrong.append(f"{name}, {side}: an identity changes nothing")
                    with_pulid = _time(step, device, sizes.turns)
                    if recordings is not None and recordings.failure:
                        wrong.append(f"{name}, {side}: {recordings.failure}")
                times = (f"{1e3 * without:.1f}", f"{1e3 * with_pulid:.1f}")
                share = f"{100 * (with_pulid / without - 1):+.1f} %"
                blocks = "compiled" if compiled else "eager"
                if recorded:
                    blocks += ", recorded"
                memory = (f"{weights:.1f}", _peak(device))
                rows.append((name, f"{side}x{side}", blocks, *times, share, *memory))
    return rows


def _ways(sizes: Sizes, device: torch.device) -> Iterator[tuple[int, bool]]:
    """Sides of pictures, and whether steps are recorded and replayed: the smallest ones, on a card
    that can.
    """
    for side in sizes.sides:
        yield side, False
    if has_cuda_graphs(device):
        yield min(sizes.sides), True


def _settled(step: Callable[[], Tensor]) -> Tensor:
    """What a step gives from its recording, if it has one: the first time it is computed, the
    second time recorded.
    """
    for _ in range(2):
        step()
    return step()


# ------------------------------------------------------------------------------------------- forms


def _plain(sizes: Sizes, device: torch.device) -> nn.Module:
    with torch.device("meta"):
        model = FluxTransformer(
            width=sizes.width,
            double=sizes.double,
            single=sizes.single,
            latent=64,
            context=T5_WIDTH,
            pooled=CLIP_WIDTH,
            guidance=True,
        )
    random = torch.Generator(device).manual_seed(1)
    state = {}
    for name, parameter in model.named_parameters():
        numbers = torch.randn(parameter.shape, generator=random, device=device, dtype=DTYPE)
        # of a norm of heads: near 1
        state[name] = 1 + 0.1 * numbers if ".norm_" in name else numbers * DEVIATION
    model.load_state_dict(state, strict=True, assign=True)
    return model.eval().requires_grad_(False)


def _q4_k(sizes: Sizes, device: torch.device) -> nn.Module:
    model = _plain(sizes, device)
    # one matrix's bytes, again and again: what they say is of no consequence to the time
    some = torch.from_numpy(
        random_q4_k(1, 1 << 20, DEVIATION, np.random.default_rng(1)).reshape(-1)
    ).to(device)
    weights = {}
    for name, module in _block_matrices(model):
        rows, columns = module.weight.shape
        size = rows * columns // 256 * 144
        data = some.repeat(-(-size // len(some)))[:size].view(rows, -1)
        weights[f"{name}.weight"] = QuantizedWeight(data, Kind.Q4_K)
    biases = {name: module.bias for name, module in _block_matrices(model)}
    keep_packed(model, weights)
    for name, bias in biases.items():
        model.get_submodule(name).bias = bias
    multiply_single_tokens(model, device, DTYPE)
    return model


def _fp8_kept(sizes: Sizes, device: torch.device) -> nn.Module:
    model = _plain(sizes, device)
    weights, biases = {}, {}
    for name, module in _block_matrices(model):
        scale = module.weight.float().abs().amax() / 448
        data = (module.weight.float() / scale).to(torch.float8_e4m3fn)
        weights[f"{name}.weight"] = Fp8Weight(data, scale)
        biases[name] = module.bias
    keep_packed(model, weights)
    for name, bias in biases.items():
        model.get_submodule(name).bias = bias
    return model


def _fp8_products(sizes: Sizes, device: torch.device) -> nn.Module:
    model = _plain(sizes, device)
    step = _step(model, min(sizes.sides), device)
    expected = step()
    if device.type == "cuda":
        check_products(device)
    use_fp8_products(model, device, multiplies_in_fp8)
    far = _distance(step(), expected)
    print(f"fp8 products: velocities are {far:.4f} from those in bfloat16 (seeded weights)\n")
    if not far < OF_FP8:
        raise SystemExit(f"gpu: wrong: fp8 products are {far:.3f} from bfloat16")
    return model


FORMS: dict[str, Callable[[Sizes, torch.device], nn.Module]] = {
    "bfloat16": _plain,
    "Q4_K": _q4_k,
    "fp8, widened": _fp8_kept,
    "fp8 products": _fp8_products,
}


def _block_matrices(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and "blocks." in name:
            yield name, module


def _identity(sizes: Sizes, device: torch.device) -> tuple[nn.Module, ...]:
    """Layers bound to a seeded identity, one for each hook; all of them of one layer's numbers."""
    random = torch.Generator().manual_seed(2)
    inner = HEADS * 128

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random) / shape[-1] ** 0.5

    layer = {
        "norm1.weight": torch.ones(TOKEN_WIDTH),
        "norm1.bias": torch.zeros(TOKEN_WIDTH),
        "norm2.weight": torch.ones(sizes.width),
        "norm2.bias": torch.zeros(sizes.width),
        "to_q.weight": normal(inner, sizes.width),
        "to_kv.weight": normal(2 * inner, TOKEN_WIDTH),
        "to_out.weight": normal(sizes.width, inner),
    }
    [bound] = PulidAdapter([layer]).bind(
        torch.randn(ID_TOKENS, TOKEN_WIDTH, generator=random), DTYPE, device
    )
    return (bound,) * (-(-sizes.double // 2) + -(-sizes.single // 4))


# ------------------------------------------------------------------------------------------- times


def _step(
    model: nn.Module,
    side: int,
    device: torch.device,
    recordings: Recordings | None = None,
    reads: Callable[[], Hashable] = lambda: None,
) -> Callable[[], Tensor]:
    """reads: what decides the result beside the inputs, for recordings."""
    ids = position_ids(side, side).to(device)
    random = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(device, DTYPE)

    inputs = {
        "hidden_states": normal(1, len(ids), 64),
        "encoder_hidden_states": normal(1, TEXT_TOKENS, T5_WIDTH),
        "pooled_projections": normal(1, CLIP_WIDTH),
        "timestep": torch.tensor([0.5], device=device),
        "guidance": torch.tensor([3.5], device=device),
        "img_ids": ids,
        "txt_ids": torch.zeros(TEXT_TOKENS, 3, device=device),
    }

    def forward(**given: Tensor) -> Tensor:
        return model(**given)[0]

    def step() -> Tensor:
        if recordings is None:
            return forward(**inputs).float()
        return recordings.run(reads(), inputs, forward).float()

    return step


def _time(step: Callable[[], Tensor], device: torch.device, turns: int) -> float:
    """Seconds, the median."""
    taken = []
    for _ in range(turns):
        _synchronize(device)
        start = time.perf_counter()
        step()
        _synchronize(device)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _distance(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> str:
    if device.type != "cuda":
        return "-"
    return f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f}"
