"""Whether what an image shows could be another place: how much supports a pose there.

Matches and the pose that most of them agree with come from the localizer. The others may agree
with another pose; and where the map has a place twice, so may what agrees with this one. How
many inliers another pose has is one of the scores that `acceptance` judges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.grouping import count_distinct, ranks
from kapture_ros.localization.options import LocalizerOptions
from kapture_ros.localization.pose import MIN_MATCHES, PoseSolution, find_pose, support
from kapture_ros.localization.refinement import Matches, join
from kapture_ros.localization.retrieval import Rows
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.transforms import Transform

ITERATIONS = 1000  # RANSAC samples for the other pose
RIVAL = 40  # keypoints of it, if it is worth finding, among those that RANSAC is asked about
SAME_PLACE = (1.0, math.radians(10.0))  # metres, radians


def is_same_place(first: Transform, second: Transform) -> bool:
    """Whether two poses are about one place, of which images show about the same."""
    metres, radians = first.distance_to(second)
    return metres < SAME_PLACE[0] and radians < SAME_PLACE[1]


def twin_matches(visual_map: VisualMap, matches: Matches, allowed: Rows | None) -> Matches:
    """Matches with the points that look the same elsewhere instead.

    Args:
        allowed: rows of the map's images, of which one must see such a point; None: all.
    """
    rows, alike = visual_map.twins_of(matches.point)
    if len(alike) and allowed is not None:
        left = visual_map.are_seen(alike, allowed)
        rows, alike = rows[left], alike[left]
    xyz = np.asarray(visual_map.points.xyz[alike], float)
    return replace(matches.select(rows), point=alike, points_map=xyz)


def support_elsewhere(
    matches: Matches,
    cameras: Sequence[MountedCamera],
    solution: PoseSolution,
    options: LocalizerOptions,
    twins: Matches | None = None,
) -> int:
    """Inliers of the best pose at another place, among the matches left over and the twins.

    Zero where too few are left to make the answer ambiguous.
    """
    left = matches.select(solution.errors > 2 * options.pose.max_error)
    left = left if twins is None else join((left, twins))
    keys = left.keys
    keypoints = count_distinct(keys)
    wanted = max(options.acceptance.max_second * solution.count, MIN_MATCHES)
    if keypoints < wanted:
        return 0
    # Few of the keypoints tell of a pose that many of them see.
    asked = left.select(ranks(keys) % max(int(wanted) // RIVAL, 1) == 0)
    # As many samples as find a pose of that many inliers, if there is one.
    missed = max(1 - (wanted / keypoints) ** 3, 1e-9)
    samples = math.ceil(math.log(1e-4) / math.log(missed))
    limited = replace(options.pose, max_iterations=min(samples, ITERATIONS))
    other = find_pose(asked, cameras, limited)
    if other is None or is_same_place(other.map_from_base, solution.map_from_base):
        return 0
    return support(left, cameras, other.map_from_base, limited)
