"""Cameras of the simulated vehicle: pixels to rays and back, for ROS's distortion models.

Pixel (0, 0) is the centre of the first pixel, as in OpenCV and CameraInfo. Camera axes are
ROS's optical frame: x right, y down, z forward (REP-103).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from kapture_ros.transforms.se3 import Array, Transform

Floats = npt.NDArray[np.float32]

OPTICAL_FROM_LINK = Rotation.from_matrix([[0, -1, 0], [0, 0, -1], [1, 0, 0]])
_NEWTON_STEPS = 20


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera with its place on the vehicle.

    Attributes:
        model: "plumb_bob" (k1, k2, p1, p2, k3) or "equidistant" (k1, k2, k3, k4), as in
            sensor_msgs/CameraInfo.
        focal: fx = fy in pixels.
        centre: cx, cy in pixels.
        base_from_camera: takes points of the optical frame to base_link.
    """

    name: str
    width: int
    height: int
    focal: float
    centre: tuple[float, float]
    model: str = "plumb_bob"
    distortion: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0, 0.0)
    base_from_camera: Transform = field(default_factory=Transform)

    @property
    def frame_id(self) -> str:
        """Name of the optical frame."""
        return f"camera_{self.name}_optical_frame"

    @property
    def matrix(self) -> Array:
        """The (3, 3) matrix K."""
        cx, cy = self.centre
        return np.array([[self.focal, 0.0, cx], [0.0, self.focal, cy], [0.0, 0.0, 1.0]])

    def project(self, points_camera: npt.ArrayLike) -> Array:
        """Pixels (N, 2) of points (N, 3) in the optical frame; NaN at and behind the camera."""
        x, y, z = np.asarray(points_camera, dtype=float).T
        with np.errstate(divide="ignore", invalid="ignore"):
            plane = np.stack([x / z, y / z], axis=-1)
            plane[~(z > 0)] = np.nan
            bent = _distort(plane, self.model, self.distortion)
        pixels: Array = bent * self.focal + np.asarray(self.centre)
        return pixels

    def rays(self, pixels: npt.ArrayLike) -> Array:
        """Unit directions (N, 3) in the optical frame of the light that falls on pixels (N, 2)."""
        bent = (np.asarray(pixels, dtype=float) - self.centre) / self.focal
        if self.model == "equidistant":
            return _equidistant_rays(bent, self.distortion)
        plane = bent.copy()
        for _ in range(_NEWTON_STEPS):
            plane += bent - _distort(plane, self.model, self.distortion)
        rays: Array = np.concatenate([plane, np.ones((len(plane), 1))], axis=1)
        rays /= np.linalg.norm(rays, axis=1, keepdims=True)
        return rays

    def ray_table(self, shift: tuple[float, float] = (0.0, 0.0)) -> Floats:
        """`rays` of every pixel, row by row (height · width, 3), `shift` from its centre."""
        size = (self.width, self.height)
        return _ray_table(size, self.focal, self.centre, (self.model, self.distortion), shift)

    def pixel_grid(self) -> Array:
        """Every pixel's (x, y), row by row: (height · width, 2)."""
        rows, columns = np.mgrid[0 : self.height, 0 : self.width]
        return np.stack([columns.ravel(), rows.ravel()], axis=-1).astype(float)


@lru_cache(maxsize=16)
def _ray_table(
    size: tuple[int, int],
    focal: float,
    centre: tuple[float, float],
    lens: tuple[str, tuple[float, ...]],
    shift: tuple[float, float],
) -> Floats:
    camera = Camera("", *size, focal, centre, *lens)
    table = camera.rays(camera.pixel_grid() + shift).astype(np.float32)
    table.setflags(write=False)  # it is shared
    return table


def _distort(plane: Array, model: str, coefficients: tuple[float, ...]) -> Array:
    """Distorted coordinates (N, 2) on the plane at z = 1 (OpenCV's camera models)."""
    squared = plane[:, :1] ** 2 + plane[:, 1:] ** 2
    if model == "equidistant":
        radius = np.sqrt(squared)
        bent = _equidistant_radius(np.arctan(radius), coefficients)
        return plane * np.where(radius > 1e-9, bent / np.maximum(radius, 1e-9), 1.0)
    k1, k2, p1, p2, k3 = coefficients
    radial = 1.0 + squared * (k1 + squared * (k2 + squared * k3))
    product = 2.0 * plane[:, :1] * plane[:, 1:]
    tangential = product * [p1, p2] + (squared + 2.0 * plane**2) * [p2, p1]
    bent_plane: Array = plane * radial + tangential
    return bent_plane


def _equidistant_radius(theta: Array, coefficients: tuple[float, ...]) -> Array:
    """Distance from the centre at angle theta from the axis (Kannala and Brandt, 2006)."""
    squared = theta**2
    k1, k2, k3, k4 = coefficients
    series = 1.0 + squared * (k1 + squared * (k2 + squared * (k3 + squared * k4)))
    radius: Array = theta * series
    return radius


def _equidistant_rays(bent: Array, coefficients: tuple[float, ...]) -> Array:
    """Unit directions by Newton's method on the angle from the axis."""
    radius = np.linalg.norm(bent, axis=1, keepdims=True)
    theta = radius.copy()
    derivative = tuple((2 * i + 3) * k for i, k in enumerate(coefficients))
    for _ in range(_NEWTON_STEPS):
        slope = _equidistant_radius(theta, derivative) / np.maximum(theta, 1e-12)
        theta -= (_equidistant_radius(theta, coefficients) - radius) / np.maximum(slope, 1e-3)
    sideways = np.divide(np.sin(theta), radius, out=np.ones_like(radius), where=radius > 1e-12)
    rays: Array = np.concatenate([bent * sideways, np.cos(theta)], axis=1)
    return rays
