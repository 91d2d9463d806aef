"""Pictures drawn by stable-diffusion.cpp (97d29908), repeated through our command line. See
tests/sdcli/README.md.
"""

from __future__ import annotations

import shutil

import pytest
from gguf import GGMLQuantizationType
from support.distances import psnr
from support.models.gguf_copy import SAMPLE, write_gguf
from support.models.vocabularies import vocabulary
from support.paths import TESTS

pytestmark = pytest.mark.slow

# name -> (least PSNR in dB, the Flux and PuLID set, the flags that differ)
SIGMAS = ("--sigmas", "1.0,0.8,0.5,0.2,0")
PICTURES = {
    "q8_0": (40, "q8", (*SIGMAS, "-p", "a red bicycle", "--seed", 11, "--pulid-id-weight", 1)),
    "q4_K": (
        40,
        "q4",
        (*SIGMAS, "-p", "a red bicycle", "--seed", 11, "--guidance", 3.5, "--pulid-id-weight", 1),
    ),
    "without_pulid": (50, "m", ("-p", "a photo of a cat", "--sigmas", "1.0,0.75,0.5,0.25,0")),
    "with_pulid": (
        48,
        "m",
        ("-p", "a photo of a cat", "--sigmas", "1.0,0.75,0.5,0.25,0", "--pulid-id-weight", 1),
    ),
    "dev_guidance": (
        48,
        "dev",
        (*SIGMAS, "-p", "a red bicycle", "--seed", 12, "--guidance", 4.5, "--pulid-id-weight", 1),
    ),
    "tall": (
        48,
        "m",
        (
            *SIGMAS,
            "-p",
            "a lighthouse, oil on canvas",
            "-W",
            112,
            "-H",
            208,
            "--seed",
            13,
            "--pulid-id-weight",
            1,
        ),
    ),
    "weight_0.6": (
        48,
        "m",
        (*SIGMAS, "-p", "a red bicycle", "--seed", 14, "--pulid-id-weight", 0.6),
    ),
    "rng_cpu": (
        48,
        "m",
        (*SIGMAS, "-p", "a red bicycle", "--seed", 15, "--rng", "cpu", "--pulid-id-weight", 1),
    ),
}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """1.1 GB of seeded checkpoints, the same tensors that sd-cli drew from; removed after."""
    from seeded.checkpoints import write_checkpoints, write_embedding

    folder = tmp_path_factory.mktemp("sdcli")
    write_checkpoints(folder / "m", seed=11, vae_channels=128)
    write_checkpoints(
        folder / "dev", seed=12, depth=3, single=5, guidance=True, only=("flux", "pulid")
    )
    write_checkpoints(folder / "q4", seed=21, depth=1, single=2, guidance=True, only=("pulid",))
    write_gguf(
        folder / "m" / "flux.safetensors", folder / "m" / "flux-q8.gguf", GGMLQuantizationType.Q8_0
    )
    write_embedding(folder / "me.pulidembd", 5)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.parametrize("name", PICTURES)
def test_sd_clis_pictures_are_repeated(generate, checkpoints, tmp_path, name):
    least, kit, flags = PICTURES[name]
    shared = checkpoints / "m"
    flux = {"q8": shared / "flux-q8.gguf", "q4": SAMPLE}.get(
        kit, checkpoints / kit / "flux.safetensors"
    )
    pulid = (shared if kit == "q8" else checkpoints / kit) / "pulid_flux_v0.9.1.safetensors"
    identity = ("--pulid-weights", pulid, "--pulid-id-embedding", checkpoints / "me.pulidembd")
    result = generate(
        *(
            "--diffusion-model",
            flux,
            "--vae",
            shared / "ae.safetensors",
            "--clip_l",
            shared / "clip_l.safetensors",
        ),
        *("--t5xxl", shared / "t5xxl.safetensors", "--t5-tokenizer", vocabulary("tokenizer_2")),
        *(
            "--cfg-scale",
            1.0,
            "--sampling-method",
            "euler",
            "--steps",
            4,
            "-W",
            128,
            "-H",
            128,
            "--seed",
            42,
            "--rng",
            "cuda",
        ),
        *("--disable-image-metadata", "--device", "cpu", "-o", tmp_path / "ours.png"),
        *(identity if "--pulid-id-weight" in flags else ()),
        *flags,
    )
    assert result.code == 0, result.err
    assert psnr(tmp_path / "ours.png", TESTS / "sdcli" / f"{name}.png") >= least


def test_another_prompt_would_be_noticed():
    assert psnr(TESTS / "sdcli" / "with_pulid.png", TESTS / "sdcli" / "without_pulid.png") < 30
