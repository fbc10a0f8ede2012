"""The last keyframes with odometry between them, solved as one generalized camera.

Weak instants come from `SequenceLocalizer`, with their 2D-3D matches; those that lie apart are
kept as keyframes, and the answer is a pose like that of one instant. RANSAC takes odometry as it
is; the refinement that follows does not: the pose of every keyframe is an unknown, linked to the
next by odometry with the noise of the motion filter, and so are odometry's scale and yaw-rate
error. The covariance is that of the newest pose with all others marginalized.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.stats import binom

from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.dead_reckoning import DeadReckoning
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import SECOND, Motion, reckon
from kapture_ros.localization.options import PoseOptions
from kapture_ros.localization.pose import estimate_pose, inlier_mask, lengths
from kapture_ros.localization.refinement import (
    Matches,
    cauchy_weight,
    join,
    linearize,
    normal_equations,
    robust_sigma,
    variance_factor,
)
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import Array, difference, disturb

ITERATIONS = 6
CONVERGED = 1e-4  # metres and radians
HYPOTHESES = 1e4  # poses that RANSAC tried: each had its chance to agree with noise
SAMPLE = 4  # matches that agree with a pose because it was made from them


@dataclass(frozen=True, slots=True)
class Keyframe:
    """One instant: its matches, its cameras, and where odometry says it was.

    Attributes:
        drift: variances of odometry's random error since the keyframe before, m² and rad²
            for each axis; None: as the options say.
    """

    stamp_ns: int
    odom_from_base: Transform
    cameras: tuple[MountedCamera, ...]
    matches: Matches
    drift: tuple[float, float] | None = None


class KeyframeWindow:
    """The newest keyframes of a drive, in the order of time.

    Args:
        size: more are not kept.
    """

    def __init__(self, size: int) -> None:
        self._frames: deque[Keyframe] = deque(maxlen=size)

    def keep(
        self,
        stamp_ns: int,
        cameras: tuple[MountedCamera, ...],
        matches: Matches,
        motion: DeadReckoning,
        apart: tuple[float, float],
    ) -> None:
        """Take an instant, if it is newer than the last keyframe and elsewhere.

        Those before a pause that odometry does not reach over are forgotten.

        Args:
            apart: metres or degrees between keyframes.
        """
        odom_from_base, since = motion.odometry.at(stamp_ns), stamp_ns
        if self._frames and not motion.odometry.reaches(self._frames[-1].stamp_ns):
            self.clear()
        if self._frames:
            last = self._frames[-1]
            metres, radians = odom_from_base.distance_to(last.odom_from_base)
            near = metres < apart[0] and np.rad2deg(radians) < apart[1]
            if stamp_ns <= last.stamp_ns or near:
                return
            since = last.stamp_ns
        noise = np.diagonal(motion.noise_between(since, stamp_ns))
        drift = float(noise[:3].mean()), float(noise[3:].mean())
        self._frames.append(Keyframe(stamp_ns, odom_from_base, cameras, matches, drift))

    def ending_at(self, stamp_ns: int) -> list[Keyframe]:
        """All of them, if the newest one is of this time and not alone; else none."""
        frames = list(self._frames)
        return frames if len(frames) > 1 and frames[-1].stamp_ns == stamp_ns else []

    def clear(self) -> None:
        """Forget them."""
        self._frames.clear()


@dataclass(frozen=True, slots=True)
class WindowSolution:
    """The pose of the newest keyframe.

    Attributes:
        covariance: (6, 6) of (δp, δθ), see `refinement`.
        inliers: matches that agree, by keyframe.
        matched: keypoints with a match in all keyframes.
    """

    map_from_base: Transform
    covariance: Array
    inliers: tuple[int, ...]
    matched: int

    @property
    def count(self) -> int:
        """Inliers of all keyframes."""
        return sum(self.inliers)


def significant(inliers: int, matched: int, chance: float, limit: float = 1e-6) -> bool:
    """Whether so much agreement is no accident (a contrario: Moisan and Stival, IJCV 2004).

    Args:
        chance: probability that a wrong match agrees with a wrong pose.
        limit: expected number of wrong poses with as many inliers.
    """
    if inliers <= SAMPLE:
        return False
    accidents = binom.sf(inliers - SAMPLE - 1, max(matched - SAMPLE, 1), chance)
    return bool(HYPOTHESES * accidents < limit)


def as_one_camera(frames: Sequence[Keyframe]) -> tuple[Matches, list[MountedCamera]]:
    """The keyframes as cameras of the newest one's base, odometry taken as exact."""
    now = frames[-1].odom_from_base
    parts: list[Matches] = []
    cameras: list[MountedCamera] = []
    for frame in frames:
        base_from_now = frame.odom_from_base.inverse() @ now
        number = (frame.matches.camera + len(cameras)).astype(np.int32)
        parts.append(replace(frame.matches, camera=number))
        cameras += [
            MountedCamera(camera.camera, camera.cam_from_base @ base_from_now)
            for camera in frame.cameras
        ]
    return replace(join(parts), similarity=None), cameras


def solve_window(
    frames: Sequence[Keyframe],
    motion: MotionOptions,
    pose: PoseOptions,
    predicted: Transform | None = None,
) -> WindowSolution | None:
    """The pose of the newest of the keyframes, which are in the order of time.

    Args:
        predicted: map_from_base of the newest, tried before any sample.

    Returns:
        None if no pose has enough inliers or they do not determine it.
    """
    matches, cameras = as_one_camera(frames)
    solution = estimate_pose(matches, cameras, pose, predicted=predicted)
    if solution is None:
        return None
    now = frames[-1].odom_from_base
    start = [solution.map_from_base @ now.inverse() @ frame.odom_from_base for frame in frames]
    problem = _Problem(frames, motion, pose.max_error)
    return problem.refine(start)


def odometry_link(
    first: Transform, second: Transform, motion: Motion, errors: Array
) -> tuple[Array, Array]:
    """How a motion and two poses disagree.

    Args:
        errors: (6,) of odometry and gyro, as `MotionState.errors`.

    Returns:
        (δp, δθ) from the second pose to where the motion leads from the first, (6,), and its
        derivatives (6, 18) by both poses' disturbances and the errors.
    """
    reached, derivatives = reckon(first, motion, errors)
    jacobian = np.hstack([derivatives[:, :6], -np.eye(6), derivatives[:, 6:]])
    return difference(reached, second), jacobian


@dataclass(frozen=True, slots=True)
class _Reprojection:
    """Whitened residuals (n, 2) of one keyframe and their derivatives (n, 2, 6)."""

    residual: Array
    jacobian: Array


class _Problem:
    """Gauss-Newton over the poses of all keyframes and odometry's scale and yaw bias.

    The unknowns are (δp, δθ) of each keyframe in order, then scale, then bias.
    """

    def __init__(self, frames: Sequence[Keyframe], motion: MotionOptions, max_error: float):
        self.frames = frames
        self.motion = motion
        self.max_error = max_error
        self.size = 6 * len(frames) + 2

    def refine(self, poses: list[Transform]) -> WindowSolution | None:
        """From start poses to the solution; None where it is not determined."""
        errors = np.zeros(2)  # scale and bias
        inliers: list[npt.NDArray[np.bool_]] = []
        information = np.eye(self.size)
        for _ in range(ITERATIONS):
            inliers = self._inliers(poses)
            seen = [self._look(n, poses[n], inliers[n]) for n in range(len(poses))]
            if sum(len(view.residual) for view in seen) < SAMPLE:
                return None
            visual, gradient, spread = self._images(seen)
            links, link_gradient = self._odometry(poses, errors)
            information = visual / spread + links
            try:
                step = -np.linalg.solve(visual + links, gradient + link_gradient)
            except np.linalg.LinAlgError:
                return None
            moves: Array = np.asarray(step[:-2], dtype=np.float64).reshape(-1, 6)
            poses = [disturb(pose, move) for pose, move in zip(poses, moves, strict=True)]
            errors = errors + step[-2:]
            if np.abs(step).max() < CONVERGED:
                break
        return self._answer(poses[-1], information, inliers)

    def _answer(
        self,
        pose: Transform,
        information: Array,
        inliers: Sequence[npt.NDArray[np.bool_]],
    ) -> WindowSolution | None:
        try:
            np.linalg.cholesky(information)
        except np.linalg.LinAlgError:
            return None
        newest = slice(self.size - 8, self.size - 2)
        covariance = np.linalg.inv(information)[newest, newest]
        keypoints = [len(np.unique(frame.matches.keypoint)) for frame in self.frames]
        return WindowSolution(
            pose,
            (covariance + covariance.T) / 2,
            tuple(int(mask.sum()) for mask in inliers),
            sum(keypoints),
        )

    def _inliers(self, poses: Sequence[Transform]) -> list[npt.NDArray[np.bool_]]:
        return [
            inlier_mask(f.matches, lengths(f.matches, f.cameras, pose), self.max_error)
            for f, pose in zip(self.frames, poses, strict=True)
        ]

    def _look(self, number: int, pose: Transform, inliers: npt.NDArray[np.bool_]) -> _Reprojection:
        frame = self.frames[number]
        return _Reprojection(*linearize(frame.matches.select(inliers), frame.cameras, pose))

    def _images(self, seen: Sequence[_Reprojection]) -> tuple[Array, Array, float]:
        """Information, gradient and the variance's factor of the loss."""
        information, gradient = np.zeros((self.size, self.size)), np.zeros(self.size)
        length = np.linalg.norm(np.concatenate([view.residual for view in seen]), axis=1)
        sigma = robust_sigma(length)
        weight = cauchy_weight(length / sigma)
        ends = np.cumsum([len(view.residual) for view in seen])[:-1]
        for number, (view, of_it) in enumerate(zip(seen, np.split(weight, ends), strict=True)):
            part = slice(6 * number, 6 * number + 6)
            information[part, part], gradient[part] = normal_equations(
                view.residual, view.jacobian, of_it / sigma**2
            )
        return information, gradient, variance_factor(weight, length / sigma)

    def _odometry(self, poses: Sequence[Transform], errors: Array) -> tuple[Array, Array]:
        """Information and gradient of the links between keyframes and of scale and bias."""
        options = self.motion
        information, gradient = np.zeros((self.size, self.size)), np.zeros(self.size)
        prior = np.array([options.odometry_scale, options.odometry_yaw_bias])
        prior = 1 / np.maximum(prior, 1e-6) ** 2
        information[[-2, -1], [-2, -1]] = prior
        gradient[-2:] = prior * errors
        for number in range(len(poses) - 1):
            error, jacobian, covariance = self._link(number, poses, errors)
            place = np.r_[6 * number : 6 * number + 12, self.size - 2, self.size - 1]
            weighted = np.linalg.solve(covariance, jacobian)
            information[np.ix_(place, place)] += jacobian.T @ weighted
            gradient[place] += weighted.T @ error
        return information, gradient

    def _link(
        self, number: int, poses: Sequence[Transform], errors: Array
    ) -> tuple[Array, Array, Array]:
        """How odometry and two poses disagree (6,), derivatives (6, 14), covariance (6, 6)."""
        first, second = self.frames[number], self.frames[number + 1]
        moved = first.odom_from_base.inverse() @ second.odom_from_base
        seconds = (second.stamp_ns - first.stamp_ns) / SECOND
        noise = self._noise(second, moved, seconds)
        motion = Motion(first.stamp_ns, second.stamp_ns, moved, noise)
        of_both = np.concatenate([errors, np.zeros(4)])  # the gyro has no part in it
        error, jacobian = odometry_link(poses[number], poses[number + 1], motion, of_both)
        return error, jacobian[:, :14], motion.noise

    def _noise(self, second: Keyframe, motion: Transform, seconds: float) -> Array:
        metres, turned = motion.distance_to(Transform())
        position, rotation = second.drift or self.motion.variances(metres, turned, seconds)
        # On the way the heading wanders: a third of its final variance, over the whole way.
        position += rotation * metres**2 / 3
        return np.diag(np.repeat([position + 1e-8, rotation + 1e-10], 3))
