"""What an IMU adds: how the vehicle turned between two times, and where up is.

Samples come from the IMU's driver, already in the axes of the base; turns go to the motion
that is made without odometry, up goes to the pose solver as a prior.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.localization.motion_filter import SECOND
from kapture_ros.localization.refinement import GravityPrior
from kapture_ros.options import option
from kapture_ros.transforms.se3 import Array

GRAVITY = 9.81
MAX_GAP_NS = SECOND // 5  # without samples: who knows how it turned


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
    turn_noise: float = option(
        0.005, "one sigma of the turn by the gyro after one second", unit="rad", minimum=0
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
    """The orientation by the gyro over the last seconds, and gravity in the base frame."""

    KEEP_NS = 20 * SECOND

    def __init__(self, options: InertialOptions = InertialOptions()) -> None:
        self.options = options
        self._stamps: deque[int] = deque()
        self._turned: deque[Rotation] = deque()  # start_from_base
        self._rate = np.zeros(3)
        self._up: Array | None = None  # in the base at the newest sample
        self._averaged = 0.0
        self._upright: deque[bool] = deque(maxlen=options.gravity_checks)

    def add(self, sample: ImuSample) -> bool:
        """Take a sample; False if it is not newer than the last one or not finite."""
        if not np.isfinite([sample.turn_rate, sample.acceleration]).all():
            return False
        newest = self._stamps[-1] if self._stamps else None
        if newest is not None and sample.stamp_ns <= newest:
            return False
        if newest is None or sample.stamp_ns - newest > MAX_GAP_NS:
            self._stamps.clear()
            self._turned.clear()
            self._up, self._averaged, step = None, 0.0, Rotation.identity()
            seconds, before = 0.0, Rotation.identity()
        else:
            seconds, before = (sample.stamp_ns - newest) / SECOND, self._turned[-1]
            step = Rotation.from_rotvec((self._rate + sample.turn_rate) / 2 * seconds)
        self._stamps.append(sample.stamp_ns)
        self._turned.append(before * step)
        self._rate = np.array(sample.turn_rate, float)
        self._average(np.array(sample.acceleration, float), step, seconds)
        while sample.stamp_ns - self._stamps[0] > self.KEEP_NS:
            self._stamps.popleft()
            self._turned.popleft()
        return True

    def turn(self, start_ns: int, end_ns: int) -> Rotation | None:
        """start_from_end of the base; None where the gyro does not say."""
        start, end = self._orientation(start_ns), self._orientation(end_ns)
        return None if start is None or end is None else start.inv() * end

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

    def _average(self, acceleration: Array, step: Rotation, seconds: float) -> None:
        """Turn the mean with the base, and move it towards what is measured.

        A first-order low pass; in the beginning the mean of all (Mahony et al., IEEE TAC 2008,
        explain why gyro and accelerometer complete each other so).
        """
        if self._up is None:
            self._up = acceleration / max(float(np.linalg.norm(acceleration)), 1e-9)
            return
        self._averaged = min(self._averaged + seconds, self.options.gravity_time)
        weight = seconds / max(self._averaged, seconds)
        mean = (1 - weight) * step.inv().apply(self._up) + weight * acceleration / GRAVITY
        self._up = mean / max(float(np.linalg.norm(mean)), 1e-9)

    def _orientation(self, stamp_ns: int) -> Rotation | None:
        if not self._stamps or stamp_ns < self._stamps[0]:
            return None
        after = bisect_right(self._stamps, stamp_ns)
        start = after - 1
        if after < len(self._stamps):
            gap = self._stamps[after] - self._stamps[start]
            rate = (self._turned[start].inv() * self._turned[after]).as_rotvec() / gap
        elif stamp_ns - self._stamps[-1] <= MAX_GAP_NS:
            rate = self._rate / SECOND
        else:
            return None
        return self._turned[start] * Rotation.from_rotvec(rate * (stamp_ns - self._stamps[start]))
