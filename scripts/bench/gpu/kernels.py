"""The part `kernels` of bench.gpu: each kernel against the torch code, in bits or by its distance,
and the times of both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from gguf import GGML_QUANT_SIZES
from torch import Tensor
from torch.nn.functional import linear

from bench.gpu.tables import print_table
from pulid_generate.injection.attention import FoldedAttention, PerceiverAttentionCA
from pulid_generate.kernels.fp8 import widen_fp8
from pulid_generate.kernels.ggml import widen_ggml
from pulid_generate.kernels.identity import add_identity
from pulid_generate.kernels.products import multiply_ggml
from pulid_generate.packed import ggml_blocks

ROWS, COLUMNS = 12288, 3072  # of the feed-forward's first matrix
MODULATION = 18432  # rows of a double block's modulation
WIDTH, TOKEN_WIDTH, HEADS, ID_TOKENS = 3072, 2048, 16, 32
FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)
NARROW = (torch.bfloat16, torch.float16)


def measure() -> list[str]:
    """Print the tables; return a line for every result that is wrong."""
    wrong: list[str] = []
    wrong += _ggml()
    wrong += _fp8()
    wrong += _products()
    wrong += _identity()
    wrong += _compiled()
    return wrong


# ------------------------------------------------------------------------------------------- parts


def _ggml() -> list[str]:
    rows, wrong = [], []
    for kind in sorted(ggml_blocks.FILL):
        block, size = GGML_QUANT_SIZES[kind]
        data = _bytes(ROWS, COLUMNS // block * size)
        equal = []
        for dtype in (*NARROW, torch.float32):
            equal.append(
                _same_bits(widen_ggml(data, int(kind), dtype), _ggml_torch(data, kind, dtype))
            )
        if not all(equal):
            wrong.append(f"{kind.name} to 16 bits differs from the torch code")
        # not as a graph: some types copy a table to the GPU
        slow = _time_alone(lambda data=data, kind=kind: _ggml_torch(data, kind, torch.bfloat16))
        fast = _time(lambda data=data, kind=kind: widen_ggml(data, int(kind), torch.bfloat16))
        moved = data.numel() + 2 * ROWS * COLUMNS
        rows.append((kind.name, _yes(equal), *_speeds(slow, fast), f"{moved / fast / 1e12:.2f}"))
    heads = ("type", "bits equal", "torch, ms", "kernel, ms", "faster by", "TB/s")
    print_table(f"ggml's types to bfloat16, {ROWS} x {COLUMNS}", heads, rows)
    return wrong


def _fp8() -> list[str]:
    rows, wrong = [], []
    for format in FP8:
        data = _bytes(ROWS, COLUMNS).view(format)
        scales = {
            "none": None,
            "matrix": torch.rand((), device="cuda"),
            "rows": torch.rand(ROWS, 1, device="cuda"),
        }
        for name, scale in scales.items():
            equal = []
            for dtype in (*NARROW, torch.float32):
                found, expected = widen_fp8(data, scale, dtype), _fp8_torch(data, scale, dtype)
                equal.append(_same_bits(found, expected))
            if not all(equal):
                wrong.append(f"{format} with scales of {name} differs from the torch code")
            slow = _time(lambda data=data, scale=scale: _fp8_torch(data, scale, torch.bfloat16))
            fast = _time(lambda data=data, scale=scale: widen_fp8(data, scale, torch.bfloat16))
            moved = 3 * ROWS * COLUMNS
            speeds = (*_speeds(slow, fast), f"{moved / fast / 1e12:.2f}")
            rows.append((str(format).removeprefix("torch."), name, _yes(equal), *speeds))
    heads = ("type", "scales", "bits equal", "torch, ms", "kernel, ms", "faster by", "TB/s")
    print_table(f"fp8 to bfloat16, {ROWS} x {COLUMNS}", heads, rows)
    return wrong


def _products() -> list[str]:
    rows, wrong = [], []
    for kind in sorted(ggml_blocks.FILL):
        block, size = GGML_QUANT_SIZES[kind]
        data = _bytes(MODULATION, COLUMNS // block * size)
        weight = widen_ggml(data, int(kind), torch.bfloat16)
        # random bytes make infinite scales, too: rows with one are left out
        finite = weight.isfinite().all(1)
        x = torch.randn(1, COLUMNS, device="cuda", dtype=torch.bfloat16)
        truth = (x.double() @ weight.double().T)[:, finite]
        distances = []
        for out in (linear(x, weight), multiply_ggml(x, data, int(kind))):
            distances.append(_distance(out[:, finite], truth))
        if not distances[1] < 1.05 * distances[0] + 1e-6:
            wrong.append(f"product of {kind.name} is {distances[1]:.1e} off")
        runs = (
            lambda x=x, weight=weight: linear(x, weight),
            lambda x=x, data=data, kind=kind: linear(x, widen_ggml(data, int(kind), x.dtype)),
            lambda x=x, data=data, kind=kind: multiply_ggml(x, data, int(kind)),
        )
        times = (f"{1e3 * _time(run):.4f}" for run in runs)
        rows.append((kind.name, *times, *(f"{distance:.1e}" for distance in distances)))
    heads = ("type", "dense, ms", "widened, ms", "packed, ms", "dense is off", "packed is off")
    print_table(f"One token times {MODULATION} x {COLUMNS}, bfloat16", heads, rows)
    return wrong


def _identity() -> list[str]:
    rows, wrong = [], []
    for dtype, tokens in ((torch.bfloat16, 32), (torch.float16, 32), (torch.bfloat16, 20)):
        layer = _folded(tokens, dtype)
        for length in (1024, 4096):
            x = _image(length, dtype)
            half = (torch.arange(length, device="cuda") % 64 < 32).float().expand(1, length)
            weight = torch.ones(1, device="cuda")
            arguments = (layer.a, layer.c, layer.b, HEADS, weight)
            exact = _exact(layer, x)
            in_torch = _distance(x + layer(x), x.double() + exact)
            ours = _distance(add_identity(x, x, *arguments), x.double() + exact)
            shared = add_identity(x, x, *arguments, half)
            sums = x.double() + half[..., None] * exact
            name = f"{tokens} identity tokens, {length} image tokens, {dtype}"
            if not ours < 1.02 * in_torch or not _distance(shared, sums) < 1.02 * in_torch:
                wrong.append(f"{name}: {ours:.2e} off, the torch code {in_torch:.2e}")
            again = (add_identity(x, x, *arguments) for _ in range(20))
            if not all(_same_bits(out, add_identity(x, x, *arguments)) for out in again):
                wrong.append(f"{name}: not the same twice")
            if not torch.equal(shared[half == 0], x[half == 0]):
                wrong.append(f"{name}: touched outside a region")
            slow = _time(lambda layer=layer, x=x: torch.add(x, layer(x), alpha=1.0))
            fast = _time(lambda x=x, a=arguments: add_identity(x, x, *a))
            region = _time(lambda x=x, a=arguments, half=half: add_identity(x, x, *a, share=half))
            rows.append(
                (
                    str(dtype).removeprefix("torch."),
                    tokens,
                    length,
                    *_speeds(slow, fast),
                    f"{1e3 * region:.4f}",
                    f"{in_torch:.2e}",
                    f"{ours:.2e}",
                )
            )
    heads = (
        "dtype",
        "identity tokens",
        "image tokens",
        "torch, ms",
        "kernels, ms",
        "faster by",
        "with a region, ms",
        "torch is off",
        "kernels are off",
    )
    print_table("PuLID's folded layer with its addition", heads, rows)
    return wrong


def _compiled() -> list[str]:
    """Whether torch.compile takes the kernels into one graph, and whether bits stay the same."""
    wrong = []
    kind = 12
    data = _bytes(ROWS, COLUMNS // 256 * 144)
    layer, x = _folded(ID_TOKENS, torch.bfloat16), _image(1024, torch.bfloat16)
    codes, scale = _bytes(WIDTH, WIDTH).view(FP8[0]), torch.rand(WIDTH, 1, device="cuda")
    functions: dict[str, Callable[..., Tensor]] = {
        "widen_ggml": lambda x: widen_ggml(data, kind, torch.bfloat16),
        "widen_fp8": lambda x: widen_fp8(codes, scale, torch.bfloat16),
        "multiply_ggml": lambda x: multiply_ggml(x[:, 0], data, kind),
        "add_identity": lambda x: add_identity(
            x, x, layer.a, layer.c, layer.b, HEADS, torch.ones(1, device="cuda")
        ),
    }
    rows = []
    for name, function in functions.items():
        torch._dynamo.reset()
        compiled = torch.compile(function, fullgraph=True)
        equal = _same_bits(compiled(x), function(x))
        if not equal:
            wrong.append(f"{name} compiled differs from {name}")
        eager, fast = _host_time(lambda f=function: f(x)), _host_time(lambda f=compiled: f(x))
        rows.append((name, _yes([equal]), f"{1e6 * eager:.0f}", f"{1e6 * fast:.0f}"))
    heads = ("operator", "bits equal", "eager, us a call", "compiled, us a call")
    print_table("In a graph of torch.compile, times of the processor", heads, rows)
    return wrong


# -------------------------------------------------------------------------------------- references


def _ggml_torch(data: Tensor, kind, dtype: torch.dtype) -> Tensor:
    block, size = GGML_QUANT_SIZES[kind]
    out = torch.empty(data.shape[0], data.shape[1] // size * block, dtype=dtype, device="cuda")
    rows = ggml_blocks.rows_at_once(out.shape[1], out.device)
    for part, narrow in zip(data.split(rows), out.split(rows), strict=True):
        numbers = torch.empty(narrow.shape, device="cuda")
        ggml_blocks.fill(part, kind, numbers)
        narrow.copy_(numbers)
    return out


def _fp8_torch(data: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    if scale is None:
        return data.to(dtype)
    return data.to(torch.float32).mul_(scale).to(dtype)


def _folded(tokens: int, dtype: torch.dtype) -> FoldedAttention:
    torch.manual_seed(tokens)
    layer = PerceiverAttentionCA(WIDTH, TOKEN_WIDTH, HEADS).requires_grad_(False)
    return FoldedAttention(layer, 3 * torch.randn(tokens, TOKEN_WIDTH), dtype, "cuda")


def _image(length: int, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(length)
    return torch.randn(1, length, WIDTH, device="cuda").mul_(2).add_(0.3).to(dtype)


def _exact(layer: FoldedAttention, x: Tensor) -> Tensor:
    """CA(x) in float64, of the layer's own rounded matrices."""
    x = x.double()
    rstd = (x.var(-1, keepdim=True, correction=0) + 1e-5).rsqrt()
    logits = rstd * (x @ layer.a.double().T) + layer.c.double()
    weights = logits.unflatten(-1, (layer.heads, -1)).softmax(-1).flatten(-2)
    return weights @ layer.b.double().T


# ------------------------------------------------------------------------------- numbers and tables


def _bytes(rows: int, columns: int) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(columns)
    shape = (rows, columns)
    return torch.randint(0, 256, shape, dtype=torch.uint8, device="cuda", generator=generator)


def _same_bits(found: Tensor, expected: Tensor) -> bool:
    """NaN equals NaN; 0 and -0 differ."""
    if found.dtype != expected.dtype or found.shape != expected.shape:
        return False
    integers = torch.int32 if found.dtype == torch.float32 else torch.int16
    nan = expected.isnan()
    bits = [torch.where(nan, 0.0, x).view(integers) for x in (found, expected)]
    return torch.equal(found.isnan(), nan) and torch.equal(*bits)


def _distance(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


def _time(run: Callable[[], Tensor]) -> float:
    """Seconds of the GPU alone, the median: in a CUDA graph, run again and again."""
    from triton.testing import do_bench_cudagraph

    return do_bench_cudagraph(run, rep=40, return_mode="median") / 1e3


def _time_alone(run: Callable[[], Tensor]) -> float:
    """Seconds of the GPU, the median, each run for itself."""
    from triton.testing import do_bench

    return do_bench(run, warmup=10, rep=40, return_mode="median") / 1e3


def _host_time(run: Callable[[], Tensor]) -> float:
    """Seconds of the processor for a call whose work waits in the GPU's queue."""
    import time

    run()
    torch.cuda.synchronize()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(20):
            run()
        best = min(best, (time.perf_counter() - start) / 20)
        torch.cuda.synchronize()
    return best


def _speeds(slow: float, fast: float) -> tuple[str, str, str]:
    return f"{1e3 * slow:.4f}", f"{1e3 * fast:.4f}", f"{slow / fast:.1f}x"


def _yes(equal: Sequence[bool]) -> str:
    return "yes" if all(equal) else "**no**"
