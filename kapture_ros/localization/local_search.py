"""Poses near a predicted one, judged: from one instant, or from a window of weak ones.

Predictions come from the motion filter or from a smoothed trajectory; no retrieval is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binom

from kapture_ros.localization.acceptance import judge, score
from kapture_ros.localization.guided import GuidedOptions, match_guided, solve_guided
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.pose import best_of_keypoints
from kapture_ros.localization.query import Estimate, Evidence, Query, Reason
from kapture_ros.localization.refinement import Matches, PosePrior, Priors, residuals
from kapture_ros.localization.views import View
from kapture_ros.localization.window import Keyframe, WindowSolution, significant, solve_window
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import largest_sigma

ACCIDENT = 0.001  # probability of so many matches at the predicted pose if all are wrong


@dataclass(frozen=True, slots=True)
class LocalSearch:
    """A localizer's map, searched around predictions.

    Attributes:
        min_inliers: of a pose.
        window_iterations: RANSAC samples for a window at most.
    """

    localizer: Localizer
    guided: GuidedOptions
    motion: MotionOptions
    min_inliers: int
    window_iterations: int

    def match(self, views: Sequence[View], prior: PosePrior) -> Matches:
        """2D-3D matches with the map's points where the prior expects them."""
        return match_guided(self.localizer.map, views, prior, self.guided)

    def agrees(self, views: Sequence[View], matches: Matches, prior: PosePrior) -> bool:
        """Whether matches lie where the prior says more often than chance puts them there.

        Wrong ones lie anywhere in the search radius, and some agree with some pose near it. One of
        each keypoint is asked: where points are twice in the map, it agrees with both or neither.
        """
        if len(matches) == 0:
            return False
        error = 2 * self.guided.max_error
        cameras = [view.camera for view in views]
        asked = matches.select(best_of_keypoints(matches))
        off = np.linalg.norm(residuals(asked, cameras, prior.map_from_base), axis=1)
        chance = min(self._chance(error), 1.0)
        accident = binom.sf((off < error).sum() - 1, len(asked), chance)
        return bool(accident < ACCIDENT)

    def solve(
        self, query: Query, views: Sequence[View], matches: Matches, prior: PosePrior
    ) -> Estimate:
        """The pose of one instant near the predicted one, judged."""
        cameras = [view.camera for view in views]
        nothing = Estimate(query.stamp_ns, Reason.TOO_FEW_MATCHES, f"{len(matches)} near the pose")
        priors = Priors(gravity=query.gravity)
        options = self.localizer.options
        drift = self.localizer.drift
        solution = solve_guided(matches, cameras, prior, options.pose, self.guided, priors, drift)
        if solution is None:
            return nothing
        scores = score(matches, cameras, solution, 0, Priors(), prior)
        limits = replace(options.acceptance, min_inliers=self.min_inliers)
        reason, text = judge(scores, limits)
        chance = self._chance(self.guided.max_error)
        shown = reason in (Reason.ACCEPTED, Reason.PRIOR_DISAGREES)
        if shown and not significant(scores.inliers, len(matches), chance):
            reason, text = Reason.LOW_INLIER_RATIO, "as many would agree by chance"
        numbers = tuple(view.number for view in views)
        return replace(
            self.localizer.placed(nothing, query, solution, cameras),
            reason=reason,
            reason_text=text,
            evidence=Evidence(matches=matches, inliers=solution.inliers, views=numbers),
            scores=scores,
        )

    def solve_window(
        self, frames: Sequence[Keyframe], predicted: Transform | None
    ) -> Estimate | None:
        """The pose of the newest keyframe; None if there is none to be believed.

        Args:
            predicted: where the keyframes were matched around; None: anywhere.
        """
        error = self.localizer.options.pose.max_error
        chance = np.pi * error**2 / min(_area(frame) for frame in frames)
        if predicted is not None:  # matched around the prediction: chance agrees more often
            error = 2 * self.guided.max_error
            chance = self._chance(error)
        pose = replace(
            self.localizer.options.pose, max_error=error, max_iterations=self.window_iterations
        )
        solution = solve_window(frames, self.motion, pose, predicted)
        if solution is None or solution.count < self.min_inliers:
            return None
        chances = solution.matched
        if predicted is not None:
            chances = sum(len(frame.matches) for frame in frames)
        if not significant(solution.count, chances, chance):
            return None
        estimate = _window_estimate(frames[-1].stamp_ns, solution)
        found, own = solution.map_from_base, solution.covariance
        of_map = self.localizer.map_covariance(found, frames[-1].cameras, own)
        covariance = own + of_map
        estimate = replace(estimate, covariance=covariance, map_covariance=of_map)
        sigma = self.localizer.options.acceptance.max_position_sigma
        return estimate if estimate.scores.position_sigma <= sigma else None

    def _chance(self, error: float) -> float:
        """Probability that a wrong match, anywhere in the search radius, is so near (pixels)."""
        return (error / self.guided.min_radius) ** 2


def _window_estimate(stamp_ns: int, solution: WindowSolution) -> Estimate:
    text = f"{solution.count} inliers in {len(solution.inliers)} keyframes"
    empty = Estimate(stamp_ns, Reason.ACCEPTED, text, solution.map_from_base, solution.covariance)
    matched = solution.matched
    scores = replace(
        empty.scores,
        inliers=solution.count,
        matched=matched,
        ratio=solution.count / max(matched, 1),
        position_sigma=largest_sigma(solution.covariance[:3, :3]),
        rotation_sigma=largest_sigma(solution.covariance[3:, 3:]),
    )
    return replace(empty, scores=scores)


def _area(frame: Keyframe) -> float:
    """Square pixels of the smallest image."""
    return float(min(c.camera.width * c.camera.height for c in frame.cameras))
