"""How good a portrait is for PuLID: what can be measured on one face, what to advise, and one
number from 0 to 1.

Every limit is one row of the table LIMITS. The measures describe the picture, not the person, and
no network runs here. Knows nothing of detectors, files or command lines.

Sources: sharpness is the variance of the Laplacian (Pech-Pacheco et al., Diatom autofocusing in
brightfield microscopy, ICPR 2000) on the aligned face, scaled to unit contrast; labels are facexlib
0.3.0's BiSeNet (CelebAMask-HQ order).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from pulid_extract.faces.head_pose import Pose
from pulid_extract.shared.records import check_types

# Of the aligned 512x512 crop: the ellipse from the brows to the chin that an uncovered face fills
# (landmarks of FFHQ's template inside).
ELLIPSE_CENTRE, ELLIPSE_AXES = (256.0, 315.0), (112.0, 140.0)
FACE_LABELS = (1, 2, 3, 4, 5, 6, 10, 11, 12, 13)  # skin, brows, eyes, glasses, nose, mouth, lips
GLASSES, HAT = 6, 18
# pixels of the face crop when it is measured: about what EVA-CLIP's 336 can still tell apart
SHARPNESS_SIDE = 256
# degrees of yaw: in a profile both eyes lie on one line of sight, and pitch cannot be told from
# roll
NO_PITCH_BEYOND = 60.0


@dataclass(frozen=True)
class Limit:
    """How much a measure costs."""

    # from here on nothing
    good: float
    # beyond this it is said
    warn: float
    # from here on as much as it can
    bad: float
    # what is left of the value at the worst; 0 only for what leaves no face to speak of
    floor: float
    # for people, {0} is the measure
    advice: str

    def factor(self, measure: float) -> float:
        """1 for a good measure, `floor` for a bad one."""
        part = (measure - self.bad) / (self.good - self.bad)
        return self.floor + (1 - self.floor) * min(max(part, 0.0), 1.0)

    def exceeded(self, measure: float) -> bool:
        """Whether it is worth a word."""
        return measure < self.warn if self.good > self.bad else measure > self.warn


LIMITS = {
    # Pixels of the shorter side of the face's box. EVA-CLIP sees the face at about 200 pixels,
    # ArcFace at 112: below 112 both see enlarged pixels, and from 200 on more pixels change
    # nothing.
    "face_size": Limit(
        200,
        112,
        24,
        0.1,
        "a face of {0:.0f} pixels is enlarged: take a larger picture, or come closer",
    ),
    # Unitless. NASA's photograph of Eileen Collins (a face of 93 pixels) gives 0.089 and, blurred
    # by a Gaussian of 1, 1.5 and 2 hundredths of the face's width, 0.011, 0.0047 and 0.0025: from
    # there on lashes and lips run into each other.
    "sharpness": Limit(
        0.02,
        0.005,
        0.0,
        0.2,
        "blurred (sharpness {0:.4f}): fine features will be lost; take a sharper picture",
    ),
    # Degrees. FFHQ and ArcFace are trained on faces up to about 45 degrees; from 60 on one eye is
    # hidden.
    "yaw": Limit(
        25,
        40,
        90,
        0.1,
        "profile of {0:.0f} degrees: likeness will suffer; take one that looks at the camera",
    ),
    "pitch": Limit(
        20,
        30,
        70,
        0.2,
        "head tilted {0:.0f} degrees up or down: likeness will suffer; hold the camera at eye "
        "level",
    ),
    # Shares from 0 to 1 of the ellipse where an uncovered face would be.
    "covered": Limit(
        0.1,
        0.25,
        0.9,
        0.0,
        "{0:.0%} of the face is covered: hands, hair or a mask become part of the identity",
    ),
    # Thin frames cover a hundredth of the ellipse; PuLID keeps them in every picture, so they are
    # said but cost little.
    "glasses": Limit(
        0.01,
        0.01,
        0.5,
        0.5,
        "glasses: they will be in every picture; take them off for a neutral identity",
    ),
    # Share of the whole crop. The parser cuts hats out, and with them the hair.
    "hat": Limit(0.02, 0.02, 0.5, 0.7, "a hat: it is cut out, and the hair under it is not seen"),
    # Share of the face's box outside the picture. Detectors' boxes are a few hundredths loose.
    "outside": Limit(
        0.02, 0.05, 0.6, 0.0, "the face is cut off: {0:.0%} of it is outside the picture"
    ),
    # The detector's own certainty. Its threshold is 0.5, and clear faces of any size score above
    # 0.7.
    "score": Limit(
        0.75,
        0.65,
        0.2,
        0.3,
        "the detector is unsure (score {0:.2f}): is this a face, and a clear one?",
    ),
}
SEVERAL_FACES = (
    "{0} faces: {1} was taken; say which with --face-index, and look with `pulid-extract faces`"
)


@dataclass(frozen=True)
class QualityWarning:
    """What could be better."""

    # the measure, or "faces"
    name: str
    # one line
    advice: str


@dataclass(frozen=True)
class Quality:
    """What was measured, in the units of LIMITS; None: cannot be measured for a face that was
    chosen this way.
    """

    # 0 (useless) to 1 (nothing to improve): the product of all factors
    value: float
    face_size: float
    sharpness: float
    # degrees, see head_pose
    yaw: float | None
    pitch: float | None
    roll: float | None
    covered: float | None
    glasses: float | None
    hat: float | None
    outside: float
    score: float | None
    # how many the detector saw
    faces: int
    warnings: tuple[QualityWarning, ...]

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> Quality:
        """The inverse of `as_dict`. Raises TypeError, KeyError or ValueError for another dict."""
        names = [field.name for field in fields(cls) if field.name != "warnings"]
        check_types(record, dict.fromkeys(names, int | float | None) | {"warnings": dict})
        warnings = [QualityWarning(name, advice) for name, advice in record["warnings"].items()]
        return cls(**{**record, "warnings": tuple(warnings)})

    def as_dict(self) -> dict[str, Any]:
        """For JSON: rounded numbers, and warnings as {name: advice}."""
        record = asdict(self)
        for name, value in record.items():
            if isinstance(value, float):
                record[name] = round(value, 4)
        record["warnings"] = {warning.name: warning.advice for warning in self.warnings}
        return record

    def line(self) -> str:
        """One line for people, without the warnings."""
        pose = "pose not known"
        if self.yaw is not None:
            pose = f"yaw {self.yaw:.0f}, pitch {self.pitch:.0f}, roll {self.roll:.0f} degrees"
        parts = [f"face {self.face_size:.0f} px", f"sharpness {self.sharpness:.3f}", pose]
        if self.covered is not None:
            parts.append(f"covered {self.covered:.0%}")
        if self.score is not None:
            parts.append(f"score {self.score:.2f}")
        return f"quality {self.value:.2f}: {', '.join(parts)}"


def judge(
    *,
    crop: np.ndarray,
    labels: np.ndarray | None,
    box: tuple[float, float, float, float],
    size: tuple[float, float],
    pose: Pose | None,
    score: float | None,
    faces: int,
    taken: str | None,
) -> Quality:
    """Measure one face and weigh it.

    crop: uint8 (512, 512, 3), the aligned face. labels: (512, 512) of BiSeNet, None without a
    parser. box: (x1, y1, x2, y2), not cut at the border, in the pixels of a portrait of `size`
    (width, height). taken: which of several faces, if that was not said by hand.
    """
    measures: dict[str, float | None] = {
        "face_size": min(box[2] - box[0], box[3] - box[1]),
        "sharpness": sharpness(crop),
        "yaw": None,
        "pitch": None,
        "covered": None,
        "glasses": None,
        "hat": None,
        "outside": outside(box, size),
        "score": score,
    }
    if pose is not None:
        measures["yaw"] = abs(pose.yaw)
        if abs(pose.yaw) <= NO_PITCH_BEYOND:
            measures["pitch"] = abs(pose.pitch)
    if labels is not None:
        measures |= parsed_shares(labels)
    known = {name: value for name, value in measures.items() if value is not None}
    warnings = []
    for name, value in known.items():
        if LIMITS[name].exceeded(value):
            warnings.append(QualityWarning(name, LIMITS[name].advice.format(value)))
    if faces > 1 and taken is not None:
        warnings.append(QualityWarning("faces", SEVERAL_FACES.format(faces, taken)))
    # with their signs, and beyond the limit, too
    if pose is not None:
        measures |= {"yaw": pose.yaw, "pitch": pose.pitch}
    return Quality(
        value=math.prod(LIMITS[name].factor(value) for name, value in known.items()),
        roll=pose.roll if pose is not None else None,
        faces=faces,
        warnings=tuple(warnings),
        **measures,  # type: ignore[arg-type]
    )


def sharpness(crop: np.ndarray) -> float:
    """Variance of the Laplacian over the face of a uint8 (512, 512, 3) crop, after scaling it to
    zero mean and unit variance.

    Contrast and exposure cancel; noise counts as detail. 0 for a face without any contrast.
    """
    import cv2

    grey = cv2.resize(
        crop.mean(axis=2).astype(np.float32),
        (SHARPNESS_SIDE, SHARPNESS_SIDE),
        interpolation=cv2.INTER_AREA,
    )
    inside = face_ellipse(SHARPNESS_SIDE)
    contrast = float(grey[inside].std())
    if contrast < 1:
        return 0.0
    return float(cv2.Laplacian(grey, cv2.CV_32F)[inside].var()) / contrast**2


def parsed_shares(labels: np.ndarray) -> dict[str, float]:
    """From (512, 512) labels: `covered` and `glasses`, shares of the face's ellipse; `hat`, a share
    of the crop.
    """
    inside = labels[face_ellipse(labels.shape[0])]
    return {
        "covered": 1.0 - float(np.isin(inside, FACE_LABELS).mean()),
        "glasses": float((inside == GLASSES).mean()),
        "hat": float((labels == HAT).mean()),
    }


def face_ellipse(side: int) -> np.ndarray:
    """bool (side, side): where an uncovered face lies in an aligned crop of that side."""
    scale = side / 512
    y, x = np.mgrid[:side, :side] + 0.5
    (cx, cy), (ax, ay) = ELLIPSE_CENTRE, ELLIPSE_AXES
    return ((x / scale - cx) / ax) ** 2 + ((y / scale - cy) / ay) ** 2 <= 1


def outside(box: tuple[float, float, float, float], size: tuple[float, float]) -> float:
    """The share of a box that lies outside a picture of (width, height)."""
    left, top, right, bottom = box
    width, height = min(right, size[0]) - max(left, 0), min(bottom, size[1]) - max(top, 0)
    whole = (right - left) * (bottom - top)
    return 1.0 - max(width, 0) * max(height, 0) / whole if whole > 0 else 1.0
