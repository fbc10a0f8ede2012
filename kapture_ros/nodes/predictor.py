"""The pose between images: the newest answer of the localizer, carried on by odometry.

The inference thread hands over what it knows after each image (`Known`), callbacks add
odometry, and the publishing timer asks for the pose at a time. The model of motion and its
errors is the filter's own.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from kapture_ros.errors import ExtrapolationError
from kapture_ros.localization.motion_filter import Fix, MotionFilter, MotionState
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import SECOND, OdometrySample
from kapture_ros.localization.sequence import SequenceLocalizer
from kapture_ros.localization.sequence_state import State, TrackedPose, TrackingOptions
from kapture_ros.localization.visual_motion import MotionSource
from kapture_ros.transforms.se3 import Array, Transform, largest_sigma

AHEAD_NS = SECOND  # as the filter's odometry goes on beyond its newest sample
TWIST_NS = SECOND // 10  # velocity is measured over this time


@dataclass(frozen=True, slots=True)
class Known:
    """What the localizer knows after an image.

    Attributes:
        motion: the filter's state at the image; None where the pose is not known.
        options: of the filter.
        guessed: the last motion where there is no odometry, as two samples.
    """

    tracked: TrackedPose
    motion: MotionState | None
    options: MotionOptions
    guessed: tuple[OdometrySample, ...] = ()


@dataclass(frozen=True, slots=True)
class Prediction:
    """The pose at one time.

    Attributes:
        covariance: (6, 6) as of `Estimate`.
        map_from_odom: None without odometry.
        twist_base: (6,) m/s and rad/s in the base frame.
    """

    stamp_ns: int
    state: State
    map_from_base: Transform
    covariance: Array
    map_from_odom: Transform | None
    twist_base: Array


def known_after(tracker: SequenceLocalizer, tracked: TrackedPose) -> Known:
    """What to hand over after an image; called where the tracker runs."""
    motion, stamp = tracker.motion, tracked.stamp_ns
    if tracked.map_from_base is None:
        return Known(tracked, None, motion.options)
    state = motion.at(stamp)
    guessed: tuple[OdometrySample, ...] = ()
    if tracked.motion not in (MotionSource.ODOMETRY, MotionSource.ODOMETRY_GYRO):
        now = motion.odometry.at(stamp)
        try:
            before = motion.odometry.at(stamp - TWIST_NS)
        except ExtrapolationError:
            before = now
        guessed = (OdometrySample(stamp - TWIST_NS, before), OdometrySample(stamp, now))
    return Known(tracked, state, motion.options, guessed)


class Predictor:
    """Answers from several threads.

    Attributes:
        tracking: when a pose is COASTING, and when too vague to be told.
    """

    def __init__(self, options: MotionOptions, tracking: TrackingOptions):
        self.tracking = tracking
        self._options = options
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        with self._lock:
            self._live = MotionFilter(self._options)
            self._filter = self._live
            self._known: Known | None = None

    def add_odometry(self, sample: OdometrySample) -> bool:
        """Take a sample; False if it is not newer than the last one."""
        with self._lock:
            return self._live.add_odometry(sample)

    def adopt(self, known: Known) -> None:
        """Take what the localizer knows now."""
        with self._lock:
            self._known = known
            if known.guessed:
                self._filter = MotionFilter(known.options)
                for sample in known.guessed:
                    self._filter.add_odometry(sample)
            else:
                self._filter = self._live
            if known.motion is None:
                self._filter.forget()
                return
            state = known.motion
            covariance = known.tracked.inflation * state.pose_covariance
            fix = Fix(state.stamp_ns, state.map_from_base, covariance)
            try:
                self._filter.odometry.at(state.stamp_ns)
            except ExtrapolationError:
                self._known = None  # the odometry heard here does not reach back so far
                self._filter.forget()
            else:
                self._filter.initialize(fix, like=state)

    @property
    def newest_odometry_ns(self) -> int | None:
        """The stamp of the newest sample received."""
        return self._live.odometry.newest_ns

    def moved(self, from_ns: int, to_ns: int) -> Transform:
        """`base_at_from_from_base_at_to`; the identity where odometry does not reach."""
        with self._lock:
            try:
                return self._live.odometry.between(from_ns, to_ns)
            except ExtrapolationError:
                return Transform()

    def at(self, now_ns: int) -> Prediction | None:
        """The pose now; None if it is not known.

        Where the clock is elsewhere (a bag without use_sim_time) or odometry ended, the pose
        at its newest sample.
        """
        with self._lock:
            known, newest = self._known, self._filter.odometry.newest_ns
            if known is None or known.motion is None or newest is None:
                return None
            stamp = now_ns if newest <= now_ns <= newest + AHEAD_NS else newest
            if stamp < known.motion.stamp_ns:
                return None
            try:
                state = self._filter.at(stamp)
                odom_from_base = self._filter.odometry.at(stamp)
                before = self._filter.odometry.at(stamp - TWIST_NS)
            except ExtrapolationError:
                return None
        covariance = state.pose_covariance
        if largest_sigma(covariance[:3, :3]) > self.tracking.lost_sigma:
            return None
        coasting = known.tracked.fix_age is None or (
            (stamp - known.tracked.stamp_ns) / SECOND + known.tracked.fix_age
            > self.tracking.coast_after
        )
        map_from_odom = state.map_from_base @ odom_from_base.inverse()
        return Prediction(
            stamp,
            State.COASTING if coasting else known.tracked.state,
            state.map_from_base,
            covariance,
            None if known.guessed else map_from_odom,
            (before.inverse() @ odom_from_base).log() * SECOND / TWIST_NS,
        )
