"""The pose between images: carried by odometry, given up where it is not known any more."""

from __future__ import annotations

import numpy as np
import pytest

from kapture_ros.localization.motion_filter import MotionState
from kapture_ros.localization.motion_options import MotionOptions
from kapture_ros.localization.odometry import SIZE, OdometrySample
from kapture_ros.localization.sequence_state import State, TrackedPose, TrackingOptions
from kapture_ros.localization.visual_motion import MotionSource
from kapture_ros.nodes.predictor import Known, Predictor
from kapture_ros.transforms import Transform

SECOND = 10**9
MAP_FROM_ODOM = Transform(translation=[10.0, 20.0, 0.0])
OPTIONS = MotionOptions()
TRACKING = TrackingOptions(lost_sigma=10.0, coast_after=1.0)


def odom_at(stamp_ns: int) -> Transform:
    return Transform(translation=[2.0 * stamp_ns / SECOND, 0, 0])


def predictor(until: float = 1.0) -> Predictor:
    """With odometry at 20 Hz, 2 m/s ahead."""
    made = Predictor(OPTIONS, TRACKING)
    for number in range(int(until * 20) + 1):
        stamp = number * SECOND // 20
        made.add_odometry(OdometrySample(stamp, odom_at(stamp)))
    return made


def known(stamp_ns: int, sigma: float = 0.1, **changes) -> Known:
    """A pose at a time that was just confirmed."""
    pose = MAP_FROM_ODOM @ odom_at(stamp_ns)
    covariance = np.diag([sigma**2] * 3 + [1e-4] * 3)
    values = {
        "stamp_ns": stamp_ns, "state": State.TRACKING, "map_from_base": pose,
        "covariance": covariance, "map_from_odom": MAP_FROM_ODOM, "fix_age": 0.0,
        "window_size": 1, "inflation": 1.0, "gnss_disagrees": False,
        "motion": MotionSource.ODOMETRY,
    } | changes  # fmt: skip
    full = np.zeros((SIZE, SIZE))
    full[:6, :6] = covariance
    motion = MotionState(stamp_ns, stamp_ns, pose, 0.0, 0.0, full)
    return Known(TrackedPose(**values), motion, OPTIONS)


def test_nothing_is_predicted_of_nothing():
    assert predictor().at(SECOND) is None


def test_the_pose_of_an_image_is_carried_to_now():
    ahead = predictor()
    ahead.adopt(known(SECOND // 2))
    found = ahead.at(SECOND)
    assert found is not None
    assert found.stamp_ns == SECOND
    assert found.map_from_base.translation == pytest.approx([12, 20, 0])
    assert found.map_from_odom is not None
    assert found.map_from_odom.translation == pytest.approx([10, 20, 0])
    assert found.twist_base == pytest.approx([2, 0, 0, 0, 0, 0])
    assert found.state is State.TRACKING
    assert found.covariance[0, 0] > 0.01, "odometry is not exact"


def test_beyond_the_newest_odometry_the_motion_goes_on_for_a_while():
    ahead = predictor()
    ahead.adopt(known(SECOND // 2))
    found = ahead.at(SECOND + SECOND // 2)
    assert found is not None
    assert found.map_from_base.translation[0] == pytest.approx(13)


def test_where_the_clock_is_elsewhere_the_newest_odometry_is_the_time():
    ahead = predictor()
    ahead.adopt(known(SECOND // 2))
    for clock in (0, 1_700_000_000 * SECOND):
        found = ahead.at(clock)
        assert found is not None
        assert found.stamp_ns == SECOND


def test_an_old_fix_is_coasting_and_a_vague_pose_is_none():
    ahead = predictor(until=3.0)
    ahead.adopt(known(SECOND // 2))
    found = ahead.at(3 * SECOND)
    assert found is not None
    assert found.state is State.COASTING
    ahead.adopt(known(SECOND // 2, sigma=11.0))
    assert ahead.at(3 * SECOND) is None
    ahead.tracking = TrackingOptions(lost_sigma=12.0, coast_after=5.0)  # as parameters change
    found = ahead.at(3 * SECOND)
    assert found is not None and found.state is State.TRACKING


def test_what_the_localizer_gave_up_is_given_up():
    ahead = predictor()
    ahead.adopt(known(SECOND // 2))
    lost = known(SECOND // 2, state=State.LOST, map_from_base=None)
    ahead.adopt(Known(lost.tracked, None, OPTIONS))
    assert ahead.at(SECOND) is None


def test_without_odometry_the_last_motion_goes_on_and_there_is_no_odom():
    ahead = Predictor(OPTIONS, TRACKING)
    now, before = SECOND, SECOND - SECOND // 10
    guessed = (OdometrySample(before, odom_at(before)), OdometrySample(now, odom_at(now)))
    at_image = known(SECOND)
    ahead.adopt(Known(at_image.tracked, at_image.motion, OPTIONS, guessed))
    found = ahead.at(SECOND + SECOND // 2)
    assert found is not None
    assert found.map_from_base.translation[0] == pytest.approx(13)
    assert found.map_from_odom is None


def test_a_pose_from_before_the_odometry_is_not_carried():
    late = Predictor(OPTIONS, TRACKING)
    late.add_odometry(OdometrySample(2 * SECOND, odom_at(2 * SECOND)))
    late.adopt(known(SECOND))
    assert late.at(2 * SECOND) is None
    for number in range(40):  # nor does odometry stumble over it
        stamp = 2 * SECOND + number * SECOND // 20
        late.add_odometry(OdometrySample(stamp, odom_at(stamp)))


def test_motion_between_two_stamps():
    ahead = predictor()
    moved = ahead.moved(SECOND // 2, SECOND)
    assert moved.translation == pytest.approx([1, 0, 0])
    assert ahead.moved(SECOND, 9 * SECOND) == Transform(), "unknown"
