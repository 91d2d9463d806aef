"""torch.compile with every kind of file, and with what hangs on a model: the plain model's results,
and few graphs.

Nothing is generated here but in the slow tests: the backend runs the traced operations.
"""

from __future__ import annotations

import functools
import inspect
from contextlib import ExitStack
from types import SimpleNamespace

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import save_file
from support.distances import relative
from support.models.flux_files import scaled_fp8
from support.models.gguf_copy import write_gguf
from support.models.golden_flux import fewer_blocks, inputs, tensors
from torch._inductor.exc import InductorError

from pulid_extract.shared.model_files import read_header
from pulid_generate.errors import OutputError
from pulid_generate.files.model import Model
from pulid_generate.injection import compiling
from pulid_generate.injection.compiling import FOLDER_VARIABLE, check_compiler, compile_blocks
from pulid_generate.lora.changes import Product
from pulid_generate.lora.hooks import attach_loras
from pulid_generate.memory.streaming import blocks_of, stream_blocks
from pulid_generate.models.flux import load_flux
from pulid_generate.packed import ggml
from pulid_generate.packed.ggml import compute_quantized
from pulid_generate.pipeline.loaded import LoadedModels
from pulid_generate.sampling.packing import position_ids

BLOCKS = 3  # of each kind
FILES = ("Q8_0", "Q4_0 and Q8_0", "fp8", "fp8 per row")


@pytest.fixture(scope="module")
def files(golden_shapes, tmp_path_factory):
    """name -> a file of a small Flux."""
    folder = tmp_path_factory.mktemp("compiled")
    state = tensors(fewer_blocks(golden_shapes("flux")["schnell"], BLOCKS, BLOCKS))
    plain = folder / "plain.safetensors"
    save_file(state, plain)
    save_file(scaled_fp8(state), folder / "fp8.safetensors")
    save_file(scaled_fp8(state, per_row=True), folder / "rows.safetensors")
    write_gguf(plain, folder / "q8.gguf", Q.Q8_0)
    mixed(state, folder / "mixed.gguf")
    return {
        "plain": plain,
        "Q8_0": folder / "q8.gguf",
        "Q4_0 and Q8_0": folder / "mixed.gguf",
        "fp8": folder / "fp8.safetensors",
        "fp8 per row": folder / "rows.safetensors",
    }


def mixed(state, target) -> None:
    """Blocks of different types, as a Q4_K_M has them."""
    writer = gguf.GGUFWriter(target, arch="flux")
    for name, tensor in state.items():
        kind = Q.F32
        if tensor.ndim == 2 and name.startswith(("double", "single")):
            kind = Q.Q8_0 if name.split(".")[1] == "1" else Q.Q4_0
        data = gguf.quantize(tensor.numpy(), kind)
        writer.add_tensor(name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def traced(monkeypatch):
    """torch.compile without a code generator; the list gets an entry for each graph."""
    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    graphs = []

    def look(graph, inputs):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    backend = aot_autograd(fw_compiler=look)
    whole = functools.partial(torch.compile, backend=backend, fullgraph=True)
    monkeypatch.setattr(torch, "compile", whole)
    yield graphs
    torch._dynamo.reset()


def predict(model, text: int = 8):
    """Its velocity for text of so many tokens, of the golden inputs' eight."""
    given = inputs()
    with torch.inference_mode():
        return model(
            hidden_states=given["latent"],
            encoder_hidden_states=given["txt"][:, :text],
            pooled_projections=given["vec"],
            timestep=torch.tensor([0.5]),
            img_ids=position_ids(64, 64),
            txt_ids=torch.zeros(text, 3),
        )[0]


def lora(model, layer: str) -> dict[str, Product]:
    module = model.get_submodule(layer)
    random = torch.Generator().manual_seed(2)
    down = torch.randn(4, module.in_features, generator=random) / 16
    up = torch.randn(module.out_features, 4, generator=random) / 16
    return {layer: Product(down, up, 1.0)}


@pytest.mark.parametrize("name", FILES)
def test_packed_files_compile(files, traced, name):
    model = load_flux(read_header(files[name]), torch.float32)
    eager = predict(model)
    with compile_blocks(model):
        assert relative(predict(model), eager) <= 1e-6
        # The first single block gets its tokens contiguous, the others as views; blocks of other
        # types are other graphs. All others share theirs.
        assert len(traced) == (5 if name == "Q4_0 and Q8_0" else 3)
        predict(model)
        assert len(traced) == (5 if name == "Q4_0 and Q8_0" else 3)
    assert torch.equal(predict(model), eager)


def test_what_the_layers_keep_and_round_is_in_the_graph_too(files, traced, monkeypatch):
    """--weight-cache and --compute int8."""
    monkeypatch.setattr(ggml, "INT8_TOKENS", 4)
    model = load_flux(read_header(files["Q8_0"]), torch.float32)
    plain = predict(model)
    compute_quantized(model, "int8")
    eight_bits = predict(model)
    with compile_blocks(model):
        assert relative(predict(model), eight_bits) <= 1e-6
        compute_quantized(model, cache_bytes=1 << 30)
        assert relative(predict(model), plain) <= 1e-6
    layer = model.transformer_blocks[0].attn.to_q
    assert layer.widened is not None
    assert relative(eight_bits, plain) > 1e-5


def test_code_that_finds_no_room_is_one_line(files, tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    model = load_flux(read_header(files["Q8_0"]), torch.float32)
    for inner, kind, words in (
        (
            OSError(28, "No space left"),
            OutputError,
            rf"^{tmp_path}: .*\(No space left\); make room",
        ),
        (ValueError("a bug"), InductorError, "a bug"),
    ):
        # Flux stays compiled from one picture to the next: a command hears of it where it draws
        loaded = SimpleNamespace(models=SimpleNamespace(placement=None))
        for way in (compile_blocks(model), LoadedModels.running(loaded, Model.FLUX)):
            with pytest.raises(kind, match=words), way:
                raise InductorError(inner, inspect.currentframe())


@pytest.mark.parametrize("name", ["plain", "Q8_0", "fp8"])
def test_streamed_blocks_compile(files, traced, name):
    model = load_flux(read_header(files[name]), torch.float32)
    eager = predict(model)
    stream_blocks(model, blocks_of(model), torch.device("cpu"), {1, 3})
    with compile_blocks(model):
        assert relative(predict(model), eager) <= 1e-6
        graphs = len(traced)
        assert relative(predict(model), eager) <= 1e-6
    assert len(traced) == graphs < 2 * BLOCKS


def test_loras_on_packed_layers_compile(files, traced):
    model = load_flux(read_header(files["Q8_0"]), torch.float32)
    eager = predict(model)
    products = lora(model, "transformer_blocks.1.attn.to_q")
    products |= lora(model, "single_transformer_blocks.2.proj_mlp")
    with ExitStack() as stack:
        stack.enter_context(attach_loras(model, [(products, 1.0)], torch.float32, "cpu"))
        with_lora = predict(model)
    with compile_blocks(model):
        assert relative(predict(model), eager) <= 1e-6
        with attach_loras(model, [(products, 1.0)], torch.float32, "cpu"):
            assert relative(predict(model), with_lora) <= 1e-6
        assert relative(predict(model), eager) <= 1e-6
    assert relative(with_lora, eager) > 1e-3


def test_another_size_is_another_graph_and_not_a_failure(files, traced):
    """Sizes that change are symbols in the second graph, which packed bytes must not meet."""
    model = load_flux(read_header(files["Q4_0 and Q8_0"]), torch.float32)
    eager = {text: predict(model, text) for text in (8, 5, 7)}
    with compile_blocks(model):
        for text, expected in eager.items():
            assert relative(predict(model, text), expected) <= 1e-6


def test_compiled_code_is_kept_where_it_is_told(files, traced, tmp_path, monkeypatch):
    monkeypatch.delenv(FOLDER_VARIABLE, raising=False)
    model = load_flux(read_header(files["plain"]), torch.float32)
    with compile_blocks(model, tmp_path / "cache" / "compiled"):
        pass
    made = tmp_path / "cache" / "compiled"
    assert made.is_dir()
    assert made.stat().st_mode & 0o077 == 0
    assert compiling.os.environ[FOLDER_VARIABLE] == str(made)
    # what the user says to torch stays, and a folder that cannot be made costs no picture
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "mine"))
    with compile_blocks(model, tmp_path / "other"):
        assert compiling.os.environ[FOLDER_VARIABLE] == str(tmp_path / "mine")
    monkeypatch.delenv(FOLDER_VARIABLE)
    (tmp_path / "file").touch()
    with compile_blocks(model, tmp_path / "file" / "compiled"):
        assert "compiled" not in compiling.os.environ.get(FOLDER_VARIABLE, "")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_generated_code_agrees(files, generated_code):
    """By torch's own compiler, for a CPU."""
    from pulid_generate.errors import PlacementError

    try:
        check_compiler(torch.device("cpu"))
    except PlacementError as error:
        pytest.skip(str(error))
    model = load_flux(read_header(files["Q8_0"]), torch.float32)
    eager = predict(model)
    torch._dynamo.reset()
    with compile_blocks(model):
        assert relative(predict(model), eager) <= 1e-5
    torch._dynamo.reset()
