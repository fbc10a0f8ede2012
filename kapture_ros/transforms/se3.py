"""Rigid transforms, named `b_from_a`: they take points in frame a to frame b.

So `c_from_a = c_from_b @ b_from_a`, and names that touch must match. Twists and
covariances are ordered (translation, rotation) as in ROS; a twist is in the tangent
space at the identity (Barfoot, State Estimation for Robotics, section 7.1).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

Array = npt.NDArray[np.float64]


def _no_rotation() -> Rotation:
    return Rotation.identity()


def _no_translation() -> Array:
    return np.zeros(3)


@dataclass(frozen=True, slots=True, eq=False)
class Transform:
    """A rotation followed by a translation in metres."""

    rotation: Rotation = field(default_factory=_no_rotation)
    translation: Array = field(default_factory=_no_translation)

    @classmethod
    def from_quaternion(cls, wxyz: npt.ArrayLike, translation: npt.ArrayLike) -> Transform:
        """From a quaternion w, x, y, z (kapture's order; normalized here) and metres.

        Raises:
            ValueError: on a zero or non-finite quaternion or a non-finite translation.
        """
        quaternion = np.asarray(wxyz, dtype=float)
        position = np.asarray(translation, dtype=float)
        if quaternion.shape != (4,) or position.shape != (3,):
            raise ValueError("a transform needs four quaternion and three translation numbers")
        norm = float(np.linalg.norm(quaternion))
        if not np.isfinite(norm) or norm < 1e-6 or not np.isfinite(position).all():
            raise ValueError(f"not a rigid transform: q={quaternion}, t={position}")
        # The one place where scalar-first becomes SciPy's (and ROS's) scalar-last.
        return cls(Rotation.from_quat(np.roll(quaternion, -1)), position)

    @classmethod
    def from_matrix(cls, matrix: npt.ArrayLike) -> Transform:
        """From a (3, 4) or (4, 4) matrix; the rotation is made orthonormal."""
        values = np.asarray(matrix, dtype=float)
        return cls(Rotation.from_matrix(values[:3, :3]), values[:3, 3].copy())

    @classmethod
    def exp(cls, twist: npt.ArrayLike) -> Transform:
        """From a twist (6,): translation part, then rotation vector."""
        rho, phi = np.split(np.asarray(twist, dtype=float), 2)
        return cls(Rotation.from_rotvec(phi), _left_jacobian(phi) @ rho)

    def log(self) -> Array:
        """The twist (6,) whose exponential this is."""
        phi = self.rotation.as_rotvec()
        return np.concatenate([np.linalg.solve(_left_jacobian(phi), self.translation), phi])

    @property
    def quaternion(self) -> Array:
        """w, x, y, z with w ≥ 0."""
        xyzw: Array = self.rotation.as_quat(canonical=True)
        return np.roll(xyzw, 1)

    def matrix(self) -> Array:
        """The homogeneous (4, 4) matrix."""
        result = np.eye(4)
        result[:3, :3] = self.rotation.as_matrix()
        result[:3, 3] = self.translation
        return result

    def inverse(self) -> Transform:
        """`a_from_b` of a `b_from_a`."""
        rotation = self.rotation.inv()
        return Transform(rotation, -rotation.apply(self.translation))

    def __matmul__(self, other: Transform) -> Transform:
        return Transform(
            self.rotation * other.rotation,
            self.rotation.apply(other.translation) + self.translation,
        )

    def apply(self, points: npt.ArrayLike) -> Array:
        """Move points (3,) or (N, 3)."""
        moved: Array = self.rotation.apply(np.asarray(points, dtype=float)) + self.translation
        return moved

    def adjoint(self) -> Array:
        """(6, 6): moves a twist of frame a to frame b, and by A C Aᵀ its covariance."""
        rotation = self.rotation.as_matrix()
        result = np.zeros((6, 6))
        result[:3, :3] = result[3:, 3:] = rotation
        result[:3, 3:] = cross_matrix(self.translation) @ rotation
        return result

    def distance_to(self, other: Transform) -> tuple[float, float]:
        """Metres between the origins and radians between the axes of two `b_from_a`."""
        metres = float(np.linalg.norm(self.translation - other.translation))
        return metres, float((self.rotation.inv() * other.rotation).magnitude())

    def __eq__(self, other: object) -> Any:
        if not isinstance(other, Transform):
            return NotImplemented
        same = np.array_equal(self.translation, other.translation)
        return same and np.array_equal(self.quaternion, other.quaternion)


def interpolate(start: Transform, end: Transform, fraction: float) -> Transform:
    """Between two `b_from_a`: slerp in rotation, straight line in translation."""
    turn = (start.rotation.inv() * end.rotation).as_rotvec()
    rotation = start.rotation * Rotation.from_rotvec(fraction * turn)
    translation = (1.0 - fraction) * start.translation + fraction * end.translation
    return Transform(rotation, translation)


def cross_matrix(v: Array) -> Array:
    """(3, 3): multiplying with it is the cross product v × ·."""
    return np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])


def _left_jacobian(phi: Array) -> Array:
    """Barfoot, eq. 7.77; a series where the angle is too small to divide by."""
    angle = float(np.linalg.norm(phi))
    cross = cross_matrix(phi)
    if angle < 1e-4:
        a, b = 0.5 - angle**2 / 24, 1 / 6 - angle**2 / 120
    else:
        a, b = (1 - np.cos(angle)) / angle**2, (angle - np.sin(angle)) / angle**3
    result: Array = np.eye(3) + a * cross + b * (cross @ cross)
    return result
