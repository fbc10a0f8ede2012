"""What a sequence localizer is set to, what it answers, and the small state it keeps.

`SequenceLocalizer` (in `sequence.py`) feeds these and reads them.
"""

from __future__ import annotations

import enum
from collections import deque
from dataclasses import dataclass, field
from functools import cache

from scipy.stats import chi2

from kapture_ros.localization.acceptance import mahalanobis
from kapture_ros.localization.guided import GuidedOptions
from kapture_ros.localization.inertial import InertialOptions
from kapture_ros.localization.motion_filter import Innovation, MotionState
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import SECOND
from kapture_ros.localization.place_filter import PlaceOptions
from kapture_ros.localization.query import Estimate
from kapture_ros.localization.refinement import PositionPrior, off_position
from kapture_ros.localization.visual_motion import MotionSource
from kapture_ros.options import option
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import Array


class State(enum.IntEnum):
    """What is known about the pose; the values of msg/LocalizationStatus.msg.

    UNINITIALIZED, LOST -> INITIALIZING: a fix, or a place that the images tell from the rest
    of the map. Images that show nothing (or nothing of the map, where that is one place) do not.
    Any of these -> TRACKING: a fix with twice the evidence that an image needs, and no rival
    among the places that were retrieved; or fixes, of single instants or windows of keyframes,
    that agree along odometry where retrieval believes their place; or one near a hint.
    (COASTING while nothing is known of the motion: before the second fix, without odometry.)
    TRACKING -> COASTING: no fix for `coast_after`, an image that shows nothing of what the
    pose predicts, a fix that contradicts it, or an instant that corrects what was told by so
    much that a controller must not follow.
    COASTING -> TRACKING: a fix passes the gate, and corrects little.
    TRACKING, COASTING -> LOST: an image that shows nothing of what the pose predicts and is
    beyond doubt (twice the evidence) of another place, a run of contradicting fixes that
    agree with each other, or more uncertainty than `lost_sigma`. In the last case the pose
    is kept in mind, and a fix that passes the gate leads back to TRACKING.
    """

    UNINITIALIZED = 0
    INITIALIZING = 1
    TRACKING = 2
    COASTING = 3
    LOST = 4


@dataclass(frozen=True)
class TrackingOptions:
    """When a sequence is believed, and when not any more."""

    coast_after: float = option(1.0, "without a fix the pose is carried only", unit="s", minimum=0)
    lost_sigma: float = option(
        1.7,
        "standard deviation of the position at which the pose is not given: three are 5 m; it is "
        "still looked for around there until the deviation is six times as large",
        unit="m",
    )
    lost_rejections: int = option(
        3, "fixes elsewhere that agree with each other, to give the pose up", minimum=2
    )
    confirmations: int = option(2, "fixes that agree, for a first pose", minimum=2)
    search_every: float = option(
        0.4,
        "between searches of the map while the pose is known; doubled up to eight times as "
        "long by each that fails",
        unit="s",
        minimum=0,
    )
    hint_time: float = option(
        30.0, "for which a place that was named is looked for", unit="s", minimum=0
    )
    min_inliers: int = option(
        12, "of a pose near the predicted one, or of a window of keyframes", minimum=6
    )
    retrieve_after: float = option(
        1.0, "without a fix the whole map is searched again", unit="s", minimum=0
    )
    window: int = option(5, "keyframes that are solved together", minimum=2, maximum=20)
    keyframe_distance: float = option(0.8, "between keyframes, or", unit="m", minimum=0)
    keyframe_turn: float = option(5.0, "between keyframes", unit="deg", minimum=0)
    window_iterations: int = option(3000, "RANSAC samples for a window at most", minimum=1)
    max_speed: float = option(40.0, "of the vehicle, where odometry is missing", unit="m/s")


@dataclass(frozen=True)
class SequenceOptions:
    """Settings of a sequence localizer, by part."""

    tracking: TrackingOptions = field(default_factory=TrackingOptions)
    motion: MotionOptions = field(default_factory=MotionOptions)
    guided: GuidedOptions = field(default_factory=GuidedOptions)
    place: PlaceOptions = field(default_factory=PlaceOptions)
    inertial: InertialOptions = field(default_factory=InertialOptions)


@dataclass(frozen=True, slots=True)
class TrackedPose:
    """The pose at one time, with everything needed to judge it.

    Attributes:
        stamp_ns: nanoseconds, the time that the pose is of.
        map_from_base: metres; None where the pose is not known, as are covariance and
            map_from_odom.
        covariance: (6, 6) as `Estimate.covariance`, inflated while inconsistent.
        fix_age: seconds since the newest fix; None: there was none.
        window_size: instants that the newest fix came from.
        inflation: factor of the covariance, 1 while the fixes of the last minute fit their
            predictions.
        motion: what carried the pose from the newest instant on.
        gnss_disagrees: alarm: several GNSS fixes in a row exclude the pose.
        estimate: what became of the instant; None between instants.
    """

    stamp_ns: int
    state: State
    map_from_base: Transform | None
    covariance: Array | None
    map_from_odom: Transform | None
    fix_age: float | None
    window_size: int
    inflation: float
    gnss_disagrees: bool
    motion: MotionSource
    estimate: Estimate | None = None

    @property
    def consistent(self) -> bool:
        """Whether the fixes of the last minute fit their predictions."""
        return self.inflation == 1.0


@cache
def _bound(count: int) -> float:
    """The upper 97.5 % bound of the mean of so many normalized innovations squared."""
    return float(chi2.ppf(0.975, 6 * count)) / count


class SelfCheck:
    """Innovations of the last minute against what the covariances promise.

    The mean normalized innovation squared is tested against the upper 97.5 % bound of its
    chi-square distribution (Bar-Shalom et al., 2001, section 5.4).
    """

    PERIOD_NS = 60 * SECOND
    ENOUGH = 10

    def __init__(self) -> None:
        self._squares: deque[tuple[int, float]] = deque()

    def add(self, innovation: Innovation, limit: float) -> None:
        """Take an innovation; one wild fix counts no more than `limit`."""
        self._squares.append((innovation.stamp_ns, min(innovation.squared, limit)))
        while innovation.stamp_ns - self._squares[0][0] > self.PERIOD_NS:
            self._squares.popleft()

    @property
    def inflation(self) -> float:
        """Factor by which the covariances are too small; 1 if they may be right."""
        count = len(self._squares)
        if count < self.ENOUGH:
            return 1.0
        mean = sum(square for _, square in self._squares) / count
        return mean / 6 if mean > _bound(count) else 1.0


class SearchPauses:
    """When the map is searched although the pose is known: that takes long, so ever more rarely."""

    LONGEST = 8  # times the first pause

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Begin with the shortest pause."""
        self._searched_ns: int | None = None
        self._times = 1

    def is_over(self, stamp_ns: int, first: float) -> bool:
        """Whether to search now; if so, the next pause is twice as long.

        Args:
            first: seconds, the shortest pause.
        """
        if self._searched_ns is not None:
            if 0 <= stamp_ns - self._searched_ns < self._times * first * SECOND:
                return False
            self._times = min(2 * self._times, self.LONGEST)
        self._searched_ns = stamp_ns
        return True


class GnssAlarm:
    """Whether GNSS and pose exclude each other, several times in a row."""

    LIMIT = float(chi2.ppf(0.999, 2))
    ENOUGH = 3

    def __init__(self) -> None:
        self._run = 0

    def compare(self, fix: PositionPrior, known: MotionState) -> None:
        """Take a GNSS fix, and what is known of the pose at its time: in the plane."""
        error, by_pose = off_position(known.map_from_base, fix)
        spread = by_pose @ known.pose_covariance @ by_pose.T + fix.covariance
        squared = mahalanobis(error[:2], spread[:2, :2]) ** 2
        self._run = self._run + 1 if squared > self.LIMIT else 0

    @property
    def raised(self) -> bool:
        """Whether the alarm is on."""
        return self._run >= self.ENOUGH
