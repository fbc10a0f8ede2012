"""Fixes in the map and odometry between them, fused into a pose at any time.

Odometry and fixes come from `SequenceLocalizer`. The state is map_from_base with a scale
and a yaw-rate error of the odometry, since those two make wheels and gyros drift in one
direction: a filter that knows them stays honest through half a minute without a fix, where
one with white noise alone would be sure of a wrong place. map_from_odom follows from the
state and the odometry at its stamp.

Between fixes `dead_reckoning` tells the motion. Where a gyro says how the vehicle turned, and is
known better than odometry's turns, it turns the pose on the way that odometry tells; its bias and
scale are in the state, too.

An extended Kalman filter on the error (δp, δθ, and those of `MotionState.errors`): position
p + δp, rotation Exp(δθ) R, both in the axes of the map (Solà et al., A micro Lie theory, 2018,
for the Jacobians). Fixes that come late are fused at their own stamp, and what came after them
is replayed.

Fixes are wrong in two ways: by themselves, and by the map, whose error the next fix has too, the
less the further it is away. How that changes along the way was measured with its size: it is a
state of the filter as well, in units of its sigma where a fix is, so that fixes next to each other
are not taken for many. A part of it all fixes of a drive have in common, and of what is only
assumed nobody knows how it changes. Neither is filtered, since no number of fixes makes it smaller:
what it was at the newest fix is carried along with the pose and added to the covariance that is
told, and by as much as it may be another one where the next fix is, the pose may differ from it.

Some places of a map are far worse than they were told. So the covariance of a fix has a factor,
of Student's distribution, never below 1, which is estimated together with the state (Agamennoni
et al., IEEE TSP 2012): a fix that neither the motion nor the others agree with counts less.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from dataclasses import dataclass, field, replace

import numpy as np
from scipy.stats import chi2

from kapture_ros.errors import ExtrapolationError
from kapture_ros.localization.dead_reckoning import DeadReckoning
from kapture_ros.localization.map_change import (
    FREEDOM,
    UNKNOWN,
    MapChange,
    difference_between,
)
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import (
    BIAS,
    GYRO,
    GYRO_SCALE,
    SCALE,
    SECOND,
    SIZE,
    Motion,
    OdometrySample,
    Turns,
    reckon,
)
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import (
    Array,
    difference,
    disturb,
    symmetric_root,
    turned_covariance,
)

DEFAULTS = MotionOptions()
ERRORS, MAP = slice(6, SIZE), slice(SIZE, SIZE + 6)  # rows of a state behind its pose
CHECKPOINT_NS = SECOND // 2
ROUNDS = 2  # in which it is found how much worse than told a fix is
LEARNING = 2.0  # seconds after a fix in which the gyro turns the pose, so that its bias is learned


@dataclass(frozen=True, slots=True)
class Fix:
    """A pose in the map from outside the filter.

    Attributes:
        covariance: (6, 6) of (δp, δθ), all in all.
        map_covariance: (6, 6), the part of it that is the map's own error.
        lasting_covariance: (6, 6), the part of that which is about the same everywhere.
    """

    stamp_ns: int
    map_from_base: Transform
    covariance: Array
    map_covariance: Array = field(default_factory=lambda: np.zeros((6, 6)))
    lasting_covariance: Array = field(default_factory=lambda: np.zeros((6, 6)))

    @property
    def own_covariance(self) -> Array:
        """(6, 6), the map taken as exact."""
        return self.covariance - self.map_covariance

    @property
    def changing_covariance(self) -> Array:
        """(6, 6) of the map's error that becomes another one along the way."""
        return self.map_covariance - self.lasting_covariance


@dataclass(frozen=True, slots=True)
class MotionState:
    """The filter at one stamp.

    Attributes:
        fix_ns: the stamp of the newest fix in it.
        covariance: (18, 18) of (δp, δθ), the `errors` and the `deviation`, where the map's
            constant error is zero.
        deviation: (6,) of the map's measured error, in its symmetric root at a fix.
        constant: (6, 6) of (δp, δθ), of the map's constant error where the newest fix was.
        carried: (6, 6), what a disturbance of the pose there is by now.
        metres: the way since then.
        gyro_bias: (3,) rad/s, what the gyro says too much, and
        gyro_scale: of each turn, as a share.
        by_gyro: whether the gyro turned the pose last.
    """

    stamp_ns: int
    fix_ns: int
    map_from_base: Transform
    scale: float
    yaw_bias: float
    covariance: Array
    deviation: Array = field(default_factory=lambda: np.zeros(6))
    constant: Array = field(default_factory=lambda: np.zeros((6, 6)))
    carried: Array = field(default_factory=lambda: np.eye(6))
    metres: float = 0.0
    gyro_bias: Array = field(default_factory=lambda: np.zeros(3))
    gyro_scale: float = 0.0
    by_gyro: bool = False

    @property
    def errors(self) -> Array:
        """(6,) of odometry and gyro: scale, yaw bias, gyro bias (3), gyro scale."""
        return np.array([self.scale, self.yaw_bias, *self.gyro_bias, self.gyro_scale])

    @property
    def pose_covariance(self) -> Array:
        """(6, 6) of (δp, δθ): what ROS's PoseWithCovariance holds."""
        of_map: Array = self.carried @ self.constant @ self.carried.T
        return self.covariance[:6, :6] + of_map


@dataclass(frozen=True, slots=True)
class Innovation:
    """How a fix compares with what was predicted.

    Attributes:
        squared: normalized innovation squared; chi-square with 6 degrees of freedom if
            both the prediction and the fix are honest.
    """

    stamp_ns: int
    squared: float
    accepted: bool


class MotionFilter:
    """The filter; nothing is known before `initialize`.

    Args:
        gyro: turns the pose where it is known better than odometry.
        of_map: how the map's error changes along the way.

    Attributes:
        reckoning: the motion between fixes, of the same samples; odometry: these.
        limit: squared Mahalanobis distance at which a fix does not pass the gate.
    """

    def __init__(
        self,
        options: MotionOptions = DEFAULTS,
        gyro: Turns | None = None,
        of_map: MapChange = UNKNOWN,
    ) -> None:
        self.options = options
        self.of_map = of_map
        self.reckoning = DeadReckoning(options, gyro)
        self.odometry = self.reckoning.odometry
        self._history_ns = int(options.history * SECOND)
        self.limit = float(chi2.ppf(options.gate, 6))
        self._fixes: list[Fix] = []
        self._states: list[MotionState] = []
        # The same is asked again and again: from which state, when, what was heard; the answer.
        self._asked: tuple[MotionState, tuple[int | None, ...], MotionState] | None = None

    @property
    def initialized(self) -> bool:
        """Whether there is a pose."""
        return bool(self._states)

    def forget(self) -> None:
        """Forget the pose; odometry stays."""
        self._fixes, self._states = [], []

    def initialize(self, fix: Fix, like: MotionState | None = None) -> None:
        """Begin at a fix; what was learned of the odometry (`like`) may be kept."""
        stamp, pose = fix.stamp_ns, fix.map_from_base
        changing = fix.changing_covariance
        root = symmetric_root(changing)
        covariance = np.eye(SIZE + 6)
        covariance[:6, :6] = fix.own_covariance + changing
        covariance[:6, MAP], covariance[MAP, :6] = -root, -root
        covariance[ERRORS, ERRORS] = np.diag(self.options.error_sigmas**2)
        state = MotionState(
            stamp, stamp, pose, 0.0, 0.0, covariance, constant=fix.lasting_covariance
        )
        if like is not None:
            covariance[ERRORS, ERRORS] = like.covariance[ERRORS, ERRORS]
            state = replace(
                state,
                scale=like.scale,
                yaw_bias=like.yaw_bias,
                gyro_bias=like.gyro_bias,
                gyro_scale=like.gyro_scale,
            )
        self._fixes = [fix]
        self._states = [state]

    def add_odometry(self, sample: OdometrySample) -> bool:
        """Take a sample of odometry; False if it is not newer than the last one."""
        if not self.reckoning.add(sample):
            return False
        if self._states and sample.stamp_ns - self._states[-1].stamp_ns >= CHECKPOINT_NS:
            # Without fixes too the state moves on, or odometry would be forgotten behind it.
            self._states.append(self._propagate(self._states[-1], sample.stamp_ns))
            self._drop_old()
        return True

    def at(self, stamp_ns: int) -> MotionState:
        """The state predicted to a time, before or after the newest fix.

        Raises:
            ExtrapolationError: if nothing is known yet, the time is before the history or
                odometry does not reach it.
        """
        place = bisect_right(self._states, stamp_ns, key=lambda state: state.stamp_ns)
        if place == 0:
            raise ExtrapolationError("no pose is known at the time asked for")
        return self._propagate(self._states[place - 1], stamp_ns)

    def innovation(self, fix: Fix, inflation: float = 1.0) -> Innovation:
        """How a fix compares with the prediction, without fusing it.

        Args:
            inflation: factor of the covariances in the gate, where they proved too small.
        """
        state = self.at(fix.stamp_ns)
        error = difference(fix.map_from_base, state.map_from_base)
        # The map's error twice: that of these points may be quite another one.
        spread = state.pose_covariance + fix.covariance
        squared = float(error @ np.linalg.solve(spread, error))
        return Innovation(fix.stamp_ns, squared, squared <= self.limit * inflation)

    def update(self, fix: Fix, inflation: float = 1.0) -> Innovation:
        """Fuse a fix at its own stamp if it passes the gate; `inflation`: see `innovation`.

        Raises:
            ExtrapolationError: if it is older than the history.
        """
        innovation = self.innovation(fix, inflation)
        if innovation.accepted:
            insort(self._fixes, fix, key=lambda known: known.stamp_ns)
            self._replay(fix.stamp_ns)
            self._drop_old()
        return innovation

    def _replay(self, from_ns: int) -> None:
        """Fuse anew all fixes from a stamp on."""
        keep = bisect_right(self._states, from_ns - 1, key=lambda state: state.stamp_ns)
        self._states = self._states[: max(keep, 1)]
        last = self._states[-1]
        for fix in self._fixes:
            if fix.stamp_ns <= last.stamp_ns:
                continue
            state = self._propagate(last, fix.stamp_ns)
            last = self._fuse(state, fix)
            self._states.append(last)

    def _fuse(self, state: MotionState, fix: Fix) -> MotionState:
        """The state with a fix."""
        elapsed_ns = max(fix.stamp_ns - state.fix_ns, 1)
        correlated = self.options.fix_correlation * SECOND / elapsed_ns
        noise = fix.own_covariance * max(1.0, correlated)
        prior, constant = state.covariance.copy(), fix.lasting_covariance
        share = self.options.map_share(state.metres)
        prior[:6, :6] += difference_between(state.constant, constant, share, state.carried)
        seen = np.eye(6, SIZE + 6)
        seen[:, MAP] = root = symmetric_root(fix.changing_covariance)
        off = difference(fix.map_from_base, state.map_from_base)
        error = off - root @ state.deviation
        told = fix.own_covariance + fix.changing_covariance
        correction, covariance = _updated(prior, seen, noise, error)
        for _ in range(ROUNDS):
            left = off - correction[:6]
            expected = np.outer(left, left) + covariance[:6, :6]
            size = float(np.trace(np.linalg.solve(told, expected)))
            factor = max((FREEDOM + size) / (FREEDOM + 6), 1.0)
            beyond = (factor - 1) * told  # of this fix alone: the next one may be of a better place
            correction, covariance = _updated(prior, seen, noise + beyond, error)
        return replace(
            state,
            fix_ns=fix.stamp_ns,
            deviation=state.deviation + correction[MAP],
            constant=constant,
            carried=np.eye(6),
            metres=0.0,
            map_from_base=disturb(state.map_from_base, correction[:6]),
            scale=state.scale + float(correction[SCALE]),
            yaw_bias=state.yaw_bias + float(correction[BIAS]),
            gyro_bias=state.gyro_bias + correction[GYRO],
            gyro_scale=state.gyro_scale + float(correction[GYRO_SCALE]),
            covariance=covariance,
        )

    def _propagate(self, state: MotionState, stamp_ns: int) -> MotionState:
        if stamp_ns <= state.stamp_ns:
            return state
        asked = stamp_ns, *self.reckoning.heard
        if self._asked is None or self._asked[0] is not state or self._asked[1] != asked:
            reached = state
            for piece in self.reckoning.pieces(state.stamp_ns, stamp_ns):
                reached = self._step(reached, self._best(piece, reached))
            self._asked = state, asked, reached
        return self._asked[2]

    def _best(self, piece: Motion, state: MotionState) -> Motion:
        """A piece of odometry, turned by the gyro where that knows the turn better.

        It does not where odometry's random turns are smaller (it stands, or has a better gyro).
        Else it does soon after a fix, and so long as the variance of the rotation grows
        more slowly with the gyro's bias than with odometry's.
        """
        turned = self.reckoning.by_gyro(piece)
        if turned is None:
            return piece
        gyro, odometry = turned.turn_noise, piece.turn_noise
        elapsed = (piece.end_ns - state.fix_ns) / SECOND
        if gyro < odometry and elapsed > LEARNING:
            growth = 2 * elapsed * piece.seconds * np.diagonal(state.covariance)
            gyro += float(growth[GYRO].sum())
            odometry += float(growth[BIAS])
        return turned if gyro < odometry else piece

    def _step(self, state: MotionState, piece: Motion) -> MotionState:
        """One piece of the motion, as the vehicle's frame at its start saw it."""
        end, derivatives = reckon(state.map_from_base, piece, state.errors)
        axes = state.map_from_base.rotation_matrix()
        metres = float(np.linalg.norm(piece.start_from_end.translation))
        alike = self.of_map.share(metres)
        jacobian = np.eye(SIZE + 6)
        jacobian[:6, :SIZE] = derivatives
        jacobian[MAP, MAP] *= alike[:, None]
        covariance = jacobian @ state.covariance @ jacobian.T
        covariance[:6, :6] += turned_covariance(piece.noise, axes)
        covariance[GYRO, GYRO] += self.options.gyro_bias_wander**2 * piece.seconds * np.eye(3)
        covariance[MAP, MAP] += np.diag(1 - alike**2)
        return replace(
            state,
            deviation=alike * state.deviation,
            stamp_ns=piece.end_ns,
            map_from_base=end,
            covariance=covariance,
            carried=derivatives[:, :6] @ state.carried,
            metres=state.metres + metres,
            by_gyro=piece.by_gyro,
        )

    def _drop_old(self) -> None:
        """Keep one state at the beginning of the history, to propagate from."""
        oldest = self._states[-1].stamp_ns - self._history_ns
        first = max(0, bisect_right(self._states, oldest, key=lambda s: s.stamp_ns) - 1)
        self._states = self._states[first:]
        self._fixes = [fix for fix in self._fixes if fix.stamp_ns >= self._states[0].stamp_ns]


def _updated(prior: Array, seen: Array, noise: Array, error: Array) -> tuple[Array, Array]:
    """Correction (n,) and covariance (n, n) after a measurement, in Joseph's form, which keeps
    it positive definite.

    Args:
        prior: (n, n), seen: (m, n) what is measured of the state, noise: (m, m), error: (m,).
    """
    gain = np.linalg.solve(seen @ prior @ seen.T + noise, seen @ prior).T
    remaining = np.eye(len(prior)) - gain @ seen
    covariance = remaining @ prior @ remaining.T + gain @ noise @ gain.T
    return gain @ error, (covariance + covariance.T) / 2
