"""Reference pictures beside the one that is drawn: against a forward written out by hand, sizes and
places against sd-cli's formulas, and through the command.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.distances import relative
from support.models.golden_flux import (
    GUIDANCE,
    Person,
    by_hand,
    first_layers,
    inputs,
    load_fewer_blocks,
)
from support.models.micro_flags import encoder_flags, pulid_flags
from support.pictures.picture_files import encode, gradient

from pulid_extract.shared.model_files import Header
from pulid_generate.errors import InputError, RequestError
from pulid_generate.files.kontext import is_kontext
from pulid_generate.injection.terms import Term
from pulid_generate.pictures.description import parse_description
from pulid_generate.pipeline.denoiser import Denoiser
from pulid_generate.pipeline.texts import Texts, TextStates
from pulid_generate.request.conditions.bundle import Conditions
from pulid_generate.request.conditions.reference_picture import (
    ReferenceOptions,
    ReferencePicture,
    places,
    read_reference_pictures,
    reference_size,
)
from pulid_generate.request.generation import GenerationRequest
from pulid_generate.request.job import Job, Subject
from pulid_generate.sampling.noise import make_noise, make_noises, philox_randn
from pulid_generate.sampling.packing import pack, position_ids

DOUBLES, SINGLES = 3, 4


def picture_file(path, width, height):
    path.write_bytes(encode(gradient(height, width)))
    return path


@pytest.fixture(scope="module")
def flux(tmp_path_factory, golden_shapes):
    """The golden Flux (dev), with fewer blocks."""
    folder = tmp_path_factory.mktemp("flux")
    return load_fewer_blocks(folder, golden_shapes("flux")["dev"], DOUBLES, SINGLES)


@pytest.fixture(scope="module")
def adapter(golden_shapes):
    """Of layers after double 0 and 2 and single 0."""
    return first_layers(golden_shapes("flux")["pulid_ca"], 3)


def test_velocities_are_the_forward_by_hand(flux, adapter):
    """Reference tokens behind the picture's, at places of their own; the identity on the picture's
    alone; the output cut to the picture.
    """
    x, t = inputs(), 1.0
    pictures = [np.zeros((32, 64, 3), np.uint8), np.zeros((48, 16, 3), np.uint8)]
    references = tuple(map(ReferencePicture, pictures, [(1, 0, 0), (1, 4, 0)]))
    torch.manual_seed(0)
    tokens = torch.randn(1, sum(reference.tokens for reference in references), 64)
    request = GenerationRequest("x", width=64, height=64, guidance=GUIDANCE, seed=3, steps=1)
    job = Job(
        request,
        3,
        (t, 0.0),
        prompts=(),
        subjects=(Subject(Person(x["id"][0].numpy()), weight=0.8),),
        conditions=Conditions(references),
    )
    with torch.inference_mode():
        denoiser = Denoiser(flux, adapter, torch.device("cpu"), torch.float32, True)
        texts = [Texts(TextStates(x["txt"], x["vec"]))]
        after = denoiser.latents([job], texts, [None], references=tokens)
        noise = pack(make_noise(3, 64, 64, "cuda"))
        # one step of Euler from 1 to 0: noise - velocity
        ours = noise - pack(after)

        ids = [position_ids(64, 64)]
        for rows, columns, place in ((2, 4, (1, 0, 0)), (3, 1, (1, 4, 0))):
            for row in range(rows):
                for column in range(columns):
                    ids.append(torch.tensor([[place[0], place[1] + row, place[2] + column]]))
        layers = adapter.bind(x["id"], torch.float32, "cpu")
        after_block = {0: 0, 2: 1, DOUBLES: 2}

        def with_identity(number, img):
            if number not in after_block:
                return img
            picture = img[:, :16]
            added = 0.8 * layers[after_block[number]](picture)
            return torch.cat([picture + added, img[:, 16:]], dim=1)

        every = torch.cat([part.float() for part in ids])
        whole = by_hand(flux, torch.cat([noise, tokens], dim=1), every, with_identity)
        expected = whole[:, :16]
        # twins that must differ: the identity on every token, and no reference
        alone = denoiser.latents([replace(job, conditions=Conditions())], texts, [None])
    assert relative(ours, expected) < 1e-5
    assert relative(noise - pack(alone), expected) > 1e-3


def test_a_region_counts_the_pictures_tokens(flux, adapter):
    from pulid_generate.injection.terms import Injection

    layers = adapter.bind(inputs()["id"], torch.float32, "cpu")
    img = torch.randn(1, 20, 128)
    region = torch.zeros(16)
    region[3] = 1
    injection = Injection((Term(layers, region=region),), picture_tokens=16)
    changed = (injection.add(img, 0, double=True) - img).abs().sum(dim=(0, 2))
    assert changed.nonzero().flatten().tolist() == [3]


@pytest.mark.parametrize(
    ("own", "pixels", "size"),
    [
        ((1000, 1000), 512 * 512, (512, 512)),
        ((4000, 3000), 1024 * 1024, (1184, 880)),  # 1182.4, 886.8
        ((300, 900), 512 * 512, (288, 880)),  # 295.6, 886.8: to the nearest
        ((10, 10), 256, (16, 16)),
        ((10000, 16), 256, (400, 16)),
    ],
)
def test_sizes_are_sd_clis(own, pixels, size):
    assert reference_size(*own, pixels) == size


def test_places_are_sd_clis():
    """Latent cells: beside while the whole is higher than wide, else below."""
    cells = [(64, 64), (64, 64), (32, 64)]
    assert places(cells, "fixed") == [(1, 0, 0), (1, 64, 0), (1, 0, 64)]
    assert places(cells, "increase") == [(1, 0, 0), (2, 0, 0), (3, 0, 0)]
    assert places(cells, "decrease") == [(0, 0, 0), (-1, 0, 0), (-2, 0, 0)]
    assert position_ids(32, 16, (2, 5, 7)).tolist() == [[2, 5, 7], [2, 5, 8]]


def test_samples_of_the_encoder_go_on_where_the_start_pictures_ended():
    first, second = make_noises(7, [(16, 16), (32, 16)], "cuda", after=1)
    assert first.flatten().tolist() == philox_randn(7, 64, offset=1).tolist()
    assert second.flatten().tolist() == philox_randn(7, 128, offset=2).tolist()


def test_references_are_read_in_sd_clis_sizes(tmp_path):
    path = picture_file(tmp_path / "r.png", 100, 50)
    own = np.asarray(Image.open(path).convert("RGB"))
    [lanczos] = read_reference_pictures([str(path)], ReferenceOptions(), 64, 64)
    [nearest] = read_reference_pictures(
        [str(path)], ReferenceOptions.parse("resize=nearest"), 64, 64
    )
    assert lanczos.pixels.shape == nearest.pixels.shape == (48, 96, 3)
    assert (nearest.pixels == own[np.arange(48) * 50 // 48][:, np.arange(96) * 100 // 96]).all()
    assert (lanczos.pixels != nearest.pixels).any()
    small = ReferenceOptions.parse("vae_input_max_pixels=1024; ref_index_mode=increase")
    assert ReferenceOptions.parse("vae_input_max_pixels=0").max_pixels == 1024 * 1024
    assert read_reference_pictures([str(path)] * 2, small, 64, 64)[1].place == (2, 0, 0)
    assert read_reference_pictures([str(path)], small, 64, 64)[0].pixels.shape == (16, 48, 3)
    with pytest.raises(InputError, match="is 100x50 pixels; without resizing"):
        read_reference_pictures(
            [str(path)], ReferenceOptions.parse("resize_before_vae=false"), 64, 64
        )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("preset=qwen", "preset: belongs to models that read pictures with a language model"),
        ("size=3", "'size=3': expected KEY=VALUE with resize_before_vae"),
        ("resize_before_vae=maybe", "expected true or false"),
        ("vae_input_max_pixels=10", "expected 256 to"),
        ("ref_index_mode=up", "expected fixed, increase, decrease"),
        ("resize=box", "expected antialiased or nearest"),
    ],
)
def test_arguments_that_cannot_be_taken(text, message):
    with pytest.raises(RequestError, match=message):
        ReferenceOptions.parse(text)


def test_a_kontext_file_is_known_by_what_it_is_called():
    def told(path, **metadata):
        return is_kontext(Header(Path("/models/flux") / path, "safetensors", metadata=metadata))

    assert told("flux1-dev-kontext_fp8_scaled.safetensors") == "yes"
    assert told("FLUX.1-Kontext-dev/snapshots/1a2b/transformer") == "yes"
    assert told("m.gguf", **{"general.name": "FLUX.1 Kontext"}) == "yes"
    assert told("flux1-dev.safetensors") == told("flux1-krea-dev.safetensors") == "no"
    assert told("model.safetensors") == "unknown"


# ------------------------------------------------------------------------------------- the command


@pytest.fixture
def base(micro, person):
    return (
        *encoder_flags(micro),
        *("--t5-tokenizer", micro / "tokenizer.json", "--device", "cpu"),
        *pulid_flags(micro),
        *("--pulid-id-embedding", person, "-p", "put them on a beach", "--steps", 2),
    )


def test_a_picture_with_references(generate, base, kontext, tmp_path):
    first = picture_file(tmp_path / "a.png", 100, 80)
    second = picture_file(tmp_path / "b.png", 40, 90)
    drawn = {}
    for name, flags in {
        "none": ("-W", 96, "-H", 80),
        "one": ("-r", first),
        "nearest": ("-r", first, "--ref-image-args", "resize=nearest"),
        "two": ("-r", first, "-r", second),
        "apart": ("-r", first, "-r", second, "--increase-ref-index"),
    }.items():
        out = tmp_path / f"{name}.png"
        result = generate(*base, "--diffusion-model", kontext, *flags, "-o", out)
        assert result.code == 0, result.err
        picture = Image.open(out)
        assert picture.size == (96, 80)
        drawn[name] = (picture.tobytes(), parse_description(picture.text["parameters"]))
    assert len({pixels for pixels, _ in drawn.values()}) == 5
    assert "references" not in drawn["none"][1]
    facts = drawn["two"][1]["references"]
    assert [fact["place"] for fact in facts] == [[1, 0, 0], [1, 0, 12]]
    assert [fact["size"] for fact in facts] == ["96x80", "64x128"]


def test_what_reads_no_reference_is_refused(generate, base, kontext, micro, tmp_path):
    reference = picture_file(tmp_path / "a.png", 64, 64)
    flags = ("-r", reference, "-o", tmp_path / "no.png")
    schnell, dev = micro / "flux1-schnell.safetensors", micro / "dev" / "flux1-dev.safetensors"
    run = generate(*base, "--diffusion-model", schnell, *flags)
    assert "is FLUX.1 schnell, which reads no reference picture" in run.error
    assert "does not say" not in run.err
    line = generate(*base, "--diffusion-model", dev, *flags).error
    assert "by its name not FLUX.1 Kontext" in line
    assert not (tmp_path / "no.png").exists()
    assert generate(*base, "--diffusion-model", dev, "--kontext", *flags).code == 0
    renamed = tmp_path / "model.safetensors"
    renamed.hardlink_to(kontext)
    result = generate(*base, "--diffusion-model", renamed, *flags)
    assert result.code == 0
    assert "does not say that it is FLUX.1 Kontext" in result.err
    (tmp_path / "text.png").write_text("no picture")
    bad = ("-r", tmp_path / "text.png", "-o", tmp_path / "bad.png")
    assert "text.png" in generate(*base, "--diffusion-model", kontext, *bad).error
