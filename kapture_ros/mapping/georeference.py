"""Placing a reconstruction: similarity transforms to GNSS, to odometry, and upright."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.mapping.images import ImageTable
from kapture_ros.transforms.se3 import Array, quaternions, rotations

ITERATIONS = 20
CAUCHY = 2.8  # sigma; the square root of the 95 % quantile of χ² with three degrees


@dataclass(frozen=True, slots=True)
class Similarity:
    """target_from_source: x ↦ scale · rotation(x) + translation."""

    scale: float
    rotation: Rotation
    translation: Array

    def apply(self, points: Array) -> Array:
        """Move points (3,) or (N, 3)."""
        moved: Array = self.scale * self.rotation.apply(points) + self.translation
        return moved


def upright_alignment(
    source: Array, target: Array, sigma: Array, *, with_scale: bool
) -> tuple[Similarity, float]:
    """Best heading, translation and (optionally) scale between frames that are both z-up.

    Robust: iterated with Cauchy weights, so that fixes off by many sigma do not count.

    Args:
        source, target: (K, 3) the same places in both frames.
        sigma: (K,) horizontal standard deviation of the targets, metres.

    Returns:
        target_from_source and the standard deviation of its heading in radians: infinite
        if the places do not spread.
    """
    weights = 1.0 / sigma**2
    heading, scale = 0.0, 1.0
    shift = np.zeros(3)
    for _ in range(ITERATIONS):
        total = weights.sum()
        middle = weights @ source / total
        goal = weights @ target / total
        a, b = source - middle, target - goal
        cross = weights @ (a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
        dot = weights @ (a[:, 0] * b[:, 0] + a[:, 1] * b[:, 1])
        heading = float(np.arctan2(cross, dot))
        spread = float(weights @ (a[:, :2] ** 2).sum(axis=1))
        if with_scale:
            scale = float(np.hypot(cross, dot) / max(spread, 1e-12))
        turn = Rotation.from_euler("z", heading)
        shift = goal - scale * turn.apply(middle)
        residual = np.linalg.norm((scale * turn.apply(source) + shift - target)[:, :2], axis=1)
        weights = 1.0 / sigma**2 / (1.0 + (residual / sigma / CAUCHY) ** 2)
    deviation = 1.0 / np.sqrt(spread) / scale if spread > 1e-9 else np.inf
    return Similarity(scale, Rotation.from_euler("z", heading), shift), float(deviation)


def up_of_cameras(images: ImageTable) -> Array:
    """The direction (3,) that is up on average for cameras mounted level: −y of the images."""
    poses = images.poses[images.posed]
    mean = rotations(poses[:, :4]).inv().apply([0.0, -1.0, 0.0]).mean(axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12))


def up_of_ground(images: ImageTable) -> Array | None:
    """The normal (3,) of the plane the cameras moved in, up as the cameras see it.

    None where the cameras moved on a line, whose planes are many.
    """
    centers = images.centers()[images.posed]
    spread, axes = np.linalg.eigh(np.cov(centers.T))
    if len(centers) < 10 or spread[1] < 0.01 * spread[2] or spread[0] > 0.05 * spread[1]:
        return None
    normal = axes[:, 0]
    return np.asarray(normal * np.sign(normal @ up_of_cameras(images)))


def rotation_to_up(up: Array) -> Rotation:
    """The smallest turn that brings a direction (3,) to +z."""
    turn, _ = Rotation.align_vectors(np.array([[0.0, 0.0, 1.0]]), up[None])
    return turn


def scale_by_steps(images: ImageTable, reference: ImageTable) -> float | None:
    """Metres per unit: the median ratio of the steps between instants in two trajectories.

    Steps are too short for drift to matter. None if nothing moved.
    """
    both = np.flatnonzero(images.posed & reference.posed)
    ours, theirs = images.centers()[both], reference.centers()[both]
    ratios = []
    for camera in np.unique(images.camera[both]):
        rows = np.flatnonzero(images.camera[both] == camera)
        step = max(1, min(10, len(rows) // 10))
        here = np.linalg.norm(ours[rows[step:]] - ours[rows[:-step]], axis=1)
        there = np.linalg.norm(theirs[rows[step:]] - theirs[rows[:-step]], axis=1)
        moved = (here > 1e-9) & (there > 0.05)
        ratios += list(there[moved] / here[moved])
    return float(np.median(ratios)) if len(ratios) >= 3 else None


def align_to_trajectory(images: ImageTable, reference: ImageTable, scale: float) -> Similarity:
    """reference_from_images of a given scale: mean rotation, then median translation."""
    both = np.flatnonzero(images.posed & reference.posed)
    ours = rotations(images.poses[both, :4])
    theirs = rotations(reference.poses[both, :4])
    turn = (theirs.inv() * ours).mean()
    offset = reference.centers()[both] - scale * turn.apply(images.centers()[both])
    return Similarity(scale, turn, np.median(offset, axis=0))


def leveled(images: ImageTable, reference: ImageTable) -> Similarity:
    """The turn about the line of motion that restores the reference's roll.

    Positions on a line do not hold the roll about it: priors of positions alone let it
    drift. The identity where the positions spread in two directions.
    """
    both = np.flatnonzero(images.posed & reference.posed)
    centers = images.centers()[both]
    middle = centers.mean(axis=0)
    spread, axes = np.linalg.eigh(np.cov(centers.T)) if len(both) > 2 else (np.ones(3), np.eye(3))
    if spread[1] > 0.01 * spread[2]:
        return Similarity(1.0, Rotation.identity(), np.zeros(3))
    similarity = align_to_trajectory(images.select(both), reference.select(both), 1.0)
    line = axes[:, 2]
    roll = Rotation.from_rotvec(line * float(similarity.rotation.as_rotvec() @ line))
    return Similarity(1.0, roll, middle - roll.apply(middle))


def moved(images: ImageTable, target_from_source: Similarity) -> ImageTable:
    """The table with poses in another frame; rigs keep their size unless scaled too."""
    poses = images.poses.copy()
    known = images.posed
    turned = rotations(poses[known, :4]) * target_from_source.rotation.inv()
    centers = target_from_source.apply(images.centers()[known])
    poses[known, :4] = quaternions(turned)
    poses[known, 4:] = -turned.apply(centers)
    return replace(images, poses=poses)


def bounds(images: ImageTable) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lowest and highest corner of the camera positions, millimetres kept."""
    centers = images.centers()[images.posed]
    corners = centers.min(axis=0), centers.max(axis=0)
    low, high = (tuple(round(float(v), 3) for v in corner) for corner in corners)
    return low, high
