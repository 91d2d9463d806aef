"""Portrait -> face -> crop -> EVA-CLIP -> IDFormer -> tokens. The only file that knows the order, and the devices.

Reference: ToTheBeginning/PuLID 1aa2fc7, pulid/pipeline_flux.py, get_id_embedding; with one repair. There insightface takes
the largest face and facexlib the most central one, so a group photograph can mix two people. Here one face is chosen,
and both networks see it, or the extraction fails. Knows nothing of files being written or of command lines.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pulid_extract import eva_clip, face_crop, faces, idformer, portrait, weights
from pulid_extract.errors import FaceError, InputError, WeightsError
from pulid_extract.model_files import Found, find
from pulid_extract.portrait import FaceBox

MIN_OVERLAP = 0.3  # IoU below which the two detectors' boxes are taken for two faces
MIN_FACE_SHARE = 0.01  # of the aligned crop; a real face with its hair covers a third or more
DETECTOR_ROLES = ("retinaface",)  # not needed when the face is given by hand


@dataclass(frozen=True)
class Identity:
    """One extracted identity, and what a person wants to see of how it came about.

    tokens: (N, C) float32, finite; (32, 2048) with the public PuLID file. uncond: the same for an all-zero condition, or None.
    face: "largest" or "box", how the face was chosen. box: where it is, in pixels of the portrait. score: the detector's,
    None for a box by hand. faces_found: how many faces that detector saw, 0 for a box by hand.
    crop: uint8 RGB (512, 512, 3), the aligned face. labels: uint8 (512, 512), BiSeNet's 0..18.
    grey_face: uint8 RGB (512, 512, 3), grey on white: what EVA-CLIP sees, before resizing.
    """

    tokens: np.ndarray
    uncond: np.ndarray | None
    face: str
    box: FaceBox
    score: float | None
    faces_found: int
    crop: np.ndarray
    labels: np.ndarray
    grey_face: np.ndarray


@dataclass(frozen=True)
class _Chosen:
    """The one face: its aligned crop (uint8 BGR (512, 512, 3)) and ArcFace vector ((512,) float32)."""

    crop: np.ndarray
    vector: np.ndarray
    face: str
    box: FaceBox
    score: float | None = None
    faces_found: int = 0


class Extractor:
    """The identity stack. Files are found and recognised at once, each network is loaded when it is first needed.

    device: "auto", "cpu", "cuda" or "mps". Arithmetic is float32 everywhere. On mps the face networks stay on the CPU.
    """

    def __init__(self, found: Mapping[str, Found], device: str = "auto", log: Callable[[str], None] = lambda line: None):
        self.found = dict(found)
        self.device = choose_device(device)
        self.face_device = "cpu" if self.device == "mps" else self.device
        self.log = log

    @classmethod
    def load(
        cls,
        *,
        pulid_weights: str | Path | None = None,
        eva_clip: str | Path | None = None,
        antelopev2: str | Path | None = None,
        retinaface: str | Path | None = None,
        bisenet: str | Path | None = None,
        models_dir: str | Path | None = None,
        device: str = "auto",
        detect: bool = True,
        log: Callable[[str], None] = lambda line: None,
    ) -> Extractor:
        """Find every file (flag, models folder, Hugging Face cache, download) and check what it is.

        detect: False leaves out what only finding faces needs; `extract` then wants a `face_box`.
        Raises WeightsError for a file that is missing or of the wrong kind, InputError for a device that is not there.
        """
        explicit = {
            "pulid_weights": pulid_weights,
            "eva_clip": eva_clip,
            "antelopev2": antelopev2,
            "retinaface": retinaface,
            "bisenet": bisenet,
        }
        choose_device(device)
        roles = {name: role for name, role in weights.ROLES.items() if detect or name not in DETECTOR_ROLES}
        found = {name: find(role, explicit[name], models_dir) for name, role in roles.items()}
        for name, file in found.items():
            log(f"{roles[name].name}: {file.path} ({file.rule})")
        return cls(found, device, log)

    # ------------------------------------------------------------------------------------------------------------ networks

    @cached_property
    def _antelope(self) -> faces.Antelope:
        return faces.Antelope(self.found["antelopev2"].path)

    @cached_property
    def _retinaface(self) -> torch.nn.Module:
        return face_crop.load_retinaface(self.found["retinaface"].path, self.face_device)

    @cached_property
    def _bisenet(self) -> torch.nn.Module:
        return face_crop.load_bisenet(self.found["bisenet"].path, self.face_device)

    @cached_property
    def _tower(self) -> Any:  # timm's Eva
        return eva_clip.load_eva_clip(self.found["eva_clip"].path).to(self.device)

    @cached_property
    def _idformer(self) -> idformer.IDFormer:
        model = idformer.load_idformer(self.found["pulid_weights"].path)
        want = (faces.VECTOR_WIDTH + self._tower.num_classes, self._tower.embed_dim)
        if model.cond_dim != want[0] or set(model.vit_dims) != {want[1]}:
            raise WeightsError(
                f"{self.found['pulid_weights'].path}: wants a condition of {model.cond_dim} and hidden states of width "
                f"{model.vit_dims[0]}, {self.found['eva_clip'].path} gives {want[0]} and {want[1]}; use EVA02-CLIP-L-14-336"
            )
        return model.to(self.device)

    # --------------------------------------------------------------------------------------------------------------- order

    @torch.no_grad()
    def extract(self, image: np.ndarray, face_box: FaceBox | None = None, with_uncond: bool = False) -> Identity:
        """One portrait to one identity. The same picture gives the same numbers, run after run.

        image: uint8 RGB (H, W, 3), upright, any size (`read_portrait`). face_box: the region to use, in its pixels; no
        detector runs then. with_uncond: also the tokens of an all-zero condition.
        Raises FaceError if there is no face or the detectors disagree, InputError for a bad picture or box, WeightsError.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise InputError(f"the portrait is {image.dtype} {image.shape}, expected uint8 RGB (H, W, 3)")
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
            limited = portrait.limit_long_side(image)
            bgr = np.ascontiguousarray(limited[..., ::-1])
            chosen = self._by_hand(bgr, image, face_box) if face_box else self._by_detectors(bgr, image)

            face = face_crop.to_tensor(chosen.crop)
            labels = face_crop.parse_face(self._bisenet, face.to(self.face_device)).cpu()
            if face_crop.face_share(labels) < MIN_FACE_SHARE:
                raise FaceError(
                    "the face parser sees no face in the crop, EVA-CLIP would see a white square; "
                    "give another portrait, or another region with --face-box"
                )
            grey = face_crop.grey_on_white(face, labels)

            condition, hidden_states = self._condition(chosen.vector, grey)
            tokens = self._tokens(condition, hidden_states)
            uncond = None
            if with_uncond:
                uncond = self._tokens(torch.zeros_like(condition), [torch.zeros_like(hidden) for hidden in hidden_states])
        return Identity(
            tokens=tokens,
            uncond=uncond,
            face=chosen.face,
            box=chosen.box,
            score=chosen.score,
            faces_found=chosen.faces_found,
            crop=np.ascontiguousarray(chosen.crop[..., ::-1]),
            labels=labels[0, 0].to(torch.uint8).numpy(),
            grey_face=(grey[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy(),
        )

    def _by_hand(self, bgr: np.ndarray, image: np.ndarray, box: FaceBox) -> _Chosen:
        crop = portrait.crop_box(bgr, box, (image.shape[1], image.shape[0]), portrait.PAD_RGB[::-1])
        return _Chosen(crop, self._antelope.embed_crop(crop), "box", box)

    def _by_detectors(self, bgr: np.ndarray, image: np.ndarray) -> _Chosen:
        """The largest face insightface finds, aligned by RetinaFace's landmarks of that same face."""
        if "retinaface" not in self.found:
            raise InputError("this Extractor was loaded with detect=False: it needs a face_box")
        found = self._antelope.detect(bgr)
        marks = face_crop.find_landmarks(self._retinaface, bgr)
        if not marks:
            seen = f"insightface finds {len(found)}" if found else "neither does insightface"
            raise FaceError(
                f"no face found: RetinaFace sees none, {seen}; give a clearer portrait, or the region with --face-box"
            )
        if not found:
            # As the reference: ArcFace then sees the aligned crop, squashed to its size.
            mark = max(marks, key=lambda mark: mark.area)
            self.log(f"insightface finds no face, RetinaFace {len(marks)}: taking its largest")
            crop = face_crop.align(bgr, mark.points)
            where = _in_portrait(mark.box, bgr, image)
            return _Chosen(crop, self._antelope.embed_crop(crop), "largest", where, mark.score, len(marks))
        face = faces.largest(found)
        mark = max(marks, key=lambda mark: faces.overlap(face.box, mark.box))
        shared = faces.overlap(face.box, mark.box)
        where = _in_portrait(face.box, bgr, image)
        if shared < MIN_OVERLAP:
            raise FaceError(
                f"the detectors disagree: insightface's largest face is at {where.x},{where.y},{where.width},{where.height} "
                f"(X,Y,W,H), RetinaFace's nearest overlaps it by {shared:.2f}, at least {MIN_OVERLAP} is needed; "
                f"crop the portrait, or give the region with --face-box"
            )
        self.log(f"{len(found)} face{'s' * (len(found) != 1)} found, taking the largest (score {face.score:.2f})")
        crop = face_crop.align(bgr, mark.points)
        return _Chosen(crop, self._antelope.embed(bgr, face), "largest", where, face.score, len(found))

    def _condition(self, vector: np.ndarray, grey: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """id_cond (1, 512 + P): ArcFace as it is, pooled vector L2-normalised; and the five hidden states (1, L, W)."""
        pixels = eva_clip.preprocess(grey, eva_clip.image_size(self._tower)).to(self.device)
        pooled, hidden_states = eva_clip.encode_face(self._tower, pixels)
        pooled = pooled / pooled.norm(p=2, dim=1, keepdim=True)
        condition = torch.cat([torch.from_numpy(vector)[None].to(self.device), pooled], dim=-1)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (condition, *hidden_states)):
            raise WeightsError(f"{self.found['eva_clip'].path}: gives NaN or infinite features; download it again")
        return condition, hidden_states

    def _tokens(self, condition: torch.Tensor, hidden_states: list[torch.Tensor]) -> np.ndarray:
        tokens = self._idformer(condition, hidden_states)[0].float().cpu().numpy()
        if not np.isfinite(tokens).all():
            raise WeightsError(f"{self.found['pulid_weights'].path}: gives tokens that are NaN or infinite; download it again")
        return tokens

    def provenance(self) -> dict[str, str]:
        """SHA-256 of the files that shape the tokens most, as keys of a .pulidembd. Reads two gigabytes: run it beside."""
        keys = {"weights.sha256": "pulid_weights", "eva_clip.sha256": "eva_clip"}
        return {key: file_sha256(self.found[name].path) for key, name in keys.items()}


def choose_device(name: str) -> str:
    """ "auto" -> "cuda", "mps" or "cpu" by what is there. Raises InputError for a device that is not."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return next(device for device, available in there.items() if available)
    if not there.get(name):
        have = ", ".join(device for device, available in there.items() if available)
        raise InputError(f"--device {name}: not on this machine (here: {have}); leave --device out to take what is there")
    return name


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _in_portrait(box: tuple[float, float, float, float], limited: np.ndarray, image: np.ndarray) -> FaceBox:
    """A detector's box as whole pixels of the portrait, cut at its borders: what --face-box would take."""
    scale_x, scale_y = image.shape[1] / limited.shape[1], image.shape[0] / limited.shape[0]
    left, right = (min(max(round(x * scale_x), 0), image.shape[1]) for x in (box[0], box[2]))
    top, bottom = (min(max(round(y * scale_y), 0), image.shape[0]) for y in (box[1], box[3]))
    return FaceBox(left, top, right - left, bottom - top)
