"""How wrong is the map itself? Instants of it localized as if it did not know them.

Read from a finished map, written beside `map.yaml` as `held_out.csv`, a row an instant. The
localizer adds what it tells to the covariance of every pose (`localization.map_error`), since
the points of a place share the errors of the poses they were made from: more matches do not
make those smaller. An error that bends everything around a place alike cannot be seen so.

For the same reason it may not pay to weigh a match by the covariance of its point, which takes
the poses as exact: the points that it trusts most are then wrong together. And it may pay to
allow for poses that drift apart along the way (`localization.map_drift`). So each instant is
localized in all these ways, and the map keeps the one that finds its instants nearest to their
poses. Each is matched with what retrieval finds, as a single image is, and once more around its
pose, as the fixes of a drive are.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from kapture_ros.localization.cameras import MountedCamera
from kapture_ros.localization.guided import GuidedOptions, match_guided, tightened
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.map_drift import MapDrift
from kapture_ros.localization.map_error import DEGREES, ENOUGH, PACKED, second_nearest
from kapture_ros.localization.options import AnswerOptions, LocalizerOptions, PoseOptions
from kapture_ros.localization.pose import PoseSolution, find_pose, refine_inliers
from kapture_ros.localization.query import Estimate, Query, Reason, Rejected
from kapture_ros.localization.refinement import UPPER, Matches, PosePrior, Priors
from kapture_ros.localization.views import Correspondences, View
from kapture_ros.mapping.gnss import map_from_rig
from kapture_ros.mapping.relocate import query_of
from kapture_ros.mapping.subset import OpenMap, open_map
from kapture_ros.mapping.twins import find_twins
from kapture_ros.mapping.visual_map import (
    HELD_OUT,
    HELD_OUT_COLUMNS,
    TWIN_COLUMNS,
    TWINS,
    VisualMap,
    write_table,
)
from kapture_ros.transforms.se3 import Array, Transform, difference

log = logging.getLogger(__name__)

INSTANTS = 120  # tried at most, evenly over the map
# Tried two by two, as queries in one and the same map: how alike errors near each other are.
# In turn: instants, and how many more are left out on either side, for errors grow with the gap.
TRIALS = (((0, 2), 0), ((0, 1), 0), ((0, 1), 1))
STANDING = (0.01, math.radians(0.2))  # metres, radians: a vehicle that moved less has not moved
ELSEWHERE = 5.0  # metres off: it was found in another place that looks the same
LEAST_INFORMATION = 1e-9  # of the largest eigenvalue: rays that still cross
SURE = 2.0  # standard errors by which another way must find instants nearer
LEAST_ERROR = 1e-6  # metres and degrees, of which there is a logarithm
RATES = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02)  # of drift, see `localization.map_drift`

GUIDED = GuidedOptions()

Rows = npt.NDArray[np.int32]
Row: TypeAlias = tuple[float, ...]  # of the table
Way: TypeAlias = tuple[float, bool]  # rate of drift, whether matches are weighed
Instant: TypeAlias = dict[Way, tuple[Row, ...]]  # by retrieval's matches, by those around the pose


def measure_map(map_dir: Path, instants: int = INSTANTS) -> None:
    """Hold out instants of a map, and write how far from its own poses they are found.

    Maps with too few instants to tell get no table.

    Raises:
        InputError: if it is no map.
        OutputError: if the table cannot be written.
    """
    for found_before in (HELD_OUT, TWINS):  # must not speak against it
        (map_dir / found_before).unlink(missing_ok=True)
    source, visual_map = open_map(map_dir), VisualMap.load(map_dir)
    row_of = source.images.rows_by_name()
    places = _places(source, visual_map, row_of)
    if min(instants, len(places)) < ENOUGH or len(visual_map.points) == 0:
        log.info("hold out: too few instants to tell how wrong the map is")
        return
    exact = AnswerOptions(map_sigma=0.0, map_sigma_degrees=0.0)
    localizer = Localizer(visual_map, LocalizerOptions(answer=exact))
    drift = MapDrift.of(visual_map, 0.0)
    evenly = np.linspace(0, len(places) - 3, (min(instants, len(places)) + 1) // 2)
    chosen = np.unique(evenly.round()).astype(int).tolist()
    rows, tried = list[Instant](), set[int]()
    for number, place in enumerate(tqdm(chosen, "hold out", disable=None)):
        offsets, reach = TRIALS[number % len(TRIALS)]
        gaps = [places[max(place + k - reach, 0) : place + k + reach + 1] for k in offsets]
        without = np.concatenate([frames for gap in gaps for frames in gap])
        for frames in [places[place + k] for k in offsets]:
            frame = int(frames[number % len(frames)])
            tried.add(frame)
            found = _try(source, row_of, localizer, drift, frame, without)
            rows += [] if found is None else [found]
    write_table(map_dir / HELD_OUT, HELD_OUT_COLUMNS, nearest(rows))
    log.info("held out: %d of %d instants localized", len(rows), 2 * len(chosen))
    images = np.flatnonzero(np.isin(visual_map.image_frames, list(tried)))
    twins = find_twins(source, localizer, images.tolist())
    write_table(map_dir / TWINS, TWIN_COLUMNS, twins)
    log.info("twins: %d points look like others elsewhere", len(np.unique(twins[:, 0])))


def _places(source: OpenMap, visual_map: VisualMap, row_of: dict[str, int]) -> list[Rows]:
    """The instants by place, as numbers of `image_frames`, in the order of time.

    A vehicle that stands takes images that are alike: of those at a red light each is found
    to a millimetre among the others, which says nothing of the map on the way.
    """
    _, first = np.unique(visual_map.image_frames, return_index=True)
    places: list[list[int]] = []
    stood: Transform | None = None
    for row in np.sort(first).tolist():
        pose = map_from_rig(source.images, row_of[visual_map.image_names[row]])
        if stood is None or not _is_standing(stood, pose):
            stood = pose
            places.append([])
        places[-1].append(int(visual_map.image_frames[row]))
    return [np.array(frames, np.int32) for frames in places]


def _is_standing(before: Transform, after: Transform) -> bool:
    metres, radians = before.distance_to(after)
    return metres < STANDING[0] and radians < STANDING[1]


def _try(
    source: OpenMap,
    row_of: dict[str, int],
    localizer: Localizer,
    drift: MapDrift,
    frame: int,
    without: Rows,
) -> Instant | None:
    """Rows of the table by all ways; None if the instant was not localized."""
    own = np.flatnonzero(localizer.map.image_frames == frame)
    left = points_without(
        localizer.map, np.flatnonzero(np.isin(localizer.map.image_frames, without))
    )
    if len(left.others) == 0:
        return None
    rows = [row_of[localizer.map.image_names[row]] for row in own]
    images = source.images
    query = query_of(images, rows, images.names, source.folders, source.manifest.features)
    matched = _localized(localizer, query, left)
    if not matched:
        return None
    pose, center = map_from_rig(images, rows[0]), localizer.map.image_centers[own[0]]
    where = (*center.tolist(), second_nearest(localizer.map, left.others, center))
    drift = drift.without(left.images)
    found: Instant = {}
    for weighed, rate in itertools.product((True, False), RATES):
        drifting = replace(drift, rate=rate) if rate else None
        solutions = [of_matches.solved(weighed, drifting) for of_matches in matched]
        measured = [_measured(solution, pose) for solution in solutions if solution]
        tried = [(*where, *row, float(weighed), rate) for row in measured if row]
        if len(tried) < len(matched):
            return None
        found[rate, weighed] = tuple(tried)
    return found


@dataclass(frozen=True, slots=True)
class _Localized:
    """An instant's matches and a pose that agrees with them, not yet refined."""

    matches: Matches
    cameras: Sequence[MountedCamera]
    priors: Priors
    options: PoseOptions
    pose: Transform
    inliers: npt.NDArray[np.bool_] | None

    def solved(self, weighed: bool, drift: MapDrift | None) -> PoseSolution | None:
        """The pose, by points that are weighed or all alike."""
        matches = self.matches if weighed else replace(self.matches, point_covariance=None)
        return refine_inliers(
            matches, self.cameras, self.pose, self.options, self.priors, self.inliers, drift
        )


def _localized(localizer: Localizer, query: Query, left: PointsWithout) -> list[_Localized]:
    """By the matches that retrieval gives, and by those around the pose; none if it fails."""
    try:
        known = match_without(localizer, query, left)
        answer = localizer.answer(query, known, Estimate(query.stamp_ns, Reason.NO_POSE, ""))
    except Rejected:
        return []
    pose, options, priors = answer.map_from_base, localizer.options.pose, localizer.priors(query)
    if not answer.accepted or pose is None:
        return []
    again, cameras = match_again(localizer, known.views, pose, left)
    tight = tightened(options, GUIDED)
    found = find_pose(again, cameras, tight, pose)
    if found is None:
        return []
    return [
        _Localized(known.matches, known.cameras, priors, options, pose, None),
        _Localized(again, cameras, priors, tight, found.map_from_base, found.inliers),
    ]


def _measured(solution: PoseSolution, pose: Transform) -> Row | None:
    """Error and covariance of an instant's pose, as the table has them; None: found elsewhere."""
    error = difference(solution.map_from_base, pose)
    if np.linalg.norm(error[:3]) > ELSEWHERE:
        return None
    # All of it, though the pose has errors of its own: other drives, in other light, have more.
    metres, radians = np.sqrt((error.reshape(2, 3) ** 2).mean(axis=1))
    told = (solution.covariance / np.outer(DEGREES, DEGREES))[PACKED]
    size = float(metres), float(np.degrees(radians))
    return (*size, *(error / DEGREES).tolist(), *told.tolist())


def nearest(rows: Sequence[Instant]) -> list[Row]:
    """The rows of the way that finds instants nearest to their poses, by matches around them.

    Matches are weighed unless all alike surely find instants nearer, and the map is taken to drift
    as little as is not surely worse than the best: chance must not choose.

    Args:
        rows: of each instant, by all combinations of rate and weighing.
    """
    weighed = _simplest(rows, [(0.0, True), (0.0, False)])[1]
    chosen = _simplest(rows, [(rate, weighed) for rate in RATES])
    if rows and chosen != (0.0, True):
        rate, _ = chosen
        log.info(
            "held out: %.0f %% nearer with %s%s",
            100 * (1 - math.exp(_worse(rows, chosen, (0.0, True)).mean())),
            "points weighed" if weighed else "all points alike",
            f" and poses that drift by {100 * rate:g} % of the way" if rate else "",
        )
    return [of_instant[chosen][-1] for of_instant in rows]


def _simplest(rows: Sequence[Instant], ways: Sequence[Way]) -> Way:
    """The first of the ways that is not surely worse than the best one."""
    if len(rows) < ENOUGH:
        return ways[0]
    best = min(ways, key=lambda way: float(_worse(rows, way, ways[0]).mean()))
    for way in ways:
        worse = _worse(rows, way, best)
        if worse.mean() <= SURE * worse.std() / math.sqrt(len(rows)):
            return way
    return best


def _worse(rows: Sequence[Instant], way: Way, than: Way) -> Array:
    """(n,) logarithms of how many times as wrong, in the mean of position and orientation and of
    how instants were matched.
    """
    columns = [HELD_OUT_COLUMNS.index(name) for name in ("error_m", "error_deg")]
    errors = np.array([(of_instant[way], of_instant[than]) for of_instant in rows])[..., columns]
    sizes = np.log(np.maximum(errors, LEAST_ERROR)).mean(axis=(2, 3))
    worse: Array = sizes[:, 0] - sizes[:, 1]
    return worse


def match_without(localizer: Localizer, query: Query, left: PointsWithout) -> Correspondences:
    """The matches of an instant with the map as it would be without some of its images.

    Raises:
        Rejected: if there are too few.
    """
    sights = localizer.look(query)
    offers = localizer.prepare(localizer.retrieve(query, sights, left.others))
    known = left.corrected(localizer.match(localizer.views(sights), offers))
    localizer.require_matches(known.found)
    return known


def match_again(
    localizer: Localizer, views: Sequence[View], pose: Transform, left: PointsWithout
) -> tuple[Matches, list[MountedCamera]]:
    """The matches around a pose, as a fix of a drive has them, and the cameras of their views."""
    seeing = [view for view in views if view.sees]
    prior = PosePrior(pose, np.zeros((6, 6)))
    matches = match_guided(localizer.map, seeing, prior, GUIDED, left.others)
    return left.kept(matches), [view.camera for view in seeing]


@dataclass(frozen=True, slots=True)
class PointsWithout:
    """Points that some images saw, as the others alone would have made them.

    Attributes:
        images: of the map, those that are left out; others: all but these.
        rows: (Q,) of the map's points, ascending.
        lost: (Q,) bool, no two other images see them, or from the same direction.
        xyz: (Q, 3) metres; covariance: (Q, 6) as the map's.
    """

    images: npt.NDArray[np.intp]
    others: npt.NDArray[np.intp]
    rows: Rows
    lost: npt.NDArray[np.bool_]
    xyz: Array
    covariance: Array

    def corrected(self, known: Correspondences) -> Correspondences:
        """Without matches of lost points, the others' points where they would be."""
        found = tuple(of_view.select(self._left(of_view.point)) for of_view in known.found)
        return replace(known, found=found, matches=self.kept(known.matches))

    def kept(self, matches: Matches) -> Matches:
        """The matches that are left, the others' points where they would be."""
        return self._moved(matches.select(self._left(matches.point)))

    def _left(self, points: Rows) -> npt.NDArray[np.bool_]:
        return ~np.isin(points, self.rows[self.lost])

    def _moved(self, matches: Matches) -> Matches:
        """Matches with the positions and covariances of these points."""
        mine = np.flatnonzero(np.isin(matches.point, self.rows))
        place = np.searchsorted(self.rows, matches.point[mine])
        xyz, covariance = matches.points_map.copy(), matches.point_covariance
        xyz[mine] = self.xyz[place]
        if covariance is not None:
            covariance = covariance.copy()
            covariance[mine] = self.covariance[place]
        return replace(matches, points_map=xyz, point_covariance=covariance)


def points_without(visual_map: VisualMap, images: npt.NDArray[np.intp]) -> PointsWithout:
    """Take the observations of some images out of the points they helped to make.

    A point is the mean of its rays, each weighed by its information (`point_geometry`);
    taking some out of a weighed mean needs nothing but them.
    """
    seen = [visual_map.features(int(image)).points for image in images]
    rows = np.unique(np.concatenate(seen)).astype(np.int32)
    points = visual_map.points
    xyz = np.asarray(points.xyz[rows], float)
    covariance = np.asarray(points.covariance[rows], float)[:, UPPER]
    sure = np.isfinite(covariance).all(axis=(1, 2))
    information = np.zeros_like(covariance)
    information[sure] = np.linalg.inv(covariance[sure])
    pull, remaining = np.zeros_like(xyz), points.track_length[rows].copy()
    for image, shown in zip(images.tolist(), seen, strict=True):
        place = np.searchsorted(rows, shown)
        weight, offset = _observed(visual_map, image, xyz[place])
        information[place] -= weight
        pull[place] += np.einsum("nij,nj->ni", weight, offset)
        remaining[place] -= 1
    spread = np.linalg.eigvalsh(information)
    lost = ~sure | (remaining < 2) | (spread[:, 0] <= LEAST_INFORMATION * spread[:, 2])
    covariance[~lost] = np.linalg.inv(information[~lost])
    xyz[~lost] -= np.einsum("nij,nj->ni", covariance[~lost], pull[~lost])
    upper = np.triu_indices(3)
    others = np.setdiff1d(np.arange(len(visual_map.image_centers)), images)
    return PointsWithout(images, others, rows, lost, xyz, covariance[:, upper[0], upper[1]])


def _observed(visual_map: VisualMap, image: int, xyz: Array) -> tuple[Array, Array]:
    """What an image says about its points (n, 3): information (n, 3, 3), and how far off the
    points its rays are (n, 3).
    """
    camera, pose = visual_map.camera(image), visual_map.cam_from_map(image).inverse()
    rays = MountedCamera(camera).rays(np.asarray(visual_map.features(image).keypoints, float))
    rays = pose.rotation.apply(np.nan_to_num(rays))
    towards = xyz - pose.translation
    distance = np.maximum(np.linalg.norm(towards, axis=1), 1e-9)
    bearing = towards / distance[:, None]
    offset = np.where(rays.any(axis=1)[:, None], distance[:, None] * (rays - bearing), 0.0)
    across = np.eye(3) - bearing[:, :, None] * bearing[:, None, :]
    return (camera.focal / distance)[:, None, None] ** 2 * across, offset
