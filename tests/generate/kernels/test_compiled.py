"""Kernels without a card: compiled for several, and seen by torch.compile.

The interpreter of the other tests accepts what the compiler refuses, and knows no shared memory.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

triton = pytest.importorskip("triton")
fp8 = pytest.importorskip("pulid_generate.kernels.fp8")
ggml = pytest.importorskip("pulid_generate.kernels.ggml")
identity = pytest.importorskip("pulid_generate.kernels.identity")
products = pytest.importorskip("pulid_generate.kernels.products")
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs the kernels themselves"),
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
]

HOPPER = 90
MEMORY = {80: 163 << 10, 86: 99 << 10, 90: 227 << 10, 120: 99 << 10}  # shared, for a program
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32", torch.uint8: "u8"}
Q4_K = 12


class Recorder:
    """Stands in for a kernel: compiles it with the arguments of a launch, and launches nothing."""

    def __init__(self, kernel, arch: int):
        self.kernel, self.arch = kernel, arch
        self.stages = 0
        self.result: Any = None

    def __getitem__(self, grid):
        return self.compile

    def compile(self, *arguments, num_warps: int, num_stages: int = 3, **constants) -> None:
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource

        signature, attributes = {}, {}
        for index, value in enumerate(arguments):
            name = self.kernel.arg_names[index]
            pointer = isinstance(value, Tensor)
            signature[name] = f"*{NAMES[value.dtype]}" if pointer else "i32"
            if pointer or value % 16 == 0:
                attributes[(index,)] = [["tt.divisibility", 16]]
        signature |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(self.kernel, signature, constants, attributes)
        options = {"num_warps": num_warps, "num_stages": num_stages}
        target = GPUTarget("cuda", self.arch, 32)
        self.stages = num_stages
        self.result = triton.compile(source, target=target, options=options)

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a program."""
        return self.result.metadata.shared

    @property
    def buffers(self) -> list[int]:
        """Of each tile that is loaded ahead: how many copies there are."""
        pattern = r"local_alloc : \(\) -> !ttg\.memdesc<(\d+)x\d+x\d+x"
        return [int(count) for count in re.findall(pattern, self.result.asm["ttgir"])]


@pytest.fixture(autouse=True)
def no_cache(monkeypatch, tmp_path):
    """Or a kernel that no longer compiles would pass from the cache of an earlier run."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def test_ggml_compiles():
    for kind, layout in ggml.GGML_TYPES.items():
        data = torch.empty(64, 4 * layout.size, dtype=torch.uint8)
        ggml._launch(data, kind, torch.bfloat16, Recorder(ggml._widen, 80))


@pytest.mark.parametrize(
    "scale", [None, torch.ones(()), torch.ones(16, 1)], ids=["", "one", "rows"]
)
def test_fp8_compiles(scale):
    """For cards that have no fp8, too."""
    data = torch.empty(16, 64, dtype=torch.uint8).view(torch.float8_e4m3fn)
    fp8._launch(data, scale, torch.bfloat16, Recorder(fp8._widen, 80))


def test_product_compiles():
    data, x = torch.empty(64, 288, dtype=torch.uint8), torch.empty(1, 512, dtype=torch.bfloat16)
    products._launch(x, data, Q4_K, None, Recorder(products._multiply, 86))


def compiled_identity(monkeypatch, arch: int, length: int, dtype: torch.dtype) -> list[Recorder]:
    """Both kernels for published sizes. Few image tokens have a region as well."""
    monkeypatch.setattr(identity, "_shared_memory", lambda device: MEMORY[arch])
    with torch.device("meta"):
        x, a = torch.empty(1, length, 3072, dtype=dtype), torch.empty(512, 3072, dtype=dtype)
        c, weight, share = torch.empty(512), torch.empty(1), torch.empty(1, length)
    attend, add = Recorder(identity._attend, arch), Recorder(identity._add, arch)
    identity._launch(x, x, a, c, a.T, 16, weight, share if length == 64 else None, attend, add)
    return [attend, add]


@pytest.mark.parametrize(
    ("arch", "length", "dtype"),
    [
        (86, 64, torch.float32),
        (86, 2048, torch.bfloat16),
        (120, 64, torch.bfloat16),
        (80, 2048, torch.float16),
    ],
)
def test_identity_fits_the_card(monkeypatch, arch, length, dtype):
    """A kernel that asks for more shared memory than there is would not start."""
    for kernel in compiled_identity(monkeypatch, arch, length, dtype):
        assert 0 < kernel.shared <= MEMORY[arch]


@pytest.mark.parametrize("length", [64, 2048])
def test_products_on_hopper_read_what_nobody_overwrites(monkeypatch, length):
    """There products run while the next tiles are loaded, so each tile needs a copy for each stage.

    Triton forgets one where a tile is read by something else, too: results were wrong by a percent.
    """
    for kernel in compiled_identity(monkeypatch, HOPPER, length, torch.bfloat16):
        assert "warp_group_dot" in kernel.result.asm["ttgir"]
        assert kernel.buffers == [kernel.stages] * 2
        assert kernel.shared <= MEMORY[HOPPER]


class FakeDriver:
    """As much of a card as tracing asks for."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", HOPPER, 32)

    def get_current_device(self) -> int:
        return 0


def traced(function, *arguments) -> list[str]:
    """What the kernels that torch.compile finds in `function` write to, in order. Nothing runs."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    written = []

    def look(graph, inputs):
        for node in graph.graph.nodes:
            if "triton_kernel" in str(node.target):
                written.extend(node.kwargs["tensors_to_clone"])
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    torch.compile(function, backend=aot_autograd(fw_compiler=look), fullgraph=True)(*arguments)
    return written


def test_torch_compile_sees_the_kernels(monkeypatch):
    """Each in one graph, and with what it writes known: else every argument would be copied."""
    from torch._subclasses import FakeTensorMode

    monkeypatch.setattr(triton.runtime.driver, "_active", FakeDriver())
    monkeypatch.setattr(identity, "_shared_memory", lambda device: MEMORY[HOPPER])
    half = torch.bfloat16
    with FakeTensorMode(), torch.device("cuda"):
        packed = torch.empty(64, 288, dtype=torch.uint8)
        codes = torch.empty(64, 512, dtype=torch.float8_e4m3fn)
        x, bias, scale = torch.empty(1, 512, dtype=half), torch.empty(64), torch.empty(64, 1)
        assert traced(lambda p: ggml.widen_ggml(p, Q4_K, half), packed) == ["out"]
        assert traced(lambda c, s: fp8.widen_fp8(c, s, half), codes, scale) == ["out"]
        product = traced(lambda x, p, b: products.multiply_ggml(x, p, Q4_K, b), x, packed, bias)
        assert product == ["out"]
        image = torch.empty(1, 64, 3072, dtype=half)
        a, c, weight = torch.empty(512, 3072, dtype=half), torch.empty(512), torch.empty(1)
        for share in (None, torch.empty(1, 64)):
            added = traced(
                lambda i, a, c, w, share=share: identity.add_identity(
                    i, i, a, c, a.T, 16, w, share
                ),
                image,
                a,
                c,
                weight,
            )
            assert added == ["attention", "out"]
