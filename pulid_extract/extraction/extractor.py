"""Portrait -> face -> crop -> EVA-CLIP -> IDFormer -> tokens. The only file that knows this order,
and the devices.

Reference: ToTheBeginning/PuLID 1aa2fc7, pulid/pipeline_flux.py, get_id_embedding; with one repair.
There insightface takes the largest face and facexlib the most central one, so a group photograph
can mix two people. Here one face is chosen, and both networks see it, or the extraction fails.
Knows nothing of files being written or of command lines.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from pulid_extract.extraction.cutting import check_face_is_seen, cut_out
from pulid_extract.extraction.identity import (
    Aligner,
    FaceCrop,
    Features,
    Identity,
    Options,
    Parser,
)
from pulid_extract.extraction.locating import FaceLocator, LocatedFace, locate_by_hand
from pulid_extract.faces import antelopev2 as faces
from pulid_extract.faces import crop as face_crop
from pulid_extract.faces import quality
from pulid_extract.faces.antelopev2 import Face
from pulid_extract.faces.choice import FaceChoice
from pulid_extract.faces.crop import Landmarks
from pulid_extract.faces.head_pose import head_pose
from pulid_extract.faces.quality import Quality
from pulid_extract.files.model_set import find_files, needed_roles
from pulid_extract.files.roles import ROLES
from pulid_extract.networks import bisenet, eva_clip, fusion, idformer, retinaface
from pulid_extract.networks.devices import (
    choose_arithmetic,
    choose_device,
    exact_arithmetic,
    naming_memory,
)
from pulid_extract.networks.eva_tower import EvaTower
from pulid_extract.networks.fusion import Fuse
from pulid_extract.pictures import portrait
from pulid_extract.pictures.portrait import Photo
from pulid_extract.shared.errors import InputError, WeightsError
from pulid_extract.shared.model_files import FoundFile

# BiSeNet's label: what every pixel is called without a parser
SKIN = 1
LARGEST = FaceChoice()
# faces that EVA-CLIP sees in one pass, by device: a batch rounds otherwise than one face does, so a
# CPU, which gains nothing by it, takes them one by one
FACES_AT_ONCE = {"cuda": 8}


class Extractor:
    """The identity stack. Files are found and recognised at once, each network is loaded when it is
    first needed.

    device: "auto", "cpu", "cuda" or "mps". Arithmetic is float32 everywhere, but for EVA-CLIP and
    IDFormer with `fast`. On mps the face networks stay on the CPU; insightface's follow to cuda
    where onnxruntime can.
    """

    def __init__(
        self,
        files: Mapping[str, FoundFile],
        device: str = "auto",
        options: Options | None = None,
        log: Callable[[str], None] = lambda line: None,
        fast: bool = False,
    ):
        """files: role -> its file. device: see the class. log: gets what is noteworthy, line by
        line. fast: EVA-CLIP and IDFormer in bfloat16, where the device multiplies it. Raises
        InputError for a device that is not there.
        """
        self.files = dict(files)
        self.device = choose_device(device)
        self.dtype = choose_arithmetic(self.device, fast, log)
        self.face_device = "cpu" if self.device == "mps" else self.device
        self.options = options or Options()
        self.log = log
        # of this machine, for whoever opened it; `log` may be changed from portrait to portrait
        self._say = log
        if self.device == "mps":
            log("--device mps: Apple's GPU, where this was never tried; compare with --device cpu")

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
        fast: bool = False,
    ) -> Extractor:
        """Find every file (flag, models folder, Hugging Face cache, download) and check what it is.

        detect: False leaves out what only finding faces needs; every choice then has a box or
        landmarks. aligner, parser, det_threshold: see Options; what they make superfluous is not
        looked for. roles: only these files, for what needs no more. fast: as above. Raises
        WeightsError for a file that is missing or of the wrong kind, InputError for a device that
        is not there.
        """
        explicit = {
            "pulid_weights": pulid_weights,
            "eva_clip": eva_clip,
            "antelopev2": antelopev2,
            "retinaface": retinaface,
            "bisenet": bisenet,
        }
        # before anything is fetched
        choose_device(device)
        options = Options(aligner, parser, det_threshold)
        needed = needed_roles(detect, aligner, parser)
        if roles is not None:
            needed &= set(roles)
        return cls(find_files(explicit, models_dir, needed, log), device, options, log, fast)

    # ------------------------------------------------------------------------------------- networks

    def _path(self, role: str) -> Path:
        if role not in self.files:
            raise InputError(
                f"this Extractor was loaded without {ROLES[role].name}: "
                "load it with all that is needed"
            )
        return self.files[role].path

    @cached_property
    def _antelope(self) -> faces.Antelope:
        return faces.Antelope(self._path("antelopev2"), self.face_device, self._say)

    @property
    def recognizer(self) -> Path:
        """The file of the network whose face vectors an identity is made of. Raises
        WeightsError.
        """
        return self._antelope.recognizer

    @cached_property
    def _retinaface(self) -> retinaface.RetinaFace:
        return retinaface.load_retinaface(self._path("retinaface"), self.face_device)

    @cached_property
    def _bisenet(self) -> bisenet.BiSeNet:
        return bisenet.load_bisenet(self._path("bisenet"), self.face_device)

    @cached_property
    def _tower(self) -> EvaTower:
        return eva_clip.load_eva_clip(self._path("eva_clip"), self.dtype).to(self.device)

    @cached_property
    def _idformer(self) -> idformer.IDFormer:
        model = idformer.load_idformer(self._path("pulid_weights"), self.dtype)
        condition = faces.VECTOR_WIDTH + self._tower.num_classes
        hidden = self._tower.embed_dim
        if model.cond_dim != condition or set(model.vit_dims) != {hidden}:
            raise WeightsError(
                f"{self.files['pulid_weights'].path}: wants a condition of {model.cond_dim} and "
                f"hidden states of width {model.vit_dims[0]}, {self.files['eva_clip'].path} gives "
                f"{condition} and {hidden}; use EVA02-CLIP-L-14-336"
            )
        return model.to(self.device)

    @property
    def arithmetic(self) -> str:
        """In what EVA-CLIP and IDFormer compute: "float32" or "bfloat16"."""
        return str(self.dtype).removeprefix("torch.")

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
        at_once = FACES_AT_ONCE.get(self.device, 1)
        features: list[Features] = []
        for start in range(0, len(crops), at_once):
            features += self._features(crops[start : start + at_once])
        tokens = self.tokens(features, fuse, [crop.quality.value for crop in crops])
        return Identity(tokens, self.uncond(features, fuse) if with_uncond else None, tuple(crops))

    def detect(self, image: np.ndarray) -> list[Face]:
        """Every face, best score first, in pixels of the portrait; uint8 RGB (H, W, 3). Needs
        antelopev2 only.
        """
        photo = Photo.of(image)
        return [face.mapped(photo.scale) for face in self._detect(photo)]

    @torch.no_grad()
    def crop(
        self, image: np.ndarray, choice: FaceChoice = LARGEST, keep: np.ndarray | None = None
    ) -> FaceCrop:
        """Find, choose, align, parse and measure the face; see `extract`. Runs neither EVA-CLIP nor
        IDFormer.
        """
        photo = Photo.of(image)
        with exact_arithmetic(), naming_memory("the face networks", self.face_device):
            located = self._locate(photo, choice)
            bgr, kept = cut_out(photo, located, keep)
            vector = self._vector(photo, located, bgr)
            pixels = face_crop.to_tensor(bgr)
            labels = self._labels(pixels)
            check_face_is_seen(labels, kept)
            grey = face_crop.grey_on_white(pixels, labels, kept)
        rgb = np.ascontiguousarray(bgr[..., ::-1])
        plain_labels = labels[0, 0].to(torch.uint8).numpy()
        landmarks = None
        if located.points is not None:
            landmarks = np.asarray(located.points * photo.scale, np.float32)
        return FaceCrop(
            crop=rgb,
            labels=plain_labels,
            grey=grey,
            vector=vector,
            face=choice.name,
            box=photo.in_portrait(located.box),
            landmarks=landmarks,
            score=located.score,
            faces_found=located.faces_found,
            quality=self._quality(photo, choice, located, rgb, plain_labels),
        )

    def _labels(self, pixels: torch.Tensor) -> torch.Tensor:
        """(1, 1, 512, 512) int64 on the CPU, of float32 RGB (1, 3, 512, 512) in [0, 1]."""
        if self.options.parser == "none":
            return torch.full_like(pixels[:, :1], SKIN, dtype=torch.int64)
        return face_crop.parse_face(self._bisenet, pixels.to(self.face_device)).cpu()

    def _quality(
        self,
        photo: Photo,
        choice: FaceChoice,
        located: LocatedFace,
        crop: np.ndarray,
        labels: np.ndarray,
    ) -> Quality:
        (sx, sy), (left, top, right, bottom) = photo.scale, located.box
        return quality.judge(
            crop=crop,
            labels=None if self.options.parser == "none" else labels,
            box=(left * sx, top * sy, right * sx, bottom * sy),
            size=photo.size,
            pose=None if located.points is None else head_pose(located.points),
            score=located.score,
            faces=located.faces_found,
            taken="the largest" if choice == LARGEST else None,
        )

    def features(self, crop: FaceCrop) -> Features:
        """EVA-CLIP's view of a face, beside its ArcFace vector. Raises WeightsError for features
        that are not finite, InputError for a device whose memory runs out.
        """
        [features] = self._features([crop])
        return features

    @torch.no_grad()
    def _features(self, crops: Sequence[FaceCrop]) -> list[Features]:
        """Of each face, all of them in one pass."""
        with exact_arithmetic(), naming_memory("EVA-CLIP", self.device):
            side = eva_clip.image_size(self._tower)
            pixels = torch.cat([eva_clip.preprocess(crop.grey, side) for crop in crops])
            pixels = pixels.to(self.device, self.dtype)
            pooled, hidden_states = eva_clip.encode_face(self._tower, pixels)
            pooled = pooled.float()
            pooled = pooled / pooled.norm(p=2, dim=1, keepdim=True)
            vectors = torch.from_numpy(np.stack([crop.vector for crop in crops]))
            conditions = torch.cat([vectors.to(self.device), pooled], dim=-1)
        for tensor in (conditions, *hidden_states):
            if not torch.isfinite(tensor).all():
                raise WeightsError(
                    f"{self.files['eva_clip'].path}: gives NaN or infinite features; "
                    "download it again"
                )
        features = []
        for face in range(len(crops)):
            part = slice(face, face + 1)
            features.append(Features(conditions[part], [hidden[part] for hidden in hidden_states]))
        return features

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
        """(N, C) float32, all images in one pass of IDFormer."""
        # (1, I, 512 + P)
        condition = torch.stack([one.condition for one in features], dim=1).to(self.dtype)
        # five of (1, I * L, W)
        hidden_states = []
        for images in zip(*(one.hidden_states for one in features), strict=True):
            hidden_states.append(torch.cat(images, dim=1))
        with exact_arithmetic(), naming_memory("IDFormer", self.device):
            tokens = self._idformer(condition, hidden_states)[0].float().cpu().numpy()
        if not np.isfinite(tokens).all():
            raise WeightsError(
                f"{self.files['pulid_weights'].path}: gives tokens that are NaN or infinite; "
                "download it again"
            )
        return tokens

    # ----------------------------------------------------------------------------- which face it is

    def _detect(self, photo: Photo) -> list[Face]:
        """insightface's faces in the limited picture; if there are none, in the same picture with a
        margin around it.
        """
        threshold = self.options.det_threshold
        detected = self._antelope.detect(photo.bgr, threshold, self.log)
        if detected:
            return detected
        padded, scale, shift = portrait.with_margin(photo.bgr)
        detected = self._antelope.detect(padded, threshold)
        if detected:
            self.log("the face is found only with a margin around the portrait: it fills the frame")
        return [face.mapped(scale, shift) for face in detected]

    def _find_landmarks(self, photo: Photo) -> list[Landmarks]:
        """As `_detect`, by RetinaFace."""
        confidence = self.options.retinaface_confidence
        marks = face_crop.find_landmarks(self._retinaface, photo.bgr, confidence)
        if marks:
            return marks
        padded, scale, shift = portrait.with_margin(photo.bgr)
        marks = face_crop.find_landmarks(self._retinaface, padded, confidence)
        return [mark.mapped(scale, shift) for mark in marks]

    def _locate(self, photo: Photo, choice: FaceChoice) -> LocatedFace:
        if not choice.detects:
            return locate_by_hand(photo, choice)
        aligner = self.options.aligner
        locator = FaceLocator(self._detect, self._find_landmarks, aligner, self.log)
        return locator.locate(photo, choice)

    def _vector(self, photo: Photo, located: LocatedFace, crop: np.ndarray) -> np.ndarray:
        """ArcFace's, (512,) float32. crop: uint8 BGR (512, 512, 3), for a face that insightface
        does not see.
        """
        if located.face is not None:
            return self._antelope.embed(photo.bgr, located.face)
        return self._antelope.embed_crop(crop)
