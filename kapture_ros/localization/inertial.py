"""What an IMU adds: how the vehicle turned between two times, and where up is.

Samples come from the IMU's driver, already in the axes of the base; turns go to the motion
filter, beside odometry or the images' motion, up goes to the pose solver as a prior.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.localization.odometry import SECOND
from kapture_ros.localization.refinement import GravityPrior
from kapture_ros.options import option
from kapture_ros.transforms import Transform, interpolate
from kapture_ros.transforms.se3 import Array, turned_by

GRAVITY = 9.81
MAX_GAP_NS = SECOND // 10  # without samples: who knows how it turned


@dataclass(frozen=True)
class InertialOptions:
    """How an IMU is used."""

    gravity_sigma: float = option(
        2.0, "one sigma of the direction of gravity; 0: it is not used", unit="deg", minimum=0
    )
    gravity_time: float = option(
        5.0, "over which the accelerometer is averaged: braking is shorter", unit="s", minimum=0.1
    )
    gravity_checks: int = option(
        10, "fixes that must show that the map's z axis is up, where it has no datum", minimum=1
    )
    max_turn_rate: float = option(
        4.0,
        "a gyro that says more is saturated or disturbed, and is not believed there",
        unit="rad/s",
        minimum=0,
    )


@dataclass(frozen=True, slots=True)
class ImuSample:
    """One measurement of an IMU, in the axes of the base.

    Attributes:
        turn_rate: (3,) rad/s.
        acceleration: (3,) m/s², as accelerometers measure it: at rest 9.81 upwards.
    """

    stamp_ns: int
    turn_rate: Array
    acceleration: Array


class Inertial:
    """The orientation by the gyro over the last seconds, and gravity in the base frame.

    Args:
        keep_ns: samples are known for so long.
    """

    def __init__(
        self, options: InertialOptions = InertialOptions(), keep_ns: int = 20 * SECOND
    ) -> None:
        self.options = options
        self._keep_ns = keep_ns
        self._stamps: list[int] = []
        self._turned: list[Transform] = []  # start_from_base, without gaps since the start
        self._starts: list[int] = []  # of each sample: when the samples without gaps began
        self._rate = np.zeros(3)
        self._whole = True  # since the newest sample no turn was missed
        self._up: Array | None = None  # in the base at the newest sample
        self._averaged = 0.0
        self._upright: deque[bool] = deque(maxlen=options.gravity_checks)

    def add(self, sample: ImuSample) -> bool:
        """Take a sample; False if it is not newer than the last one, or no IMU's."""
        rate = np.array(sample.turn_rate, float)
        acceleration = np.array(sample.acceleration, float)
        if not np.isfinite([rate, acceleration]).all():
            return False
        newest = self._stamps[-1] if self._stamps else None
        if newest is not None and sample.stamp_ns <= newest:
            return False
        if float(np.linalg.norm(rate)) > self.options.max_turn_rate:
            self._whole = False
            return False
        gap = newest is None or sample.stamp_ns - newest > MAX_GAP_NS
        seconds, step = 0.0, Transform()
        if newest is None or gap:
            self._up, self._averaged = None, 0.0
        elif self._whole:
            seconds = (sample.stamp_ns - newest) / SECOND
            step = turned_by((self._rate + rate) / 2 * seconds)
        whole, self._whole = self._whole and not gap, True
        turned = self._turned[-1] @ step if whole else Transform()
        start = self._starts[-1] if whole else sample.stamp_ns
        self._stamps.append(sample.stamp_ns)
        self._turned.append(turned)
        self._starts.append(start)
        self._rate = rate
        self._average(acceleration, step, seconds)
        while sample.stamp_ns - self._stamps[0] > self._keep_ns:
            del self._stamps[0], self._turned[0], self._starts[0]
        return True

    @property
    def newest_ns(self) -> int | None:
        """The stamp of the newest sample."""
        return self._stamps[-1] if self._stamps else None

    def turn(self, start_ns: int, end_ns: int) -> Transform | None:
        """start_from_end of the base, in one place; None where the gyro does not say."""
        start, end = self._orientation(start_ns), self._orientation(end_ns)
        if start is None or end is None or start[0] != end[0]:
            return None
        return start[1].inverse() @ end[1]

    def up(self, stamp_ns: int, trusted: bool) -> GravityPrior | None:
        """Where up is in the base at a time.

        Args:
            trusted: the map's z axis is known to be up; else the fixes must have shown it.
        """
        enough = len(self._upright) == self.options.gravity_checks and all(self._upright)
        return self._gravity(stamp_ns) if trusted or enough else None

    def learn(self, stamp_ns: int, map_from_base: Rotation) -> None:
        """Compare with a pose that was believed: is the map's z axis up?"""
        gravity = self._gravity(stamp_ns)
        if gravity is not None:
            cosine = float(map_from_base.apply(gravity.up_base)[2])
            self._upright.append(bool(np.arccos(np.clip(cosine, -1, 1)) < 3 * gravity.sigma))

    def _gravity(self, stamp_ns: int) -> GravityPrior | None:
        sigma = np.deg2rad(self.options.gravity_sigma)
        if self._up is None or self._averaged < self.options.gravity_time / 2 or sigma == 0:
            return None
        turn = self.turn(stamp_ns, self._stamps[-1])
        if turn is None:
            return None
        return GravityPrior(turn.apply(self._up), float(sigma))

    def _average(self, acceleration: Array, step: Transform, seconds: float) -> None:
        """Turn the mean with the base, and move it towards what is measured.

        A first-order low pass; in the beginning the mean of all (Mahony et al., IEEE TAC 2008,
        explain why gyro and accelerometer complete each other so).
        """
        if self._up is None:
            self._up = acceleration / max(float(np.linalg.norm(acceleration)), 1e-9)
            return
        self._averaged = min(self._averaged + seconds, self.options.gravity_time)
        weight = seconds / max(self._averaged, seconds)
        mean = (1 - weight) * step.inverse().apply(self._up) + weight * acceleration / GRAVITY
        self._up = mean / max(float(np.linalg.norm(mean)), 1e-9)

    def _orientation(self, stamp_ns: int) -> tuple[int, Transform] | None:
        """When the samples without gaps around a time began, and start_from_base then."""
        after = bisect_right(self._stamps, stamp_ns)
        if after == 0:
            return None
        before = after - 1
        start, turned, known_ns = self._starts[before], self._turned[before], self._stamps[before]
        if known_ns == stamp_ns:
            return start, turned
        if after < len(self._stamps):
            if self._starts[after] != start:
                return None
            fraction = (stamp_ns - known_ns) / (self._stamps[after] - known_ns)
            return start, interpolate(turned, self._turned[after], fraction)
        if stamp_ns - known_ns > MAX_GAP_NS:
            return None
        return start, turned @ turned_by(self._rate * ((stamp_ns - known_ns) / SECOND))
