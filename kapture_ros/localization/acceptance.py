"""Whether a pose may be believed: the tests, their thresholds and the numbers they look at.

The thresholds were fixed by measurement on places outside the map (docs/localization.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.grouping import count_distinct
from kapture_ros.localization.options import AcceptanceOptions
from kapture_ros.localization.pose import PoseSolution
from kapture_ros.localization.query import Reason, Scores
from kapture_ros.localization.refinement import (
    Matches,
    PosePrior,
    PositionPrior,
    Priors,
    off_position,
)
from kapture_ros.transforms.se3 import Array, difference, largest_sigma

GRID = 8  # cells along each side of an image, for the coverage
FEW = 20  # keypoints that agree: of fewer, the share of those that should says nothing


def score(
    matches: Matches,
    cameras: Sequence[MountedCamera],
    solution: PoseSolution,
    second: int,
    priors: Priors,
    predicted: PosePrior | None,
) -> Scores:
    """The numbers that the tests look at.

    Args:
        second: inliers of the best pose elsewhere.
        priors: those that were mixed into the solution.
        predicted: a pose that was not.
    """
    inliers = matches.select(solution.inliers)
    matched = count_distinct(matches.keys)
    distances = np.linalg.norm(inliers.points_map - solution.map_from_base.translation, axis=1)
    low, middle, high = np.percentile(distances, [10, 50, 90]).tolist()
    covariance = solution.covariance
    gnss = np.nan
    if priors.position is not None:
        gnss = _position_sigmas(solution, priors.position)
    expected = np.nan
    if predicted is not None:
        error = difference(solution.map_from_base, predicted.map_from_base)
        expected = mahalanobis(error, covariance + predicted.covariance)
    return Scores(
        inliers=solution.count,
        matched=matched,
        ratio=solution.count / matched,
        coverage=_coverage(inliers, cameras),
        depth_spread=(high - low) / max(middle, 1e-9),
        second=second,
        position_sigma=largest_sigma(covariance[:3, :3]),
        rotation_sigma=largest_sigma(covariance[3:, 3:]),
        gnss_sigmas=gnss,
        prior_sigmas=expected,
    )


def limits_by(seen: float, options: AcceptanceOptions, *, clashing: bool) -> AcceptanceOptions:
    """What a pose must show: twice as much where the map cannot speak against it.

    Args:
        seen: share that agrees of what should be seen from the pose; NaN: nothing should be.
        clashing: whether the poses of the map may contradict each other.
    """
    if clashing:
        options = replace(options, min_agreeing=2 * options.min_agreeing)
    if not math.isnan(seen):
        return options
    return replace(options, min_inliers=2 * options.min_inliers, min_ratio=2 * options.min_ratio)


def judge(scores: Scores, options: AcceptanceOptions) -> tuple[Reason, str]:
    """Accept, or reject for the first test that fails, with the numbers in words."""
    ratio, coverage = f"{scores.ratio:.0%}", f"{scores.coverage:.0%}"
    sigma_deg = math.degrees(scores.rotation_sigma)
    second = scores.second / max(scores.inliers, 1)
    # Of many points of a map few may find a keypoint, as where an image is blurred.
    needed = max(FEW, options.min_agreeing * scores.expected)
    tests = (
        (scores.inliers < options.min_inliers, Reason.TOO_FEW_INLIERS,
         f"{scores.inliers} inliers, {options.min_inliers} needed"),
        (scores.ratio < options.min_ratio, Reason.LOW_INLIER_RATIO,
         f"{ratio} of the matched keypoints agree, {options.min_ratio:.0%} needed"),
        (scores.seen < options.min_seen and scores.agreeing < needed, Reason.LOW_INLIER_RATIO,
         f"{scores.seen:.0%} of what should be seen agrees, {options.min_seen:.0%} needed; nor "
         f"{needed:.0f} but {scores.agreeing} of the {scores.expected} keypoints that match it"),
        (scores.coverage < options.min_coverage, Reason.POOR_SPREAD,
         f"the inliers cover {coverage} of the image, {options.min_coverage:.0%} needed"),
        (scores.depth_spread < options.min_depth_spread, Reason.POOR_SPREAD,
         f"the inliers are at one depth (spread {scores.depth_spread:.1%})"),
        (second > options.max_second, Reason.AMBIGUOUS,
         f"another place has {scores.second} inliers against {scores.inliers}"),
        (scores.position_sigma > options.max_position_sigma, Reason.UNCERTAIN,
         f"position known to {scores.position_sigma:.2f} m only"),
        (sigma_deg > options.max_rotation_sigma, Reason.UNCERTAIN,
         f"orientation known to {sigma_deg:.1f}° only"),
        (scores.gnss_sigmas > options.max_gnss_sigmas, Reason.GNSS_DISAGREES,
         f"{scores.gnss_sigmas:.1f} σ from the GNSS fix"),
        (scores.prior_sigmas > options.max_prior_sigmas, Reason.PRIOR_DISAGREES,
         f"{scores.prior_sigmas:.1f} σ from the predicted pose"),
    )  # fmt: skip
    for failed, reason, text in tests:
        if failed:
            return reason, text
    told = f"which tell the position to {scores.position_sigma:.2f} m"  # in the map as it is
    return Reason.ACCEPTED, f"{scores.inliers} inliers ({ratio}), {told}"


def mahalanobis(error: Array, covariance: Array) -> float:
    """√(eᵀ C⁻¹ e)."""
    return math.sqrt(max(float(error @ np.linalg.solve(covariance, error)), 0.0))


def _position_sigmas(solution: PoseSolution, prior: PositionPrior) -> float:
    """How far a solution stays from a position that was mixed into it.

    The residual after mixing has the covariance R - H P Hᵀ (P after mixing), which makes it
    the same test as before mixing.
    """
    error, by_pose = off_position(solution.map_from_base, prior)
    explained = by_pose @ solution.covariance @ by_pose.T
    # Where the images tell nothing, the difference is zero and must not become negative.
    left = prior.covariance - explained
    values, vectors = np.linalg.eigh(left)
    floor = 1e-3 * np.linalg.eigvalsh(prior.covariance)[0]
    return mahalanobis(error, (vectors * np.maximum(values, floor)) @ vectors.T)


def _coverage(inliers: Matches, cameras: Sequence[MountedCamera]) -> float:
    """Share of an image's cells that hold an inlier, in the image where it is largest."""
    best = 0.0
    for number, mounted in enumerate(cameras):
        pixels = inliers.pixels[inliers.camera == number]
        size = np.array([mounted.camera.width, mounted.camera.height])
        cells = np.clip((pixels + 0.5) / size * GRID, 0, GRID - 1).astype(np.int64)
        best = max(best, count_distinct(cells @ np.array([1, GRID])) / GRID**2)
    return best
