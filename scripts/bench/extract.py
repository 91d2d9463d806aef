"""Where the time of an extraction goes, and how much of it the reference's way of working costs. A
table of `bench`.

    PYTHONPATH=scripts python -m bench extract
    PYTHONPATH=scripts python -m bench.extract [--folder FOLDER] [--turns TURNS] [--processor]
        [--warm TIMES]

Each way runs in processes of its own, turn by turn, on networks of the real size
(networks.py, 1.5 GB in build/bench_extract). "ours": float32, two ONNX sessions, modules
built without filling them first. "reference": the work as ToTheBeginning/PuLID 1aa2fc7,
pulid/pipeline_flux.py, does it: facexlib's and timm's libraries imported, facexlib's detector and
parser, tower and IDFormer in bfloat16, modules filled with random numbers before their weights are
loaded, all five ONNX networks opened and run on every face (insightface's FaceAnalysis); its sixth
session and facexlib's parsenet are left out in its favour. "beside": as ours, EVA-CLIP and IDFormer
read in a second thread while the face is looked for. "fast": ours with --fast.

--processor counts processor seconds of one thread, for a machine on which others work: seconds on
the wall mean nothing there.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pulid_extract.shared import telemetry

if TYPE_CHECKING:
    import numpy as np

FOLDER = Path(__file__).resolve().parents[2] / "build" / "bench_extract"
WAYS = ("ours", "reference", "beside", "fast")
# what a way imports before anything else
LIBRARIES = ("torch", "cv2", "insightface.model_zoo", "pulid_extract.extraction.extractor")
REFERENCE_LIBRARIES = (
    "facexlib.detection.retinaface",
    "facexlib.parsing.bisenet",
    "timm.models.eva",
    "torchvision",
)
STAGES = ("import", "load", "detect", "crop", "tower", "encoder")
WARM = 3  # extractions after the first, of which the median counts
# variables for the processes: whether the processor's seconds count, and WARM
PROCESSOR, TIMES = "BENCH_PROCESSOR", "BENCH_WARM"
TURNS = 3  # processes of each way


def now() -> float:
    """Seconds on the wall, or the processor's."""
    return time.process_time() if os.environ.get(PROCESSOR) else time.perf_counter()


class Clock:
    """Seconds by stage; what a card was given to do is waited for."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextlib.contextmanager
    def __call__(self, stage: str):
        start = now()
        yield
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()
        self.seconds[stage] += now() - start


def extract(folder: Path = FOLDER, turns: int = TURNS) -> str:
    """The tables: cold and warm by stage, each way; medians over processes."""
    from bench.networks import write_networks

    print("writing networks of the real size", file=sys.stderr)
    write_networks(folder)
    runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for turn in range(turns + 1):  # the first fills the page cache
        for way in WAYS:
            child = [sys.executable, "-m", "bench.extract", "--way", way, "--folder", str(folder)]
            found = json.loads(
                subprocess.run(
                    child, check=True, capture_output=True, text=True
                ).stdout.splitlines()[-1]
            )
            print(f"  {way}, turn {turn}: {found['cold']['total']:.1f} s cold", file=sys.stderr)
            runs[way] += [found] if turn else []
    rows = []
    for kind in ("cold", "warm"):
        totals = {}
        for way in WAYS if kind == "cold" else ("ours", "reference", "fast"):
            medians = {
                stage: statistics.median(run[kind][stage] for run in runs[way])
                for stage in (*STAGES, "total")
            }
            totals[way] = medians["total"]
            faster = f"{totals['reference'] / totals['ours']:.1f}x" if way == "reference" else ""
            rows.append(
                (
                    kind,
                    way,
                    *(f"{medians[stage]:.2f}" for stage in (*STAGES, "total")),
                    f"{60 / medians['total']:.0f}",
                    faster,
                )
            )
    head = (
        "",
        "way",
        *(f"{stage}, s" for stage in STAGES),
        "in all, s",
        "a minute",
        "ours is faster by",
    )
    lines = [
        "**One extraction, networks of the real size (goals: 1.5x cold, 2.5x warm)**",
        "",
        _line(head),
        "|" + "---|" * len(head),
    ]
    return "\n".join([*lines, *map(_line, rows)]) + "\n"


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cells) + " |"


def measure(
    way: str, folder: Path, device: str = "cpu", image: np.ndarray | None = None
) -> tuple[dict[str, Any], np.ndarray | None]:
    """{"cold": stages, "warm": stages} of this process, and the tokens of ours. Nothing of torch or
    insightface is imported before. image: uint8 RGB (H, W, 3) with one face; else the micro set's.
    """
    begin = now()
    clock = Clock("cpu")
    with clock("import"):
        telemetry.switch_off()
        for name in (*LIBRARIES, *(REFERENCE_LIBRARIES if way == "reference" else ())):
            importlib.import_module(name)
        from pulid_extract.extraction.extractor import Extractor
    clock.device = device
    excluded = now()
    if image is None:
        from bench.networks import photograph

        image = photograph()
    excluded = now() - excluded
    extractor = Extractor.load(models_dir=folder, device=device, fast=way == "fast")
    run = Reference(extractor) if way == "reference" else Ours(extractor, beside=way == "beside")
    with clock("load"):
        run.load()
    run(image, clock)
    cold = {**clock.seconds, "total": now() - begin - excluded}
    warm = []
    for _ in range(int(os.environ.get(TIMES, WARM))):
        clock = Clock(device)
        start = now()
        tokens = run(image, clock)
        warm.append({**clock.seconds, "total": now() - start})
    seconds = {
        "cold": cold,
        "warm": {stage: statistics.median(one[stage] for one in warm) for stage in warm[0]},
    }
    return seconds, tokens


class Ours:
    """What the Extractor does, its lazy loading made visible. beside: the large networks are loaded
    in a second thread.
    """

    def __init__(self, extractor: Any, beside: bool):
        self.extractor, self.beside = extractor, beside

    def load(self) -> None:
        extractor = self.extractor
        if self.beside:
            # which asks for the tower first
            threading.Thread(target=lambda: extractor._idformer, daemon=True).start()
        for task, file in (
            ("detection", "scrfd_10g_bnkps.onnx"),
            ("recognition", "glintr100.onnx"),
        ):
            extractor._antelope._model(task, file)
        _ = extractor._retinaface, extractor._bisenet
        if not self.beside:
            _ = extractor._tower, extractor._idformer

    def __call__(self, image: np.ndarray, clock: Clock) -> np.ndarray:
        """The tokens, (N, C) float32."""
        from pulid_extract.pictures.portrait import Photo

        extractor = self.extractor
        with clock("crop"):
            photo = Photo.of(image)
        with clock("detect"):
            found = extractor._detect(photo)
            marks = extractor._find_landmarks(photo)
        assert len(found) == 1, found
        assert marks
        # crop() looks for the faces once more; what was found is handed to it, so that nothing is
        # counted twice
        extractor._detect, extractor._find_landmarks = lambda _: found, lambda _: marks
        with clock("crop"):
            crop = extractor.crop(image)
        del extractor._detect, extractor._find_landmarks
        with clock("load"):
            # waits for the second thread, if there is one
            _ = extractor._tower, extractor._idformer
        with clock("tower"):
            features = extractor.features(crop)
        with clock("encoder"):
            return extractor.tokens([features])


class Reference:
    """The same result by the reference's work."""

    def __init__(self, extractor: Any):
        self.extractor = extractor

    def load(self) -> None:
        import torch
        from insightface.model_zoo import get_model

        from pulid_extract.networks import eva_clip, idformer

        for module in (eva_clip, idformer):
            module.without_init = contextlib.nullcontext  # type: ignore[attr-defined]
        extractor = self.extractor
        self.retinaface, self.bisenet = _facexlibs(extractor.files)
        self.tower = extractor._tower.to(torch.bfloat16)
        self.idformer = extractor._idformer.to(torch.bfloat16)
        folder = extractor.files["antelopev2"].path
        self.models = {
            path.stem: get_model(str(path), providers=["CPUExecutionProvider"])
            for path in sorted(folder.glob("*.onnx"))
        }
        self.detector = self.models.pop("scrfd_10g_bnkps")
        self.detector.prepare(0, input_size=(640, 640), det_thresh=0.5)

    def __call__(self, image: np.ndarray, clock: Clock) -> None:
        import torch
        from insightface.app.common import Face

        from pulid_extract.faces import crop as face_crop
        from pulid_extract.networks import eva_clip

        with torch.no_grad():
            bgr = image[..., ::-1].copy()
            with clock("detect"):
                boxes, points = self.detector.detect(bgr, input_size=(640, 640))
                (face,) = [
                    Face(bbox=box[:4], kps=kps, det_score=box[4])
                    for box, kps in zip(boxes, points, strict=True)
                ]
                for model in self.models.values():
                    model.get(bgr, face)
                (mark, *_) = face_crop.find_landmarks(self.retinaface, bgr)
            with clock("crop"):
                crop = face_crop.to_tensor(face_crop.align(bgr, mark.points))
                labels = face_crop.parse_face(lambda pixels: self.bisenet(pixels)[0], crop)
                grey = face_crop.grey_on_white(crop, labels)
            with clock("tower"):
                pixels = eva_clip.preprocess(grey, eva_clip.image_size(self.tower)).to(
                    torch.bfloat16
                )
                pooled, hidden = eva_clip.encode_face(self.tower, pixels)
                pooled = pooled / pooled.norm(p=2, dim=1, keepdim=True)
            with clock("encoder"):
                vector = torch.from_numpy(face.embedding)[None].to(torch.bfloat16)
                self.idformer(torch.cat([vector, pooled], dim=-1), hidden).float()


def _facexlibs(files: Any) -> tuple[Any, Any]:
    """RetinaFace and BiSeNet as facexlib has them, loaded."""
    import warnings

    import torch
    from facexlib.detection.retinaface import RetinaFace
    from facexlib.parsing.bisenet import BiSeNet

    from pulid_extract.networks.checkpoint import read_tensors

    with warnings.catch_warnings():
        # torchvision: `pretrained` is deprecated
        warnings.simplefilter("ignore")
        detector = RetinaFace(network_name="resnet50", device=torch.device("cpu"))
    parser = BiSeNet(num_class=19)
    for role, module in (("retinaface", detector), ("bisenet", parser)):
        module.load_state_dict(read_tensors(files[role].path))
        module.eval()
    return detector, parser


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--processor", action="store_true")
    parser.add_argument("--warm", type=int, default=WARM, metavar="TIMES")
    parser.add_argument("--way", choices=WAYS, help="measure one way in this process, as JSON")
    arguments = parser.parse_args()
    if arguments.way is not None:
        seconds, _ = measure(arguments.way, arguments.folder)
        print(json.dumps(seconds))
    else:
        os.environ[TIMES] = str(arguments.warm)
        if arguments.processor:
            os.environ |= {PROCESSOR: "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        print(extract(arguments.folder, arguments.turns))


if __name__ == "__main__":
    main()
