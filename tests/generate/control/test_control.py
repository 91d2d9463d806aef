"""ControlNets beside an identity: against a forward written out by hand on seeded files, in
diffusers' names and in XLabs'; and through the command.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support.distances import relative
from support.models.control_files import write_control
from support.models.golden_flux import (
    GUIDANCE,
    Person,
    by_hand,
    first_layers,
    inputs,
    tensors,
    write_fewer_blocks,
)
from support.models.micro_flags import model_flags, pulid_flags
from support.pictures.picture_files import encode, gradient

from pulid_extract.shared.model_files import read_header
from pulid_generate.control.files import ControlFile
from pulid_generate.control.loading import load_control
from pulid_generate.control.residuals import Control
from pulid_generate.errors import CheckpointError, InputError, RequestError
from pulid_generate.models.flux import flux_shape, load_flux
from pulid_generate.pictures.description import parse_description
from pulid_generate.pipeline.denoiser import Denoiser
from pulid_generate.pipeline.texts import Texts, TextStates
from pulid_generate.request.conditions.canny import canny_edges
from pulid_generate.request.conditions.control_picture import ControlTexts, read_controls
from pulid_generate.request.generation import GenerationRequest
from pulid_generate.request.job import Job, Subject
from pulid_generate.request.step_cache import StepCache
from pulid_generate.sampling.noise import make_noise
from pulid_generate.sampling.packing import pack, position_ids

DOUBLES, SINGLES = 3, 4
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def flux_file(tmp_path_factory, golden_shapes):
    """The golden Flux (dev), with fewer blocks."""
    file = tmp_path_factory.mktemp("flux") / "flux.safetensors"
    return write_fewer_blocks(file, golden_shapes("flux")["dev"], DOUBLES, SINGLES)


@pytest.fixture(scope="module")
def flux(flux_file):
    return load_flux(read_header(flux_file), torch.float32)


@pytest.fixture(scope="module")
def adapter(golden_shapes):
    """Of layers after double 0 and 2 and single 0."""
    return first_layers(golden_shapes("flux")["pulid_ca"], 3)


def write_xlabs(path, golden_shapes):
    """A seeded ControlNet in XLabs' names: two double blocks, pixels as its hints."""
    shapes = {}
    for name, shape in golden_shapes("flux")["dev"].items():
        kind, _, rest = name.partition(".")
        if kind == "double_blocks" and int(rest.split(".")[0]) >= 2:
            continue
        if kind not in ("single_blocks", "final_layer"):
            shapes[name] = tuple(shape)
    for index in range(2):
        shapes |= {f"controlnet_blocks.{index}.weight": (128, 128)}
        shapes |= {f"controlnet_blocks.{index}.bias": (128,)}
    shapes |= {"pos_embed_input.weight": (128, 64), "pos_embed_input.bias": (128,)}
    for number in range(0, 16, 2):
        channels = 3 if number == 0 else 16
        shapes |= {f"input_hint_block.{number}.weight": (16, channels, 3, 3)}
        shapes |= {f"input_hint_block.{number}.bias": (16,)}
    save_file(tensors(shapes), path)
    return path


def loaded(path, flux_file):
    file = ControlFile.read(path, flux_shape(read_header(flux_file)), flux_file)
    return load_control(file, torch.float32, CPU)


def drawn(flux, adapter, controls, steps=1, cache=None):
    """The velocity at t = 1 of a picture with a person and ControlNets, and what its cache did."""
    x = inputs()
    sizes = {"width": 64, "height": 64, "steps": steps}
    request = GenerationRequest("x", guidance=GUIDANCE, seed=3, step_cache=cache, **sizes)
    times = tuple(1 - step / steps for step in range(steps + 1))
    job = Job(request, 3, times, prompts=(), subjects=(Subject(Person(x["id"][0].numpy())),))
    denoiser = Denoiser(flux, adapter, CPU, torch.float32, True)
    texts = [Texts(TextStates(x["txt"], x["vec"]))]
    with torch.inference_mode():
        after = denoiser.latents([job], texts, [None], controls=controls)
    return pack(make_noise(3, 64, 64, "cuda")) - pack(after), denoiser.cache


def expected(flux, adapter, controls, *, order="after"):
    """The forward written out. order: whether the identity reads a block's output before its
    residual is added, or (the twin) after.
    """
    x = inputs()
    noise = pack(make_noise(3, 64, 64, "cuda"))
    scale = torch.tensor([GUIDANCE])
    with torch.inference_mode():
        residuals = []
        for model, picture, strength, mode in controls:
            double, single = model(
                hidden_states=noise,
                controlnet_cond=picture,
                controlnet_mode=torch.tensor([[mode]]) if mode is not None else None,
                conditioning_scale=strength,
                encoder_hidden_states=x["txt"],
                pooled_projections=x["vec"],
                timestep=torch.tensor([1.0]),
                img_ids=position_ids(64, 64),
                txt_ids=torch.zeros(8, 3),
                guidance=scale,
                return_dict=False,
            )
            residuals.append((double, single or [], model.input_hint_block is not None))
        layers = adapter.bind(x["id"], torch.float32, "cpu")
        layer_of = {0: 0, 2: 1, DOUBLES: 2}

        def with_residuals(number, img):
            own = img
            added = torch.zeros_like(img)
            for double, single, repeats in residuals:
                if number < DOUBLES:
                    every = math.ceil(DOUBLES / len(double))
                    at = number % len(double) if repeats else number // every
                    added = added + double[at]
                elif single:
                    every = math.ceil(SINGLES / len(single))
                    added = added + single[(number - DOUBLES) // every]
            if number in layer_of:
                read = own if order == "after" else own + added
                img = img + layers[layer_of[number]](read)
            return img + added

        return by_hand(flux, noise, position_ids(64, 64), with_residuals)


def test_velocities_with_an_identity_are_the_forward_by_hand(
    flux, flux_file, adapter, golden_shapes, tmp_path
):
    """Alone, a union, XLabs' file, and all at once; the identity reads what the block computed."""
    torch.manual_seed(0)
    tokens, pixels = torch.randn(1, 16, 64), torch.rand(1, 3, 64, 64) * 2 - 1
    alone = loaded(write_control(tmp_path / "a.safetensors"), flux_file)
    union = loaded(
        write_control(tmp_path / "u.safetensors", double=3, single=0, modes=5), flux_file
    )
    xlabs = loaded(write_xlabs(tmp_path / "x.safetensors", golden_shapes), flux_file)
    cases = {
        "alone": [(alone, tokens, 0.7, None)],
        "union": [(union, tokens, 1.0, 4)],
        "xlabs": [(xlabs, pixels, 0.9, None)],
        "all": [(alone, tokens, 0.3, None), (union, tokens, 0.5, 0), (xlabs, pixels, 0.9, None)],
    }
    plain, _ = drawn(flux, adapter, [])
    for name, case in cases.items():
        controls = [
            Control(model, picture, strength, mode) for model, picture, strength, mode in case
        ]
        ours, _ = drawn(flux, adapter, controls)
        assert relative(ours, expected(flux, adapter, case)) < 1e-5, name
        assert relative(ours, plain) > 1e-3, name
        assert relative(ours, expected(flux, adapter, case, order="before")) > 1e-5, name
    assert not any(block._forward_hooks for block in flux.modules())


def test_a_share_of_the_steps(flux, flux_file, adapter, tmp_path):
    model = loaded(write_control(tmp_path / "a.safetensors"), flux_file)
    tokens = torch.randn(1, 16, 64)
    steps = [
        step
        for step in range(10)
        if Control(model, tokens, 1.0, start=0.2, end=0.5).active(step, 10)
    ]
    assert steps == [2, 3, 4]
    late, _ = drawn(flux, adapter, [Control(model, tokens, 1.0, start=0.5)], steps=2)
    early, _ = drawn(flux, adapter, [Control(model, tokens, 1.0, end=0.5)], steps=2)
    assert relative(late, early) > 1e-4


def test_a_cached_step_is_computed_where_a_control_net_ends(flux, flux_file, adapter, tmp_path):
    model = loaded(write_control(tmp_path / "a.safetensors"), flux_file)
    asked = StepCache.parse("dbcache", "Fn=1,warmup=1,threshold=9")
    reused = []
    for end in (1.0, 0.5):
        control = Control(model, torch.randn(1, 16, 64), 1.0, end=end)
        _, cache = drawn(flux, adapter, [control], 6, asked)
        reused.append(cache.reused)
    assert reused == [5, 4]


def test_what_is_no_control_net_of_this_flux_is_refused(flux_file, tmp_path):
    flux = flux_shape(read_header(flux_file))

    def refused(tensors_, match):
        path = tmp_path / "c.safetensors"
        save_file({name: torch.zeros(shape) for name, shape in tensors_.items()}, path)
        with pytest.raises(CheckpointError, match=match):
            ControlFile.read(path, flux, flux_file)

    refused({"control_model.input_blocks.0.0.weight": (4, 4)}, "ControlNet of Stable Diffusion;")
    refused({"controlnet_cond_embedding.conv_in.weight": (4, 4)}, "ControlNet of Stable Diffusion;")
    refused({"pos_embed.proj.weight": (4, 4)}, "ControlNet of Stable Diffusion 3")
    refused({"img_in.weight": (4, 4)}, "is no ControlNet of Flux")
    refused({"controlnet_x_embedder.weight": (128, 64)}, "lacks what every Flux ControlNet has")
    path = write_control(tmp_path / "wide.safetensors", width=256)
    with pytest.raises(CheckpointError, match=r"ControlNet of width 256, .* has 128"):
        ControlFile.read(path, flux, flux_file)
    with pytest.raises(InputError, match=r"--control-net gone.safetensors: no such file; expected"):
        ControlFile.read(Path("gone.safetensors"), flux, flux_file)
    single = ControlFile.read(write_control(tmp_path / "s.safetensors"), flux, flux_file)
    union = ControlFile.read(write_control(tmp_path / "u.safetensors", modes=5), flux, flux_file)
    assert single.mode_number(None) is None
    assert [union.mode_number(mode) for mode in ("canny", "pose", "2")] == [0, 4, 2]
    with pytest.raises(InputError, match="leave --control-mode out"):
        single.mode_number("pose")
    for mode, said in ((None, "is a union"), ("gray", "has no mode 'gray'"), ("7", "no mode")):
        with pytest.raises(InputError, match=f"{said}.*give --control-mode canny, tile"):
            union.mode_number(mode)


def test_several_values_belong_to_their_control_nets(tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(encode(gradient(40, 60)))
    texts = ControlTexts(["a", "b"], [str(path)], ["0.5", "1"], ends=["0.8"], modes=["pose", ""])
    first, second = read_controls(texts, 32, 32)
    assert (first.strength, first.end, first.mode) == (0.5, 0.8, "pose")
    assert (second.strength, second.end, second.mode) == (1.0, 0.8, None)
    assert first.pixels.shape == (32, 32, 3)
    with pytest.raises(RequestError, match="control-image: is given 3 times for 2"):
        read_controls(ControlTexts(["a", "b"], [str(path)] * 3), 32, 32)
    with pytest.raises(RequestError, match="control-strength 'x': expected a number"):
        read_controls(ControlTexts(["a"], [str(path)], ["x"]), 32, 32)
    with pytest.raises(RequestError, match="expected an end behind the start"):
        read_controls(ControlTexts(["a"], [str(path)], starts=["0.6"], ends=["0.5"]), 32, 32)


@pytest.mark.parametrize(
    ("modes", "reduced"),
    [
        ((), [True, True]),
        (("canny", "pose"), [True, False]),
        (("pose", "0"), [False, True]),
        (("pose", ""), [True, True]),
    ],
)
def test_edges_are_for_who_reads_edges(modes, reduced, tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(encode(gradient(32, 32)))
    uses = read_controls(ControlTexts(["a", "b"], [str(path)], modes=modes, canny=True), 32, 32)
    assert [set(np.unique(use.pixels)) <= {0, 255} for use in uses] == reduced


def test_edges_are_thin_white_lines():
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[8:24, 8:24] = 200
    edges = canny_edges(pixels)[..., 0]
    assert set(np.unique(edges)) == {0, 255}
    assert 2 <= (edges[16] > 0).sum() <= 4
    assert edges[12:20, 12:20].max() == 0
    assert not canny_edges(np.full((16, 16, 3), 90, np.uint8)).any()


def test_a_faint_edge_counts_where_it_goes_on_from_a_clear_one():
    """By hand: a line that fades, and one as faint that stands alone; sd-cli's second threshold is
    0.0064 of the largest gradient.
    """
    pixels = np.full((40, 64, 3), 100, np.uint8)
    for column in range(64):
        pixels[20:, column] = 100 + max(128 * 0.93**column, 6)  # at last 5 % as high
    pixels[:8, 40:] = 106
    edges = canny_edges(pixels)[..., 0] > 0
    assert edges[18:22, 2:62].any(axis=0).all()
    assert not edges[:12].any()


def test_pictures_through_the_command(generate, micro, person, tmp_path):
    picture = tmp_path / "hint.png"
    picture.write_bytes(encode(gradient(48, 64)))
    sizes = flux_shape(read_header(micro / "flux1-schnell.safetensors"))
    control = write_control(
        tmp_path / "union.safetensors",
        width=sizes.width,
        context=sizes.context,
        pooled=sizes.pooled,
        modes=5,
    )
    base = (*model_flags(micro), *pulid_flags(micro), "--pulid-id-embedding", person)
    base += ("-p", "a photo of a cat", "-W", 64, "-H", 48, "--steps", 2)
    flags = ("--control-net", control, "--control-image", picture)
    pose = (*flags, "--control-mode", "pose")
    drawn = {}
    for name, more in {
        "none": (),
        "pose": pose,
        "edges": (*pose, "--canny"),
        "weaker": (*pose, "--control-strength", 0.2),
        "half": (*pose, "--control-end", 0.5),
    }.items():
        result = generate(*base, *more, "-o", tmp_path / f"{name}.png")
        assert result.code == 0, result.err
        image = Image.open(tmp_path / f"{name}.png")
        drawn[name] = image.tobytes(), parse_description(image.text["parameters"])
    assert len({pixels for pixels, _ in drawn.values()}) == 5
    told = drawn["half"][1]["controls"][0]
    assert (told["name"], told["mode"], told["end"]) == ("union.safetensors", "pose", 0.5)
    assert told["sha256"] == hashlib.sha256(control.read_bytes()).hexdigest()
    out = ("-o", tmp_path / "no.png")
    late = (*pose, "--control-start", 0.6)
    assert "no step of 2 lies between them" in generate(*base, *late, *out).usage_error
    assert "is a union; give --control-mode canny" in generate(*base, *flags, *out).error
    lone = generate(*base, "--control-net", control, *out)
    assert lone.code == 2
    assert "--control-net needs '--control-image'" in lone.err
