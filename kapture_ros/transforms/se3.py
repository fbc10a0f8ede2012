"""Rigid transforms, named `b_from_a`: they take points in frame a to frame b.

So `c_from_a = c_from_b @ b_from_a`, and names that touch must match. Twists and
covariances are ordered (translation, rotation) as in ROS; a twist is in the tangent
space at the identity (Barfoot, State Estimation for Robotics, section 7.1).

Rotations are unit quaternions in plain floats: a drive has millions of transforms, and
one product costs a tenth of what it does with SciPy's `Rotation`, which stands at the border.
Scalar-first (kapture, here) becomes scalar-last (SciPy, ROS) in this module alone.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

Array: TypeAlias = npt.NDArray[np.float64]
Quaternion: TypeAlias = tuple[float, float, float, float]  # w, x, y, z


class Transform:
    """A rotation followed by a translation in metres.

    Not to be changed once made; the translation is a read-only array of its own.

    Args:
        rotation: identity if left out.
        translation: (3,) metres; zero if left out.
    """

    __slots__ = ("_wxyz", "translation")

    translation: Array
    _wxyz: Quaternion

    def __init__(
        self, rotation: Rotation | None = None, translation: npt.ArrayLike | None = None
    ) -> None:
        if rotation is None:
            self._wxyz = (1.0, 0.0, 0.0, 0.0)
        else:
            x, y, z, w = rotation.as_quat().tolist()
            self._wxyz = (w, x, y, z)
        self.translation = np.zeros(3) if translation is None else np.array(translation, float)
        self.translation.flags.writeable = False

    @classmethod
    def _of(cls, wxyz: Quaternion, translation: Array) -> Transform:
        made = cls.__new__(cls)
        made._wxyz = wxyz
        made.translation = translation
        translation.flags.writeable = False
        return made

    @classmethod
    def from_quaternion(cls, wxyz: npt.ArrayLike, translation: npt.ArrayLike) -> Transform:
        """From a quaternion w, x, y, z (kapture's order; normalized here) and metres.

        Raises:
            ValueError: on a zero or non-finite quaternion or a non-finite translation.
        """
        quaternion = np.asarray(wxyz, dtype=float)
        position = np.array(translation, dtype=float)
        if quaternion.shape != (4,) or position.shape != (3,):
            raise ValueError("a transform needs four quaternion and three translation numbers")
        norm = math.hypot(*quaternion.tolist())
        if not math.isfinite(norm) or norm < 1e-6 or not np.isfinite(position).all():
            raise ValueError(f"not a rigid transform: q={quaternion}, t={position}")
        w, x, y, z = (quaternion / norm).tolist()
        return cls._of((w, x, y, z), position)

    @classmethod
    def from_matrix(cls, matrix: npt.ArrayLike) -> Transform:
        """From a (3, 4) or (4, 4) matrix; the rotation is made orthonormal.

        Raises:
            ValueError: on another shape, a reflection or a number that is not finite.
        """
        values = np.asarray(matrix, dtype=float)
        if values.shape not in ((3, 4), (4, 4)) or not np.isfinite(values).all():
            raise ValueError(f"not a rigid transform: {values}")
        return cls(Rotation.from_matrix(values[:3, :3]), values[:3, 3])

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
    def rotation(self) -> Rotation:
        """The rotation for SciPy's functions."""
        w, x, y, z = self._wxyz
        return Rotation.from_quat((x, y, z, w))

    @property
    def quaternion(self) -> Array:
        """w, x, y, z, of the two for this rotation the one whose first non-zero is positive."""
        values = np.array(self._wxyz)
        return -values if self._wxyz < (0.0, 0.0, 0.0, 0.0) else values

    def rotation_vector(self) -> Array:
        """The rotation as axis times angle, (3,) radians."""
        w, x, y, z = self._wxyz
        if w < 0:  # the shorter way round
            w, x, y, z = -w, -x, -y, -z
        sine = math.hypot(x, y, z)
        part = 2 * math.atan2(sine, w) / sine if sine > 1e-12 else 2.0
        return np.array([part * x, part * y, part * z])

    def rotation_matrix(self) -> Array:
        """The rotation as a (3, 3) matrix."""
        w, x, y, z = self._wxyz
        return np.array(
            [
                [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
                [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
                [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
            ]
        )

    def matrix(self) -> Array:
        """The homogeneous (4, 4) matrix."""
        result = np.eye(4)
        result[:3, :3] = self.rotation_matrix()
        result[:3, 3] = self.translation
        return result

    def inverse(self) -> Transform:
        """`a_from_b` of a `b_from_a`."""
        w, x, y, z = self._wxyz
        back = (w, -x, -y, -z)
        return Transform._of(back, -_rotate(back, self.translation))

    def __matmul__(self, other: Transform) -> Transform:
        moved = _rotate(self._wxyz, other.translation) + self.translation
        return Transform._of(_product(self._wxyz, other._wxyz), moved)

    def apply(self, points: npt.ArrayLike) -> Array:
        """Move points (3,) or (N, 3)."""
        moved: Array = np.asarray(points, float) @ self.rotation_matrix().T + self.translation
        return moved

    def adjoint(self) -> Array:
        """(6, 6): moves a twist of frame a to frame b, and by A C Aᵀ its covariance."""
        rotation = self.rotation_matrix()
        result = np.zeros((6, 6))
        result[:3, :3] = result[3:, 3:] = rotation
        result[:3, 3:] = cross_matrix(self.translation) @ rotation
        return result

    def distance_to(self, other: Transform) -> tuple[float, float]:
        """Metres between the origins and radians between the axes of two `b_from_a`."""
        metres = math.hypot(*(self.translation - other.translation).tolist())
        w, x, y, z = _product(_conjugate(self._wxyz), other._wxyz)
        return metres, 2.0 * math.atan2(math.hypot(x, y, z), abs(w))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Transform):
            return NotImplemented
        same = np.array_equal(self.translation, other.translation)
        return same and np.array_equal(self.quaternion, other.quaternion)

    __hash__ = None  # type: ignore[assignment]  # equal by value and holds an array

    def __repr__(self) -> str:
        return f"Transform(wxyz={self.quaternion.tolist()}, t={self.translation.tolist()})"


def interpolate(start: Transform, end: Transform, fraction: float) -> Transform:
    """Between two `b_from_a`: slerp in rotation, straight line in translation."""
    w, x, y, z = _product(_conjugate(start._wxyz), end._wxyz)
    if w < 0:  # the shorter way round
        w, x, y, z = -w, -x, -y, -z
    sine = math.hypot(x, y, z)
    half = fraction * math.atan2(sine, w)
    part = math.sin(half) / sine if sine > 1e-12 else fraction
    turn = (math.cos(half), part * x, part * y, part * z)
    translation = (1.0 - fraction) * start.translation + fraction * end.translation
    return Transform._of(_product(start._wxyz, turn), translation)


def disturb(map_from_base: Transform, delta: Array) -> Transform:
    """The pose moved by (δp, δθ) in the axes of the map: position p + δp, rotation Exp(δθ) R.

    This is the disturbance whose covariance ROS' PoseWithCovariance holds (REP-103: rotations
    about the fixed axes of the parent). The turn is about the base's origin, so it is not a
    twist, whose translation part would depend on where the map's origin is.
    """
    turned = _product(_quaternion(delta[3:]), map_from_base._wxyz)
    return Transform._of(turned, map_from_base.translation + delta[:3])


def turned_by(vector: Array) -> Transform:
    """A turn in one place by a rotation vector (3,), radians."""
    return Transform._of(_quaternion(vector), np.zeros(3))


def difference(estimate: Transform, reference: Transform) -> Array:
    """(6,): the (δp, δθ) that disturbs the reference into the estimate; metres and radians."""
    turn = (estimate.rotation * reference.rotation.inv()).as_rotvec()
    return np.concatenate([estimate.translation - reference.translation, turn])


def rotations(wxyz: npt.ArrayLike) -> Rotation:
    """Quaternions (N, 4) w, x, y, z for SciPy's functions."""
    return Rotation.from_quat(np.roll(np.asarray(wxyz, float), -1, axis=-1))


def quaternions(rotation: Rotation) -> Array:
    """w, x, y, z (N, 4) of SciPy's rotations, with w ≥ 0."""
    xyzw: Array = rotation.as_quat(canonical=True)
    return np.roll(xyzw, 1, axis=-1)


def cross_matrix(v: Array) -> Array:
    """(3, 3): multiplying with it is the cross product v × ·."""
    return np.array([[0.0, -v[2], v[1]], [v[2], 0.0, -v[0]], [-v[1], v[0], 0.0]])


def symmetric_root(covariance: Array) -> Array:
    """The symmetric square root of covariances (..., n, n), which turns with their axes."""
    variances, axes = np.linalg.eigh(covariance)
    root: Array = (axes * np.sqrt(np.maximum(variances, 0.0))[..., None, :]) @ axes.swapaxes(-1, -2)
    return root


def turned_covariance(covariance: Array, rotation: Array) -> Array:
    """(6, 6) of (δp, δθ) in other axes, to which a (3, 3) rotation leads."""
    axes = np.zeros((6, 6))
    axes[:3, :3] = axes[3:, 3:] = rotation
    turned: Array = axes @ covariance @ axes.T
    return turned


def largest_sigma(covariance: Array) -> float:
    """One sigma in the direction that is known worst, of a covariance (n, n)."""
    return float(np.sqrt(np.linalg.eigvalsh(covariance)[-1]))


def _quaternion(vector: Array) -> Quaternion:
    """Of a rotation vector (3,)."""
    a, b, c = vector.tolist()
    angle = math.sqrt(a * a + b * b + c * c)
    part = math.sin(angle / 2) / angle if angle > 1e-9 else 0.5
    return math.cos(angle / 2), part * a, part * b, part * c


def _conjugate(q: Quaternion) -> Quaternion:
    return q[0], -q[1], -q[2], -q[3]


def _product(a: Quaternion, b: Quaternion) -> Quaternion:
    """Hamilton's product, normalized so that long chains stay rotations."""
    aw, ax, ay, az = a
    bw, bx, by, bz = b
    w = aw * bw - ax * bx - ay * by - az * bz
    x = aw * bx + ax * bw + ay * bz - az * by
    y = aw * by - ax * bz + ay * bw + az * bx
    z = aw * bz + ax * by - ay * bx + az * bw
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    return w / norm, x / norm, y / norm, z / norm


def _rotate(q: Quaternion, v: Array) -> Array:
    """v + 2w (u × v) + 2 u × (u × v) with q = (w, u)."""
    w, x, y, z = q
    a, b, c = v.tolist()
    ta, tb, tc = 2 * (y * c - z * b), 2 * (z * a - x * c), 2 * (x * b - y * a)
    return np.array(
        [
            a + w * ta + y * tc - z * tb,
            b + w * tb + z * ta - x * tc,
            c + w * tc + x * tb - y * ta,
        ]
    )


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
