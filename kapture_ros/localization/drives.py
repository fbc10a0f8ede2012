"""Whole drives localized as sequences and smoothed: the best trajectory there is afterwards.

Queries come from `query_set`, estimates go to `batch`. A drive is localized in the order of
time and smoothed, in parts if the vehicle was moved on the way; where that tells the pose of
an instant without a fix, the map is searched around it; then the drive is smoothed again. A
few images with given relative poses (the sequences of RobotCar) are a short drive.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np
from tqdm import tqdm

from kapture_ros.localization.dead_reckoning import DeadReckoning
from kapture_ros.localization.inertial import ImuSample, Inertial
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.motion_filter import Fix, MotionFilter
from kapture_ros.localization.odometry import SECOND, OdometrySample
from kapture_ros.localization.query import Estimate, Query, Reason, Rejected
from kapture_ros.localization.query_set import QuerySet
from kapture_ros.localization.refinement import PosePrior
from kapture_ros.localization.sequence import SequenceLocalizer
from kapture_ros.localization.sequence_state import SequenceOptions
from kapture_ros.localization.smoothing import SmoothedPose, smooth
from kapture_ros.transforms.se3 import largest_sigma

GAP_NS = 5 * SECOND  # between images of one drive at most
SEARCHED = 3.0  # metres, one sigma: around a worse pose too many points would match
SLACK = np.repeat([0.3, np.deg2rad(1.5)], 3) ** 2  # m², rad²: of fixes that agree
TURNED = np.deg2rad(3.3)  # one sigma: a pose that is turned worse is not known
MOVED = 3  # fixes that agree with each other elsewhere: the vehicle was moved
COMPARED = 8  # runs of fixes at most that another may belong to
FOREVER = 1e9  # seconds: odometry is kept from end to end
Sample = TypeVar("Sample", OdometrySample, ImuSample)


class Queries(Protocol):
    """Instants by number."""

    def __getitem__(self, number: int, /) -> Query:
        """One instant."""
        ...


@dataclass(frozen=True, slots=True)
class Drive:
    """The queries of one drive by number, and what else was measured.

    Attributes:
        odometry: None: from the images.
        imu: samples in the order of time; none: there was no IMU.
    """

    numbers: tuple[int, ...]
    odometry: tuple[OdometrySample, ...] | None = None
    imu: tuple[ImuSample, ...] = ()


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
    """The queries of each device, without gaps in time and without a change of odometry's frame."""
    by_device: dict[str, list[list[int]]] = {}
    for number, info in enumerate(queries.infos):
        drives = by_device.setdefault(info.device, [])
        newest = queries.infos[drives[-1][-1]].stamp_ns if drives else None
        restarted = newest is not None and any(
            newest < stamp <= info.stamp_ns for stamp in queries.restarts
        )
        if newest is None or info.stamp_ns - newest > GAP_NS or (given_motion and restarted):
            drives.append([])
        drives[-1].append(number)
    found: list[Drive] = []
    for device, drives in by_device.items():
        turns = queries.imu(device) if given_motion else []
        for drive in drives:
            odometry = _given_motion(queries, drive) if given_motion else None
            found.append(Drive(tuple(drive), odometry, _during(queries, drive, turns)))
    return found


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
    estimates, odometry = _forwards(tracker, queries, drive)
    samples = drive.odometry or odometry
    motion = whole_motion(samples, drive.imu, tracker.options)
    fixes = [tracker.fix_of(estimate) for estimate in estimates if estimate.accepted]
    for part, run in _parts([e.stamp_ns for e in estimates], _runs(fixes, motion)):
        numbers = drive.numbers[part]
        smoothed = _smoothed(tracker, queries, numbers, estimates[part], motion.reckoning, run)
        estimates[part] = [
            _smoothed_estimate(estimate, pose, tracker.options.tracking.lost_sigma)
            for estimate, pose in zip(estimates[part], smoothed, strict=True)
        ]
    return estimates


def _smoothed(
    tracker: SequenceLocalizer,
    queries: Queries,
    numbers: Sequence[int],
    estimates: Sequence[Estimate],
    motion: DeadReckoning,
    run: Sequence[Fix],
) -> list[SmoothedPose]:
    """The poses of instants that motion links, from fixes that agree."""
    stamps = [estimate.stamp_ns for estimate in estimates]
    fixes = [tracker.fix_of(estimate) for estimate in estimates if estimate.accepted]
    agreed = {fix.stamp_ns: fix.map_from_base for fix in run}
    begin = [agreed.get(stamp) for stamp in stamps]
    smoothed = smooth(stamps, motion, fixes, begin)
    more = _search_again(tracker, queries, numbers, smoothed, {fix.stamp_ns for fix in fixes})
    if not more:
        return smoothed
    found = [pose.map_from_base for pose in smoothed]
    return smooth(stamps, motion, [*fixes, *more], found)


def whole_motion(
    odometry: Sequence[OdometrySample], imu: Sequence[ImuSample], options: SequenceOptions
) -> MotionFilter:
    """A filter that knows the motion of a drive from end to end, and no fix."""
    forever = replace(options.motion, history=FOREVER)
    gyro = Inertial(options.inertial, keep_ns=int(2 * FOREVER * SECOND))
    for measurement in imu:
        gyro.add(measurement)
    motion = MotionFilter(forever, gyro)
    for sample in odometry:
        motion.add_odometry(sample)
    return motion


def _runs(fixes: Sequence[Fix], motion: MotionFilter) -> list[list[Fix]]:
    """Fixes that agree along the motion, each with the one before it.

    A second run begins where the vehicle was moved, or is of wrong fixes; runs that are too
    short to tell, or within the time of a longer one, are left out.
    """
    runs: list[list[Fix]] = []
    for fix in fixes:
        recent = sorted(runs, key=lambda run: run[-1].stamp_ns)[-COMPARED:]
        run = next((r for r in reversed(recent) if _agree(motion, r[-1], fix)), None)
        if run is None:
            runs.append([fix])
        else:
            run.append(fix)
    found: list[list[Fix]] = []
    for run in sorted(runs, key=len, reverse=True):
        apart = all(
            run[-1].stamp_ns < other[0].stamp_ns or run[0].stamp_ns > other[-1].stamp_ns
            for other in found
        )
        if not found or (apart and len(run) >= MOVED):
            found.append(run)
    return sorted(found, key=lambda run: run[0].stamp_ns)


def _agree(motion: MotionFilter, first: Fix, second: Fix) -> bool:
    """Whether odometry may lead from one fix to another."""
    motion.initialize(replace(first, covariance=first.covariance + np.diag(SLACK)))
    return motion.innovation(second).accepted


def _parts(
    stamps: Sequence[int], runs: Sequence[Sequence[Fix]]
) -> Iterator[tuple[slice, Sequence[Fix]]]:
    """Instants that each run tells of: up to its neighbours, where it has some.

    Those between two runs are of neither: nothing tells when the vehicle was moved.
    """
    for number, run in enumerate(runs):
        first = 0 if number == 0 else bisect_left(stamps, run[0].stamp_ns)
        last = number == len(runs) - 1
        end = len(stamps) if last else bisect_right(stamps, run[-1].stamp_ns)
        yield slice(first, end), run


def _forwards(
    tracker: SequenceLocalizer, queries: Queries, drive: Drive
) -> tuple[list[Estimate], list[OdometrySample]]:
    """Estimates and odometry at each instant, in the order of time."""
    estimates: list[Estimate] = []
    odometry: list[OdometrySample] = []
    samples, measurements = iter(drive.odometry or ()), iter(drive.imu)
    for number in tqdm(drive.numbers, "localize", unit="query", disable=None):
        query = queries[number]
        for measurement in _until(measurements, query.stamp_ns):
            tracker.add_imu(measurement)
        begin = time.perf_counter()
        answer = tracker.update(query, _until(samples, query.stamp_ns))
        total = 1e3 * (time.perf_counter() - begin)
        assert answer.estimate is not None  # of an instant
        latency = {**answer.estimate.latency_ms, "total": total}
        estimates.append(replace(answer.estimate, latency_ms=latency))
        here = tracker.motion.odometry
        before = odometry[-1].stamp_ns if odometry else query.stamp_ns
        covariance = here.covariance(before, query.stamp_ns)
        odometry.append(OdometrySample(query.stamp_ns, here.at(query.stamp_ns), covariance))
    return estimates, odometry


def _until(samples: Iterator[Sample], stamp_ns: int) -> Iterator[Sample]:
    """Samples up to the first that is not before a time."""
    for sample in samples:
        yield sample
        if sample.stamp_ns >= stamp_ns:
            return


def _search_again(
    tracker: SequenceLocalizer,
    queries: Queries,
    numbers: Sequence[int],
    smoothed: Sequence[SmoothedPose],
    fixed: AbstractSet[int],
) -> list[Fix]:
    """Fixes of instants that had none, near their smoothed poses."""
    found = []
    for number, pose in zip(numbers, smoothed, strict=True):
        sigma = largest_sigma(pose.covariance[:3, :3])
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
            found.append(tracker.fix_of(estimate))
    return found


def _smoothed_estimate(estimate: Estimate, pose: SmoothedPose, limit: float) -> Estimate:
    """What the images said, with the smoothed pose instead of their own."""
    position = largest_sigma(pose.covariance[:3, :3])
    rotation = largest_sigma(pose.covariance[3:, 3:])
    known = position <= limit and rotation <= TURNED
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


def _during(
    queries: QuerySet, numbers: Sequence[int], samples: Sequence[ImuSample]
) -> tuple[ImuSample, ...]:
    """What an IMU measured on a drive, and a moment before and after."""
    first = queries.infos[numbers[0]].stamp_ns - SECOND
    last = queries.infos[numbers[-1]].stamp_ns + SECOND
    return tuple(sample for sample in samples if first <= sample.stamp_ns <= last)
