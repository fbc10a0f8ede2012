"""Poses anywhere in the map, by retrieval, and what all of a drive's retrieval says of its place.

Instants come from `SequenceLocalizer` where `local_search` finds nothing, or nothing is known to
search around; it fuses the poses, or begins at one of which this module says that it is sure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kapture_ros.localization.acceptance import judge
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.options import AcceptanceOptions
from kapture_ros.localization.place_filter import PlaceFilter, PlaceOptions
from kapture_ros.localization.query import Candidate, Estimate, Query, Reason, Scores
from kapture_ros.localization.refinement import Matches
from kapture_ros.localization.views import View
from kapture_ros.transforms import Transform

PLACE_IMAGES = 5  # map images of a believed place that are matched
RIVAL = 1 / 3  # of what was retrieved about a pose: another place with more makes it doubtful


class GlobalSearch:
    """A localizer's map, searched as a whole for the instants of one drive."""

    def __init__(self, localizer: Localizer, options: PlaceOptions) -> None:
        self._localizer = localizer
        self._places = PlaceFilter(localizer.map, options)
        self._odom_from_base: Transform | None = None  # where the places were moved to

    def localize(self, query: Query, odom_from_base: Transform) -> Estimate:
        """The localizer's answer, from near the query's prior if it has one.

        What the whole map offers moves the places.

        Args:
            odom_from_base: where odometry says that the instant is.
        """
        estimate = self._localizer.localize(query)
        if query.prior is not None:
            return estimate
        before, self._odom_from_base = self._odom_from_base, odom_from_base
        motion = None if before is None else before.inverse() @ odom_from_base
        self._places.update(estimate.candidates, query.images[0].cam_from_base, motion)
        return estimate

    def is_sure(self, estimate: Estimate) -> bool:
        """Whether one instant, looked for in the whole map, needs no second one to agree."""
        if estimate.map_from_base is None or not estimate.candidates:
            return False
        position = estimate.map_from_base.translation
        if self._places.rival(estimate.candidates, position) > RIVAL:
            return False
        return beyond_doubt(estimate.scores, self._localizer.options.acceptance)

    def believes(self, map_from_base: Transform) -> bool:
        """Whether the whole sequence of what was retrieved speaks for the place of a pose."""
        return self._places.near(map_from_base.translation) >= self._places.options.belief

    def tells_place(self) -> bool:
        """Whether what was retrieved tells a place from the rest of the map."""
        return self._places.is_told()

    def match_place(self, views: Sequence[View]) -> Matches | None:
        """2D-3D matches with the images of the place that is believed; None: none is.

        Raises:
            Rejected: if too few keypoints have one.
        """
        rows = self._places.believed()
        if rows is None:
            return None
        shown = tuple(Candidate(int(row), 1.0) for row in rows[:PLACE_IMAGES])
        offers = self._localizer.prepare([shown] * len(views))
        return self._localizer.match(views, offers).matches

    def forget(self) -> None:
        """Believe in no place; odometry may be another one from now on, in a frame of its own."""
        self._places.forget()
        self._odom_from_base = None


def beyond_doubt(scores: Scores, limits: AcceptanceOptions) -> bool:
    """Whether an image has twice the evidence that it needs: then no second one has to agree.

    Another pose is a rival with half of the agreement that would be too much, unless it has
    fewer inliers than any pose needs: so many agree by chance.
    """
    accident = limits.min_inliers / max(scores.inliers, 1)
    twice = replace(
        limits,
        min_inliers=2 * limits.min_inliers,
        min_ratio=2 * limits.min_ratio,
        min_coverage=2 * limits.min_coverage,
        max_second=min(limits.max_second, max(limits.max_second / 2, accident)),
    )
    return judge(scores, twice)[0] is Reason.ACCEPTED
