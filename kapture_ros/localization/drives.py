"""Whole drives localized as sequences and smoothed: the best trajectory there is afterwards.

Queries come from `query_set`, estimates go to `batch`. A drive is localized in the order of
time and smoothed; where that tells the pose of an instant without a fix, the map is searched
around it; then the drive is smoothed again. A few images with given relative poses (the
sequences of RobotCar) are a short drive.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from tqdm import tqdm

from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.motion_filter import SECOND, Fix, OdometrySample
from kapture_ros.localization.query import Estimate, Query, Reason, Rejected
from kapture_ros.localization.query_set import QuerySet
from kapture_ros.localization.refinement import PosePrior
from kapture_ros.localization.sequence import SequenceLocalizer, fix_of
from kapture_ros.localization.sequence_state import SequenceOptions
from kapture_ros.localization.smoothing import SmoothedPose, smooth
from kapture_ros.transforms import Transform

GAP_NS = 5 * SECOND  # between images of one drive at most
SEARCHED = 3.0  # metres, one sigma: around a worse pose too many points would match
SAME = (1.0, np.deg2rad(5.0))  # metres (and a tenth of the way), radians: fixes that agree


class Queries(Protocol):
    """Instants by number."""

    def __getitem__(self, number: int, /) -> Query:
        """One instant."""
        ...


@dataclass(frozen=True, slots=True)
class Drive:
    """Numbers of the queries of one drive, and its odometry; None: from the images."""

    numbers: tuple[int, ...]
    odometry: tuple[OdometrySample, ...] | None = None


def localize_drives(
    localizer: Localizer, queries: QuerySet, done: AbstractSet[int], *, given_motion: bool
) -> Iterator[tuple[int, Estimate]]:
    """Numbers and estimates of all queries that are not done, drive by drive.

    Args:
        given_motion: use the trajectory of the dataset as odometry, where it has one.
    """
    for drive in drives_of(queries, given_motion=given_motion):
        if set(drive.numbers) <= done:
            continue
        estimates = localize_drive(localizer, queries, drive)
        for number, estimate in zip(drive.numbers, estimates, strict=True):
            if number not in done:
                yield number, estimate


def drives_of(queries: QuerySet, *, given_motion: bool) -> list[Drive]:
    """The queries of each device, without gaps in time."""
    by_device: dict[str, list[list[int]]] = {}
    for number, info in enumerate(queries.infos):
        drives = by_device.setdefault(info.device, [])
        newest = queries.infos[drives[-1][-1]].stamp_ns if drives else None
        if newest is None or info.stamp_ns - newest > GAP_NS:
            drives.append([])
        drives[-1].append(number)
    found = [tuple(numbers) for drives in by_device.values() for numbers in drives]
    return [Drive(n, _given_motion(queries, n) if given_motion else None) for n in found]


def localize_drive(
    localizer: Localizer,
    queries: Queries,
    drive: Drive,
    options: SequenceOptions | None = None,
) -> list[Estimate]:
    """Estimates of all instants of a drive, smoothed.

    Accepted are poses that are known well enough, also of instants that show nothing; where
    the drive has no fix, none is.
    """
    tracker = SequenceLocalizer(localizer, options)
    estimates, tracked, odometry = _forwards(tracker, queries, drive)
    stamps = [sample.stamp_ns for sample in odometry]
    fixes = [fix_of(estimate) for estimate in estimates if estimate.accepted]
    if not fixes:
        return estimates
    if all(pose is None for pose in tracked):
        tracked = _agreed(stamps, odometry, fixes)
    samples = drive.odometry or odometry
    motion = tracker.options.motion
    smoothed = smooth(stamps, samples, fixes, motion, tracked)
    more = _search_again(tracker, queries, drive, smoothed, {fix.stamp_ns for fix in fixes})
    if more:
        start = [pose.map_from_base for pose in smoothed]
        smoothed = smooth(stamps, samples, [*fixes, *more], motion, start)
    return [
        _smoothed_estimate(localizer, estimate, pose)
        for estimate, pose in zip(estimates, smoothed, strict=True)
    ]


def _forwards(
    tracker: SequenceLocalizer, queries: Queries, drive: Drive
) -> tuple[list[Estimate], list[Transform | None], list[OdometrySample]]:
    """Estimates, tracked poses and odometry at each instant, in the order of time."""
    estimates: list[Estimate] = []
    tracked: list[Transform | None] = []
    odometry: list[OdometrySample] = []
    samples = iter(drive.odometry or ())
    for number in tqdm(drive.numbers, "localize", unit="query", disable=None):
        query = queries[number]
        begin = time.perf_counter()
        answer = tracker.update(query, _until(samples, query.stamp_ns))
        total = 1e3 * (time.perf_counter() - begin)
        assert answer.estimate is not None  # of an instant
        latency = {**answer.estimate.latency_ms, "total": total}
        estimates.append(replace(answer.estimate, latency_ms=latency))
        tracked.append(answer.map_from_base)
        here = tracker.motion.odometry
        before = odometry[-1].stamp_ns if odometry else query.stamp_ns
        covariance = here.covariance(before, query.stamp_ns)
        odometry.append(OdometrySample(query.stamp_ns, here.at(query.stamp_ns), covariance))
    return estimates, tracked, odometry


def _until(samples: Iterator[OdometrySample], stamp_ns: int) -> Iterator[OdometrySample]:
    """Samples up to the first that is not before a time."""
    for sample in samples:
        yield sample
        if sample.stamp_ns >= stamp_ns:
            return


def _agreed(
    stamps: Sequence[int], odometry: Sequence[OdometrySample], fixes: Sequence[Fix]
) -> list[Transform | None]:
    """Only the pose of the fix that most others agree with, along odometry."""
    odom = {sample.stamp_ns: sample.odom_from_base for sample in odometry}

    def agreeing(fix: Fix) -> int:
        count = 0
        for other in fixes:
            moved = odom[fix.stamp_ns].inverse() @ odom[other.stamp_ns]
            metres, radians = (fix.map_from_base @ moved).distance_to(other.map_from_base)
            slack = SAME[0] + 0.1 * float(np.linalg.norm(moved.translation))
            count += metres < slack and radians < SAME[1]
        return count

    best = max(fixes, key=agreeing)
    return [best.map_from_base if stamp == best.stamp_ns else None for stamp in stamps]


def _search_again(
    tracker: SequenceLocalizer,
    queries: Queries,
    drive: Drive,
    smoothed: Sequence[SmoothedPose],
    fixed: AbstractSet[int],
) -> list[Fix]:
    """Fixes of instants that had none, near their smoothed poses."""
    found = []
    for number, pose in zip(drive.numbers, smoothed, strict=True):
        sigma = np.sqrt(np.linalg.eigvalsh(pose.covariance[:3, :3])[-1])
        if pose.stamp_ns in fixed or sigma > SEARCHED:
            continue
        prior = PosePrior(pose.map_from_base, pose.covariance)
        query = queries[number]
        try:
            views = tracker.localizer.extract(query)
        except Rejected:
            continue
        matches = tracker.near.match(views, prior)
        estimate = tracker.near.solve(query, views, matches, prior)
        if estimate.accepted:
            found.append(fix_of(estimate))
    return found


def _smoothed_estimate(localizer: Localizer, estimate: Estimate, pose: SmoothedPose) -> Estimate:
    """What the images said, with the smoothed pose instead of their own."""
    position = float(np.sqrt(np.linalg.eigvalsh(pose.covariance[:3, :3])[-1]))
    rotation = float(np.sqrt(np.linalg.eigvalsh(pose.covariance[3:, 3:])[-1]))
    limits = localizer.options.acceptance
    known = position <= limits.max_position_sigma
    known &= np.rad2deg(rotation) <= limits.max_rotation_sigma
    before = estimate.map_from_base
    cams_from_map = estimate.cams_from_map
    if before is not None:
        moved = before @ pose.map_from_base.inverse()
        cams_from_map = tuple(camera @ moved for camera in cams_from_map)
    return replace(
        estimate,
        reason=Reason.ACCEPTED if known else Reason.UNCERTAIN,
        reason_text=f"smoothed, position to {position:.2f} m",
        map_from_base=pose.map_from_base,
        covariance=pose.covariance,
        cams_from_map=cams_from_map,
        scores=replace(estimate.scores, position_sigma=position, rotation_sigma=rotation),
    )


def _given_motion(queries: QuerySet, numbers: Sequence[int]) -> tuple[OdometrySample, ...] | None:
    """The dataset's trajectory as odometry; None where an instant has no pose."""
    samples = []
    for number in numbers:
        pose = queries.given_pose(number)
        if pose is None:
            return None
        samples.append(OdometrySample(queries.infos[number].stamp_ns, pose))
    return tuple(samples)
