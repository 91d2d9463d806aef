"""The memory plan: published sizes by arithmetic, constants against measurements, what it decides,
what it refuses.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from seeded import public_layouts
from support.paths import ROOT

from pulid_extract.shared.model_files import Header, read_header
from pulid_generate.errors import PlacementError
from pulid_generate.files.model import Model
from pulid_generate.files.model_set import ModelFiles
from pulid_generate.memory import footprint
from pulid_generate.memory.footprint import Footprint
from pulid_generate.memory.placement import Placement
from pulid_generate.memory.plan import MeasureKind, Work, as_dict, as_table
from pulid_generate.memory.planning import make_plan
from pulid_generate.memory.residency import choose_resident, device_bytes
from pulid_generate.models.autoencoder import load_vae
from pulid_generate.models.flux import load_flux
from pulid_generate.sampling.packing import position_ids

GIB = 2**30
CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
ON_CUDA = Placement(CUDA, CUDA, CUDA, torch.bfloat16)
ON_CPU = Placement(CPU, CPU, CPU, torch.float32)


def header(layout, kind: str, prefix: str = "", packed: str | None = None) -> Header:
    """packed: another type, for matrices."""
    shapes = {name: entry[0] for name, entry in layout.items()}
    return Header(
        Path("x"),
        "safetensors",
        {
            prefix + name: (
                packed if packed and len(shape) == 2 and "block" in name else kind,
                tuple(shape),
            )
            for name, shape in shapes.items()
        },
    )


FLUX = public_layouts.flux(3072, context=4096, vector=768, guidance=True)
# the seeded layout has a feed-forward of twice the width, the published one of 2.5 times
T5 = {
    name: (tuple(10240 if side == 8192 else side for side in entry[0]), entry[1])
    for name, entry in public_layouts.t5(4096, 24).items()
}
CLIP, VAE = public_layouts.clip_l(768), public_layouts.autoencoder(128)
PULID = public_layouts.pulid_ca(3072, 20, 16, 2048)


def files(
    flux: str = "BF16",
    flux_packed: str | None = None,
    t5: str = "F16",
    t5_packed: str | None = None,
) -> ModelFiles:
    """The published set, from headers alone."""
    return ModelFiles(
        flux=SimpleNamespace(header=header(FLUX, flux, packed=flux_packed)),
        t5xxl=SimpleNamespace(header=header(T5, t5, packed=t5_packed)),
        clip_l=SimpleNamespace(header=header(CLIP, "F16")),
        vae=SimpleNamespace(header=header(VAE, "F32")),
        t5_tokenizer=Path("tokenizer.json"),
        pulid=SimpleNamespace(header=header(PULID, "BF16")),
    )


PORTRAIT = Work(1024, 1024, id_tokens=(32,))


# ----------------------------------------------------------------------------------------- counting


def test_published_sizes():
    flux = Footprint.of(header(FLUX, "BF16"), Model.FLUX.marker)
    assert flux.numbers == 11_901_408_320
    assert flux.bytes(2) == 23_802_816_640  # the file, less its header
    assert len(flux.block_bytes(2)) == 19 + 38
    assert flux.block_bytes(2)[0] == 2 * 339_831_296  # a double block
    assert flux.block_bytes(2)[-1] == 2 * 141_591_808  # a single block
    assert Footprint.of(header(T5, "F16"), Model.T5.marker).numbers == 4_762_310_656
    assert len(Footprint.of(header(T5, "F16"), Model.T5.marker).block_bytes(2)) == 24
    assert Footprint.of(header(VAE, "F32"), Model.VAE.marker).bytes(4) == 4 * 83_819_683


def test_packed_matrices_count_as_stored_until_they_are_dequantised():
    whole = Footprint.of(header(FLUX, "BF16"), Model.FLUX.marker)
    for kind, bytes_per_number in (("Q8_0", 34 / 32), ("Q4_K", 144 / 256), ("F8_E4M3", 1)):
        packed = Footprint.of(header(FLUX, "BF16", packed=kind), Model.FLUX.marker)
        matrices = sum(
            math.prod(shape) for type_, shape in packed.tensors.values() if type_ == kind
        )
        assert matrices > 0.98 * whole.numbers
        assert packed.bytes(2) == whole.bytes(2) - 2 * matrices + int(matrices * bytes_per_number)
        assert packed.bytes(2, dequantize=True) == whole.bytes(2)
        assert packed.has_packed()
    assert not whole.has_packed()


def test_a_model_is_found_in_a_file_that_holds_several():
    tensors = dict(header(VAE, "F32", "vae.").tensors) | dict(
        header(FLUX, "BF16", "model.diffusion_model.").tensors
    )
    both = Header(Path("aio"), "safetensors", tensors)
    assert Footprint.of(both, Model.FLUX.marker).numbers == 11_901_408_320
    assert Footprint.of(both, Model.VAE.marker).numbers == 83_819_683


def test_no_torch_is_needed_to_plan():
    code = "import sys, pulid_generate.memory.plan; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "False\n"), done.stderr


# ----------------------------------------------------------------------------------------- measured


def live_peak(work) -> int:
    """Bytes of tensors alive at once during `work`, beyond those before it."""
    from torch.profiler import ProfilerActivity, profile

    with torch.inference_mode():
        work()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            work()
    events = [
        (e.start_ns(), e.nbytes())
        for e in profiler.profiler.kineto_results.events()
        if e.name() == "[memory]"
    ]  # type: ignore[union-attr]
    live = peak = 0
    for _, count in sorted(events, key=lambda event: event[0]):
        live += count
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_flux_activations_are_what_a_forward_takes(micro, dtype):
    found = read_header(micro / "flux1-schnell.safetensors")
    model = load_flux(found, dtype)
    image, text = 1024, 64
    arguments = {
        "hidden_states": torch.randn(1, image, 64, dtype=dtype),
        "encoder_hidden_states": torch.randn(
            1, text, model.context_embedder.in_features, dtype=dtype
        ),
        "pooled_projections": torch.randn(
            1, model.time_text_embed.text_embedder.linear_1.in_features, dtype=dtype
        ),
        "timestep": torch.tensor([0.5]),
        "img_ids": position_ids(512, 512),
        "txt_ids": torch.zeros(text, 3),
        "return_dict": False,
    }
    planned = footprint.flux_activations(
        Footprint.of(found, Model.FLUX.marker), image + text, dtype.itemsize
    )
    assert 0.95 * planned < live_peak(lambda: model(**arguments)) < 1.05 * planned


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_decoding_takes_what_is_planned(micro, dtype):
    found = read_header(micro / "ae.safetensors")
    model = load_vae(found, dtype)
    latents = torch.randn(1, 16, 16, 24, dtype=dtype)
    planned = footprint.decode_bytes(
        Footprint.of(found, Model.VAE.marker), 192, 128, dtype.itemsize
    )
    # 16 bits: by threads
    assert 0.7 * planned < live_peak(lambda: model.decode(latents)) <= 1.02 * planned


# ----------------------------------------------------------------------------------------- deciding


def test_what_fits_is_left_alone():
    made = make_plan(files(), PORTRAIT, ON_CUDA, {"cpu": 64 * GIB, "cuda:0": 80 * GIB})
    assert (made.verdict, made.problem, made.notes(), made.tile) == ("fits", "", [], None)
    assert 23.8e9 < made.stage(Model.FLUX).needs["cuda:0"] < 28e9
    assert made.peak["cuda:0"] == max(entry.needs["cuda:0"] for entry in made.stages)
    made.check()


def test_a_processor_keeps_sixteen_bits_when_float32_would_not_fit():
    roomy = make_plan(files(), PORTRAIT, ON_CPU, {"cpu": 64 * GIB})
    assert (roomy.sixteen_bit, roomy.verdict) == (frozenset(), "fits")
    tight = make_plan(files(), PORTRAIT, ON_CPU, {"cpu": 32 * GIB})
    assert tight.sixteen_bit == {Model.FLUX}
    assert "16-bit weights kept" in tight.notes()[0]
    assert tight.verdict == "fits, with automatic measures"
    # and Flux does not fit at all
    assert make_plan(files(), PORTRAIT, ON_CPU, {"cpu": 16 * GIB}).sixteen_bit == {
        Model.FLUX,
        Model.T5,
    }
    # nothing to gain where the file is float32 already
    assert not make_plan(files(flux="F32"), PORTRAIT, ON_CPU, {"cpu": 32 * GIB}).sixteen_bit & {
        Model.FLUX
    }


def test_decoding_is_tiled_when_the_whole_picture_would_not_fit():
    large = Work(2048, 2048)
    card = {"cpu": 64 * GIB, "cuda:0": 8 * GIB}
    place = replace(ON_CUDA, offload=frozenset({Model.FLUX, Model.T5}))
    made = make_plan(files(), large, place, card)
    assert made.tile == (32, 32)
    assert made.verdict == "fits, with automatic measures"
    assert any(note.startswith("autoencoder: decoded in tiles") for note in made.notes())
    # asked for: no measure
    assert make_plan(files(), replace(large, tile=(64, 64)), place, card).tile == (64, 64)
    assert make_plan(files(), Work(512, 512), place, card).tile is None


@pytest.mark.parametrize(
    ("limit", "least", "most"), [("6", 3, 20), ("10", 20, 40), ("20", 40, 50), ("40", 57, 57)]
)
def test_as_many_blocks_stay_as_the_limit_leaves_room_for(limit, least, most):
    place = replace(ON_CUDA, max_vram={"": float(limit)})
    made = make_plan(
        files(), Work(512, 512, id_tokens=(32,)), place, {"cpu": 64 * GIB, "cuda:0": 80 * GIB}
    )
    assert made.problem == ""
    assert least <= len(made.resident[Model.FLUX]) <= most
    assert made.stage(Model.FLUX).needs["cuda:0"] <= float(limit) * GIB
    assert made.stage(Model.FLUX).has(MeasureKind.STREAMED) == (limit != "40")


def test_flux_runs_on_a_card_of_twelve_gigabytes():
    card = {"cpu": 40 * GIB, "cuda:0": int(11.5 * GIB)}
    place = replace(ON_CUDA, offload=frozenset({Model.FLUX, Model.T5}))
    made = make_plan(files(), PORTRAIT, place, card)
    made.check()
    assert made.resident[Model.FLUX] == frozenset()  # nothing was said of how much may stay
    assert made.stage(Model.FLUX).needs["cuda:0"] < 4 * GIB
    assert made.stage(Model.FLUX).needs["cpu"] > 23.8e9 - 3e9
    make_plan(files(flux_packed="Q4_K", t5_packed="F8_E4M3"), PORTRAIT, ON_CUDA, card).check()


# ----------------------------------------------------------------------------------------- refusing


@pytest.mark.parametrize(
    ("these", "work", "place", "available", "words"),
    [
        (
            files(),
            PORTRAIT,
            ON_CUDA,
            {"cpu": 64, "cuda:0": 12},
            ("Flux: needs 2", "of cuda:0, 12.0 GiB", "--offload-to-cpu", "Q4 GGUF"),
        ),
        (
            files(),
            PORTRAIT,
            ON_CUDA,
            {"cpu": 16, "cuda:0": 12},
            ("Flux: needs 2", "--diffusion-model with a Q4 GGUF"),
        ),
        (
            files(),
            PORTRAIT,
            ON_CUDA,
            {"cpu": 64, "cuda:0": 8},
            ("T5: needs 9", "--clip-on-cpu", "--offload-to-cpu", "--t5xxl with an fp8 file"),
        ),
        (
            files(),
            PORTRAIT,
            ON_CPU,
            {"cpu": 12},
            ("Flux: needs 25", "of main memory, 12.0 GiB", "--diffusion-model with a Q4 GGUF"),
        ),
        (
            files(flux_packed="Q4_K", t5_packed="F8_E4M3"),
            replace(PORTRAIT, dequantize=True),
            ON_CPU,
            {"cpu": 12},
            ("Flux: needs", "no --dequantize"),
        ),
        (
            files(),
            PORTRAIT,
            replace(ON_CUDA, max_vram={"": 1.0}),
            {"cpu": 64, "cuda:0": 80},
            ("T5: needs", "1.0 GiB can be used", "a larger --max-vram"),
        ),
        (files(), Work(4096, 4096), ON_CPU, {"cpu": 1}, ("T5: needs", "no flag changes that")),
    ],
)
def test_what_cannot_fit_is_one_line_that_names_what_would_help(
    these, work, place, available, words
):
    made = make_plan(
        these, work, place, {device: count * GIB for device, count in available.items()}
    )
    with pytest.raises(PlacementError) as refusal:
        made.check()
    message = str(refusal.value)
    assert "\n" not in message
    assert all(word in message for word in words), message
    assert made.verdict == "cannot fit"


def test_a_remedy_is_named_only_if_it_helps():
    """No offloading where main memory would not hold the weights either."""
    made = make_plan(files(), PORTRAIT, ON_CUDA, {"cpu": 16 * GIB, "cuda:0": 12 * GIB})
    assert "--offload-to-cpu" not in made.problem
    assert (
        "--offload-to-cpu"
        in make_plan(files(), PORTRAIT, ON_CUDA, {"cpu": 64 * GIB, "cuda:0": 12 * GIB}).problem
    )


def test_a_larger_picture_or_another_person_needs_more():
    def flux(**changes) -> int:
        work = replace(PORTRAIT, **changes)
        made = make_plan(files(), work, ON_CUDA, {"cpu": 64 * GIB, "cuda:0": 80 * GIB})
        return made.stage(Model.FLUX).working

    assert flux(width=2048) > flux()
    assert flux(id_tokens=()) < flux() < flux(id_tokens=(32, 32))
    # the published folded size
    assert flux(id_tokens=(32,)) - flux(id_tokens=()) == pytest.approx(126e6, rel=0.01)
    assert flux(extra=GIB) == flux() + GIB
    # a small picture's forward, recorded beside the large one
    assert flux() + 100e6 < flux(recorded=1024 + 512) < 2 * flux()


# ------------------------------------------------------------------------------------------ showing


def test_the_table_and_the_dictionary_say_the_same():
    made = make_plan(files(), PORTRAIT, ON_CUDA, {"cpu": 64 * GIB, "cuda:0": 12 * GIB})
    text, facts = as_table(made), json.loads(json.dumps(as_dict(made)))
    assert [entry["name"] for entry in facts["stages"]] == ["CLIP-L", "T5", "Flux", "autoencoder"]
    assert all(entry["name"] in text for entry in facts["stages"])
    assert text.splitlines()[-1] == f"cannot fit: {facts['problem']}"
    assert "12.0 GiB free" in text
    assert facts["available"] == {"cpu": 64 * GIB, "cuda:0": 12 * GIB}
    assert (
        as_table(
            make_plan(files(), PORTRAIT, ON_CUDA, {"cpu": 64 * GIB, "cuda:0": 80 * GIB})
        ).splitlines()[-1]
        == "fits"
    )


# ---------------------------------------------------------------------------------------- residency


def test_resident_blocks_are_as_many_as_fit_and_stand_apart():
    sizes = [10] * 8
    for budget in range(20, 90, 5):
        chosen = choose_resident(sizes, budget)
        assert device_bytes(sizes, chosen) <= budget
        assert len(chosen) == (8 if budget >= 80 else (budget - 20) // 10)
    chosen = sorted(choose_resident(sizes, 50))
    assert len(chosen) == 3
    assert all(b - a >= 2 for a, b in pairwise(chosen))
    # nothing stays; two buffers are the least that there is
    assert choose_resident(sizes, 5) == frozenset()
    assert device_bytes(sizes, ()) == 20
    assert device_bytes([30, 10, 10], (0,)) == 50
    assert device_bytes([], ()) == 0
