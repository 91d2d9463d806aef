"""Where a head points, estimated from five landmarks: yaw, pitch and roll in degrees.

A rigid generic face is turned and shifted until it meets the landmarks (perspective-n-point). It is
an estimate: a face that is not the average one, or a mouth wide open, moves it by some degrees.
Knows nothing of pictures or networks.

Sources: google/mediapipe, modules/face_geometry/data/canonical_face_model.obj (the generic face);
Terzakis and Lourakis, A Consistently Fast and Globally Optimal Solution to the Perspective-n-Point
Problem, ECCV 2020 (cv2.SOLVEPNP_SQPNP).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Centimetres; x right, y down, z away from the camera. Eyes: midway between their corners (vertices
# 33 and 133, 362 and 263); nose tip: vertex 1; mouth corners: 61 and 291. The file's y points up
# and its z at the camera.
GENERIC_FACE = np.array(
    [
        [-3.151145, -2.624638, -3.465663],
        [3.151145, -2.624638, -3.465663],
        [0.0, 1.126865, -7.475604],
        [-2.456206, 4.342621, -4.283884],
        [2.456206, 4.342621, -4.283884],
    ]
)
# The focal length is not known, and a crop has no optical centre: the face is taken to be in the
# middle of a picture that was taken from a metre away, where perspective is weak. The angles are
# those under which the camera saw the face.
DISTANCE = 100.0


@dataclass(frozen=True)
class Pose:
    """In degrees."""

    # above 0 the face turns to the right edge of the picture
    yaw: float
    # above 0 it looks up
    pitch: float
    # above 0 the head leans clockwise, as seen in the picture
    roll: float


def head_pose(landmarks: np.ndarray) -> Pose | None:
    """landmarks: (5, 2) pixels: eyes, nose tip, mouth corners. None if they cannot be a face: all
    on one line, or not finite.
    """
    import cv2

    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        return None
    centred, flat = points - points.mean(axis=0), (GENERIC_FACE - GENERIC_FACE.mean(axis=0))[:, :2]
    extent = np.linalg.svd(centred, compute_uv=False)
    if extent[1] < 0.02 * extent[0] or extent[0] < 1e-3:
        return None
    # In centimetres, so that every size of picture is the same problem.
    scaled = centred / np.sqrt((centred**2).sum() / (flat**2).sum())
    camera = np.diag([DISTANCE, DISTANCE, 1.0])
    found, turn, _ = cv2.solvePnP(GENERIC_FACE, scaled, camera, None, flags=cv2.SOLVEPNP_SQPNP)
    if not found or not np.isfinite(turn).all():
        return None
    rotation = cv2.Rodrigues(turn)[0]  # R = Rz(roll) Ry(-yaw) Rx(-pitch)
    pitch = np.degrees(np.arctan2(-rotation[2, 1], rotation[2, 2]))
    yaw = np.degrees(np.arctan2(rotation[2, 0], np.hypot(rotation[0, 0], rotation[1, 0])))
    roll = np.degrees(np.arctan2(rotation[1, 0], rotation[0, 0]))
    return Pose(float(yaw), float(pitch), float(roll))
