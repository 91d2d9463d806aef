"""What can stand beside each other in one picture: references, ControlNets, a larger pass and a
cache of steps, among pictures that have none of them.
"""

from __future__ import annotations

import json

import pytest
from support.models.control_files import write_control
from support.models.micro_flags import encoder_flags, pulid_flags
from support.pictures.picture_files import encode, gradient

from pulid_extract.shared.model_files import read_header
from pulid_generate.models.flux import flux_shape

SIZE = ("-W", 64, "-H", 48, "--steps", 4)
CACHE = {"cache_mode": "dbcache", "cache_option": "Fn=1,warmup=1,threshold=9"}


@pytest.fixture(scope="module")
def kontext(micro, tmp_path_factory):
    """The micro dev model under Kontext's name."""
    path = tmp_path_factory.mktemp("kontext") / "flux1-kontext-dev.safetensors"
    path.hardlink_to(micro / "dev" / "flux1-dev.safetensors")
    return path


def test_each_picture_is_what_it_is_alone(generate, kontext, micro, person, tmp_path):
    sizes = flux_shape(read_header(kontext))
    shape = {"width": sizes.width, "context": sizes.context, "pooled": sizes.pooled}
    net = write_control(tmp_path / "edges.safetensors", **shape)
    picture = tmp_path / "picture.png"
    picture.write_bytes(encode(gradient(32, 80)))
    control = {"control_net": [str(net)], "control_image": [str(picture)]}
    rows = [
        {"ref_image": [str(picture)], **control, **CACHE, "hires": True},
        {"cfg_scale": 2, "negative_id": "same"},
        {"hires": True, "hires_upscaler": "Lanczos", "ref_image": [str(picture)]},
    ]
    base = (
        *("--diffusion-model", kontext, *encoder_flags(micro), *pulid_flags(micro)),
        *("--t5-tokenizer", micro / "tokenizer.json", "--device", "cpu"),
        *("--pulid-id-embedding", person, "-p", "a cat", *SIZE),
    )
    manifest = tmp_path / "rows.jsonl"
    lines = [json.dumps({**row, "output": f"{number}.png"}) for number, row in enumerate(rows)]
    manifest.write_text("\n".join(lines))
    done = generate("batch", manifest, *base, "--output-dir", tmp_path)
    assert done.code == 0, done.err
    for number, row in enumerate(rows):
        flags = []
        for name, value in row.items():
            flag = f"--{name.replace('_', '-')}"
            values = value if isinstance(value, list) else [value]
            flags += [flag] if value is True else [part for one in values for part in (flag, one)]
        alone = tmp_path / "alone.png"
        assert generate(*base, *flags, "-o", alone).code == 0
        assert alone.read_bytes() == (tmp_path / f"{number}.png").read_bytes()
