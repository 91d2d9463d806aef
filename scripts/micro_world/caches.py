"""Measures what --cache-mode costs and wins: the small world's pictures, and a seeded Flux with as
many blocks as the published one.

    PYTHONPATH=scripts python -m micro_world.caches [--people 3] [--scenes 2] [--steps 28]

Prints the tables of docs/caching.md as Markdown. The world's pictures go through `pulid-generate
batch`, every case of one person and scene in turn, so that seconds can be compared; who and what is
seen say `micro_world.judges`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from micro_world.judges import MODELS, Eyes, Gallery, Seen, read
from micro_world.measure import JUDGED, extract, scenes, write_portraits
from micro_world.prompts import plain_prompt
from pulid_generate.demo.world import DRAW

# mode and options
CASES = (
    ("", ""),
    ("easycache", ""),
    ("easycache", "threshold=0.1"),
    ("dbcache", "Fn=1"),
    ("dbcache", "Fn=1,warmup=4,threshold=0.12"),
    ("taylorseer", "Fn=1"),
    ("taylorseer", "Fn=1,warmup=4,interval=2"),
    ("cache-dit", "Fn=1"),
    ("cache-dit", "Fn=1,warmup=4,threshold=0.12,continuous=3"),
)
TOLD = re.compile(r"row (\d+): (\d+) of (\d+) forwards reused")
# of the world's Flux
BLOCKS = 8


def world(people: int, count: int, steps: int, folder: Path) -> list[dict[str, Any]]:
    """One line of numbers for each case."""
    portraits = write_portraits(folder / "portraits", people, views=2)
    first, second = portraits[::2], portraits[1::2]
    for path in second:
        path.rename(folder / path.name)
    extract(MODELS, folder / "portraits", folder / "identities")
    told = scenes(count)
    keys = [(case, p, s) for p in range(people) for s in range(count) for case in CASES]
    rows = []
    for number, ((mode, option), person, scene) in enumerate(keys):
        row = {
            "prompt": plain_prompt(told[scene]),
            "seed": 1000 + scene,
            "pulid-id-embedding": str(folder / "identities" / f"{first[person].stem}.pulidembd"),
            "output": f"{number:04d}.png",
        }
        if mode:
            row |= {"cache-mode": mode, "cache-option": option}
        rows.append(row)
    manifest = folder / "rows.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    command = [Path(sys.executable).with_name("pulid-generate"), "batch", manifest, "-v"]
    command += ["--output-dir", folder, "--models-dir", MODELS, "--no-cache", *map(str, DRAW)]
    done = subprocess.run(
        [*map(str, command), "--steps", str(steps)], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    seconds = {line["row"]: line["seconds"] for line in map(json.loads, done.stdout.splitlines())}
    reused = {int(row): int(some) for row, some, _ in TOLD.findall(done.stderr)}

    eyes = Eyes(MODELS)
    gallery = Gallery(eyes, [folder / path.name for path in second])
    pictures = [read(folder / row["output"]) for row in rows]
    lines = []
    for index, (mode, option) in enumerate(CASES):
        mine = range(index, len(keys), len(CASES))
        seen, distance = [], []
        for number in mine:
            _, person, scene = keys[number]
            picture, plain = pictures[number], pictures[number - index]
            seen.append(Seen(person, scene, 1.0, eyes.who(picture), eyes.what(picture)))
            distance.append(np.mean((picture.astype(float) - plain) ** 2))
        obeyed = [
            one.choices[choice] == getattr(told[one.scene], choice)
            for one in seen
            for choice in JUDGED
        ]
        whole = steps - np.mean([reused.get(number + 1, 0) for number in mine])
        cheap = 0.0 if mode == "easycache" else 1 / BLOCKS
        lines.append(
            {
                "mode": mode or "none",
                "option": option,
                "computed": whole,
                "faster": steps / (whole + (steps - whole) * cheap),
                "seconds": float(np.mean([seconds[number + 1] for number in mine])),
                "psnr": 10 * np.log10(255**2 / max(float(np.mean(distance)), 1e-9)),
                "cosine": float(np.mean([gallery.cosine(one) for one in seen])),
                "prompt": float(np.mean(obeyed)),
            }
        )
    return lines


def table(lines: list[dict[str, Any]]) -> str:
    plain = lines[0]
    told = [
        "| mode | options | steps computed | fewer blocks | faster | PSNR | likeness | prompts |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        psnr = "" if line is plain else f"{line['psnr']:.1f} dB"
        told.append(
            f"| {line['mode']} | {line['option']} | {line['computed']:.1f} | "
            f"{line['faster']:.2f}x | {plain['seconds'] / line['seconds']:.2f}x | {psnr} | "
            f"{line['cosine']:.3f} ({line['cosine'] - plain['cosine']:+.3f}) | "
            f"{line['prompt']:.1%} |"
        )
    return "\n".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=28)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(table(world(asked.people, asked.scenes, asked.steps, Path(folder))))


if __name__ == "__main__":
    main()
