"""8-bit floating point with its scales -> wider numbers, one kernel for a matrix.

Bit for bit what `packed.fp8` computes: number times scale in float32, rounded once; without a scale
the conversion is exact. Codes are taken apart here, because Triton converts e4m3 only on cards of
compute capability 8.9 and newer. Nothing is added after the product, so nothing can be contracted.

Shapes: R rows (outputs), C columns (inputs).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import triton_op, wrap_triton

ROWS, COLUMNS, WARPS = 4, 512, 4  # of a program


def widen_fp8(data: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """fp8 numbers times their scale.

    data: float8_e4m3fn or float8_e5m2 (R, C), on a GPU. scale: None for 1, float32 () or (R, 1).
    dtype: bfloat16, float16 or float32. Returns (R, C). Raises ValueError for another dtype of data
    or another shape of scale.
    """
    if data.dtype not in (torch.float8_e4m3fn, torch.float8_e5m2):
        raise ValueError(f"fp8 weight of {data.dtype}: expected float8_e4m3fn or float8_e5m2")
    if scale is not None and tuple(scale.shape) not in ((), (data.shape[0], 1)):
        raise ValueError(
            f"scale of shape {tuple(scale.shape)}: expected () or ({data.shape[0]}, 1)"
        )
    if torch.compiler.is_compiling():
        return _operator(data, scale, dtype)
    return _launch(data, scale, dtype, _widen)


@triton_op("pulid_generate::widen_fp8", mutates_args=())
def _operator(data: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    return _launch(data, scale, dtype, wrap_triton(_widen))


def _launch(data: Tensor, scale: Tensor | None, dtype: torch.dtype, kernel) -> Tensor:
    codes = data.contiguous().view(torch.uint8)
    rows, columns = codes.shape
    out = torch.empty(rows, columns, dtype=dtype, device=data.device)
    if out.numel() == 0:
        return out
    across = triton.cdiv(columns, COLUMNS)
    kernel[(triton.cdiv(rows, ROWS) * across,)](
        codes,
        codes if scale is None else scale.float().contiguous(),
        out,
        rows,
        columns,
        across,
        SCALES=0 if scale is None else 1 + scale.ndim // 2,
        E4M3=data.dtype == torch.float8_e4m3fn,
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        num_warps=WARPS,
    )
    return out


@triton.jit
def _widen(
    codes,
    scales,
    out,
    rows,
    columns,
    across,
    SCALES: tl.constexpr,
    E4M3: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A tile of ROWS x COLUMNS. across: tiles in a row.

    SCALES: 0 none, 1 of the matrix, 2 of rows.
    """
    program = tl.program_id(0)
    row = (program // across * ROWS + tl.arange(0, ROWS))[:, None]
    column = (program % across * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    inside = (row < rows) & (column < columns)
    place = row.to(tl.int64) * columns + column
    numbers = _number(tl.load(codes + place, mask=inside, other=0).to(tl.int32), E4M3)
    if SCALES == 1:
        numbers = numbers * tl.load(scales)
    elif SCALES == 2:
        numbers = numbers * tl.load(scales + row, mask=row < rows, other=0.0)
    tl.store(out + place, numbers.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _number(code, E4M3: tl.constexpr):
    """Codes (0 to 255, int32) as float32, through float16, which both formats fit into."""
    if E4M3:
        # the exponent's bias is 7 and not 15: 2^8 too small, subnormal numbers too
        bits = (code & 128) << 8 | (code & 127) << 7
        number = _float16(bits).to(tl.float32) * 256.0
        # e4m3fn has no infinity, and NaN is 0x7f alone
        number = tl.where((code & 127) == 127, float("nan"), number)
    else:
        number = _float16(code << 8).to(tl.float32)
    return number


@triton.jit
def _float16(bits):
    return bits.to(tl.int16).to(tl.float16, bitcast=True)
