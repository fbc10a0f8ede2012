"""From 2D-3D matches with outliers to a pose: LO-RANSAC, inliers, refinement.

One camera is solved by P3P, a rig as a generalized camera, both by PoseLib (chosen by
measurement, docs/localization.md); gravity and a predicted pose offer hypotheses to it.
Everything is deterministic: the same matches give the same pose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import poselib
from scipy.spatial.transform import Rotation

from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.grouping import first_of_each
from kapture_ros.localization.map_drift import MapDrift
from kapture_ros.localization.options import PoseOptions
from kapture_ros.localization.refinement import (
    NO_PRIORS,
    GravityPrior,
    Matches,
    Priors,
    Refined,
    refine_pose,
    residuals,
)
from kapture_ros.transforms.se3 import Array, Transform

DEFAULTS = PoseOptions()
MIN_MATCHES = 4  # three give a pose, one more tells which of the solutions
WIDEST = 0.2  # cosine from the axis: RANSAC works on a plane, and 78° still fits one
PROGRESS = 5  # times the samples until all matches are drawn alike, as RANSAC does from the start
FIRST = 500  # keypoints that RANSAC is asked about, and about all only if these do not do
FIRST_ITERATIONS = 1000  # then: finds 21 % inliers
HARD_RATIO = 0.15  # of inliers: below it all are asked, then gravity's two-point solver
UPRIGHT_SAMPLES = 600  # 2 points: finds 5 % inliers at 78 %, 10 % at 99.8 %
UPRIGHT_MATCHES = 1000  # scored per sample, to bound the cost


@dataclass(frozen=True, slots=True)
class PoseSolution:
    """A pose and the matches that agree with it.

    Attributes:
        covariance: (6, 6) of (δp, δθ) in the axes of the map, see `refinement`.
        inliers: (N,) bool, at most one match of a keypoint.
        errors: (N,) pixels, how far each match is off; infinite behind the camera.
        sigma: pixels, robust noise of the inliers.
    """

    map_from_base: Transform
    covariance: Array
    inliers: npt.NDArray[np.bool_]
    errors: Array
    sigma: float

    @property
    def count(self) -> int:
        """Number of inliers."""
        return int(self.inliers.sum())


def estimate_pose(
    matches: Matches,
    cameras: Sequence[MountedCamera],
    options: PoseOptions = DEFAULTS,
    priors: Priors = NO_PRIORS,
    predicted: Transform | None = None,
    drift: MapDrift | None = None,
) -> PoseSolution | None:
    """The pose that most matches agree with, refined together with the priors.

    Args:
        predicted: a map_from_base to try before any sample.
        drift: of the map that the points are of, if it is known to drift.

    Returns:
        None if no pose has four inliers or they do not determine it.
    """
    found = find_pose(matches, cameras, options, predicted, priors.gravity)
    if found is None:
        return None
    pose, inliers = found.map_from_base, found.inliers
    return refine_inliers(matches, cameras, pose, options, priors, inliers, drift)


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A pose that RANSAC found.

    Attributes:
        inliers: (N,) bool, the matches that agree with it, at most one of a keypoint.
    """

    map_from_base: Transform
    inliers: npt.NDArray[np.bool_]

    @property
    def count(self) -> int:
        """How many keypoints agree with it."""
        return int(self.inliers.sum())


def find_pose(
    matches: Matches,
    cameras: Sequence[MountedCamera],
    options: PoseOptions = DEFAULTS,
    predicted: Transform | None = None,
    gravity: GravityPrior | None = None,
) -> Hypothesis | None:
    """The pose that most matches agree with, not yet refined.

    RANSAC is asked about the most similar match of each keypoint only, the most similar first:
    three times as many of these are right as of all, and the others confirm what it finds.
    For the same reason the first of them do for most images, and take a fraction of the time.

    Args:
        predicted: a map_from_base to try before any sample.

    Returns:
        None if no pose has four inliers.
    """
    ranked = best_of_keypoints(matches)
    enough = HARD_RATIO * len(ranked)
    best: Hypothesis | None = None
    views: list[_PlaneView] = []
    rounds = [(len(ranked), options)]
    if matches.similarity is not None and len(ranked) > FIRST:
        few = min(options.max_iterations, FIRST_ITERATIONS)
        rounds.insert(0, (FIRST, replace(options, max_iterations=few)))
    for count, limits in rounds:
        asked = matches.select(ranked[:count])
        views = [view for n, c in enumerate(cameras) if (view := _plane_view(asked, n, c))]
        if sum(len(view.rows) for view in views) < MIN_MATCHES:
            continue
        for start in _ransac(views, asked, limits, predicted):
            best = _better(best, start, matches, cameras, options)
        if best is not None and best.count >= enough:
            return best
    if gravity is not None and views:
        for start in _upright(views, asked, gravity, options):
            best = _better(best, start, matches, cameras, options)
    return best if best is not None and best.count >= MIN_MATCHES else None


def _better(
    best: Hypothesis | None,
    pose: Transform,
    matches: Matches,
    cameras: Sequence[MountedCamera],
    options: PoseOptions,
) -> Hypothesis | None:
    """The hypothesis that more keypoints agree with."""
    found = Hypothesis(pose, agreeing(matches, cameras, pose, options))
    return best if best is not None and found.count < best.count else found


def support(
    matches: Matches, cameras: Sequence[MountedCamera], pose: Transform, options: PoseOptions
) -> int:
    """How many keypoints agree with a pose."""
    return int(agreeing(matches, cameras, pose, options).sum())


def agreeing(
    matches: Matches, cameras: Sequence[MountedCamera], pose: Transform, options: PoseOptions
) -> npt.NDArray[np.bool_]:
    """The inliers (N,) of a pose."""
    return inlier_mask(matches, lengths(matches, cameras, pose), options.max_error)


def best_of_keypoints(matches: Matches) -> npt.NDArray[np.intp]:
    """Rows of the most similar match of each keypoint, best first; without similarities: all."""
    if matches.similarity is None:
        return np.arange(len(matches))
    order = np.argsort(-matches.similarity, kind="stable")
    ranked: npt.NDArray[np.intp] = order[first_of_each(matches.keys[order])]
    return ranked


def refine_inliers(
    matches: Matches,
    cameras: Sequence[MountedCamera],
    start: Transform,
    options: PoseOptions = DEFAULTS,
    priors: Priors = NO_PRIORS,
    inliers: npt.NDArray[np.bool_] | None = None,
    drift: MapDrift | None = None,
) -> PoseSolution | None:
    """Refine a pose on its inliers until they stay the same (twice at most).

    Args:
        inliers: those of the start (N,), if they are known.
        drift: of the map that the points are of, if it is known to drift.

    Returns:
        None if fewer than four matches agree with the pose, before or after.
    """
    refined: Refined | None = None
    pose = start
    if inliers is None:
        inliers = agreeing(matches, cameras, start, options)
    for _ in range(2):
        if inliers.sum() < MIN_MATCHES:
            return None
        refined = refine_pose(matches.select(inliers), cameras, pose, priors)
        if refined is None:
            return None
        pose, before = refined.map_from_base, inliers
        errors = lengths(matches, cameras, pose)
        inliers = inlier_mask(matches, errors, options.max_error)
        if np.array_equal(inliers, before):
            break
    if drift is not None and refined is not None and inliers.sum() >= MIN_MATCHES:
        refined = drift.refined(matches.select(inliers), cameras, pose, priors) or refined
        pose = refined.map_from_base
        errors = lengths(matches, cameras, pose)
        inliers = inlier_mask(matches, errors, options.max_error)
    if refined is None or inliers.sum() < MIN_MATCHES:
        return None
    return PoseSolution(pose, refined.covariance, inliers, errors, refined.sigma)


def lengths(matches: Matches, cameras: Sequence[MountedCamera], pose: Transform) -> Array:
    """Reprojection errors (N,) in pixels; infinite behind the camera."""
    errors = residuals(matches, cameras, pose)
    return np.hypot(errors[:, 0], errors[:, 1])


def inlier_mask(matches: Matches, errors: Array, max_error: float) -> npt.NDArray[np.bool_]:
    """Matches (N,) whose error (N,) is below the limit (px), of each keypoint the best one."""
    near = np.flatnonzero(errors < max_error)
    near = near[np.argsort(errors[near], kind="stable")]
    mask = np.zeros(len(matches), bool)
    mask[near[first_of_each(matches.keys[near])]] = True
    return mask


@dataclass(frozen=True, slots=True)
class _PlaneView:
    """One camera's matches on the plane z = 1 times its focal length: an ideal camera."""

    rows: npt.NDArray[np.intp]
    rays: Array
    pixels: Array
    camera: dict[str, Any]
    cam_from_base: Transform


def _ransac(
    views: Sequence[_PlaneView],
    matches: Matches,
    options: PoseOptions,
    predicted: Transform | None,
) -> list[Transform]:
    """map_from_base by LO-RANSAC, at most one; a predicted pose is its first hypothesis."""
    hypothesis = None if predicted is None else predicted.inverse()
    ransac = {
        "max_reproj_error": options.max_error,
        "max_iterations": options.max_iterations,
        "min_iterations": options.min_iterations,
        "success_prob": options.confidence,
        "seed": options.seed,
        "progressive_sampling": matches.similarity is not None,
        "max_prosac_iterations": PROGRESS * options.max_iterations,
    }
    pixels = [view.pixels for view in views]
    points = [matches.points_map[view.rows] for view in views]
    models = [view.camera for view in views]
    if len(views) == 1:
        offset = views[0].cam_from_base
        initial = None if hypothesis is None else _to_poselib(offset @ hypothesis)
        pose, info = poselib.estimate_absolute_pose(
            pixels[0], points[0], models[0], ransac, {}, initial
        )
    else:
        offset = Transform()
        initial = None if hypothesis is None else _to_poselib(hypothesis)
        mounted = [_to_poselib(view.cam_from_base) for view in views]
        pose, info = poselib.estimate_generalized_absolute_pose(
            pixels, points, mounted, models, ransac, {}, initial
        )
    quaternion, translation = np.asarray(pose.q), np.asarray(pose.t)
    if info["num_inliers"] < MIN_MATCHES or not np.isfinite([*quaternion, *translation]).all():
        return []
    # PoseLib's sums differ in their last bits with where in memory the matches lie.
    found = Transform.from_quaternion(np.round(quaternion, 7), np.round(translation, 7))
    return [found.inverse() @ offset]


def _plane_view(matches: Matches, number: int, camera: MountedCamera) -> _PlaneView | None:
    rows = np.flatnonzero(matches.camera == number)
    rays = camera.rays(matches.pixels[rows])
    with np.errstate(invalid="ignore"):  # rays without an inverse are NaN, hence not ahead
        ahead = rays[:, 2] > WIDEST
    rows, rays = rows[ahead], rays[ahead]
    if len(rows) == 0:
        return None
    focal = camera.focal
    ideal = {"model": "PINHOLE", "width": 1, "height": 1, "params": [focal, focal, 0.0, 0.0]}
    pixels = focal * rays[:, :2] / rays[:, 2:]
    return _PlaneView(rows, rays, pixels, ideal, camera.cam_from_base)


def _upright(
    views: Sequence[_PlaneView], matches: Matches, gravity: GravityPrior, options: PoseOptions
) -> list[Transform]:
    """map_from_base from two matches and the direction of gravity, at most one.

    PoseLib's upright solvers turn about y: both frames are turned so that up becomes y.
    """
    rows = np.concatenate([view.rows for view in views])
    base_from_cam = [view.cam_from_base.inverse() for view in views]
    rays = np.vstack([b.rotation.apply(v.rays) for b, v in zip(base_from_cam, views, strict=True)])
    centers = np.repeat([b.translation for b in base_from_cam], [len(v.rows) for v in views], 0)
    focals = np.repeat([v.camera["params"][0] for v in views], [len(v.rows) for v in views])
    upright_from_base = _turn_up(gravity.up_base)
    upright_from_map = _turn_up(np.array([0.0, 0.0, 1.0]))
    rays, centers = upright_from_base.apply(rays), upright_from_base.apply(centers)
    points = upright_from_map.apply(matches.points_map[rows])
    rng = np.random.default_rng(options.seed)
    poses: list[Any] = []
    for pair in rng.integers(len(rows), size=(UPRIGHT_SAMPLES, 2)):
        found = poselib.ugp2p(centers[pair], rays[pair], points[pair])
        poses += [pose for pose in found if np.isfinite(pose.Rt).all()]  # of degenerate pairs
    if not poses:
        return []
    scored = rng.permutation(len(rows))[:UPRIGHT_MATCHES]
    # Gravity is off by σ: its sine is what a ray may be off besides the reprojection error.
    allowed = options.max_error / focals[scored] + gravity.sigma
    support = _support(poses, centers[scored], rays[scored], points[scored], allowed)
    best = poses[int(np.argmax(support))]
    base_from_map = upright_from_base.inv() * Rotation.from_matrix(best.R) * upright_from_map
    return [Transform(base_from_map, upright_from_base.inv().apply(np.array(best.t))).inverse()]


def _support(
    poses: Sequence[Any], centers: Array, rays: Array, points: Array, allowed: Array
) -> Array:
    """How many rays pass their points at less than an angle (sine), for each pose."""
    rotations = np.stack([pose.R for pose in poses])
    translations = np.stack([pose.t for pose in poses])
    count = np.empty(len(poses))
    for start in range(0, len(poses), 64):
        part = slice(start, start + 64)
        seen = points @ rotations[part].transpose(0, 2, 1) + translations[part, None] - centers
        along = np.einsum("pnk,nk->pn", seen, rays)
        cosine = along / np.maximum(np.linalg.norm(seen, axis=2), 1e-9)
        count[part] = (cosine > np.sqrt(1 - np.minimum(allowed, 1.0) ** 2)).sum(axis=1)
    return count


def _turn_up(up: Array) -> Rotation:
    rotation, _ = Rotation.align_vectors([[0.0, 1.0, 0.0]], [up])
    return rotation


def _to_poselib(b_from_a: Transform) -> Any:
    pose = poselib.CameraPose()
    pose.q, pose.t = b_from_a.quaternion, b_from_a.translation
    return pose
