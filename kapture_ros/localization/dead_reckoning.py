"""The motion between two times as odometry tells it, and as a gyro turns it where there is one.

Samples come from the motion filter, which is given them, and pieces of the motion go to it and
to smoothing, which carry poses along them; windows ask for whole motions. A gyro that
contradicts odometry is in wrong axes, units or time, or saturated, and turns nothing then.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import SECOND, Motion, Odometry, OdometrySample, Turns
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import Array

COMPARED_NS = SECOND  # over so long gyro and odometry are compared:
DISAGREEMENT = (0.15, 0.3)  # radians, per radian: then they contradict each other


class DeadReckoning:
    """Odometry and a gyro side by side, for twice the history of the options.

    Args:
        gyro: what turned the vehicle besides; None: odometry alone tells.

    Attributes:
        odometry: its samples.
    """

    def __init__(self, options: MotionOptions, gyro: Turns | None = None) -> None:
        self.options = options
        self._gyro = gyro
        self._keep_ns = 2 * int(options.history * SECOND)
        self.odometry = Odometry(self._keep_ns)
        self._doubted: list[int] = []  # when gyro and odometry had disagreed

    def add(self, sample: OdometrySample) -> bool:
        """Take a sample of odometry; False if it is not newer than the last one."""
        if not self.odometry.add(sample):
            return False
        self._compare(sample.stamp_ns)
        return True

    @property
    def heard(self) -> tuple[int | None, int | None]:
        """The newest stamps of odometry and gyro: while they stay, so do all motions."""
        return self.odometry.newest_ns, None if self._gyro is None else self._gyro.newest_ns

    def noise_between(self, start_ns: int, end_ns: int) -> Array:
        """Of odometry's random error between two times (6, 6), in the axes of the base there.

        The turns between are short of mattering for it.
        """
        return sum((piece.noise for piece in self.pieces(start_ns, end_ns)), np.zeros((6, 6)))

    def between(self, start_ns: int, end_ns: int) -> Motion:
        """Motion between two times, turned by the gyro where it has less noise all the way."""
        odometry, by_gyro = Transform(), Transform()
        noise, turned = np.zeros((6, 6)), True
        for piece in self.pieces(start_ns, end_ns):
            better = self.by_gyro(piece)
            turned = turned and better is not None
            odometry = odometry @ piece.start_from_end
            by_gyro = by_gyro @ (better or piece).start_from_end
            noise += piece.noise
        motion = Motion(start_ns, end_ns, odometry, noise)
        better = motion.turned(Transform(), self.options.gyro_noise)
        if not turned or better.turn_noise >= motion.turn_noise:
            return motion
        return replace(better, start_from_end=by_gyro)

    def pieces(self, start_ns: int, end_ns: int) -> Iterator[Motion]:
        """Odometry between two times, cut at its samples.

        Raises:
            ExtrapolationError: if it does not reach over them.
        """
        stamps = [*self.odometry.stamps_between(start_ns, end_ns), end_ns]
        before = self.odometry.at(start_ns)
        for stamp in stamps:
            now = self.odometry.at(stamp)
            motion = before.inverse() @ now
            yield Motion(start_ns, stamp, motion, self._noise(start_ns, stamp, motion))
            start_ns, before = stamp, now

    def by_gyro(self, piece: Motion) -> Motion | None:
        """A piece of odometry as the gyro turns it; None where it does not say or is in doubt."""
        if self._gyro is None:
            return None
        doubt = bisect_left(self._doubted, piece.start_ns - COMPARED_NS)
        if doubt < len(self._doubted) and self._doubted[doubt] - COMPARED_NS < piece.end_ns:
            return None
        turn = self._gyro.turn(piece.start_ns, piece.end_ns)
        return None if turn is None else piece.turned(turn, self.options.gyro_noise)

    def _noise(self, start_ns: int, end_ns: int, motion: Transform) -> Array:
        """(6, 6) of a piece of odometry, as `Motion.noise`."""
        covariance = self.odometry.covariance(start_ns, end_ns)
        if covariance is not None:
            return covariance
        metres, turned = motion.distance_to(Transform())
        variances = self.options.variances(metres, turned, (end_ns - start_ns) / SECOND)
        return np.diag(np.repeat(variances, 3))

    def _compare(self, stamp_ns: int) -> None:
        """Whether gyro and odometry turned about alike in the last second."""
        start_ns = stamp_ns - COMPARED_NS
        turn = None if self._gyro is None else self._gyro.turn(start_ns, stamp_ns)
        if turn is None or not self.odometry.reaches(start_ns):
            return
        odometry = self.odometry.between(start_ns, stamp_ns)
        _, turned = odometry.distance_to(Transform())
        _, apart = odometry.distance_to(turn)
        covariance = self.odometry.covariance(start_ns, stamp_ns)
        sigma = 0.0 if covariance is None else float(np.sqrt(np.trace(covariance[3:, 3:])))
        if apart > DISAGREEMENT[0] + DISAGREEMENT[1] * turned + 3 * sigma:
            self._doubted.append(stamp_ns)
            oldest = bisect_left(self._doubted, stamp_ns - self._keep_ns)
            del self._doubted[:oldest]
