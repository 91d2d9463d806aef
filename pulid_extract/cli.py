"""The pulid-extract command: parse, check, call the Extractor, write, print. Thin; imports torch only once it has work to do.

Standard output carries the result (the file's path, one JSON line, or the file itself), standard error everything else.
`console.run` is the one place where an expected error becomes a line and an exit code.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from pulid_extract import __version__, console
from pulid_extract.errors import InputError, OutputError, require_packages
from pulid_extract.model_files import MODELS_DIR_VARIABLE, check_not_input, check_writable, write_atomically

if TYPE_CHECKING:
    import numpy as np

    from pulid_extract.extractor import Extractor, Identity
    from pulid_extract.portrait import FaceBox

PROGRAM = "pulid-extract"
PACKAGES = ("cv2", "facexlib", "insightface", "onnxruntime", "timm", "torchvision")  # what the extra [extract] brings

app = console.new_app(subcommand_metavar="")


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"{PROGRAM} {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def extract(
    context: typer.Context,
    portrait: Annotated[
        list[str] | None,
        typer.Option("--portrait", metavar="FILE|-", help="Picture of the person: JPEG, PNG or WebP; - reads standard input."),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", "-o", metavar="FILE|-", help="The .pulidembd to write; - writes standard output.")
    ] = None,
    face_box: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y,W,H",
            help="Use this region of the upright portrait (pixels) and no face detector. Default: the largest face.",
        ),
    ] = None,
    with_uncond: Annotated[
        bool, typer.Option("--with-uncond", help="Also store the zero-condition tokens; --cfg-scale above 1 needs them.")
    ] = False,
    dtype: Annotated[Literal["f16", "bf16", "f32"], typer.Option(help="How the tokens are stored.")] = "f16",
    pulid_weights: Annotated[str | None, typer.Option(metavar="FILE", help="pulid_flux_v0.9.1.safetensors.")] = None,
    eva_clip: Annotated[
        str | None, typer.Option(metavar="FILE", help="EVA02_CLIP_L_336_psz14_s6B.pt, or timm's or open_clip's safetensors.")
    ] = None,
    antelopev2: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="InsightFace's antelopev2 pack (non-commercial licence).")
    ] = None,
    retinaface: Annotated[str | None, typer.Option(metavar="FILE", help="detection_Resnet50_Final.pth (facexlib).")] = None,
    bisenet: Annotated[str | None, typer.Option(metavar="FILE", help="parsing_bisenet.pth (facexlib).")] = None,
    models_dir: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            envvar=MODELS_DIR_VARIABLE,
            help="Folder of model files, told apart by their headers. Asked after the flags above, "
            "before the Hugging Face cache and download.",
        ),
    ] = None,
    face_image: Annotated[
        str | None, typer.Option(metavar="FILE.png", help="Also write the grey face on white that EVA-CLIP sees.")
    ] = None,
    crop_image: Annotated[str | None, typer.Option(metavar="FILE.png", help="Also write the aligned 512x512 crop.")] = None,
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(help="Where the networks run.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON instead of the output's path.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Turn a portrait into an identity file (.pulidembd) for pulid-generate and sd-cli.

    Example: pulid-extract --portrait me.jpg --pulid-weights pulid_flux_v0.9.1.safetensors --out me.pulidembd
    """
    if context.invoked_subcommand is not None:
        console.refuse_options(context)
        return
    if not portrait or out is None:
        context.fail(f"Missing option '{'--out' if portrait else '--portrait'}'.")
    if len(portrait) > 1:
        context.fail("--portrait was given more than once; one identity is made from one picture.")
    out = "-" if out in ("/dev/stdout", "/dev/fd/1") else out  # or the result line would follow the file's own bytes
    box = _parse_box(face_box) if face_box is not None else None
    require_packages(PACKAGES, "extract")

    pictures = {name: path for name, path in (("--face-image", face_image), ("--crop-image", crop_image)) if path is not None}
    given = [portrait[0], pulid_weights, eva_clip, retinaface, bisenet]
    _check_outputs({"--out": out, **pictures}, [path for path in given if path and path != "-"])
    from pulid_extract.embedding_file import encode_embedding
    from pulid_extract.portrait import decode_portrait, read_portrait_bytes

    data, where = read_portrait_bytes(portrait[0])
    image = decode_portrait(data, where)
    with _quiet():
        from pulid_extract.extractor import Extractor

        extractor = Extractor.load(
            pulid_weights=pulid_weights,
            eva_clip=eva_clip,
            antelopev2=antelopev2,
            retinaface=retinaface,
            bisenet=bisenet,
            models_dir=models_dir or None,
            device=device,
            detect=box is None,
            log=console.log,
        )
        for output in (out, *pictures.values()):
            check_not_input(output, [found.path for found in extractor.found.values()])
        hashes = _Beside(extractor.provenance)
        identity = extractor.extract(image, box, with_uncond)
        result = encode_embedding(
            identity.tokens, identity.uncond, dtype=dtype, provenance=_provenance(data, identity, hashes.result())
        )
    for path, picture in ((face_image, identity.grey_face), (crop_image, identity.crop)):
        if path is not None:
            write_atomically(path, _png(picture))
    if out != "-":
        write_atomically(out, result, mode=0o600)  # a face's fingerprint is its owner's business
    report = json.dumps(_report(out, result, identity, extractor, dtype)) if as_json else out
    if out != "-":
        console.write_line(report)
    else:
        console.write_result(result)
        if as_json:
            typer.echo(report, err=True)


def _parse_box(text: str) -> FaceBox:
    from pulid_extract.portrait import FaceBox

    try:
        x, y, width, height = (int(part) for part in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not X,Y,W,H: four whole numbers of pixels", param_hint="'--face-box'") from None
    return FaceBox(x, y, width, height)


def _check_outputs(outputs: dict[str, str], inputs: list[str]) -> None:
    """Raise OutputError now for what could not be written after minutes of work, and for what would overwrite an input."""
    seen: dict[Path, str] = {}
    for flag, path in outputs.items():
        if path == "-" and flag == "--out":
            if sys.stdout.isatty():
                raise OutputError("--out -: standard output is a terminal; redirect it to a file or a pipe")
            continue
        if flag != "--out" and Path(path).suffix.lower() != ".png":
            raise OutputError(f"{flag} {path}: expected a name that ends in .png")
        check_writable(path)
        real = Path(path).resolve()
        if real in seen and (real.is_file() or not real.exists()):  # not for /dev/null
            raise OutputError(f"{path}: is both {seen[real]} and {flag}; give each its own file")
        seen.setdefault(real, flag)
        for source in inputs:
            if os.path.exists(path) and os.path.exists(source) and os.path.samefile(path, source) and Path(path).is_file():
                raise OutputError(f"{path}: {flag} would overwrite an input; give another name")


def _provenance(portrait: bytes, identity: Identity, hashes: dict[str, str]) -> dict[str, str]:
    """What made the file: hashes and version, and no time, path or name, so that the same input gives the same bytes."""
    import hashlib

    return {
        "portrait.sha256": hashlib.sha256(portrait).hexdigest(),
        **hashes,
        "face": identity.face,
        "tool": f"pulid_extract {__version__}",
    }


def _report(out: str, result: bytes, identity: Identity, extractor: Extractor, dtype: str) -> dict[str, Any]:
    import hashlib

    box = identity.box
    return {
        "output": out,
        "sha256": hashlib.sha256(result).hexdigest(),
        "face": identity.face,
        "box": [box.x, box.y, box.width, box.height],
        "score": identity.score,
        "faces": identity.faces_found,
        "tokens": list(identity.tokens.shape),
        "uncond": identity.uncond is not None,
        "dtype": dtype,
        "device": extractor.device,
        "files": {name: {"path": str(found.path), "rule": found.rule} for name, found in extractor.found.items()},
    }


def _png(picture: np.ndarray) -> bytes:
    """uint8 RGB (H, W, 3) as PNG."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


class _Beside(threading.Thread):
    """Run a function beside the work. A daemon, so that a failed run does not wait for gigabytes to be hashed."""

    def __init__(self, function):
        super().__init__(daemon=True)
        self.function, self.value, self.error = function, None, None
        self.start()

    def run(self) -> None:
        try:
            self.value = self.function()
        except Exception as error:
            self.error = error

    def result(self) -> Any:
        self.join()
        if self.error is not None:
            raise InputError(f"a model file cannot be read ({self.error})") if isinstance(self.error, OSError) else self.error
        return self.value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the libraries out of standard output, at the level of file descriptors, and their warnings out of standard error."""
    sys.stdout.flush()
    handler = logging.NullHandler()
    logging.getLogger().addHandler(handler)  # without any handler, logging prints warnings by itself
    saved = None
    with contextlib.suppress(OSError):
        saved = os.dup(1)
        os.dup2(2, 1)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.getLogger().removeHandler(handler)
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)


def main() -> None:
    """Entry point; see `console.run`."""
    console.run(app, PROGRAM)
