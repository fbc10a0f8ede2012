"""The sequence localizer: instants and odometry of a drive become a pose at any time.

While the pose is known, matches are searched around the prediction; weak instants are solved
together with the ones before; only when that fails the whole map is searched. While it is
not known, retrieval over the sequence must agree on a place before a pose is believed.
Fed and read by the localizer node and by offline runs.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from kapture_ros.errors import ExtrapolationError
from kapture_ros.localization.agreement import FixRun, agree
from kapture_ros.localization.answering import Answering
from kapture_ros.localization.global_search import GlobalSearch
from kapture_ros.localization.inertial import ImuSample, Inertial
from kapture_ros.localization.local_search import LocalSearch
from kapture_ros.localization.localizer import Localizer
from kapture_ros.localization.motion_filter import Fix, MotionFilter, MotionState
from kapture_ros.localization.odometry import SECOND, OdometrySample
from kapture_ros.localization.query import Estimate, Evidence, Query, Reason
from kapture_ros.localization.refinement import Matches, PosePrior
from kapture_ros.localization.sequence_state import (
    GnssAlarm,
    SearchPauses,
    SelfCheck,
    SequenceOptions,
    State,
    TrackedPose,
)
from kapture_ros.localization.views import View
from kapture_ros.localization.visual_motion import MotionSource, VisualMotion
from kapture_ros.localization.window import KeyframeWindow
from kapture_ros.mapping.manifest import require_metric
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import Array, difference, largest_sigma

log = logging.getLogger(__name__)

ELSEWHERE = 5.0  # metres from the pose: no fix of the same place is
FORGOTTEN = 6.0  # times the uncertainty at which the pose is not given: then it is not sought
REMEMBERED = 256  # stamps, to know repeated instants
ENDED = 2.0  # seconds in which instants go on beyond where odometry reaches: it has ended
LEAP = (0.4, np.deg2rad(1.6))  # metres, radians by which an instant may correct what was told


class SequenceLocalizer:
    """A localizer for one drive; not to be shared between threads.

    Raises:
        InputError: if the scale of the map is unknown.
    """

    def __init__(self, localizer: Localizer, options: SequenceOptions | None = None):
        require_metric(localizer.map.manifest, localizer.map.path, "motions")
        self.localizer = localizer
        self.options = options or SequenceOptions()
        self.reset()

    def reset(self) -> None:
        """Forget everything, odometry and hints too: the clock jumped, or another drive begins."""
        self.inertial = Inertial(self.options.inertial)
        of_map = self.localizer.map_error.change
        self.motion = MotionFilter(self.options.motion, self.inertial, of_map)
        self._everywhere = GlobalSearch(self.localizer, self.options.place)
        self._vision: VisualMotion | None = None
        self._stamps: deque[int] = deque(maxlen=REMEMBERED)
        self._window = KeyframeWindow(self.options.tracking.window)
        self._rejected, self._candidates = FixRun(), FixRun()
        self._hint: PosePrior | None = None
        self._hint_ns: int | None = None
        self._learned: MotionState | None = None
        self._unreached_ns: int | None = None  # the first instant in a row beyond odometry
        self._check = SelfCheck()
        self._gnss = GnssAlarm()
        self._fix_ns: int | None = None
        self._window_size = 0
        self._supported = False
        self._gated = True
        self._told: TrackedPose | None = None
        self._leapt = False
        self._pauses = SearchPauses()

    @property
    def near(self) -> LocalSearch:
        """The search around predictions, with the options of now."""
        tracking = self.options.tracking
        return LocalSearch(
            self.localizer,
            self.options.guided,
            self.options.motion,
            tracking.min_inliers,
            tracking.window_iterations,
        )

    def relocalize(self, hint: PosePrior | None = None) -> None:
        """Give the pose up and search anew.

        Args:
            hint: where a person says that the vehicle is: map_from_base in metres, with the
                covariance (6, 6) of (δp, δθ) in the axes of the map. A single pose near it
                is believed, for `hint_time`.
        """
        self._lose()
        self._hint, self._hint_ns = hint, None

    def add_odometry(self, sample: OdometrySample) -> bool:
        """Take a sample; False if it is not newer than the last one."""
        if self._vision is not None:  # it was thought that there is none
            self._begin_motion()
        return self.motion.add_odometry(sample)

    def _begin_motion(self) -> None:
        """Another source tells the motion now, in a frame of its own."""
        self._lose()
        self._vision = None
        self.motion = MotionFilter(self.options.motion, self.inertial, self.motion.of_map)

    def _odometry_has_ended(self, stamp_ns: int) -> bool:
        """Whether instants go on, and odometry does not; one stamp may be wrong."""
        newest = self.motion.odometry.newest_ns
        if self._vision is not None or newest is None or stamp_ns <= newest + SECOND:
            self._unreached_ns = None
            return False
        if self._unreached_ns is None:
            self._unreached_ns = stamp_ns
        return stamp_ns - max(newest + SECOND, self._unreached_ns) > ENDED * SECOND

    def add_imu(self, sample: ImuSample) -> bool:
        """Take a sample, in the axes of the base; False if it cannot be used."""
        return self.inertial.add(sample)

    def update(self, query: Query, odometry: Iterable[OdometrySample] = ()) -> TrackedPose:
        """Take an instant (in any order) and the odometry since the last one; never raises."""
        for sample in odometry:
            self.add_odometry(sample)
        late = self._late(query.stamp_ns)
        if late is not None:
            return replace(self.pose_at(query.stamp_ns), estimate=late)
        if self._odometry_has_ended(query.stamp_ns):
            log.warning("odometry has ended: images carry the pose until it is back")
            self._begin_motion()
        told = self._told_before(query.stamp_ns)
        views: list[View] = []
        run = Answering(query.stamp_ns)
        with run.guarded():
            views = self.localizer.extract(query)
            self._carry(query, views)
            run.answer = self._localize(self._with_gravity(_with_features(query, views)), views)
        if not views:
            self._carry(query, views)
        self._compare_with_gnss(query)
        self._leapt = _leap(told, self._reached(told.stamp_ns))
        return replace(self.pose_at(query.stamp_ns), estimate=run.answer)

    def _told_before(self, stamp_ns: int) -> TrackedPose:
        """The newest pose that could be told before instants came, however many at once."""
        newest = max(self.motion.odometry.newest_ns or stamp_ns, stamp_ns)
        if self._told is None or newest > self._told.stamp_ns:
            self._told = self.pose_at(newest)
        return self._told

    def _localize(self, query: Query, views: Sequence[View]) -> Estimate:
        if self.motion.initialized:
            return self._track(query, views)
        return self._search(query, views)

    def pose_at(self, stamp_ns: int) -> TrackedPose:
        """The pose predicted to a time; without a pose where it is not known.

        Odometry reaches up to one second beyond its newest sample.
        """
        reached = self._reached(stamp_ns)
        state = self._judge(stamp_ns, reached)
        known = reached if state in (State.TRACKING, State.COASTING) else None
        inflation = self._check.inflation
        age = None if self._fix_ns is None else (stamp_ns - self._fix_ns) / SECOND
        pose = covariance = map_from_odom = None
        if known is not None:
            pose = known.map_from_base
            covariance = inflation * known.pose_covariance + self._doubt()
            map_from_odom = pose @ self.motion.odometry.at(stamp_ns).inverse()
        return TrackedPose(
            stamp_ns,
            state,
            pose,
            covariance,
            map_from_odom,
            age,
            self._window_size,
            inflation,
            self._gnss.raised,
            self._motion_source(reached),
        )

    def _doubt(self) -> Array:
        """(6, 6) of (δp, δθ): by how much the pose is off if a fix that contradicts it is right."""
        fix = self._rejected.newest
        there = None if fix is None else self._reached(fix.stamp_ns)
        if fix is None or there is None:
            return np.zeros((6, 6))
        off = difference(fix.map_from_base, there.map_from_base)
        return np.outer(off, off) + fix.covariance

    def _motion_source(self, reached: MotionState | None) -> MotionSource:
        if self._vision is not None:
            return self._vision.source
        by_gyro = reached is not None and reached.by_gyro
        return MotionSource.ODOMETRY_GYRO if by_gyro else MotionSource.ODOMETRY

    def _reached(self, stamp_ns: int) -> MotionState | None:
        """The filter's state at a time; None where it does not reach."""
        try:
            return self.motion.at(stamp_ns)
        except ExtrapolationError:
            return None

    def _judge(self, stamp_ns: int, known: MotionState | None) -> State:
        tracking = self.options.tracking
        if not self.motion.initialized:
            if self._candidates or self._everywhere.tells_place():
                return State.INITIALIZING
            return State.UNINITIALIZED if self._fix_ns is None else State.LOST
        if known is None or self._sigma(known) > tracking.lost_sigma:
            return State.LOST
        recent = stamp_ns - known.fix_ns <= tracking.coast_after * SECOND
        moving = self._vision is None or self._vision.velocity_known
        if recent and moving and self._supported and not self._rejected and not self._leapt:
            return State.TRACKING
        return State.COASTING

    def _sigma(self, state: MotionState) -> float:
        """Metres, of the position as it would be told, in the direction that is known worst."""
        return largest_sigma(self._check.inflation * state.pose_covariance[:3, :3])

    def _carry(self, query: Query, views: Sequence[View]) -> None:
        """Without odometry the images tell the motion; what is too uncertain is lost."""
        stamp = query.stamp_ns
        if self.motion.odometry.newest_ns is None and self._vision is None:
            self._vision = VisualMotion(self.inertial, self.options.motion)
        if self._vision is not None and stamp > (self.motion.odometry.newest_ns or 0):
            self.motion.add_odometry(self._vision.sample(stamp, views))
            position = self.localizer.priors(query).position
            if position is not None:
                sigma = largest_sigma(position.covariance)
                self._vision.learn_position(position.position_map, sigma)
        if not self.motion.initialized:
            return
        known = self._reached(stamp)
        if known is None or self._sigma(known) > FORGOTTEN * self.options.tracking.lost_sigma:
            newest = self.motion.odometry.newest_ns
            if newest is not None and stamp >= newest - SECOND:
                self._lose()

    def _with_gravity(self, query: Query) -> Query:
        if query.gravity is not None:
            return query
        georeferenced = self.localizer.map.datum is not None
        return replace(query, gravity=self.inertial.up(query.stamp_ns, georeferenced))

    def _late(self, stamp_ns: int) -> Estimate | None:
        """Why an instant cannot be used, by its stamp."""
        text = ""
        newest = max(self._stamps, default=stamp_ns)
        if stamp_ns in self._stamps:
            text = "a second instant with this stamp"
        elif newest - stamp_ns > self.options.motion.history * SECOND:
            text = f"{(newest - stamp_ns) / SECOND:.1f} s older than the newest instant"
        self._stamps.append(stamp_ns)
        return Estimate(stamp_ns, Reason.LATE, text) if text else None

    def _track(self, query: Query, views: Sequence[View]) -> Estimate:
        """An instant while the pose is known: around the prediction, the window, the map."""
        stamp = query.stamp_ns
        state = self.motion.at(stamp)
        prior = PosePrior(state.map_from_base, self._check.inflation * state.pose_covariance)
        matches = self.near.match(views, prior)
        estimate = self.near.solve(query, views, matches, prior)
        self._window_size = 1
        if estimate.reason is Reason.PRIOR_DISAGREES:
            self._contradict(self.fix_of(estimate))
            if not self.motion.initialized:
                return estimate
        self._supported = estimate.accepted or self.near.agrees(views, matches, prior)
        if not estimate.accepted:
            self._keep(stamp, views, matches)
            estimate = self._solve_window(stamp, state.map_from_base) or estimate
        if estimate.accepted:
            self._fuse(estimate)
            return estimate
        if self._search_is_due(stamp, state.fix_ns):
            # Look-alikes elsewhere must not hide the right place, nor the prediction a wrong one:
            # the neighbourhood and the whole map are searched in turn.
            self._gated = not self._gated and not self._rejected
            estimate = self._retrieve(query, prior if self._gated else None)
            if estimate.accepted:
                self._window_size = 1
                self._fuse(estimate)
        return estimate

    def _search_is_due(self, stamp_ns: int, fix_ns: int) -> bool:
        """Whether to search the map although the pose is known."""
        tracking = self.options.tracking
        if self._rejected:
            return True
        missing = stamp_ns - fix_ns > tracking.retrieve_after * SECOND
        if not missing and self._supported:
            return False
        return self._pauses.is_over(stamp_ns, tracking.search_every)

    def _keep(self, stamp_ns: int, views: Sequence[View], matches: Matches) -> None:
        """A keyframe of the window, if it is apart from the last one."""
        tracking = self.options.tracking
        apart = tracking.keyframe_distance, tracking.keyframe_turn
        cameras = tuple(view.camera for view in views)
        self._window.keep(stamp_ns, cameras, matches, self.motion.reckoning, apart)

    def _solve_window(self, stamp_ns: int, predicted: Transform | None) -> Estimate | None:
        """The window's pose as an estimate of the newest keyframe; None if there is none."""
        frames = self._window.ending_at(stamp_ns)
        found = self.near.solve_window(frames, predicted) if frames else None
        if found is not None:
            self._window_size = len(frames)
            self._window.clear()  # a measurement is used once, or the filter counts it twice
        return found

    def _search(self, query: Query, views: Sequence[View]) -> Estimate:
        """An instant while the pose is not known: fixes and place must agree."""
        hint = self._hinted(query.stamp_ns)
        estimate = self._retrieve(query, hint)
        if estimate.accepted:
            self._window_size = 1
            if hint is not None:
                self._start(self.fix_of(estimate), estimate.evidence)
            else:
                self._confirm(estimate)
            return estimate
        matches = self._everywhere.match_place(views)
        if matches is None:
            return estimate
        self._keep(query.stamp_ns, views, matches)
        found = self._solve_window(query.stamp_ns, None)
        if found is None:
            return estimate
        self._confirm(found)
        return found

    def _hinted(self, stamp_ns: int) -> PosePrior | None:
        """The place that a person named, for a while."""
        if self._hint is None:
            return None
        self._hint_ns = stamp_ns if self._hint_ns is None else self._hint_ns
        if stamp_ns - self._hint_ns > self.options.tracking.hint_time * SECOND:
            self._hint = None
        return self._hint

    def _retrieve(self, query: Query, prior: PosePrior | None = None) -> Estimate:
        """The localizer's answer, from near the prior or from the whole map."""
        odom_from_base = self.motion.odometry.at(query.stamp_ns)  # or the search would be in vain
        gnss = None if self.motion.initialized else query.gnss
        return self._everywhere.localize(replace(query, gnss=gnss, prior=prior), odom_from_base)

    def _confirm(self, estimate: Estimate) -> None:
        """Begin at a fix beyond doubt, or when the newest agree with each other and the place."""
        fix = self.fix_of(estimate)
        if self._everywhere.is_sure(estimate):
            self._start(fix, estimate.evidence)
            return
        newest = self._candidates.add(fix, self.options.tracking.confirmations)
        if newest and self._agree(newest) and self._everywhere.believes(newest[-1].map_from_base):
            if self._vision is not None:
                self._vision.learn(newest[-2].stamp_ns, newest[-2].map_from_base, Evidence())
            late = estimate.stamp_ns != newest[-1].stamp_ns
            self._start(newest[-1], Evidence() if late else estimate.evidence)

    def _agree(self, fixes: Sequence[Fix]) -> bool:
        """Whether fixes lie to each other as the motion says."""
        guessed = None if self._vision is None else self.options.tracking.max_speed
        return agree(fixes, self.motion.odometry, guessed)

    def fix_of(self, estimate: Estimate) -> Fix:
        """An estimate with a pose as a fix for the filter."""
        assert estimate.map_from_base is not None
        assert estimate.covariance is not None
        fix = Fix(estimate.stamp_ns, estimate.map_from_base, estimate.covariance)
        if (of_map := estimate.map_covariance) is None:
            return fix
        lasting = self.motion.of_map.lasting(of_map)
        return replace(fix, map_covariance=of_map, lasting_covariance=lasting)

    def _fuse(self, estimate: Estimate) -> None:
        """A fix for the filter, if it passes the gate."""
        fix = self.fix_of(estimate)
        innovation = self.motion.update(fix, self._check.inflation)
        self._check.add(innovation, self.motion.limit)
        if innovation.accepted:
            self._fixed(fix, estimate.evidence)
            return
        metres, _ = fix.map_from_base.distance_to(self.motion.at(fix.stamp_ns).map_from_base)
        elsewhere = metres > ELSEWHERE and not self._supported and not self._gated
        if elsewhere and self._everywhere.is_sure(estimate):
            self._lose()  # it shows nothing of what is expected, and much of another place
        else:
            self._contradict(fix)

    def _contradict(self, fix: Fix) -> None:
        """A pose elsewhere; several that agree with each other are believed, and the track not.

        Near the track it drifted, and goes on from them; far from it the vehicle was moved.
        """
        newest = self._rejected.add(fix, self.options.tracking.lost_rejections)
        if not newest or not self._agree(newest):
            return
        metres, _ = fix.map_from_base.distance_to(self.motion.at(fix.stamp_ns).map_from_base)
        if metres < ELSEWHERE:
            self._remember()
            self._start(newest[-1], Evidence())
        else:
            self._lose()

    def _start(self, fix: Fix, evidence: Evidence) -> None:
        learned = self._learned if self._vision is None else None  # of odometry
        self.motion.initialize(fix, like=learned)
        self._candidates.clear()
        self._hint = None
        self._fixed(fix, evidence)

    def _fixed(self, fix: Fix, evidence: Evidence) -> None:
        """A fix is in the filter: what was in doubt is not any more."""
        self._rejected.clear()
        self._window.clear()
        self._supported, self._gated = True, True
        self._pauses.reset()
        self._fix_ns = max(self._fix_ns or 0, fix.stamp_ns)
        pose = self.motion.at(fix.stamp_ns).map_from_base
        self.inertial.learn(fix.stamp_ns, pose.rotation)
        if self._vision is not None:
            self._vision.learn(fix.stamp_ns, pose, evidence)

    def _remember(self) -> None:
        """Keep what was learned of the odometry: nothing, where the pose begins behind it."""
        newest = self.motion.odometry.newest_ns
        if self.motion.initialized and self._vision is None and newest is not None:
            self._learned = self._reached(newest) or self._learned

    def _lose(self) -> None:
        """Forget pose and place, to believe fresh evidence only; odometry's errors stay known."""
        self._remember()
        self.motion.forget()
        self._everywhere.forget()
        self._rejected.clear()
        self._candidates.clear()
        self._window.clear()
        if self._vision is not None:
            self._vision.forget()

    def _compare_with_gnss(self, query: Query) -> None:
        prior = self.localizer.priors(query).position
        if prior is None or not self.motion.initialized:
            return
        known = self._reached(query.stamp_ns)
        if known is None:
            return
        self._gnss.compare(prior, known)


def _with_features(query: Query, views: Sequence[View]) -> Query:
    """The usable images with their features, so that nothing is extracted twice."""
    images = tuple(
        replace(query.images[view.number], features=view.features, pixels=None) for view in views
    )
    return replace(query, images=images)


def _leap(told: TrackedPose, now: MotionState | None) -> bool:
    """Whether the pose is quite another one than was told before the instants came."""
    if told.state is not State.TRACKING or told.map_from_base is None or now is None:
        return False
    metres, radians = told.map_from_base.distance_to(now.map_from_base)
    return metres > LEAP[0] or radians > LEAP[1]
