"""Measures what --cache-mode costs and wins: on the small world's pictures, and on a seeded Flux
that is shaped as the published dev, with its guidance and its 19 + 38 blocks, but narrower.

    PYTHONPATH=scripts python -m micro_world.measuring.caches [world] [seeded]
        [--people 3] [--scenes 2] [--steps 28] [--width 256] [--side 160]

Prints the tables of docs/caching.md as Markdown, two minutes each on an idle core. One thread draws
every case of a picture in turn, and what counts is the processor's time: neither waiting for others
nor threads that wait for each other are in it. Who and what is seen in the small world says
`micro_world.measuring.judges`; a seeded Flux draws noise, in which nobody is.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from seeded.checkpoints import write_checkpoints, write_embedding
from seeded.micro_models import write_tokenizer

from micro_world.measuring.judges import MODELS, SIDE, Eyes, Gallery, Seen
from micro_world.measuring.preservation import JUDGED, scenes, write_people
from micro_world.prompts import plain_prompt
from pulid_generate import GenerationRequest, ModelFiles, Pipeline, Placement, read_embedding
from pulid_generate.pipeline.pipeline import JobsInOrder
from pulid_generate.request.step_cache import StepCache

# What the engine says of a picture
TOLD = re.compile(r"(\d+) of (\d+) forwards reused")
# Steps at the beginning that a mask has computed
FIRST_STEPS = 6
SEED = 7


@dataclass(frozen=True)
class Case:
    """What is asked for of --cache-mode and --cache-option."""

    mode: str = ""
    option: str = ""
    # With --scm-policy static and a mask: six steps, then every so many; 0 without
    every: int = 0

    def cache(self, steps: int) -> StepCache | None:
        """As a request has it."""
        if not self.mode:
            return None
        if not self.every:
            return StepCache.parse(self.mode, self.option)
        return StepCache.parse(self.mode, self.option, self.mask(steps), "static")

    def mask(self, steps: int) -> str:
        """For --scm-mask; the last step is computed."""
        marks = []
        for step in range(steps):
            is_due = (step - FIRST_STEPS + 1) % self.every == 0
            marks.append("1" if step < FIRST_STEPS or is_due or step == steps - 1 else "0")
        return ",".join(marks)

    @property
    def options(self) -> str:
        """For the table."""
        if not self.every:
            return self.option
        return f"{self.option}, mask"


CASES = (
    Case(),
    Case("easycache"),
    Case("easycache", "threshold=0.1"),
    Case("dbcache", "Fn=1"),
    Case("dbcache", "Fn=1,warmup=4,threshold=0.12"),
    Case("taylorseer", "Fn=1"),
    Case("taylorseer", "Fn=1,warmup=4,interval=2"),
    Case("cache-dit", "Fn=1"),
    Case("cache-dit", "Fn=1,warmup=4,threshold=0.12,continuous=3"),
    Case("cache-dit", "Fn=1", every=3),
)
# A Flux of noise changes its mind more from step to step than one that was trained
SEEDED_CASES = (
    *CASES[:3],
    Case("easycache", "threshold=0.5"),
    Case("easycache", "threshold=1"),
    *CASES[3:],
)


@dataclass(frozen=True)
class Drawn:
    """One picture, and what it took."""

    pixels: np.ndarray
    # Seconds of the processor: of denoising, and of all but the prompt
    denoising: float
    whole: float
    # Steps that were computed in full
    computed: int


def draw(files: ModelFiles, requests: Sequence[tuple[GenerationRequest, Path]]) -> Iterator[Drawn]:
    """Each request with its identity."""
    told: list[str] = []
    pipeline = Pipeline(files, Placement.choose("cpu", "float32"), told.append)
    jobs = []
    for request, identity in requests:
        jobs.append(pipeline.job(request, read_embedding(identity)))
    with pipeline.engine(staying="all") as engine:
        caller = JobsInOrder([engine.expect(job) for job in jobs])
        engine.encode([prompt for job in jobs for prompt in job.all_prompts])
        # what is loaded and folded with the first picture is not its own
        next(engine.draw([[0]], caller)).decode()
        told.clear()
        started = time.process_time()
        for denoised in engine.draw([[place] for place in range(len(jobs))], caller):
            denoising = time.process_time() - started
            pixels = denoised.decode().pixels
            whole = time.process_time() - started
            reused = 0
            for line in told:
                if match := TOLD.search(line):
                    reused = int(match.group(1))
            told.clear()
            yield Drawn(pixels, denoising, whole, denoised.job.steps - reused)
            print(".", end="", file=sys.stderr, flush=True)
            started = time.process_time()
    print(file=sys.stderr)


def request_of(prompt: str, scene: int, case: Case, side: int, steps: int) -> GenerationRequest:
    """A scene's picture, with one way to reuse steps."""
    return GenerationRequest(
        prompt=prompt,
        width=side,
        height=side,
        steps=steps,
        seed=1000 + scene,
        t5_max_length=32,
        step_cache=case.cache(steps),
    )


def world(people: int, count: int, steps: int, folder: Path) -> str:
    """The table of the small world."""
    identities, others = write_people(folder, people)
    told = scenes(count)
    keys = [(person, scene) for person in range(people) for scene in range(count)]
    requests = []
    for person, scene in keys:
        for case in CASES:
            request = request_of(plain_prompt(told[scene]), scene, case, SIDE, steps)
            requests.append((request, identities[person]))
    drawn = list(draw(ModelFiles.find(models_dir=MODELS), requests))

    eyes = Eyes(MODELS)
    gallery = Gallery(eyes, others)
    likeness, obeyed = [], []
    for index in range(len(CASES)):
        seen = []
        for (person, scene), picture in zip(keys, drawn[index :: len(CASES)], strict=True):
            pixels = picture.pixels
            seen.append(Seen(person, scene, 1.0, eyes.who(pixels), eyes.what(pixels)))
        likeness.append(float(np.mean([gallery.cosine(one) for one in seen])))
        answers = []
        for one in seen:
            for choice in JUDGED:
                answers.append(one.choices[choice] == getattr(told[one.scene], choice))
        obeyed.append(float(np.mean(answers)))
    columns = []
    for found, share in zip(likeness, obeyed, strict=True):
        columns.append([f"{found:.3f} ({found - likeness[0]:+.3f})", f"{share:.1%}"])
    return table(CASES, drawn, steps, 8, ["likeness", "prompts"], columns)


def seeded(width: int, side: int, count: int, steps: int, folder: Path) -> str:
    """The table of the seeded Flux."""
    write_checkpoints(folder, seed=SEED, hidden=width, guidance=True, vae_channels=32)
    write_tokenizer(folder / "tokenizer.json")
    identity = write_embedding(folder / "nobody.pulidembd")
    requests = []
    for scene in range(count):
        for case in SEEDED_CASES:
            prompt = "a portrait of a person in the picture"
            requests.append((request_of(prompt, scene, case, side, steps), identity))
    drawn = list(draw(ModelFiles.find(models_dir=folder), requests))
    return table(SEEDED_CASES, drawn, steps, 57, [], [[] for _ in SEEDED_CASES])


def table(
    cases: Sequence[Case],
    drawn: Sequence[Drawn],
    steps: int,
    blocks: int,
    names: Sequence[str],
    columns: Sequence[Sequence[str]],
) -> str:
    """Markdown. drawn: every case of a picture in turn. blocks: of the Flux. names, columns: what
    else is known, and of each case.
    """
    heads = ["mode", "options", "steps", "fewer blocks", "denoising", "picture", "PSNR", *names]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    plain = drawn[:: len(cases)]
    for index, (case, more) in enumerate(zip(cases, columns, strict=True)):
        mine = drawn[index :: len(cases)]
        computed = float(np.mean([picture.computed for picture in mine]))
        cache = case.cache(steps)
        cheap = 0.0
        if cache is not None and cache.of_blocks:
            cheap = (cache.first_blocks + cache.last_blocks) / blocks
        errors = []
        for picture, other in zip(mine, plain, strict=True):
            errors.append(np.mean((picture.pixels.astype(float) - other.pixels) ** 2))
        denoising = sum(one.denoising for one in plain) / sum(one.denoising for one in mine)
        whole = sum(one.whole for one in plain) / sum(one.whole for one in mine)
        error = float(np.mean(errors))
        distance = f"{10 * np.log10(255**2 / error):.1f} dB" if error else "equal"
        cells = [
            case.mode or "none",
            case.options,
            f"{computed:.1f}",
            f"{steps / (computed + (steps - computed) * cheap):.2f}x",
            f"{denoising:.2f}x",
            f"{whole:.2f}x",
            distance if case.mode else "",
            *more,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    seconds = np.mean([one.denoising for one in plain]), np.mean([one.whole for one in plain])
    lines.append(f"\nWithout a cache {seconds[0]:.2f} and {seconds[1]:.2f} processor seconds.")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", metavar="world|seeded")
    parser.add_argument("--people", type=int, default=3)
    parser.add_argument("--scenes", type=int, default=2)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--width", type=int, default=256, help="of the seeded Flux")
    parser.add_argument("--side", type=int, default=160, help="of its pictures, pixels")
    asked = parser.parse_args()
    wanted = asked.tables or ["world", "seeded"]
    if unknown := set(wanted) - {"world", "seeded"}:
        parser.error(f"unknown table {', '.join(sorted(unknown))}; expected world, seeded")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if "world" in wanted:
            print(world(asked.people, asked.scenes, asked.steps, folder), flush=True)
        if "seeded" in wanted:
            print(seeded(asked.width, asked.side, asked.scenes, asked.steps, folder), flush=True)


if __name__ == "__main__":
    main()
