"""How wrong fixes are on this drive, learned from how well odometry links them.

Covariances of fixes come from pixels and from what was held out when the map was made. Neither
knows this drive: its light, how well its keypoints are found, how near it passes the images of
the map. But over a few metres odometry is precise, and so the differences between fixes beyond
it say how wrong they are (adaptive filtering; Mehra, IEEE TAC 1972; Särkkä and Nummenmaa, IEEE
TAC 2009). The difference of two fixes has the covariance

    a (R₁ + R₂) + b M + c Q,

R being the fixes' own, M that of the change of the map's measured error between them, and Q that
of odometry's noise. The three differ in how they grow with the way and in their axes: pairs of
fixes at several distances tell the factors apart. Odometry's factor is not used for anything else,
but where odometry is better than its options say, fixes would be thought better than they are
without it. `FixErrors` holds the logarithms of the factors and the information about them, which
each pair adds to (Fisher's scoring, recursively); it begins near 1, so where pairs tell nothing
(odometry is too poor) they stay as they are.

What is constant over these metres cancels and cannot be seen: an assumed bend of the map is left
alone, and the measured error where the held-out instants said that it stays the same so far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import chi2

from kapture_ros.localization.map_change import MapChange, alike_share, difference_between
from kapture_ros.localization.motion_filter import ERRORS, Fix, MotionFilter, MotionState
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import SECOND, Motion, reckon
from kapture_ros.transforms import Transform
from kapture_ros.transforms.se3 import Array, difference, turned_covariance

APART = (0.8, math.radians(5.0))  # metres or radians, and the time of `fix_correlation`, are
LAGS = (1, 2, 4)  # as many times between two fixes of a pair
# Of each pair's information: pairs overlap, in fixes and in what they see. The factor of simulated
# odometry, which is known, then is as uncertain as it is thought to be.
COUNTED = 1 / 3
PERIOD = 60.0  # seconds after which what was learned counts a third
BOUNDS = (-math.log(8.0), math.log(8.0))  # of the logarithms of the factors
PRIOR = math.log(2.0)  # one sigma of the logarithms of the factors
SHOWN = 0.25  # share of the map's error by which two fixes must differ to tell of its size
LOSS = float(chi2.ppf(0.999, 6))  # squared Mahalanobis distance from which a pair counts less


@dataclass(frozen=True, slots=True)
class _Pair:
    """The difference (6,) of two fixes beyond odometry, and its covariances (6, 6)."""

    error: Array
    parts: Array  # (3, 6, 6) of the fixes' own errors, of the map's, of odometry's
    known: Array  # of odometry's scale and bias, which the filter knows, and what is not learned


@dataclass(frozen=True, slots=True)
class _Anchor:
    """A fix, and the filter without it and what came later.

    What was learned of odometry from the fixes of a pair agrees with them, and says nothing
    of how wrong they are.
    """

    fix: Fix
    before: MotionState


class FixErrors:
    """Factors on the covariances of the fixes of one drive.

    Args:
        of_map: how the map's error changes along the way.
    """

    def __init__(self, options: MotionOptions, of_map: MapChange) -> None:
        self._options = options
        self._alike = np.repeat(of_map.alike, 3)
        self._logs: Array = np.zeros(3)  # of the factors of own, map's and odometry's variances
        self._information: Array = np.eye(3) / PRIOR**2
        self.forget()

    def forget(self) -> None:
        """Begin a new chain of fixes; what was learned of them stays."""
        self._anchors: list[_Anchor | None] = [None] * len(LAGS)
        self._newest: MotionState | None = None

    @property
    def factors(self) -> tuple[float, float]:
        """Of the variances of the fixes' own errors and of the map's measured one."""
        own, of_map, _ = np.exp(self._logs).tolist()
        return own, of_map

    def weighed(self, fix: Fix) -> Fix:
        """A fix with covariances as they are on this drive."""
        own, of_map = self.factors
        map_covariance = of_map * fix.changing_covariance + fix.lasting_covariance
        covariance = own * fix.own_covariance + map_covariance
        return replace(fix, covariance=covariance, map_covariance=map_covariance)

    def learn(self, fix: Fix, motion: MotionFilter, *, accepted: bool = True) -> None:
        """Compare a fix, as it was told, with those before; late ones tell nothing.

        Args:
            motion: the filter, which reaches to the fix.
            accepted: whether later fixes may be compared with it.
        """
        newest = self._newest
        if newest is not None and fix.stamp_ns <= newest.stamp_ns:
            return
        self._newest = motion.at(fix.stamp_ns)
        newest = newest or self._newest
        self._forget_slowly(math.exp((newest.stamp_ns - fix.stamp_ns) / SECOND / PERIOD))
        before: _Anchor | None = None
        for number, (lag, anchor) in enumerate(zip(LAGS, self._anchors, strict=True)):
            if anchor is not None and not self._too_old(anchor.fix, fix):
                link = self._link(anchor.fix, fix, lag, motion)
                if link is None:
                    continue
                if anchor is not before:  # fixes that are rare make the same pair again
                    self._weigh(self._pair(anchor, fix, link))
                before = anchor
            if accepted:
                self._anchors[number] = _Anchor(fix, newest)

    def _too_old(self, anchor: Fix, fix: Fix) -> bool:
        return fix.stamp_ns - anchor.stamp_ns > 0.5 * self._options.history * SECOND

    def _link(self, first: Fix, second: Fix, lag: int, motion: MotionFilter) -> Motion | None:
        """The motion between two fixes that see other points, or the same from elsewhere."""
        seconds = (second.stamp_ns - first.stamp_ns) / SECOND
        if seconds <= 0.99 * lag * self._options.fix_correlation:  # stamps are rounded
            return None
        link = motion.reckoning.between(first.stamp_ns, second.stamp_ns)
        metres, radians = link.start_from_end.distance_to(Transform())
        return link if metres >= lag * APART[0] or radians >= lag * APART[1] else None

    def _pair(self, anchor: _Anchor, second: Fix, link: Motion) -> _Pair:
        first, state = anchor.fix, anchor.before
        predicted, derivatives = reckon(first.map_from_base, link, state.errors)
        carried, by_errors = derivatives[:, :6], derivatives[:, 6:]
        metres = float(np.linalg.norm(link.start_from_end.translation))
        lever = carried[:3, 3:]
        odometry = turned_covariance(link.noise, first.map_from_base.rotation_matrix())
        # Turns on the way, on average half way, move the end.
        turns = odometry[3:, 3:]
        odometry[:3, :3] += lever @ turns @ lever.T / 3
        odometry[:3, 3:] += lever @ turns / 2
        odometry[3:, :3] = odometry[:3, 3:].T
        drift = by_errors @ state.covariance[ERRORS, ERRORS] @ by_errors.T
        alike = alike_share(np.array(metres), self._alike)
        errors = first.changing_covariance, second.changing_covariance, alike, carried
        # Where less shows, it depends on how smooth the error is more than on its size.
        shown = np.where(1 - alike < SHOWN, 0.0, 1.0)
        of_map = difference_between(*errors, axes=shown)
        drift += difference_between(*errors, axes=1 - shown)
        own = carried @ first.own_covariance @ carried.T + second.own_covariance
        parts = np.array([own, of_map, odometry])
        return _Pair(difference(second.map_from_base, predicted), parts, drift)

    def _forget_slowly(self, kept: float) -> None:
        """Old information fades, and the prior comes back."""
        prior = np.eye(3) / PRIOR**2
        left = kept * self._information
        self._information = left + (1 - kept) * prior
        self._logs = np.asarray(np.linalg.solve(self._information, left @ self._logs), float)

    def _weigh(self, pair: _Pair) -> None:
        """One step of Fisher's scoring; outliers tell little."""
        parts = np.exp(self._logs)[:, None, None] * pair.parts
        inverse = np.linalg.inv(parts.sum(axis=0) + pair.known)
        white = inverse @ pair.error
        outside = max(float(pair.error @ white) / LOSS, 1.0)
        shares = inverse @ parts
        surprise = np.einsum("i,nij,j->n", white, parts, white) / outside
        score = 0.5 * (surprise - np.trace(shares, axis1=1, axis2=2))
        self._information += COUNTED * 0.5 * np.einsum("nij,mji->nm", shares, shares)
        step = np.linalg.solve(self._information, COUNTED * score)
        self._logs = np.clip(self._logs + step, *BOUNDS)
