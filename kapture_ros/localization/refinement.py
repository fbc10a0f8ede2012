"""Non-linear refinement of a pose from 2D-3D matches and priors, with its covariance.

Matches come from `pose.estimate_pose`, priors (GNSS antenna, predicted pose, gravity)
from the query. The unknown is map_from_base, disturbed as `transforms.se3.disturb` says;
covariances are of that disturbance, in ROS' order and axes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.transforms.se3 import Array, Transform, cross_matrix, difference, disturb

Int32 = npt.NDArray[np.int32]
UPPER = np.array([[0, 1, 2], [1, 3, 4], [2, 4, 5]])  # of a (6,) symmetric matrix
MEDIAN_OF_RAYLEIGH = 1.1774  # median length of a 2D Gaussian of σ = 1
LOSS_SCALE = 1.0  # Cauchy's scale in σ: real residuals have longer tails than a Gaussian's
CONVERGED = 0.3  # σ: behind a shorter step a tenth of it is left, not worth another look
MIN_SIGMA = 0.25  # pixels; no detector is better, and the map's points are not either


@dataclass(frozen=True, slots=True)
class Matches:
    """2D-3D matches of one instant.

    Attributes:
        pixels: (N, 2) in the query images.
        points_map: (N, 3) metres.
        camera: (N,) which of the query's cameras.
        keypoint: (N,) rows in the camera's keypoints; a keypoint may match several points.
        point: (N,) rows in the map's points.
        point_covariance: (N, 6) xx, xy, xz, yy, yz, zz of the points for 1 px of noise, or
            None: the points are exact.
        similarity: (N,) of the descriptors, or None: all matches are alike.
    """

    pixels: Array
    points_map: Array
    camera: Int32
    keypoint: Int32
    point: Int32
    point_covariance: Array | None = None
    similarity: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def keys(self) -> npt.NDArray[np.int64]:
        """(N,) small whole numbers, equal for the matches of one keypoint."""
        count = int(self.keypoint.max(initial=-1)) + 1
        return self.camera.astype(np.int64) * count + self.keypoint

    def rows_of(self, number: int) -> slice | npt.NDArray[np.intp]:
        """The matches of one camera; a slice, which copies nothing, if they are all of them."""
        of_it = self.camera == number
        return slice(None) if of_it.all() else np.flatnonzero(of_it)

    def select(self, rows: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Matches:
        """Some of the matches."""
        places = np.flatnonzero(rows) if rows.dtype == bool else rows
        covariance, similarity = self.point_covariance, self.similarity
        return Matches(
            self.pixels.take(places, axis=0),
            self.points_map.take(places, axis=0),
            self.camera.take(places),
            self.keypoint.take(places),
            self.point.take(places),
            None if covariance is None else covariance.take(places, axis=0),
            None if similarity is None else similarity.take(places),
        )


def join(parts: Sequence[Matches]) -> Matches:
    """Matches one after another, all with covariances and similarities or all without."""
    columns: dict[str, Any] = {}
    for column in fields(Matches):
        values = [getattr(part, column.name) for part in parts]
        columns[column.name] = None if values[0] is None else np.concatenate(values)
    return Matches(**columns)


@dataclass(frozen=True, slots=True)
class PositionPrior:
    """A measured position, as of a GNSS antenna.

    Attributes:
        position_map: (3,) metres.
        covariance: (3, 3) square metres, axes of the map.
        lever_arm: (3,) metres, the antenna in the base frame.
    """

    position_map: Array
    covariance: Array
    lever_arm: Array


@dataclass(frozen=True, slots=True)
class PosePrior:
    """A predicted map_from_base with its covariance (6, 6), disturbed as in this module."""

    map_from_base: Transform
    covariance: Array


@dataclass(frozen=True, slots=True)
class GravityPrior:
    """Which way is up in the base frame: a unit vector (3,), and its σ in radians.

    The map's z axis must point up (REP-103).
    """

    up_base: Array
    sigma: float


@dataclass(frozen=True, slots=True)
class Priors:
    """What is known besides the images."""

    position: PositionPrior | None = None
    pose: PosePrior | None = None
    gravity: GravityPrior | None = None


NO_PRIORS = Priors()


@dataclass(frozen=True, slots=True)
class Refined:
    """A refined pose.

    Attributes:
        covariance: (6, 6), see the module.
        sigma: pixels, robust noise of a coordinate of the matches.
    """

    map_from_base: Transform
    covariance: Array
    sigma: float


def refine_pose(
    matches: Matches,
    cameras: Sequence[MountedCamera],
    start: Transform,
    priors: Priors = NO_PRIORS,
    iterations: int = 20,
) -> Refined | None:
    """Levenberg-Marquardt with Cauchy's loss at the scale of the residuals themselves.

    Returns:
        None if the matches do not determine a pose (information of deficient rank), or
        the start is not in front of them.
    """
    pose, damping = start, 1e-4
    state = _linearize(matches, cameras, pose, priors)
    if state is None:
        return None
    for iteration in range(iterations):
        step = _solve(state.information, state.gradient, damping)
        if step is None:
            return None
        if iteration > 0:  # a start may be far, and its residuals not noise
            step *= state.stride
        if step @ state.information @ step < CONVERGED**2:
            pose = disturb(pose, step)
            break
        trial_pose = disturb(pose, step)
        trial = _linearize(matches, cameras, trial_pose, priors)
        # The noise is estimated anew at each pose; two are compared with that of the first.
        if trial is None or trial.cost(state.sigma) > state.cost(state.sigma) * (1 + 1e-9):
            damping *= 10
            if damping > 1e6:
                break
            continue
        pose, state, damping = trial_pose, trial, damping / 10
    covariance = _covariance(state)
    return None if covariance is None else Refined(pose, covariance, state.sigma)


def residuals(
    matches: Matches, cameras: Sequence[MountedCamera], map_from_base: Transform
) -> Array:
    """Reprojection errors (N, 2) in pixels; infinite behind the camera."""
    result = np.empty((len(matches), 2))
    base_from_map = map_from_base.inverse()
    for number, camera in enumerate(cameras):
        rows = matches.rows_of(number)
        cam_from_map = camera.cam_from_base @ base_from_map
        seen = camera.project(cam_from_map.apply(matches.points_map[rows]))
        result[rows] = seen - matches.pixels[rows]
    result[~np.isfinite(result)] = np.inf
    return result


def linearize(
    matches: Matches, cameras: Sequence[MountedCamera], pose: Transform
) -> tuple[Array, Array]:
    """Reprojection errors (n, 2) and their derivatives (n, 2, 6) by the disturbance of the pose.

    Both are in units of one pixel of noise, the points' own errors included; matches that
    cannot be projected are left out.
    """
    errors = _reprojection(matches, cameras, pose)
    usable = np.isfinite(errors).all(axis=(1, 2))
    covariance = matches.point_covariance
    if not usable.all():
        errors = errors[usable]
        covariance = None if covariance is None else covariance[usable]
    if covariance is not None and len(errors):
        _whiten(errors, covariance)
    return errors[:, :, 6], errors[:, :, :6]


@dataclass(frozen=True, slots=True)
class _State:
    """The normal equations at a pose.

    Attributes:
        length: (n,) pixels, of the residuals.
        weight: (n,) of the loss.
        sigma: pixels of noise.
    """

    information: Array
    gradient: Array
    length: Array
    weight: Array
    sigma: float
    prior_information: Array
    prior_cost: float

    @property
    def stride(self) -> float:
        """How much further Newton's step goes than that of the weights held fixed."""
        return min(float(self.weight.mean() / max(_slope(self.weight), 1e-9)), 2.0)

    def cost(self, sigma: float) -> float:
        """What is minimized, if the noise is as much as this."""
        surprise = LOSS_SCALE**2 * np.log(cauchy_weight(self.length / sigma)).sum()
        return self.prior_cost - float(surprise)


def _linearize(
    matches: Matches,
    cameras: Sequence[MountedCamera],
    pose: Transform,
    priors: Priors,
) -> _State | None:
    residual, jacobian = linearize(matches, cameras, pose)
    if len(residual) == 0:
        return None
    length = np.linalg.norm(residual, axis=1)
    sigma = robust_sigma(length)
    weight = cauchy_weight(length / sigma)
    information, gradient = normal_equations(residual, jacobian, weight / sigma**2)
    prior_information, prior_gradient, prior_cost = prior_equations(priors, pose)
    return _State(
        information + prior_information,
        gradient + prior_gradient,
        length,
        weight,
        sigma,
        prior_information,
        prior_cost,
    )


def _reprojection(matches: Matches, cameras: Sequence[MountedCamera], pose: Transform) -> Array:
    """(N, 2, 7): derivatives by the disturbance of the pose, and last the errors."""
    result = np.empty((len(matches), 2, 7))
    map_from_base = pose.rotation_matrix()
    for number, camera in enumerate(cameras):
        rows = matches.rows_of(number)
        cam_from_base = camera.cam_from_base
        cam_from_map = cam_from_base.rotation_matrix() @ map_from_base.T
        arm = matches.points_map[rows] - pose.translation
        seen, by_point = camera.project_with_jacobian(
            arm @ cam_from_map.T + cam_from_base.translation
        )
        by_arm = by_point @ cam_from_map
        # R' arm moves by R' (arm × δθ), and g · (arm × δθ) = δθ · (g × arm).
        columns = [-by_arm[:, :, axis] for axis in range(3)]
        for after, last in ((1, 2), (2, 0), (0, 1)):
            turned = by_arm[:, :, after] * arm[:, None, last]
            turned -= by_arm[:, :, last] * arm[:, None, after]
            columns.append(turned)
        result[rows] = np.stack([*columns, seen - matches.pixels[rows]], axis=2)
    return result


def _whiten(errors: Array, covariance: Array) -> None:
    """Divide by the square root of I + J C Jᵀ: pixel noise plus the points' own error.

    Args:
        errors: (n, 2, 7) of `_reprojection`, changed in place.
    """
    # d pixel / d point is minus d pixel / d position: the same 3 columns.
    first, second = errors[:, 0, :3], errors[:, 1, :3]
    moved = np.matmul(errors[:, :, :3], covariance[:, UPPER])
    # The Cholesky factor (a, 0; b, c) of each 2 × 2 matrix by hand, and its inverse:
    # LAPACK would be called once a match.
    a = np.sqrt(1 + np.einsum("ni,ni->n", moved[:, 0], first))
    b = np.einsum("ni,ni->n", moved[:, 0], second) / a
    c = np.sqrt(1 + np.einsum("ni,ni->n", moved[:, 1], second) - b**2)
    errors[:, 0] /= a[:, None]
    errors[:, 1] -= b[:, None] * errors[:, 0]
    errors[:, 1] /= c[:, None]


def robust_sigma(length: Array) -> float:
    """Pixels of noise of a coordinate, by the lengths (n,) of the residuals of a pose."""
    equations = 2 * len(length)
    freedom = max(equations - 6, 1) / equations
    return max(float(np.median(length)) / MEDIAN_OF_RAYLEIGH / math.sqrt(freedom), MIN_SIGMA)


def normal_equations(residual: Array, jacobian: Array, weight: Array) -> tuple[Array, Array]:
    """Information (6, 6) and gradient (6,) of residuals (n, 2), each with its weight (n,)."""
    rows = jacobian.reshape(-1, 6)
    weighted = rows * np.repeat(weight, 2)[:, None]
    return weighted.T @ rows, weighted.T @ residual.ravel()


def off_position(pose: Transform, prior: PositionPrior) -> tuple[Array, Array]:
    """How far a pose is from a measured position (3,), and the derivatives (3, 6) of that."""
    arm = pose.rotation_matrix() @ prior.lever_arm
    by_pose = np.hstack([np.eye(3), -cross_matrix(arm)])
    return pose.translation + arm - prior.position_map, by_pose


def prior_equations(priors: Priors, pose: Transform) -> tuple[Array, Array, float]:
    """Information, gradient and cost of the priors at a pose."""
    information, gradient, cost = np.zeros((6, 6)), np.zeros(6), 0.0
    terms: list[tuple[Array, Array, Array]] = []
    if priors.position is not None:
        terms.append((*off_position(pose, priors.position), priors.position.covariance))
    if priors.pose is not None:
        error = difference(pose, priors.pose.map_from_base)
        terms.append((error, np.eye(6), priors.pose.covariance))
    if priors.gravity is not None:
        up = pose.rotation_matrix() @ priors.gravity.up_base
        by_rotation = np.hstack([np.zeros((2, 3)), -cross_matrix(up)[:2]])
        terms.append((up[:2], by_rotation, np.eye(2) * priors.gravity.sigma**2))
    for error, jacobian, covariance in terms:
        weighted = np.linalg.solve(covariance, np.column_stack([jacobian, error]))
        information += jacobian.T @ weighted[:, :-1]
        gradient += jacobian.T @ weighted[:, -1]
        cost += float(error @ weighted[:, -1])
    return information, gradient, cost


def cauchy_weight(length: Array) -> Array:
    """Weights (n,) of 2D residuals by their length in σ."""
    weight: Array = 1 / (1 + (length / LOSS_SCALE) ** 2)
    return weight


def variance_factor(weight: Array, length: Array) -> float:
    """Huber's variance of an M-estimator (Huber 1981, section 7.6) of a pose, for 2D residuals.

    K² Σψ² / (n - 6) over the square of the mean derivative of ψ, all in units of σ; the
    information that it divides is J'WJ, hence one power of the mean weight more. K corrects
    what few equations make of it.

    Args:
        weight, length: (n,), see `cauchy_weight`.
    """
    equations, mean = 2 * len(weight), float(weight.mean())
    freedom = max(equations - 6, 3)
    # The noise is estimated too, from few matches badly, the fewer the less they weigh: the
    # pose then has Student's distribution, whose variance is larger by ν / (ν - 2).
    counted = max(freedom * mean, 3.0)
    student = counted / (counted - 2)
    psi = student * float(((weight * length) ** 2).sum()) / freedom
    slope = max(_slope(weight), 0.1)
    # Along a residual ψ has the derivative 2w² - w, across it w.
    uneven = float(((2 * weight**2 - weight) ** 2 + weight**2).mean()) / 2 - _slope(weight) ** 2
    k = 1 + 6 / equations * uneven / slope**2
    return max(mean * psi * (k / slope) ** 2, 1e-3)


def _slope(weight: Array) -> float:
    """The mean derivative of Cauchy's ψ over 2D residuals: w - w(1 - w)."""
    return float((weight**2).mean())


def _solve(information: Array, gradient: Array, damping: float) -> Array | None:
    damped = information + damping * np.diag(np.diag(information))
    try:
        step = -np.asarray(np.linalg.solve(damped, gradient), dtype=np.float64)
    except np.linalg.LinAlgError:
        return None
    return step if np.isfinite(step).all() else None


def _covariance(state: _State) -> Array | None:
    spread = variance_factor(state.weight, state.length / state.sigma)
    visual = (state.information - state.prior_information) / spread
    information = visual + state.prior_information
    # Metres and radians differ: scaled to a unit diagonal, rank deficiency is comparable.
    diagonal = np.diag(information)
    if not (np.isfinite(information).all() and (diagonal > 0).all()):
        return None
    scale = 1 / np.sqrt(diagonal)
    values, vectors = np.linalg.eigh(information * np.outer(scale, scale))
    if values[0] < 1e-12:
        return None
    inverse: Array = (vectors / values) @ vectors.T * np.outer(scale, scale)
    return (inverse + inverse.T) / 2
