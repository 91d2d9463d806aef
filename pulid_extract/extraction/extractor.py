"""Portrait -> face -> crop -> EVA-CLIP -> IDFormer -> tokens. The only file that knows the order,
and the devices.

Reference: ToTheBeginning/PuLID 1aa2fc7, pulid/pipeline_flux.py, get_id_embedding; with one repair.
There insightface takes the largest face and facexlib the most central one, so a group photograph
can mix two people. Here one face is chosen, and both networks see it, or the extraction fails.
Knows nothing of files being written or of command lines.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pulid_extract.extraction.identity import (
    Aligner,
    FaceCrop,
    Features,
    Identity,
    Options,
    Parser,
    RecognisedFace,
)
from pulid_extract.faces import antelopev2 as faces
from pulid_extract.faces import crop as face_crop
from pulid_extract.faces import quality
from pulid_extract.faces.antelopev2 import Face
from pulid_extract.faces.choice import FaceChoice, pick
from pulid_extract.faces.crop import Landmarks
from pulid_extract.faces.head_pose import head_pose
from pulid_extract.files import roles as weights
from pulid_extract.files.model_set import find_files, needed_roles
from pulid_extract.networks import eva_clip, fusion, idformer
from pulid_extract.networks.fusion import Fuse
from pulid_extract.pictures import portrait, regions
from pulid_extract.pictures.portrait import Photo
from pulid_extract.shared.errors import FaceError, InputError, WeightsError
from pulid_extract.shared.model_files import Found

MIN_OVERLAP = 0.3  # IoU below which the two detectors' boxes are taken for two faces
MIN_FACE_SHARE = 0.01  # of the aligned crop; a real face with its hair covers a third or more
SKIN = 1  # BiSeNet's label: what every pixel is called without a parser
LARGEST = FaceChoice()


@dataclass(frozen=True)
class _Chosen:
    """The one face, in pixels of the limited picture. points align the crop, None for a box by
    hand; face: insightface's, if it saw it.
    """

    box: tuple[float, float, float, float]
    points: np.ndarray | None
    face: Face | None
    score: float | None = None
    faces_found: int = 0


class Extractor:
    """The identity stack. Files are found and recognised at once, each network is loaded when it is
    first needed.

    device: "auto", "cpu", "cuda" or "mps". Arithmetic is float32 everywhere. On mps the face
    networks stay on the CPU.
    """

    def __init__(
        self,
        found: Mapping[str, Found],
        device: str = "auto",
        options: Options | None = None,
        log: Callable[[str], None] = lambda line: None,
    ):
        self.found = dict(found)
        self.device = choose_device(device)
        self.face_device = "cpu" if self.device == "mps" else self.device
        self.options = options or Options()
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
        aligner: Aligner = "retinaface",
        parser: Parser = "bisenet",
        det_threshold: float = faces.THRESHOLD,
        roles: Collection[str] | None = None,
        log: Callable[[str], None] = lambda line: None,
    ) -> Extractor:
        """Find every file (flag, models folder, Hugging Face cache, download) and check what it is.

        detect: False leaves out what only finding faces needs; every choice then has a box or
        landmarks. aligner, parser, det_threshold: see Options; what they make superfluous is not
        looked for. roles: only these files, for what needs no more. Raises WeightsError for a file
        that is missing or of the wrong kind, InputError for a device that is not there.
        """
        explicit = {
            "pulid_weights": pulid_weights,
            "eva_clip": eva_clip,
            "antelopev2": antelopev2,
            "retinaface": retinaface,
            "bisenet": bisenet,
        }
        choose_device(device)
        options = Options(aligner, parser, det_threshold)
        needed = needed_roles(detect, aligner, parser)
        return cls(
            find_files(explicit, models_dir, needed if roles is None else needed & set(roles), log),
            device,
            options,
            log,
        )

    # ------------------------------------------------------------------------------------- networks

    def _path(self, role: str) -> Path:
        if role not in self.found:
            raise InputError(
                f"this Extractor was loaded without {weights.ROLES[role].name}: load it with all that is needed"
            )
        return self.found[role].path

    @cached_property
    def _antelope(self) -> faces.Antelope:
        return faces.Antelope(self._path("antelopev2"))

    @cached_property
    def _retinaface(self) -> torch.nn.Module:
        return face_crop.load_retinaface(self._path("retinaface"), self.face_device)

    @cached_property
    def _bisenet(self) -> torch.nn.Module:
        return face_crop.load_bisenet(self._path("bisenet"), self.face_device)

    @cached_property
    def _tower(self) -> Any:  # timm's Eva
        return eva_clip.load_eva_clip(self._path("eva_clip")).to(self.device)

    @cached_property
    def _idformer(self) -> idformer.IDFormer:
        model = idformer.load_idformer(self._path("pulid_weights"))
        want = (faces.VECTOR_WIDTH + self._tower.num_classes, self._tower.embed_dim)
        if model.cond_dim != want[0] or set(model.vit_dims) != {want[1]}:
            raise WeightsError(
                f"{self.found['pulid_weights'].path}: wants a condition of {model.cond_dim} and hidden states of width "
                f"{model.vit_dims[0]}, {self.found['eva_clip'].path} gives {want[0]} and {want[1]}; use EVA02-CLIP-L-14-336"
            )
        return model.to(self.device)

    # ---------------------------------------------------------------------------------------- order

    def extract(
        self,
        image: np.ndarray,
        choice: FaceChoice = LARGEST,
        with_uncond: bool = False,
        keep: np.ndarray | None = None,
    ) -> Identity:
        """One portrait to one identity. The same picture gives the same numbers, run after run.

        image: uint8 RGB (H, W, 3), upright, any size (`read_portrait`). choice: the face.
        with_uncond: also the tokens of an all-zero condition. keep: bool (H, W), False where
        EVA-CLIP shall see white. Raises FaceError if there is no such face or the detectors
        disagree, InputError for a bad picture or box, WeightsError.
        """
        return self.fuse([self.crop(image, choice, keep)], with_uncond=with_uncond)

    def fuse(
        self, crops: Sequence[FaceCrop], fuse: Fuse = "encoder", with_uncond: bool = False
    ) -> Identity:
        """One identity from one or several portraits of a person, in the order given; see
        `tokens`.
        """
        features = [self.features(crop) for crop in crops]
        tokens = self.tokens(features, fuse, [crop.quality.value for crop in crops])
        return Identity(tokens, self.uncond(features, fuse) if with_uncond else None, tuple(crops))

    def detect(self, image: np.ndarray) -> list[Face]:
        """Every face, best score first, in pixels of the portrait; uint8 RGB (H, W, 3). Needs
        antelopev2 only.
        """
        photo = Photo.of(image)
        return [face.mapped(photo.scale) for face in self._detect(photo)]

    def recognise(self, image: np.ndarray, choice: FaceChoice = LARGEST) -> RecognisedFace:
        """The ArcFace vector of the chosen face, as insightface's own FaceAnalysis makes it. Needs
        antelopev2 only.

        Raises FaceError if there is no such face.
        """
        photo = Photo.of(image)
        if choice.detects:
            found = self._detect(photo)
            if not found:
                raise FaceError(
                    "no face found; give a clearer picture, or the region with --face-box"
                )
            face = found[self._pick(photo, found, choice)]
            chosen = _Chosen(face.box, face.landmarks, face, face.score, len(found))
        else:
            chosen = self._by_hand(photo, choice)
        vector = self._vector(photo, chosen, None)
        return RecognisedFace(
            vector,
            photo.in_portrait(chosen.box),
            chosen.face.mapped(photo.scale) if chosen.face else None,
            chosen.faces_found,
        )

    @torch.no_grad()
    def crop(
        self, image: np.ndarray, choice: FaceChoice = LARGEST, keep: np.ndarray | None = None
    ) -> FaceCrop:
        """Find, choose, align, parse and measure the face; see `extract`. Runs neither EVA-CLIP nor
        IDFormer.
        """
        photo = Photo.of(image)
        with _deterministic():
            chosen = (
                self._by_detectors(photo, choice)
                if choice.detects
                else self._by_hand(photo, choice)
            )
            crop, kept = self._cut(photo, chosen, keep)
            vector = self._vector(photo, chosen, crop)
            face = face_crop.to_tensor(crop)
            if self.options.parser == "none":
                labels = torch.full_like(face[:, :1], SKIN, dtype=torch.int64)
            else:
                labels = face_crop.parse_face(self._bisenet, face.to(self.face_device)).cpu()
            if face_crop.face_share(labels, kept) < MIN_FACE_SHARE:
                raise FaceError(
                    "the face parser sees no face in the crop, EVA-CLIP would see a white square; "
                    "give another portrait, or another region with --face-box"
                    if kept is None or face_crop.face_share(labels) < MIN_FACE_SHARE
                    else "--mask and --box leave nothing of the face, EVA-CLIP would see a white square; keep more of it"
                )
            grey = face_crop.grey_on_white(face, labels, kept)
        crop, parsed = np.ascontiguousarray(crop[..., ::-1]), labels[0, 0].to(torch.uint8).numpy()
        (sx, sy), box = photo.scale, chosen.box
        return FaceCrop(
            crop=crop,
            labels=parsed,
            grey=grey,
            vector=vector,
            face=choice.name,
            box=photo.in_portrait(box),
            landmarks=None
            if chosen.points is None
            else np.asarray(chosen.points * photo.scale, np.float32),
            score=chosen.score,
            faces_found=chosen.faces_found,
            quality=quality.judge(
                crop=crop,
                labels=None if self.options.parser == "none" else parsed,
                box=(box[0] * sx, box[1] * sy, box[2] * sx, box[3] * sy),
                size=photo.size,
                pose=None if chosen.points is None else head_pose(chosen.points),
                score=chosen.score,
                faces=chosen.faces_found,
                taken="the largest" if choice == LARGEST else None,
            ),
        )

    @torch.no_grad()
    def features(self, crop: FaceCrop) -> Features:
        """EVA-CLIP's view of a face, beside its ArcFace vector. Raises WeightsError for features
        that are not finite.
        """
        with _deterministic():
            pixels = eva_clip.preprocess(crop.grey, eva_clip.image_size(self._tower)).to(
                self.device
            )
            pooled, hidden_states = eva_clip.encode_face(self._tower, pixels)
            pooled = pooled / pooled.norm(p=2, dim=1, keepdim=True)
            condition = torch.cat(
                [torch.from_numpy(crop.vector)[None].to(self.device), pooled], dim=-1
            )
        if not all(bool(torch.isfinite(tensor).all()) for tensor in (condition, *hidden_states)):
            raise WeightsError(
                f"{self.found['eva_clip'].path}: gives NaN or infinite features; download it again"
            )
        return Features(condition, hidden_states)

    def tokens(
        self,
        features: Sequence[Features],
        fuse: Fuse = "encoder",
        values: Sequence[float] | None = None,
    ) -> np.ndarray:
        """Identity tokens (N, C) float32 of one or several portraits.

        "encoder": all of them in one pass of IDFormer, the reference's own form. The others run it
        for each portrait and join the tokens, see `fusion.fuse_tokens`; values: a quality for each,
        for "weighted".
        """
        if fuse == "encoder" or len(features) == 1:
            return self._encode(features)
        return fusion.fuse_tokens([self._encode([one]) for one in features], fuse, values)

    def uncond(self, features: Sequence[Features], fuse: Fuse = "encoder") -> np.ndarray:
        """The tokens (N, C) of an all-zero condition: of as many portraits as IDFormer saw at once,
        as the reference has it.

        One set stands for "concat" as well: attention to the same tokens several times is attention
        to them once.
        """
        together = features if fuse == "encoder" else features[:1]
        return self._encode([one.zeros() for one in together])

    @torch.no_grad()
    def _encode(self, features: Sequence[Features]) -> np.ndarray:
        condition = torch.stack([one.condition for one in features], dim=1)  # (1, I, 512 + P)
        scales = zip(*(one.hidden_states for one in features), strict=True)
        with _deterministic():
            tokens = (
                self._idformer(condition, [torch.cat(images, dim=1) for images in scales])[0]
                .float()
                .cpu()
                .numpy()
            )
        if not np.isfinite(tokens).all():
            raise WeightsError(
                f"{self.found['pulid_weights'].path}: gives tokens that are NaN or infinite; download it again"
            )
        return tokens

    # ----------------------------------------------------------------------------- which face it is

    def _detect(self, photo: Photo) -> list[Face]:
        """insightface's faces in the limited picture; if there are none, in the same picture with a
        margin around it.
        """
        found = self._antelope.detect(photo.bgr, self.options.det_threshold, self.log)
        if not found:
            padded, scale, shift = portrait.with_margin(photo.bgr)
            found = [
                face.mapped(scale, shift)
                for face in self._antelope.detect(padded, self.options.det_threshold)
            ]
            if found:
                self.log(
                    "the face is found only with a margin around the portrait: it fills the frame"
                )
        return found

    def _find_landmarks(self, photo: Photo) -> list[Landmarks]:
        """As `_detect`, by RetinaFace."""
        confidence = self.options.retinaface_confidence
        marks = face_crop.find_landmarks(self._retinaface, photo.bgr, confidence)
        if not marks:
            padded, scale, shift = portrait.with_margin(photo.bgr)
            marks = [
                mark.mapped(scale, shift)
                for mark in face_crop.find_landmarks(self._retinaface, padded, confidence)
            ]
        return marks

    def _pick(self, photo: Photo, found: Sequence[Face | Landmarks], choice: FaceChoice) -> int:
        return pick([face.mapped(photo.scale).box for face in found], choice, photo.size)

    def _by_hand(self, photo: Photo, choice: FaceChoice) -> _Chosen:
        if choice.landmarks is not None:
            points = np.asarray(np.array(choice.landmarks) / photo.scale, np.float32)
            middle, half = (
                (points.min(axis=0) + points.max(axis=0)) / 2,
                np.ptp(points, axis=0).max(),
            )
            if not (0 <= middle[0] <= photo.bgr.shape[1] and 0 <= middle[1] <= photo.bgr.shape[0]):
                raise InputError(
                    f"--landmarks: lie outside the portrait, which is {photo.size[0]}x{photo.size[1]} pixels"
                )
            # about a detector's box
            left, top, right, bottom = (
                float(value) for value in (*(middle - half), *(middle + half))
            )
            box = (left, top, right, bottom)
            return _Chosen(box, points, Face(box, points, 1.0))
        assert choice.box is not None  # `detects` says so
        (sx, sy), by_hand = photo.scale, choice.box
        regions.check_box("--face-box", by_hand, photo.size)
        return _Chosen(
            (
                by_hand.x / sx,
                by_hand.y / sy,
                (by_hand.x + by_hand.width) / sx,
                (by_hand.y + by_hand.height) / sy,
            ),
            None,
            None,
        )

    def _by_detectors(self, photo: Photo, choice: FaceChoice) -> _Chosen:
        """The chosen one of the faces that insightface finds, aligned by RetinaFace's landmarks of
        that same face, or by its own.
        """
        found = self._detect(photo)
        if self.options.aligner == "antelopev2":
            if not found:
                raise FaceError(
                    "no face found by antelopev2; give a clearer portrait, or the region with --face-box"
                )
            face = found[self._pick(photo, found, choice)]
            self._say(found, choice, face.score)
            return _Chosen(face.box, face.landmarks, face, face.score, len(found))
        marks = self._find_landmarks(photo)
        if not marks:
            raise FaceError(
                "no face found: RetinaFace sees none, neither does insightface; give a clearer portrait, or the region with --face-box"
                if not found
                else f"no face found: RetinaFace sees none, insightface finds {len(found)}; give a clearer portrait, the region with "
                f"--face-box, or --aligner antelopev2"
            )
        if not found:
            # As the reference: ArcFace then sees the aligned crop, squashed to its size.
            mark = marks[self._pick(photo, marks, choice)]
            self.log(f"insightface finds no face, RetinaFace {len(marks)}: taking {choice.words()}")
            return _Chosen(mark.box, mark.points, None, mark.score, len(marks))
        face = found[self._pick(photo, found, choice)]
        mark = max(marks, key=lambda mark: faces.overlap(face.box, mark.box))
        shared = faces.overlap(face.box, mark.box)
        if shared < MIN_OVERLAP:
            where = photo.in_portrait(face.box)
            raise FaceError(
                f"the detectors disagree: {choice.words('insightface')} is at {where.x},{where.y},{where.width},{where.height} "
                f"(X,Y,W,H), RetinaFace's nearest overlaps it by {shared:.2f}, at least {MIN_OVERLAP} is needed; "
                f"crop the portrait, or give the region with --face-box"
            )
        self._say(found, choice, face.score)
        return _Chosen(face.box, mark.points, face, face.score, len(found))

    def _say(self, found: Sequence[Face], choice: FaceChoice, score: float) -> None:
        self.log(
            f"{len(found)} face{'s' * (len(found) != 1)} found, taking {choice.words()} (score {score:.2f})"
        )

    def _cut(
        self, photo: Photo, chosen: _Chosen, keep: np.ndarray | None
    ) -> tuple[np.ndarray, torch.Tensor | None]:
        """The aligned crop, uint8 BGR (512, 512, 3), and what is kept of it, bool (1, 1, 512,
        512).
        """
        mask = None if keep is None else regions.limit_mask(keep, photo.bgr.shape[1::-1])
        if chosen.points is not None:
            matrix = face_crop.alignment(chosen.points)
            crop = face_crop.warp(photo.bgr, matrix)
            kept = None if mask is None else face_crop.warp(mask, matrix, None)
        else:
            box = photo.in_portrait(chosen.box)
            crop = regions.crop_box(photo.bgr, box, photo.size, regions.PAD_RGB[::-1])
            kept = None if mask is None else regions.crop_box(mask, box, photo.size, None)
        # Beyond the picture's border its rim decides: a mask that keeps all is the same as none.
        return crop, None if kept is None else torch.from_numpy(kept[..., 0] >= 128)[None, None]

    def _vector(self, photo: Photo, chosen: _Chosen, crop: np.ndarray | None) -> np.ndarray:
        if chosen.face is not None:
            return self._antelope.embed(photo.bgr, chosen.face)
        return self._antelope.embed_crop(
            crop if crop is not None else self._cut(photo, chosen, None)[0]
        )


def choose_device(name: str) -> str:
    """ "auto" -> "cuda", "mps" or "cpu" by what is there. Raises InputError for a device that is
    not.
    """
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return next(device for device, available in there.items() if available)
    if not there.get(name):
        have = ", ".join(device for device, available in there.items() if available)
        raise InputError(
            f"--device {name}: not on this machine (here: {have}); leave --device out to take what is there"
        )
    return name


def _deterministic() -> Any:
    return torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
