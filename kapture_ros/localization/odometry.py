"""What odometry and a gyro say of a motion, and where it leads.

Samples come from whoever drives; `dead_reckoning` makes motions of them, which `motion_filter`,
`window` and `smoothing` weigh against fixes. A motion errs at random and by what is the same for
a while: scale and yaw bias of the odometry, bias and scale of the gyro.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kapture_ros.errors import ExtrapolationError
from kapture_ros.transforms import Transform, interpolate
from kapture_ros.transforms.se3 import Array, cross_matrix, disturb, turned_by

SECOND = 1_000_000_000
SCALE, BIAS, GYRO, GYRO_SCALE = 6, 7, slice(8, 11), 11  # rows of the error behind the pose
SIZE = 12


@dataclass(frozen=True, slots=True)
class OdometrySample:
    """Where the odometry says the vehicle is.

    Attributes:
        odom_from_base: metres; the frame is the odometry's own and may drift.
        covariance: (6, 6) of (δp, δθ) of the motion since the sample before, in the axes of
            the base there, m² and rad²; None: as the options say. (The covariance of a
            twist, times the square of the seconds between samples.)
    """

    stamp_ns: int
    odom_from_base: Transform
    covariance: Array | None = None


class Odometry:
    """Samples of odometry over the last seconds, interpolated between them.

    Beyond the newest sample the last motion goes on, for as long as `ahead_ns`.
    """

    def __init__(self, keep_ns: int, ahead_ns: int = SECOND) -> None:
        self._samples: list[OdometrySample] = []
        self._keep_ns = keep_ns
        self._ahead_ns = ahead_ns

    def add(self, sample: OdometrySample) -> bool:
        """Take a sample; False if it is not newer than the last one."""
        newest = self.newest_ns
        if newest is not None and sample.stamp_ns <= newest:
            return False
        # From before a pause on: what was known then is to be carried over it.
        while newest is not None and newest - self._samples[0].stamp_ns > self._keep_ns:
            del self._samples[0]
        self._samples.append(sample)
        return True

    @property
    def newest_ns(self) -> int | None:
        """The stamp of the newest sample."""
        return self._samples[-1].stamp_ns if self._samples else None

    def reaches(self, stamp_ns: int) -> bool:
        """Whether it began before a time."""
        return bool(self._samples) and self._samples[0].stamp_ns <= stamp_ns

    def at(self, stamp_ns: int) -> Transform:
        """odom_from_base at a time.

        Raises:
            ExtrapolationError: before the oldest sample, or too far beyond the newest.
        """
        if not self._samples:
            raise ExtrapolationError("no odometry was received yet")
        oldest, newest = self._samples[0], self._samples[-1]
        if stamp_ns < oldest.stamp_ns:
            early = (oldest.stamp_ns - stamp_ns) / SECOND
            raise ExtrapolationError(f"odometry begins {early:.3f} s after the time asked for")
        if stamp_ns > newest.stamp_ns + self._ahead_ns:
            late = (stamp_ns - newest.stamp_ns) / SECOND
            raise ExtrapolationError(f"odometry ends {late:.3f} s before the time asked for")
        if len(self._samples) == 1:  # nothing says that it moves
            return newest.odom_from_base
        after = bisect_right(self._samples, stamp_ns, key=lambda sample: sample.stamp_ns)
        if self._samples[after - 1].stamp_ns == stamp_ns:
            return self._samples[after - 1].odom_from_base
        after = min(after, len(self._samples) - 1)
        start, end = self._samples[after - 1], self._samples[after]
        fraction = (stamp_ns - start.stamp_ns) / (end.stamp_ns - start.stamp_ns)
        if fraction <= 1.0:
            return interpolate(start.odom_from_base, end.odom_from_base, fraction)
        motion = start.odom_from_base.inverse() @ end.odom_from_base
        return end.odom_from_base @ Transform.exp((fraction - 1.0) * motion.log())

    def between(self, start_ns: int, end_ns: int) -> Transform:
        """start_from_end of the base.

        Raises:
            ExtrapolationError: as `at`.
        """
        return self.at(start_ns).inverse() @ self.at(end_ns)

    def covariance(self, start_ns: int, end_ns: int) -> Array | None:
        """(6, 6) of a piece of the motion that is within one step of the samples.

        None where the samples bring no covariance.
        """
        after = bisect_left(self._samples, end_ns, key=lambda sample: sample.stamp_ns)
        after = min(after, len(self._samples) - 1)
        if after < 1 or (covariance := self._samples[after].covariance) is None:
            return None
        step_ns = self._samples[after].stamp_ns - self._samples[after - 1].stamp_ns
        return covariance * (end_ns - start_ns) / step_ns

    def stamps_between(self, start_ns: int, end_ns: int) -> list[int]:
        """Stamps of the samples after `start_ns` and before `end_ns`."""
        first = bisect_right(self._samples, start_ns, key=lambda sample: sample.stamp_ns)
        last = bisect_left(self._samples, end_ns, key=lambda sample: sample.stamp_ns)
        return [sample.stamp_ns for sample in self._samples[first:last]]


class Turns(Protocol):
    """What a gyro says, with its bias in it."""

    @property
    def newest_ns(self) -> int | None:
        """The stamp of the newest sample."""
        ...

    def turn(self, start_ns: int, end_ns: int) -> Transform | None:
        """start_from_end of the base, in one place; None where it does not say."""
        ...


@dataclass(frozen=True, slots=True)
class Motion:
    """Motion between two times.

    Attributes:
        start_from_end: metres.
        noise: (6, 6) of its random error, in the axes of the base at the start.
        by_gyro: its rotation is the gyro's.
    """

    start_ns: int
    end_ns: int
    start_from_end: Transform
    noise: Array
    by_gyro: bool = False

    @property
    def seconds(self) -> float:
        """How long it took."""
        return (self.end_ns - self.start_ns) / SECOND

    @property
    def turn_noise(self) -> float:
        """Variance of its random turn, all axes."""
        return float(np.trace(self.noise[3:, 3:]))

    @property
    def turn_errors(self) -> Array:
        """(3, 6) by `MotionState.errors`: what they add to its turn rate, in the base's axes."""
        result = np.zeros((3, SIZE - 6))
        if self.by_gyro:
            result[:, 2:5] = -np.eye(3)
            result[:, 5] = -self.start_from_end.rotation_vector() / self.seconds
        else:
            result[2, 1] = 1.0
        return result

    def turned(self, turn: Transform, sigma: float) -> Motion:
        """The same with the gyro's rotation; `sigma`: of its random error after one second."""
        moved = Transform(translation=self.start_from_end.translation) @ turn
        noise = np.zeros((6, 6))
        noise[:3, :3], noise[3:, 3:] = self.noise[:3, :3], sigma**2 * self.seconds * np.eye(3)
        return Motion(self.start_ns, self.end_ns, moved, noise, by_gyro=True)


def reckon(map_from_base: Transform, motion: Motion, errors: Array) -> tuple[Transform, Array]:
    """Where a motion leads that was measured with these errors; they are small.

    Args:
        errors: (6,) of odometry and gyro, as `MotionState.errors`.

    Returns:
        The pose, and its derivatives (6, 12) by the disturbance of the first one and the errors.
    """
    by_errors = motion.turn_errors * (motion.seconds / 2)
    # It turns on the way: what it moved was seen, on average, after half of what the turn lacks.
    half = turned_by(by_errors @ errors)
    start = map_from_base @ half
    axes = start.rotation_matrix()
    moved = axes @ motion.start_from_end.translation
    scale = float(errors[0])
    end = disturb(start @ motion.start_from_end @ half, np.array([*(scale * moved), 0, 0, 0]))
    before = axes @ by_errors
    derivatives = np.eye(6, SIZE)
    lever = derivatives[:3, 3:6] = -cross_matrix((1 + scale) * moved)
    derivatives[:3, 6:] = lever @ before
    derivatives[:3, SCALE] += moved
    derivatives[3:, 6:] = before + end.rotation_matrix() @ by_errors
    return end, derivatives
