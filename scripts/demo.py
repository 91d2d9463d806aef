"""The whole toolkit on one page: a real portrait, extraction, three drawings, the SHA-256 verdict, and a sheet to look at.

    make demo        (or: python scripts/demo.py [FOLDER])

Runs the two programs as a user would, with small seeded models in place of the real 37 GB (scripts/make_micro_models.py). The portrait is
NASA's photograph of astronaut Eileen Collins, public domain, as scikit-image ships it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import astronaut
from make_micro_models import write_micro_models
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
MODELS = Path(os.path.relpath(ROOT / "build" / "micro"))  # relative, so that the commands shown are short
PROMPT = "candid photograph on a beach at sunset"
TILE, GAP, CAPTION = 320, 24, 104
INK, PAPER, MARK = (30, 30, 30), (250, 249, 246), (220, 60, 40)

WHAT_NEXT = """\
The pictures above are textures: every network that draws or recognises here is random (see the captions on the sheet). To draw the real
person, download the real files into one folder and give it as --models-dir to both programs:

  flux1-schnell.safetensors, ae.safetensors         https://huggingface.co/black-forest-labs/FLUX.1-schnell   (Apache-2.0, log in first)
    or flux1-dev.safetensors                        https://huggingface.co/black-forest-labs/FLUX.1-dev       (non-commercial, log in)
  clip_l.safetensors, t5xxl_fp16.safetensors        https://huggingface.co/comfyanonymous/flux_text_encoders  (MIT, Apache-2.0)
  pulid_flux_v0.9.1.safetensors                     https://huggingface.co/guozinan/PuLID                     (Apache-2.0)
  EVA02_CLIP_L_336_psz14_s6B.pt                     https://huggingface.co/QuanSun/EVA-CLIP                   (MIT)
  antelopev2 (scrfd_10g_bnkps, glintr100)           https://huggingface.co/DIAMONIK7777/antelopev2            (non-commercial)
  detection_Resnet50_Final.pth, parsing_bisenet.pth https://github.com/xinntao/facexlib/releases              (MIT)

`pulid-extract pull` and `pulid-generate pull schnell-q4` fetch all of it into one folder. README.md has the two command lines."""


def main() -> None:
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else os.path.relpath(ROOT / "demo"))
    folder.mkdir(parents=True, exist_ok=True)
    if not (MODELS / "complete").exists():
        print(f"making small models in {MODELS}", file=sys.stderr)
        write_micro_models(MODELS, report=lambda line: print(f"  {line}", file=sys.stderr))
        (MODELS / "complete").touch()
    portrait = folder / "portrait.png"
    Image.fromarray(astronaut.portrait()).save(portrait)

    extracted = json.loads(
        run(
            *("pulid-extract", "--portrait", portrait, "--models-dir", MODELS, "--out", folder / "me.pulidembd", "--with-uncond"),
            *("--crop-image", folder / "crop.png", "--face-image", folder / "grey.png", "--json"),
        )
    )
    print(f"{extracted['output']}: {extracted['tokens'][0]}x{extracted['tokens'][1]} tokens, SHA-256 {extracted['sha256']}\n")
    table = run(
        *("pulid-generate", "verify", "--models-dir", MODELS, "--pulid-id-embedding", folder / "me.pulidembd", "-p", PROMPT),
        *("--cfg-scale", "1.0", "--sampling-method", "euler", "--steps", "4", "-W", "256", "-H", "256", "--seed", "42"),
        *("-o", folder / "out.png"),
    )
    print(table)
    sheet = draw_sheet(folder, extracted["box"], table.splitlines()[-1])
    sheet.save(folder / "sheet.png")
    print(f"{folder / 'sheet.png'}\n\n{WHAT_NEXT}")


def run(program: str, *arguments: object) -> str:
    """Run one of the two programs beside this Python, showing its command line; return its standard output. Ends the demo if it fails."""
    command = [str(Path(sys.executable).with_name(program)), *map(str, arguments)]
    print(f"$ {shlex.join([program, *command[1:]])}", file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return done.stdout


def draw_sheet(folder: Path, box: list[int], verdict: str) -> Image.Image:
    """The six pictures with captions, and the verdict under them."""
    photo = Image.open(folder / "portrait.png").convert("RGB")
    x, y, width, height = box
    ImageDraw.Draw(photo).rectangle((x, y, x + width, y + height), outline=MARK, width=4)
    tiles = (
        (photo, "portrait", "A real photograph (NASA). Box: the face found by a detector that is fitted to this one face."),
        (
            Image.open(folder / "crop.png"),
            "chosen face",
            "Aligned to 512x512 by facexlib's code; its detector is fitted to this one face.",
        ),
        (
            Image.open(folder / "grey.png"),
            "what EVA-CLIP sees",
            "Grey face on white, by BiSeNet; its labels are fitted to this one face.",
        ),
        (
            Image.open(folder / "out_A.png"),
            "A: without PuLID",
            "Flux, CLIP, T5 and the autoencoder are small and RANDOM: a texture, not a beach.",
        ),
        (Image.open(folder / "out_B.png"), "B: weight 0", "All 20 hooks run and add 0: the same file as A, byte for byte."),
        (
            Image.open(folder / "out_C.png"),
            "C: weight 1",
            "The identity moves the picture. ArcFace, EVA-CLIP, IDFormer and PuLID are RANDOM: no likeness.",
        ),
    )
    sheet = Image.new("RGB", (3 * TILE + 4 * GAP, 2 * (TILE + CAPTION) + 3 * GAP + 40), PAPER)
    draw = ImageDraw.Draw(sheet)
    title, small = ImageFont.load_default(20), ImageFont.load_default(15)
    for index, (picture, name, text) in enumerate(tiles):
        left, top = GAP + index % 3 * (TILE + GAP), GAP + index // 3 * (TILE + CAPTION + GAP // 2)
        sheet.paste(picture.convert("RGB").resize((TILE, TILE), Image.Resampling.LANCZOS), (left, top))
        draw.text((left, top + TILE + 6), name, INK, title)
        draw.multiline_text((left, top + TILE + 34), wrap(text, small), INK, small, spacing=3)
    draw.text((GAP, sheet.height - 46), verdict, MARK if "FAILED" in verdict else INK, title)
    return sheet


def wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Break a caption into lines no wider than a tile."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) > TILE and lines[-1]:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


if __name__ == "__main__":
    main()
