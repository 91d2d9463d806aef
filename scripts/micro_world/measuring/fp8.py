"""Measures what --compute fp8 costs in likeness and in obedience to prompts, on the small world.

    PYTHONPATH=scripts python -m micro_world.measuring.fp8 [--people 3] [--scenes 8] [--steps 8]

Without a card the same numbers are rounded to 8 bits and multiplied in float32: the rounding is
what is measured, not the time. Both ways read the world's Flux in 16 bits, widened first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from micro_world.measuring.preservation import (
    JUDGED,
    MODELS,
    Eyes,
    Gallery,
    Seen,
    read,
    scenes,
    write_people,
)
from micro_world.prompts import plain_prompt
from pulid_extract.shared.model_files import read_header
from pulid_generate import cli
from pulid_generate.demo.world import DRAW
from pulid_generate.files.layouts import FLUX_MARKER
from pulid_generate.models.tensor_files import read_tensors
from pulid_generate.pipeline import loading

FLUX = "flux1-schnell-Q8_0.gguf"
COMPUTES = ("float", "fp8")


def widened(folder: Path) -> Path:
    """The world's Flux with every matrix in bfloat16."""
    path = folder / "flux1-schnell.safetensors"
    tensors = {}
    for name, tensor in read_tensors(
        read_header(MODELS / FLUX), FLUX_MARKER, "cpu", torch.bfloat16, packed=False
    ):
        tensors[name] = tensor.clone()
    save_file(tensors, path)
    return path


def draw(rows: Path, flux: Path, folder: Path, compute: str, steps: int) -> None:
    """Every row's picture, in this process, in which a CPU may take fp8's place."""
    arguments = ["batch", rows, "--output-dir", folder, "--models-dir", MODELS, "--no-cache"]
    arguments += [*DRAW, "--steps", steps, "--diffusion-model", flux, "--dtype", "bfloat16"]
    arguments += ["--compute", compute, "--quiet"]
    sys.argv = ["pulid-generate", *map(str, arguments)]
    stand_in = loading.reason_against
    loading.reason_against = lambda device, dtype: ""  # type: ignore[assignment]
    try:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            cli.main()
    except SystemExit as stop:
        if stop.code:
            raise
    finally:
        loading.reason_against = stand_in


def world(people: int, count: int, steps: int, folder: Path) -> list[dict[str, Any]]:
    """One line of numbers for each way of computing."""
    identities, others = write_people(folder, people)
    told = scenes(count)
    keys = [(person, scene) for person in range(people) for scene in range(count)]
    rows = []
    for number, (person, scene) in enumerate(keys):
        identity = identities[person]
        row = {"prompt": plain_prompt(told[scene]), "seed": 1000 + scene}
        rows.append(row | {"pulid-id-embedding": str(identity), "output": f"{number:04d}.png"})
    manifest = folder / "rows.jsonl"
    manifest.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    flux = widened(folder)
    pictures: dict[str, list[np.ndarray]] = {}
    for compute in COMPUTES:
        (folder / compute).mkdir()
        draw(manifest, flux, folder / compute, compute, steps)
        pictures[compute] = [read(folder / compute / str(row["output"])) for row in rows]
    eyes = Eyes(MODELS)
    gallery = Gallery(eyes, others)
    lines = []
    for compute in COMPUTES:
        seen, distances = [], []
        for (person, scene), picture, plain in zip(
            keys, pictures[compute], pictures["float"], strict=True
        ):
            seen.append(Seen(person, scene, 1.0, eyes.who(picture), eyes.what(picture)))
            distances.append(np.mean((picture.astype(float) - plain) ** 2))
        line = {"compute": compute, "pictures": len(seen)}
        line["cosine"] = float(np.mean([gallery.cosine(one) for one in seen]))
        line["picked"] = float(np.mean([gallery.picked(one) for one in seen]))
        line["prompt"] = obeyed(seen, told)
        line["psnr"] = 10 * np.log10(255**2 / max(float(np.mean(distances)), 1e-9))
        lines.append(line)
    return lines


def obeyed(seen: Sequence[Seen], told: Sequence[Any]) -> dict[str, float]:
    """Share of pictures that show each thing the prompt asks for."""
    shares = {}
    for choice in JUDGED:
        right = [one.choices[choice] == getattr(told[one.scene], choice) for one in seen]
        shares[choice] = float(np.mean(right))
    return shares


def table(lines: list[dict[str, Any]]) -> str:
    heads = ("compute", "pictures", "likeness", "picked", *JUDGED, "prompts", "PSNR")
    told = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for line in lines:
        cells = [line["compute"], line["pictures"], f"{line['cosine']:.3f}"]
        cells.append(f"{line['picked']:.0%}")
        cells += [f"{line['prompt'][choice]:.1%}" for choice in JUDGED]
        cells.append(f"{np.mean(list(line['prompt'].values())):.1%}")
        cells.append("" if line is lines[0] else f"{line['psnr']:.1f} dB")
        told.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=8)
    parser.add_argument("--steps", type=int, default=8)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(table(world(asked.people, asked.scenes, asked.steps, Path(folder))))


if __name__ == "__main__":
    main()
