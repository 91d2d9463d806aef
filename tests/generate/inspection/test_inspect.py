"""`pulid-generate inspect`: every layout named, sizes and types counted from headers of the real
files' size, damage told in one line.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from seeded import public_layouts
from support.models.hollow_files import DEV, hollow, stored
from support.models.portrait_models import write_antelopev2
from support.paths import ROOT

from pulid_extract.shared.errors import WeightsError
from pulid_generate.files.storage import NUMBER_BYTES
from pulid_generate.inspection.inspect import files_of, inspect
from pulid_generate.pictures.picture import encode_pixels

SCHNELL = public_layouts.flux(3072, context=4096)
SMALL = public_layouts.flux(256, depth=3, single=5)
T5 = public_layouts.t5(64)
REAL = [  # name, tensors, parameters, facts: the table of the public files
    (
        "flux1-dev",
        stored(DEV, "BF16"),
        11_901_408_320,
        {"model": "dev (or Krea, Kontext)", "width": 3072, "hook_places": 20},
    ),
    (
        "flux1-schnell",
        stored(SCHNELL, "BF16"),
        11_891_178_560,
        {"model": "schnell", "double_blocks": 19, "single_blocks": 38},
    ),
    ("ae", stored(public_layouts.autoencoder(), "F32"), 83_819_683, {"latent_channels": 16}),
    (
        "clip_l",
        stored(public_layouts.clip_l(), "F16"),
        123_060_480,
        {"layers": 12, "width": 768, "vocabulary": 49408},
    ),
    (
        "pulid_flux_v0.9.1",
        stored({**public_layouts.pulid_ca(3072, 20), **public_layouts.pulid_encoder()}, "BF16"),
        571_033_600,
        {"layers": 20, "width": 3072, "token_width": 2048, "id_tokens": 32, "encoder": True},
    ),
]


@pytest.mark.parametrize(
    ("name", "tensors", "parameters", "facts"), REAL, ids=[row[0] for row in REAL]
)
def test_the_public_files(name, tensors, parameters, facts, tmp_path):
    found = inspect(hollow(tmp_path / f"{name}.safetensors", tensors))
    [part] = found.parts
    assert part.parameters == parameters
    assert {key: part.facts[key] for key in facts} == facts
    width = NUMBER_BYTES[next(iter(part.dtypes))]
    assert part.memory == {
        "stored": width * parameters,
        "bf16": 2 * parameters,
        "f32": 4 * parameters,
    }
    assert found.size == (tmp_path / f"{name}.safetensors").stat().st_size
    assert not part.refusal


def test_t5s_table_is_counted_once_although_it_is_stored_twice(tmp_path):
    once = {
        name: entry
        for name, entry in stored(T5, "F16").items()
        if name != "encoder.embed_tokens.weight"
    }
    twice = {**once, "encoder.embed_tokens.weight": once["shared.weight"]}
    one, two = (
        inspect(hollow(tmp_path / name, entries)) for name, entries in (("a", once), ("b", twice))
    )
    assert one.parts == two.parts
    assert two.size > one.size
    assert one.parts[0].facts == {"layers": 2, "width": 64, "vocabulary": 32128}


# ------------------------------------------------------------------------------------------ layouts


def scaled(
    layout: public_layouts.Layout, shape: tuple[int, ...], ending: str = "scale_weight"
) -> dict[str, tuple[str, tuple[int, ...]]]:
    matrices = [name for name, (shape, _) in layout.items() if len(shape) == 2]
    quantised = {
        name: ("F8_E4M3" if name in matrices else "BF16", entry[0])
        for name, entry in layout.items()
    }
    scales = {
        name.removesuffix("weight") + ending: ("F32", (layout[name][0][0], 1) if shape else ())
        for name in matrices
    }
    return {**quantised, **scales}


@pytest.mark.parametrize(
    ("entries", "flavour"),
    [
        (stored(SMALL, "F8_E4M3"), "e4m3, plain"),
        (stored(SMALL, "F8_E5M2"), "e5m2, plain"),
        (scaled(SMALL, ()), "e4m3, a scale per matrix"),
        (scaled(SMALL, (1,), "weight_scale"), "e4m3, a scale per row"),
        (
            {**scaled(SMALL, ()), "img_in.comfy_quant": ("U8", (20,))},
            "e4m3, a scale per matrix, named by comfy_quant",
        ),
        (stored(SMALL, "BF16"), None),
    ],
)
def test_flavours_of_fp8(entries, flavour, tmp_path):
    [part] = inspect(hollow(tmp_path / "x.safetensors", entries)).parts
    assert part.facts.get("fp8") == flavour
    assert (
        part.parameters
        == inspect(hollow(tmp_path / "y.safetensors", stored(SMALL, "BF16"))).parts[0].parameters
    )


def all_in_one() -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        **stored(SMALL, "F8_E4M3", "model.diffusion_model."),
        **stored(public_layouts.clip_l(64, 2), "F16", "text_encoders.clip_l.transformer."),
        **stored(T5, "F8_E4M3", "text_encoders.t5xxl.transformer."),
        **stored(public_layouts.autoencoder(32), "F32", "vae."),
    }


def test_an_all_in_one_is_shown_part_by_part(tmp_path):
    found = inspect(hollow(tmp_path / "x.safetensors", all_in_one()))
    assert found.layout == "ComfyUI all-in-one"
    kinds = {part.kind: part for part in found.parts}
    assert set(kinds) == {
        "Flux transformer",
        "CLIP-L text encoder",
        "T5 encoder",
        "Flux autoencoder",
    }
    assert kinds["Flux transformer"].facts["double_blocks"] == 3
    assert kinds["T5 encoder"].dtypes.keys() == {"F8_E4M3"}
    assert kinds["Flux autoencoder"].dtypes.keys() == {"F32"}
    assert found.as_text().count("  part ") == 4
    assert "together" in found.as_text()


def test_a_diffusers_pipeline(tmp_path):
    names = {
        "x_embedder.weight": ("BF16", (256, 64)),
        "context_embedder.weight": ("BF16", (256, 128)),
        "transformer_blocks.2.attn.to_q.weight": ("BF16", (256, 256)),
        "single_transformer_blocks.4.attn.to_q.weight": ("BF16", (256, 256)),
    }
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    hollow(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors", names)
    hollow(tmp_path / "text_encoder_2" / "model.safetensors", stored(T5, "BF16"))
    found = inspect(tmp_path)
    assert found.layout == "diffusers pipeline"
    flux = next(part for part in found.parts if part.kind == "diffusers Flux transformer")
    assert (flux.facts["model"], flux.facts["double_blocks"], flux.facts["single_blocks"]) == (
        "schnell",
        3,
        5,
    )
    assert found.size == sum(file.stat().st_size for file in tmp_path.rglob("*.safetensors"))
    assert files_of(tmp_path) == [tmp_path]


def gguf_file(path: Path, architecture: str, prefix: str = "") -> Path:
    import gguf

    writer = gguf.GGUFWriter(path, architecture or "none")
    if not architecture:
        writer.kv_data[0].clear()
    matrix = np.ones((32, 64), np.float32)
    packed = gguf.quantize(matrix, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor(f"{prefix}img_in.weight", matrix)
    name = f"{prefix}double_blocks.0.img_attn.qkv.weight"
    writer.add_tensor(name, packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "prefix", "layout"),
    [
        ("flux", "", "GGUF as city96 writes it (architecture flux)"),
        (
            "",
            "model.diffusion_model.",
            "GGUF as sd.cpp writes it (no architecture), names behind 'model.diffusion_model.'",
        ),
    ],
)
def test_ggufs_are_counted_by_blocks(architecture, prefix, layout, tmp_path):
    found = inspect(gguf_file(tmp_path / "x.gguf", architecture, prefix))
    assert (found.kind, found.layout) == ("Flux transformer", layout)
    [part] = found.parts
    assert part.dtypes == {"F32": 2048, "Q8_0": 2048}
    assert part.stored == 2048 * 4 + 2048 // 32 * 34


@pytest.mark.parametrize(
    ("entries", "kind", "refusal"),
    [
        ({"id_adapter.x": ("BF16", (2,))}, "SDXL PuLID file (pulid_v1.1)", "belongs to SDXL"),
        (
            {**stored(SMALL, "BF16"), "img_in.weight": ("BF16", (256, 384))},
            "Flux Fill transformer",
            "use FLUX.1 dev or schnell with -i PICTURE --mask PICTURE",
        ),
        (
            {**stored(SMALL, "BF16"), "img_in.weight": ("BF16", (256, 128))},
            "Flux Canny or Depth transformer",
            "use FLUX.1 dev or schnell",
        ),
        (
            {"redux_down.weight": ("BF16", (64, 24)), "redux_up.weight": ("BF16", (24, 16))},
            "Flux Redux adapter",
            "say it in the prompt, or start from a picture with -i",
        ),
        (
            {**stored(SMALL, "BF16"), "x.absmax": ("F32", (1,)), "x.quant_map": ("F32", (16,))},
            "bitsandbytes nf4 file",
            "cannot be read",
        ),
    ],
)
def test_what_cannot_be_used_is_named_with_the_reason(entries, kind, refusal, tmp_path):
    found = inspect(hollow(tmp_path / "x.safetensors", entries))
    assert found.parts[0].kind == kind
    assert refusal in found.parts[0].refusal
    assert "refused" in found.as_text()


def test_pickles_folders_and_loras(tmp_path):
    import torch

    torch.save(
        {"visual.cls_token": torch.ones(1), "visual.pos_embed": torch.ones(1)}
        | {"visual.patch_embed.proj.weight": 0},
        tmp_path / "e.pt",
    )
    eva = inspect(tmp_path / "e.pt")
    assert (eva.kind, eva.parts[0].parameters, eva.parts[0].memory) == (
        "EVA-CLIP tower",
        None,
        None,
    )
    pack = inspect(write_antelopev2(tmp_path / "pack"))
    assert (pack.kind, "glintr100.onnx" in pack.parts[0].facts["networks"]) == (
        "antelopev2 folder",
        True,
    )
    assert pack.size == sum(file.stat().st_size for file in (tmp_path / "pack").glob("*.onnx"))
    down = np.ones((16, 64), np.float32)
    save_file(
        {"a.lora_A.weight": down, "a.lora_B.weight": down.T.copy()}, tmp_path / "l.safetensors"
    )
    lora = inspect(tmp_path / "l.safetensors")
    assert (lora.kind, lora.facts) == ("LoRA", {"layers": 1, "rank": 16})


# -------------------------------------------------------------------------------------- the command


def test_identities_and_pictures(person, tmp_path, generate):
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt(
        "parameters",
        'a cat\nSteps: 4\n{"pulid_generate": "0.1.0", "prompt": "a cat", "seed": 7, '
        '"sigmas": [1.0, 0.0]}',
    )
    Image.new("RGB", (32, 16)).save(tmp_path / "ours.png", pnginfo=info)
    Image.new("RGB", (32, 16)).save(tmp_path / "other.png")
    run = generate("inspect", person, tmp_path / "ours.png", tmp_path / "other.png", "--json")
    assert run.code == 0, run.err
    identity, ours, other = map(json.loads, run.out.splitlines())
    assert (identity["tokens"], identity["uncond"], len(identity["sha256"])) == (
        [32, 2048],
        False,
        64,
    )
    assert (ours["prompt"], ours["seed"], ours["size"]) == ("a cat", 7, [32, 16])
    assert "prompt" not in other
    told = generate("inspect", person, tmp_path / "ours.png").out.decode()
    assert re.search(r"tokens +32 x 2048\n", told)
    assert re.search(r"size +32 x 16\n", told)
    assert re.search(r"sigmas +1\.0, 0\.0\n", told)


def test_a_damaged_file_does_not_hide_the_others(tmp_path, generate):
    good = hollow(tmp_path / "good.safetensors", stored(SMALL, "BF16"))
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(good.read_bytes()[:-7])
    run = generate("inspect", bad, good)
    assert "truncated" in run.error
    assert "1 of the files cannot be shown" in run.error
    assert str(good).encode() in run.out
    run = generate("inspect", bad, good, "--json")
    first, second = map(json.loads, run.out.splitlines())
    assert (run.code, "truncated" in first["error"], second["kind"]) == (
        1,
        True,
        "Flux transformer",
    )
    assert generate("inspect", good).code == 0
    assert (
        generate("inspect", tmp_path / "none.gguf").error
        == f"pulid-generate: error: {tmp_path / 'none.gguf'}: no such file"
    )
    assert generate("inspect").code == 2


def test_a_folder_of_models_is_shown_file_by_file(micro, generate):
    run = generate("inspect", micro, "--json")
    assert run.code == 0, run.err
    shown = {
        Path(line["path"]).name: line["kind"] for line in map(json.loads, run.out.splitlines())
    }
    assert shown["clip_l.safetensors"] == "CLIP-L text encoder"
    assert len(shown) == 6
    with pytest.raises(WeightsError, match="a folder without model files"):
        files_of(ROOT / "docs")


def test_no_torch_for_a_header(micro):
    code = (
        "import sys; from pulid_generate import cli; sys.argv = ['x', 'inspect', sys.argv[1]]\n"
        "try: cli.main()\nexcept SystemExit: pass\nprint(sorted({'torch', 'diffusers', "
        "'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, micro / "ae.safetensors"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
    assert "Flux autoencoder" in done.stdout


@pytest.mark.parametrize(("suffix", "name"), [("png", "PNG"), ("jpg", "JPEG"), ("webp", "WEBP")])
def test_every_format_that_is_written_is_read(generate, tmp_path, suffix, name):
    pixels = np.zeros((16, 32, 3), np.uint8)
    text = 'a cat\nSteps: 1\n{"pulid_generate": "0", "seed": 7}'
    for parameters, layout in (
        (text, f"{name} of pulid-generate"),
        (None, f"{name}, not written by pulid-generate"),
    ):
        picture = tmp_path / f"a.{suffix}"
        picture.write_bytes(encode_pixels(pixels, name, parameters))
        run = generate("inspect", picture, "--json")
        assert run.code == 0, run.err
        told = json.loads(run.out)
        assert (told["kind"], told["layout"]) == ("picture", layout)
