"""In which band the normalized errors squared of a drive lie if the filter's own model is true.

Frames of a drive are not independent: a map's error lasts for metres, some of it for the whole
drive, and what odometry did wrong is in all poses after it. How far a drive's mean may be off 6
follows from the model: its fixes are drawn again and again, as wrong as they were told, along
the same way with new odometry, and fused.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import pairwise

import numpy as np
from street_world import NOISE, Drive, measure_inertially, measured

from kapture_ros.localization.inertial import ImuSample, Inertial
from kapture_ros.localization.map_change import MapChange
from kapture_ros.localization.motion_filter import Fix, Innovation, MotionFilter, MotionState
from kapture_ros.localization.odometry import SECOND, OdometrySample
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import difference, disturb, symmetric_root

DRIVES = 40  # drawn


class Fused:
    """The fixes that a filter fuses from now on, with the covariances that they are fused with.

    Attributes:
        fixes: by stamp; of_map: how the map's error changes along the way.
    """

    def __init__(self, motion: MotionFilter) -> None:
        self.fixes: dict[int, Fix] = {}
        self.of_map = motion.of_map
        update, initialize = motion.update, motion.initialize

        def updated(fix: Fix, inflation: float = 1.0) -> Innovation:
            innovation = update(fix, inflation)
            if innovation.accepted:
                self.fixes[fix.stamp_ns] = fix
            return innovation

        def initialized(fix: Fix, like: MotionState | None = None) -> None:
            self.fixes[fix.stamp_ns] = fix
            initialize(fix, like)

        motion.update, motion.initialize = updated, initialized


def means_of_drives(
    drive: Drive, fused: Fused, stamps: set[int], seed: int, *, imu: bool
) -> list[float]:
    """Means of the normalized errors squared at `stamps`, of drives that are as the model says.

    Args:
        seed: of this drive; others are drawn independently of it.
    """
    numbers = range(seed * DRIVES, (seed + 1) * DRIVES)
    return [_mean(drive, fused, stamps, np.random.default_rng(n), imu=imu) for n in numbers]


def _mean(
    drive: Drive, fused: Fused, stamps: set[int], rng: np.random.Generator, *, imu: bool
) -> float:
    felt = measure_inertially(drive, rng) if imu else {}
    motion = MotionFilter(NOISE, gyro := Inertial(), fused.of_map)
    fixes = [fused.fixes[stamp] for stamp in sorted(fused.fixes)]
    due = {fix.stamp_ns: fix for fix in _drawn(drive, fixes, fused.of_map, rng)}
    squares = []
    for state in filtered(motion, gyro, _odometry(drive, rng), felt, due, stamps):
        error = difference(state.map_from_base, drive.truth[state.stamp_ns])
        squares.append(error @ np.linalg.solve(state.pose_covariance, error))
    return float(np.mean(squares))


def filtered(
    motion: MotionFilter,
    gyro: Inertial,
    odometry: Sequence[OdometrySample],
    felt: Mapping[int, list[ImuSample]],
    fixes: Mapping[int, Fix],
    stamps: Container[int],
) -> Iterator[MotionState]:
    """What the filter alone knows at each of `stamps`, with the fixes up to there.

    Args:
        felt, fixes: by the stamp of the odometry that they come with.
    """
    for sample in odometry:
        motion.add_odometry(sample)
        for measurement in felt.get(sample.stamp_ns, []):
            gyro.add(measurement)
        if (fix := fixes.get(sample.stamp_ns)) is not None and not (
            motion.initialized and motion.update(fix).accepted
        ):
            motion.initialize(fix)
        if sample.stamp_ns in stamps:
            yield motion.at(sample.stamp_ns)


def _odometry(drive: Drive, rng: np.random.Generator) -> list[OdometrySample]:
    """As the options describe it."""
    scale = rng.normal(0, NOISE.odometry_scale)
    bias, odom = rng.normal(0, NOISE.odometry_yaw_bias), Transform()
    stamps = sorted(drive.truth)
    samples = [OdometrySample(stamps[0], odom)]
    for a, b in pairwise(stamps):
        odom = odom @ measured(drive.truth[a].inverse() @ drive.truth[b], scale, bias, NOISE, rng)
        samples.append(OdometrySample(b, odom))
    return samples


def _drawn(
    drive: Drive, fixes: list[Fix], of_map: MapChange, rng: np.random.Generator
) -> list[Fix]:
    """The fixes, as wrong as they tell."""
    deviation, lasting = rng.normal(size=(2, 6))
    drawn: list[Fix] = []
    for before, fix in zip([None, *fixes], fixes, strict=False):
        truth, own = drive.truth[fix.stamp_ns], fix.own_covariance
        if before is not None:
            metres, _ = truth.distance_to(drive.truth[before.stamp_ns])
            alike = of_map.share(metres)
            deviation = alike * deviation + np.sqrt(1 - alike**2) * rng.normal(size=6)
            apart = (fix.stamp_ns - before.stamp_ns) / SECOND
            own = own * max(1.0, NOISE.fix_correlation / apart)
        error = symmetric_root(fix.changing_covariance) @ deviation
        error = error + symmetric_root(fix.lasting_covariance) @ lasting
        error = error + symmetric_root(own) @ rng.normal(size=6)
        parts = fix.covariance, fix.map_covariance, fix.lasting_covariance
        drawn.append(Fix(fix.stamp_ns, disturb(truth, error), *parts))
    return drawn
