"""The most probable trajectory of a whole drive: fixes and odometry, all weighed at once.

Fixes come from localizing the drive, odometry from the vehicle or from its images. Every
instant has a pose and, as in the motion filter, an error of odometry's scale and yaw rate, and
of the gyro's bias and scale, which may change slowly. Gauss-Newton on a chain: the normal equations
are block tridiagonal and are solved forwards and backwards (Rauch et al., AIAA Journal 1965,
is the linear case). Fixes carry Cauchy weights: one that is far off does not pull.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import chi2

from kapture_ros.localization.dead_reckoning import DeadReckoning
from kapture_ros.localization.map_change import difference_between
from kapture_ros.localization.motion_filter import Fix
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import SECOND, SIZE, Motion
from kapture_ros.localization.window import odometry_link
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import Array, difference, disturb, turned_covariance

ITERATIONS = 30
CONVERGED = 1e-4  # metres and radians
LOSS = float(chi2.ppf(0.95, 6))  # squared Mahalanobis distance at which a fix counts half
MEMORY = 600.0  # seconds in which odometry's errors may become others
ERRORS = np.arange(6, SIZE)  # rows of an instant's unknowns behind its pose: scale, biases
GYRO = slice(2, 5)  # of these


@dataclass(frozen=True, slots=True)
class SmoothedPose:
    """The pose of one instant; covariance (6, 6) of (δp, δθ) in the axes of the map."""

    stamp_ns: int
    map_from_base: Transform
    covariance: Array


@dataclass(frozen=True, slots=True)
class _Link:
    """The motion from one instant to the next.

    Attributes:
        map_change: (6, 6) of the map's error between them, in the axes of the map.
    """

    motion: Motion
    map_change: Array


def smooth(
    stamps: Sequence[int],
    motion: DeadReckoning,
    fixes: Sequence[Fix],
    start: Sequence[Transform | None],
) -> list[SmoothedPose]:
    """The poses at all stamps, ascending; odometry must reach over them, as `Odometry.at` says.

    Args:
        motion: of the whole drive.
        fixes: at stamps among these.
        start: poses to begin at, where they are roughly known; at least one must be.

    Raises:
        ExtrapolationError: if odometry does not reach.
        ValueError: without any fix or start pose.
    """
    if not fixes or all(pose is None for pose in start):
        raise ValueError("a trajectory needs a fix")
    of_map = [fix.map_covariance for fix in _nearest(fixes, stamps)]
    links, reckoned = _links(stamps, motion, of_map)
    chain = _Chain(links, _spread(stamps, fixes, motion.options), motion.options)
    poses, covariances = chain.solve(_filled(start, reckoned))
    return [
        SmoothedPose(stamp, pose, covariance + map_covariance)
        for stamp, pose, covariance, map_covariance in zip(
            stamps, poses, covariances, of_map, strict=True
        )
    ]


def _nearest(fixes: Sequence[Fix], stamps: Sequence[int]) -> list[Fix]:
    """The fix nearest in time to each stamp, the earlier one of two."""
    ordered = sorted(fixes, key=lambda fix: fix.stamp_ns)
    times, wanted = np.array([fix.stamp_ns for fix in ordered]), np.array(stamps)
    after = np.minimum(np.searchsorted(times, wanted), len(times) - 1)
    before = np.maximum(after - 1, 0)
    earlier = np.abs(wanted - times[before]) <= np.abs(times[after] - wanted)
    return [ordered[row] for row in np.where(earlier, before, after)]


def _links(
    stamps: Sequence[int], motion: DeadReckoning, of_map: Sequence[Array]
) -> tuple[list[_Link], list[Transform]]:
    """Links between the stamps, and where they lead from the first one's pose on."""
    poses, links = [motion.odometry.at(stamps[0])], []
    for n, (first, second) in enumerate(itertools.pairwise(stamps)):
        moved = motion.between(first, second)
        metres = float(np.linalg.norm(moved.start_from_end.translation))
        share = motion.options.map_share(metres)
        change = difference_between(of_map[n], of_map[n + 1], share, np.eye(6))
        links.append(_Link(moved, change))
        poses.append(poses[-1] @ moved.start_from_end)
    return links, poses


def _filled(start: Sequence[Transform | None], reckoned: Sequence[Transform]) -> list[Transform]:
    """Poses that are not known, reckoned from the nearest that is."""
    known = [n for n, pose in enumerate(start) if pose is not None]
    filled = []
    for n, odom_from_base in enumerate(reckoned):
        nearest = min(known, key=lambda k: abs(k - n))
        pose = start[nearest]
        assert pose is not None  # known
        filled.append(pose @ reckoned[nearest].inverse() @ odom_from_base)
    return filled


def _spread(
    stamps: Sequence[int], fixes: Sequence[Fix], options: MotionOptions
) -> list[tuple[int, Fix]]:
    """Fixes by instant, in the map as it is; those with errors in common count less."""
    row = {stamp: n for n, stamp in enumerate(stamps)}
    placed, before = [], None
    for fix in sorted(fixes, key=lambda known: known.stamp_ns):
        elapsed = np.inf if before is None else (fix.stamp_ns - before) / SECOND
        factor = max(1.0, options.fix_correlation / max(elapsed, 1e-3))
        covariance = factor * fix.own_covariance
        placed.append((row[fix.stamp_ns], replace(fix, covariance=covariance)))
        before = fix.stamp_ns
    return placed


class _Chain:
    """Gauss-Newton over all instants."""

    def __init__(
        self, links: Sequence[_Link], fixes: Sequence[tuple[int, Fix]], options: MotionOptions
    ) -> None:
        self.links = links
        self.fixes = fixes
        variances = np.maximum(options.error_sigmas, 1e-6) ** 2
        change = variances / MEMORY  # of odometry's errors, after one second
        change[GYRO] = max(options.gyro_bias_wander, 1e-8) ** 2
        self.errors_information, self.change_information = 1 / variances, 1 / change

    def solve(self, poses: list[Transform]) -> tuple[list[Transform], Array]:
        """From start poses to the most probable ones, and their covariances (N, 6, 6)."""
        errors: Array = np.zeros((len(poses), SIZE - 6))
        blocks = coupling = np.empty(0)
        for _ in range(ITERATIONS):
            blocks, coupling, gradient = self._equations(poses, errors)
            step = _solve(blocks, coupling, -gradient)
            poses = [disturb(pose, move[:6]) for pose, move in zip(poses, step, strict=True)]
            errors = errors + step[:, 6:]
            if np.abs(step).max() < CONVERGED:
                break
        covariances = _marginals(blocks, coupling)[:, :6, :6]
        return poses, (covariances + covariances.transpose(0, 2, 1)) / 2

    def _equations(self, poses: Sequence[Transform], errors: Array) -> tuple[Array, Array, Array]:
        """Diagonal blocks (N, 12, 12), those right of them (N-1, 12, 12), gradient (N, 12)."""
        count = len(poses)
        blocks, gradient = np.zeros((count, SIZE, SIZE)), np.zeros((count, SIZE))
        coupling = np.zeros((max(count - 1, 0), SIZE, SIZE))
        blocks[0, ERRORS, ERRORS] += self.errors_information
        gradient[0, 6:] += self.errors_information * errors[0]
        for n, link in enumerate(self.links):
            residual, jacobian, information = _linearize(link, poses, errors, n)
            first, second = jacobian[:, :SIZE], jacobian[:, SIZE:]
            weighted = information @ jacobian
            blocks[n] += first.T @ weighted[:, :SIZE]
            blocks[n + 1] += second.T @ weighted[:, SIZE:]
            coupling[n] += first.T @ weighted[:, SIZE:]
            gradient[n] += weighted[:, :SIZE].T @ residual
            gradient[n + 1] += weighted[:, SIZE:].T @ residual
            # Scale and biases stay, about.
            stays = self.change_information / max(link.motion.seconds, 1e-3)
            change = stays * (errors[n] - errors[n + 1])
            for row, sign in ((n, 1.0), (n + 1, -1.0)):
                blocks[row, ERRORS, ERRORS] += stays
                gradient[row, 6:] += sign * change
            coupling[n, ERRORS, ERRORS] -= stays
        for row, fix in self.fixes:
            error = difference(poses[row], fix.map_from_base)
            of_fix = np.linalg.inv(fix.covariance)
            weight = 1 / (1 + float(error @ of_fix @ error) / LOSS)
            blocks[row, :6, :6] += weight * of_fix
            gradient[row, :6] += weight * of_fix @ error
        return blocks, coupling, gradient


def _linearize(
    link: _Link, poses: Sequence[Transform], errors: Array, n: int
) -> tuple[Array, Array, Array]:
    """Residual (6,), derivatives (6, 24) by both instants, information (6, 6) of a link."""
    residual, by_both = odometry_link(poses[n], poses[n + 1], link.motion, errors[n])
    jacobian = np.zeros((6, 2 * SIZE))
    jacobian[:, :6], jacobian[:, 6:SIZE] = by_both[:, :6], by_both[:, 12:]
    jacobian[:, SIZE : SIZE + 6] = by_both[:, 6:12]
    noise = turned_covariance(link.motion.noise, poses[n].rotation_matrix()) + link.map_change
    noise += np.diag(np.repeat([1e-8, 1e-10], 3))
    # On the way the heading wanders: a third of its final variance, over the whole way.
    translation = link.motion.start_from_end.translation
    metres2 = float(translation @ translation)
    noise[:3, :3] += np.eye(3) * float(np.trace(noise[3:, 3:])) / 9 * metres2
    return residual, jacobian, np.asarray(np.linalg.inv(noise), dtype=np.float64)


def _solve(blocks: Array, coupling: Array, right: Array) -> Array:
    """x (N, 12) of the block tridiagonal system."""
    left, reduced = blocks.copy(), right.copy()
    for n in range(1, len(left)):
        factor = np.linalg.solve(left[n - 1], coupling[n - 1]).T
        left[n] -= factor @ coupling[n - 1]
        reduced[n] -= factor @ reduced[n - 1]
    solution = np.empty_like(reduced)
    solution[-1] = np.linalg.solve(left[-1], reduced[-1])
    for n in range(len(left) - 2, -1, -1):
        solution[n] = np.linalg.solve(left[n], reduced[n] - coupling[n] @ solution[n + 1])
    return solution


def _marginals(blocks: Array, coupling: Array) -> Array:
    """Diagonal blocks (N, 12, 12) of the inverse (Takahashi's recursion)."""
    left = blocks.copy()
    for n in range(1, len(left)):
        left[n] -= coupling[n - 1].T @ np.linalg.solve(left[n - 1], coupling[n - 1])
    covariances = np.empty_like(left)
    covariances[-1] = np.linalg.inv(left[-1])
    for n in range(len(left) - 2, -1, -1):
        inverse = np.linalg.inv(left[n])
        gain = inverse @ coupling[n]
        covariances[n] = inverse + gain @ covariances[n + 1] @ gain.T
    return covariances
