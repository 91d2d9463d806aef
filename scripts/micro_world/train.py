"""Trains the whole small world from seeds and writes its files.

    PYTHONPATH=scripts python -m micro_world.train [--folder build/micro_world] [--models FOLDER]
        [STAGE..]

Stages resume where they were stopped; what is finished is not done again. Progress on standard
error; the table of files on standard output, and the losses as a picture in FOLDER/losses.png.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from micro_world.networks import (
    autoencoder,
    clip_judge,
    detector,
    identity,
    painter,
    prompt_judge,
    recognisers,
    tower,
)
from micro_world.training import export, plot

FLUX, PULID = "flux1-schnell-Q8_0.gguf", "pulid_flux_v0.9.1.safetensors"
EVA = "EVA02_CLIP_L_336_psz14_s6B.safetensors"
AE, CLIP, T5, WORDS = (
    "ae.safetensors",
    "clip_l.safetensors",
    "t5xxl_fp16.safetensors",
    "tokenizer.json",
)
PACK = "antelopev2"
GLINT, SCRFD = f"{PACK}/glintr100.onnx", f"{PACK}/scrfd_10g_bnkps.onnx"
JUDGE, PROMPT_JUDGE = "judge/recogniser.onnx", "prompt_judge/prompts.onnx"
CLIP_JUDGE = "clip_judge/clip.onnx"
CARD = Path(__file__).parent / "models" / "README.md"


class World:
    """Each network, trained when it is first asked for; what it is learnt with comes first. folder:
    of data and checkpoints.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    @cache  # noqa: B019  there is one world in a process
    def autoencoder(self) -> Any:
        return autoencoder.trained(self.folder)

    @cache  # noqa: B019
    def painter(self) -> painter.Painter:
        return painter.trained(self.folder)

    @cache  # noqa: B019
    def glint(self) -> Any:
        return recognisers.trained(recognisers.GLINT, self.folder)

    @cache  # noqa: B019
    def judge(self) -> Any:
        return recognisers.trained(recognisers.JUDGE, self.folder)

    @cache  # noqa: B019
    def prompt_judge(self) -> Any:
        return prompt_judge.trained(self.folder)

    @cache  # noqa: B019
    def clip_judge(self) -> Any:
        return clip_judge.trained()

    @cache  # noqa: B019
    def detector(self) -> detector.Detector:
        return detector.trained(self.folder)

    @cache  # noqa: B019
    def tower(self) -> Any:
        return tower.trained(self.folder)

    @cache  # noqa: B019
    def identity(self) -> identity.Identity:
        return identity.trained(self.folder, self.painter(), self.glint(), self.tower())


def _write_painter(world: World, models: Path) -> None:
    trained = world.painter()
    export.write_flux(trained.flux, models / FLUX)
    export.write_t5(trained.reader.t5, models / T5)
    export.write_clip(trained.reader.clip, trained.reader.clip_ids, models / CLIP)
    (models / WORDS).write_bytes((world.folder / WORDS).read_bytes())


# Name -> what writes its files.
STAGES: dict[str, Callable[[World, Path], object]] = {
    "glint": lambda world, models: recognisers.export(world.glint(), models / GLINT),
    "tower": lambda world, models: export.write_tower(world.tower(), models / EVA),
    "painter": _write_painter,
    "identity": lambda world, models: export.write_pulid(world.identity(), models / PULID),
    "autoencoder": lambda world, models: export.write_autoencoder(world.autoencoder(), models / AE),
    "judge": lambda world, models: recognisers.export(world.judge(), models / JUDGE),
    "prompt_judge": lambda world, models: prompt_judge.export(
        world.prompt_judge(), models / PROMPT_JUDGE
    ),
    # of the finished prompt_judge
    "clip_judge": lambda world, models: clip_judge.export(
        world.clip_judge(), models / PROMPT_JUDGE, models / CLIP_JUDGE
    ),
    "detector": lambda world, models: detector.export(world.detector(), models / SCRFD),
}


def write(world: World, models: Path, stage: str) -> None:
    """The files of one stage, and the card beside them."""
    # the judges lie apart: a folder of two networks would be taken for an antelopev2
    for file in (GLINT, JUDGE, PROMPT_JUDGE, CLIP_JUDGE):
        (models / file).parent.mkdir(parents=True, exist_ok=True)
    if not (models / CARD.name).exists():
        (models / CARD.name).write_bytes(CARD.read_bytes())
    STAGES[stage](world, models)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "stages", nargs="*", metavar="STAGE", help=f"one of {', '.join(STAGES)}; all by default"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("build/micro_world"),
        help="for data and checkpoints, about 11 GB",
    )
    parser.add_argument(
        "--models", type=Path, default=Path(__file__).parent / "models", help="where the files go"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="default: every core this process may use",
    )
    arguments = parser.parse_args()
    if wrong := set(arguments.stages) - set(STAGES):
        parser.error(f"no such stage: {', '.join(sorted(wrong))}; there are {', '.join(STAGES)}")
    torch.set_num_threads(arguments.threads)
    world = World(arguments.folder)
    for stage in arguments.stages or STAGES:
        write(world, arguments.models, stage)
        print(f"{stage}: written", file=sys.stderr, flush=True)
    plot.losses(arguments.folder, arguments.folder / "losses.png")
    for path in sorted(path for path in arguments.models.rglob("*") if path.is_file()):
        print(f"{path.stat().st_size:>12,}  {path.relative_to(arguments.models)}")


if __name__ == "__main__":
    main()
