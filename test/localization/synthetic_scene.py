"""Synthetic matches with a known pose, for the tests of pose estimation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.refinement import Matches
from kapture_ros.mapping.images import Camera
from kapture_ros.transforms import Transform

PARAMS = {
    "SIMPLE_PINHOLE": (500, 320, 240),
    "PINHOLE": (500, 510, 320, 240),
    "SIMPLE_RADIAL": (500, 320, 240, 0.1),
    "RADIAL": (500, 320, 240, 0.1, -0.05),
    "OPENCV": (500, 500, 320, 240, 0.1, -0.05, 0.001, 0.002),
    "OPENCV_FISHEYE": (300, 300, 320, 240, 0.05, -0.01, 0.001, 0.0),
    "FULL_OPENCV": (500, 500, 320, 240, 0.1, -0.05, 0.001, 0.001, 0.01, 0.01, 0.0, 0.0),
    "FOV": (400, 400, 320, 240, 0.6),
    "SIMPLE_RADIAL_FISHEYE": (300, 320, 240, 0.02),
    "RADIAL_FISHEYE": (300, 320, 240, 0.02, -0.005),
    "THIN_PRISM_FISHEYE": (300, 300, 320, 240, 0.05, -0.01, 0.001, 0.001, 0, 0, 0.001, 0.001),
}
"""Parameters of every camera model of kapture, 640 × 480."""


@dataclass(frozen=True)
class Scene:
    """A true map_from_base and matches, the first of them true, the rest not."""

    map_from_base: Transform
    cameras: list[MountedCamera]
    matches: Matches
    true: np.ndarray


def camera(model: str = "OPENCV") -> Camera:
    return Camera(model.lower(), model, 640, 480, tuple(map(float, PARAMS[model])))


def single(model: str = "OPENCV") -> list[MountedCamera]:
    return [MountedCamera(camera(model), Transform.exp([0.1, -0.2, 1.5, 0.2, 1.1, -0.4]))]


def rig() -> list[MountedCamera]:
    """Three cameras with three models that look in three directions, 1 m apart."""
    return [
        MountedCamera(camera(model), Transform.exp([x, 0.1, 0.2, 0.0, turn, 0.1]))
        for model, x, turn in (("OPENCV", 0, 0), ("PINHOLE", 1, 1.3), ("OPENCV_FISHEYE", -1, -1.3))
    ]


def make_scene(
    rng: np.random.Generator,
    cameras: list[MountedCamera],
    count: int = 150,
    noise: float = 1.0,
    outliers: float = 0.0,
) -> Scene:
    """A pose some 50 m from the origin, points 4 to 30 m before the cameras."""
    pose = Transform.exp(np.concatenate([rng.normal(0, 30, 3), rng.normal(0, 0.7, 3)]))
    each = count // len(cameras)
    pixels, points, number = [], [], []
    for row, mounted in enumerate(cameras):
        size = mounted.camera.width, mounted.camera.height
        seen = rng.uniform((0, 0), size, (each, 2))
        points_cam = mounted.rays(seen) * rng.uniform(4, 30, (each, 1))
        points.append((pose @ mounted.cam_from_base.inverse()).apply(points_cam))
        pixels.append(seen + rng.normal(0, noise, seen.shape))
        number.append(np.full(each, row, np.int32))
    true = rng.random(each * len(cameras)) >= outliers
    pixels = np.concatenate(pixels)
    pixels[~true] = rng.uniform((0, 0), (640, 480), ((~true).sum(), 2))
    rows = np.arange(len(true), dtype=np.int32)
    matches = Matches(pixels, np.concatenate(points), np.concatenate(number), rows, rows)
    return Scene(pose, cameras, matches, true)
