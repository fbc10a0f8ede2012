"""Cameras of one instant: where they sit on the vehicle, and their pixels as rays and back.

Projection is pycolmap's, so that every camera model of kapture works everywhere. Pixel
centres are at whole numbers in kapture's keypoints and intrinsics alike: nothing is
shifted here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pycolmap

from kapture_ros.errors import InputError
from kapture_ros.mapping.images import UNCALIBRATED, Camera
from kapture_ros.transforms.se3 import Array, Transform

STEP = 1e-6  # of the point's distance, for derivatives of the projection
PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")  # derivatives of the others are by differences


@dataclass(frozen=True, slots=True)
class MountedCamera:
    """A camera and where it sits: a row of kapture's rigs.txt.

    Raises:
        InputError: if the camera is not calibrated or its numbers are not a camera's.
    """

    camera: Camera
    cam_from_base: Transform = field(default_factory=Transform)
    model: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", _colmap_camera(self.camera))

    @property
    def focal(self) -> float:
        """Mean focal length in pixels."""
        return float(self.model.mean_focal_length())

    def project(self, points_cam: Array) -> Array:
        """Pixels (N, 2) of points (N, 3) in the camera frame; NaN behind the camera."""
        pixels: Array = self.model.img_from_cam(points_cam)
        return pixels

    def project_with_jacobian(self, points_cam: Array) -> tuple[Array, Array]:
        """Pixels (N, 2) and their derivatives (N, 2, 3) by the point; NaN behind the camera."""
        if self.camera.model in PINHOLES:
            return self._pinhole_with_jacobian(points_cam)
        count = len(points_cam)
        step = STEP * np.sqrt((points_cam**2).sum(axis=1))
        moved = np.tile(points_cam, (4, 1))
        for axis in range(3):
            moved[(axis + 1) * count : (axis + 2) * count, axis] += step
        pixels = self.model.img_from_cam(moved).reshape(4, count, 2)
        jacobian = (pixels[1:] - pixels[0]) / step[:, None]
        return pixels[0], jacobian.transpose(1, 2, 0)

    def _pinhole_with_jacobian(self, points_cam: Array) -> tuple[Array, Array]:
        depth = np.where(points_cam[:, 2] > 0, points_cam[:, 2], np.nan)
        focal = np.array([self.model.focal_length_x, self.model.focal_length_y])
        center = np.array([self.model.principal_point_x, self.model.principal_point_y])
        scale = focal / depth[:, None]
        offset = scale * points_cam[:, :2]
        jacobian = np.zeros((len(points_cam), 2, 3))
        jacobian[:, 0, 0], jacobian[:, 1, 1] = scale.T
        jacobian[:, :, 2] = -offset / depth[:, None]
        return offset + center, jacobian

    def rays(self, pixels: Array) -> Array:
        """Unit rays (N, 3) of pixels (N, 2); NaN where the distortion has no inverse."""
        rays: Array = self.model.cam_ray_from_img(np.ascontiguousarray(pixels, dtype=float))
        return rays


def closest_approach(first: Array, second: Array, base: Array) -> tuple[Array, Array, Array]:
    """Where pairs of rays come nearest to each other.

    Args:
        first, second: (n, 3) unit vectors.
        base: (3,) from where the first begin to where the second do, metres.

    Returns:
        Metres (n,) along the first and the second, and the squared sine (n,) between them: of
        rays that are nearly parallel the metres say nothing.
    """
    cosine = np.einsum("ni,ni->n", first, second)
    sine2 = np.maximum(1 - cosine**2, 1e-12)
    along, back = first @ base, second @ base
    return (along - cosine * back) / sine2, (cosine * along - back) / sine2, sine2


def _colmap_camera(camera: Camera) -> pycolmap.Camera:
    what = f"camera '{camera.sensor_id}'"
    if camera.model == UNCALIBRATED:
        raise InputError(f"{what} has no calibration; record its CameraInfo")
    if camera.model not in pycolmap.CameraModelId.__members__:
        raise InputError(f"{what}: unknown camera model '{camera.model}'")
    if not np.isfinite(camera.params).all():
        raise InputError(f"{what}: its calibration {camera.params} is not finite")
    model = pycolmap.Camera(
        model=camera.model,
        width=camera.width,
        height=camera.height,
        params=np.asarray(camera.params, dtype=float),
    )
    if not model.verify_params() or model.mean_focal_length() <= 0:
        raise InputError(f"{what}: {camera.params} are no parameters of a {camera.model} camera")
    return model
