"""Fixes that are not believed yet: whether the newest of them lie to each other as motion says.

`SequenceLocalizer` keeps two runs of them: those that may become its first pose, and those that
contradict the pose it has.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

import numpy as np

from kapture_ros.localization.motion_filter import Fix
from kapture_ros.localization.odometry import SECOND, Odometry
from kapture_ros.transforms.se3 import difference

SLACK = (0.5, 0.1, np.deg2rad(5.0))  # metres, metres per metre, radians
TURN_RATE = 1.0  # rad/s of a vehicle whose motion nobody measured


class FixRun:
    """Fixes in the order of their stamps, of each stamp the one that came last."""

    def __init__(self) -> None:
        self._fixes: list[Fix] = []

    def __bool__(self) -> bool:
        return bool(self._fixes)

    @property
    def newest(self) -> Fix | None:
        """The one with the latest stamp."""
        return self._fixes[-1] if self._fixes else None

    def add(self, fix: Fix, count: int) -> list[Fix]:
        """Take a fix, and keep the newest `count`: these, or none while there are fewer."""
        others = [known for known in self._fixes if known.stamp_ns != fix.stamp_ns]
        insort(others, fix, key=lambda known: known.stamp_ns)
        self._fixes = others[-count:]
        return list(self._fixes) if len(self._fixes) == count else []

    def clear(self) -> None:
        """Forget them."""
        self._fixes = []


def agree(fixes: Sequence[Fix], odometry: Odometry, max_speed: float | None = None) -> bool:
    """Whether fixes lie to each other as odometry says, which must reach to the newest.

    Args:
        max_speed: m/s, where images tell the motion, or nothing does: it may be another one.
    """
    first = fixes[0]
    if not odometry.reaches(first.stamp_ns):  # there was a pause
        return False
    for fix in fixes[1:]:
        motion = odometry.between(first.stamp_ns, fix.stamp_ns)
        error = difference(fix.map_from_base, first.map_from_base @ motion)
        metres = SLACK[0] + SLACK[1] * float(np.linalg.norm(motion.translation))
        radians = SLACK[2]
        if max_speed is not None:
            seconds = (fix.stamp_ns - first.stamp_ns) / SECOND
            metres += max_speed * seconds
            radians += TURN_RATE * seconds
        if np.linalg.norm(error[:3]) > metres or np.linalg.norm(error[3:]) > radians:
            return False
    return True
