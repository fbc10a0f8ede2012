"""Fixes that are not believed yet: which are kept, and whether they agree along the motion."""

from __future__ import annotations

import numpy as np
import pytest

from kapture_ros.localization.agreement import FixRun, agree
from kapture_ros.localization.motion_filter import Fix
from kapture_ros.localization.odometry import SECOND, Odometry, OdometrySample
from kapture_ros.transforms import Transform


def fix_at(seconds: float, x: float, yaw: float = 0.0) -> Fix:
    pose = Transform.exp([0, 0, 0, 0, 0, yaw])
    return Fix(int(seconds * SECOND), Transform(pose.rotation, [x, 0, 0]), np.eye(6))


def straight(speed: float) -> Odometry:
    """Odometry over ten seconds, in a frame of its own."""
    odometry = Odometry(20 * SECOND)
    start = Transform.exp([7, 8, 9, 0, 0, 1])
    for second in range(11):
        moved = start @ Transform(translation=[speed * second, 0, 0])
        odometry.add(OdometrySample(second * SECOND, moved))
    return odometry


def test_the_newest_are_kept_in_the_order_of_time_and_one_of_each_stamp():
    run = FixRun()
    assert not run
    assert run.add(fix_at(2, 0.0), 3) == []
    assert run.add(fix_at(1, 0.0), 3) == []
    assert run
    assert [fix.stamp_ns // SECOND for fix in run.add(fix_at(3, 0.0), 3)] == [1, 2, 3]
    again = fix_at(3, 1.0)
    assert run.add(again, 3)[-1] is again
    assert [fix.stamp_ns // SECOND for fix in run.add(fix_at(4, 0.0), 3)] == [2, 3, 4]
    run.clear()
    assert not run


@pytest.mark.parametrize(
    ("x", "yaw", "right"),
    [
        (20.0, 0.0, True),
        (21.0, 0.0, True),
        (23.0, 0.0, False),
        (20.0, 0.08, True),
        (20.0, 0.1, False),
    ],
)
def test_fixes_agree_that_lie_to_each_other_as_odometry_says(x: float, yaw: float, right: bool):
    """Within half a metre, a tenth of the way and five degrees."""
    fixes = [fix_at(0, 0.0), fix_at(2, 10.0), fix_at(4, x, yaw)]
    assert agree(fixes, straight(5.0)) is right


def test_a_motion_that_nobody_measured_may_be_another_one():
    fixes = [fix_at(0, 0.0), fix_at(1, 15.0, 0.9)]
    assert not agree(fixes, straight(5.0))
    assert agree(fixes, straight(5.0), max_speed=20.0)
    assert not agree(fixes, straight(5.0), max_speed=5.0)


def test_fixes_before_a_pause_that_odometry_does_not_reach_over_do_not_agree():
    odometry = straight(5.0)
    for second in (100, 101):
        odometry.add(OdometrySample(second * SECOND, Transform()))
    assert not agree([fix_at(9, 45.0), fix_at(101, 45.0)], odometry)
