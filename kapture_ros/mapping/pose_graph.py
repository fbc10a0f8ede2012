"""Smooth a trajectory: relative poses (odometry, loop closures) and absolute positions (GNSS).

A sparse Gauss-Newton solver over rig poses; it makes drifting odometry good enough for
triangulation, which bundle adjustment then refines.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_matrix, identity
from scipy.sparse.linalg import spsolve
from scipy.spatial.transform import Rotation

from kapture_ros.transforms.se3 import Array

MAX_ITERATIONS = 30
CONVERGED = 1e-6  # metres and radians
GAUGE_WEIGHT = 1e-3  # holds what no measurement holds, far below any measurement
LEVEL = np.radians(1.0)  # how well a drive's odometry tells on average where up is


@dataclass(frozen=True, slots=True)
class RelativePoses:
    """K measurements of one pose in the frame of another.

    Attributes:
        first, second: (K,) rows of the poses.
        rotations: first_from_second.
        translations: (K, 3) metres, of first_from_second.
        sigma: (K, 6) standard deviations: metres along, radians about the axes.
        robust: whether outliers are expected (loop closures) and weighted down.
    """

    first: npt.NDArray[np.int64]
    second: npt.NDArray[np.int64]
    rotations: Rotation
    translations: Array
    sigma: Array
    robust: bool = False


@dataclass(frozen=True, slots=True)
class Positions:
    """K measurements of a point fixed to a pose (an antenna) in the map frame.

    Attributes:
        rows: (K,) rows of the poses.
        points: (K, 3) measured, metres.
        levers: (K, 3) the point in the frame of the pose.
        covariances: (K, 3, 3) square metres.
    """

    rows: npt.NDArray[np.int64]
    points: Array
    levers: Array
    covariances: Array


def optimize(
    rotations: Rotation,
    translations: Array,
    edges: list[RelativePoses],
    positions: Positions,
    up: Array | None = None,
) -> tuple[Rotation, Array]:
    """The poses map_from_rig (N) that fit all measurements best.

    Robust measurements carry Cauchy weights of their normalized residual, which is worth
    nothing beyond a few sigma.

    Args:
        up: (N, 3) where up is in each rig. Receivers err most in height, and slowly, which
            would tilt the whole trajectory.
    """
    for _ in range(MAX_ITERATIONS):
        blocks = [_relative(rotations, translations, edge) for edge in edges]
        if up is not None:
            blocks.append(_upright(rotations, up))
        blocks.append(_absolute(rotations, translations, positions))
        step = _solve(blocks, len(translations))
        # Far from the solution the linearization holds for small turns only.
        step *= min(1.0, 0.5 / max(float(np.abs(step[:, 3:]).max()), 1e-12))
        translations = translations + step[:, :3]
        rotations = rotations * Rotation.from_rotvec(step[:, 3:])
        if np.abs(step).max() < CONVERGED:
            break
    return rotations, translations


@dataclass(frozen=True, slots=True)
class _Block:
    """Whitened residuals (K, D) and their Jacobians (K, D, 6) for each row (K,) named."""

    residuals: Array
    jacobians: list[tuple[npt.NDArray[np.int64], Array]]


def _relative(rotations: Rotation, translations: Array, edge: RelativePoses) -> _Block:
    first, second = rotations[edge.first], rotations[edge.second]
    measured = edge.rotations.inv()
    between = first.inv().apply(translations[edge.second] - translations[edge.first])
    turn = measured * first.inv() * second
    residual = np.hstack([measured.apply(between - edge.translations), turn.as_rotvec()])
    count = len(residual)
    to_measured = measured.as_matrix()
    moved = to_measured @ first.inv().as_matrix()
    of_first, of_second = np.zeros((2, count, 6, 6))
    of_first[:, :3, :3] = -moved
    of_first[:, :3, 3:] = to_measured @ _cross(between)
    of_first[:, 3:, 3:] = -turn.inv().as_matrix() @ to_measured
    of_second[:, :3, :3] = moved
    of_second[:, 3:, 3:] = np.eye(3)
    weight = 1.0 / edge.sigma
    if edge.robust:
        weight = weight * _cauchy((residual * weight) ** 2)[:, None]
    return _Block(
        residual * weight,
        [(edge.first, of_first * weight[..., None]), (edge.second, of_second * weight[..., None])],
    )


def _absolute(rotations: Rotation, translations: Array, positions: Positions) -> _Block:
    here = rotations[positions.rows]
    residual = translations[positions.rows] + here.apply(positions.levers) - positions.points
    jacobian = np.zeros((len(residual), 3, 6))
    jacobian[:, :, :3] = np.eye(3)
    jacobian[:, :, 3:] = -here.as_matrix() @ _cross(positions.levers)
    # W Wᵀ = C⁻¹: Wᵀ whitens.
    whiten = np.linalg.cholesky(np.linalg.inv(positions.covariances)).transpose(0, 2, 1)
    residual = (whiten @ residual[..., None])[..., 0]
    weight = _cauchy(residual**2)
    return _Block(
        residual * weight[:, None],
        [(positions.rows, whiten @ jacobian * weight[:, None, None])],
    )


def _upright(rotations: Rotation, up: Array) -> _Block:
    """All directions together weigh as much as one that is known to `LEVEL`."""
    jacobian = np.zeros((len(up), 2, 6))
    jacobian[:, :, 3:] = -(rotations.as_matrix() @ _cross(up))[:, :2]
    sigma = LEVEL * np.sqrt(len(up))
    return _Block(rotations.apply(up)[:, :2] / sigma, [(np.arange(len(up)), jacobian / sigma)])


def _cauchy(squares: Array) -> Array:
    """Square roots of Cauchy weights (K,) from squared whitened residuals (K, D).

    The scale is the 95 % quantile of the χ² distribution, about 1.6 D + 3.
    """
    scale = 1.6 * squares.shape[1] + 3.0
    weights: Array = 1.0 / np.sqrt(1.0 + squares.sum(axis=1) / scale)
    return weights


def _solve(blocks: list[_Block], count: int) -> Array:
    """One Gauss-Newton step (N, 6)."""
    rows, columns, values, residuals = [], [], [], []
    height = 0
    for block in blocks:
        size = block.residuals.size
        at = height + np.arange(size).reshape(block.residuals.shape)
        for row, jacobian in block.jacobians:
            shape = jacobian.shape
            rows.append(np.broadcast_to(at[:, :, None], shape).ravel())
            column = 6 * row[:, None, None] + np.arange(6)[None, None, :]
            columns.append(np.broadcast_to(column, shape).ravel())
            values.append(jacobian.ravel())
        residuals.append(block.residuals.ravel())
        height += size
    jacobian_all = coo_matrix(
        (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))),
        shape=(height, 6 * count),
    ).tocsr()
    normal = jacobian_all.T @ jacobian_all + GAUGE_WEIGHT**2 * identity(6 * count)
    step = spsolve(normal.tocsc(), -jacobian_all.T @ np.concatenate(residuals))
    return np.asarray(step).reshape(count, 6)


def _cross(vectors: Array) -> Array:
    """Cross product matrices (K, 3, 3)."""
    x, y, z = vectors.T
    zero = np.zeros_like(x)
    rows = [np.stack(row, axis=-1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return np.stack(rows, axis=1)
