"""What the IMU tells: turns between two times, and where up is."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kapture_ros.localization.inertial import ImuSample, Inertial, InertialOptions
from kapture_ros.localization.odometry import SECOND

TICK = SECOND // 100
LEVEL = np.array([0.0, 0.0, 9.81])


def driven(seconds: float, rate, acceleration=LEVEL, options=None) -> Inertial:
    """An IMU that turned and was pushed alike all the time."""
    imu = Inertial(options or InertialOptions())
    for n in range(int(seconds * 100) + 1):
        assert imu.add(ImuSample(n * TICK, np.array(rate, float), np.array(acceleration)))
    return imu


def test_a_turn_is_the_integral_of_the_rate():
    imu = driven(3, [0, 0, 0.5])
    turn = imu.turn(SECOND, 2 * SECOND + TICK // 2)
    assert turn.rotation.as_rotvec() == pytest.approx([0, 0, 0.5 * 1.005], abs=1e-9)
    assert imu.turn(2 * SECOND, SECOND).rotation.as_rotvec() == pytest.approx(
        [0, 0, -0.5], abs=1e-9
    )


def test_a_turn_beyond_the_samples_is_extrapolated_shortly_or_not_known():
    imu = driven(1, [0.2, 0, 0])
    soon = imu.turn(SECOND, SECOND + SECOND // 10)
    assert soon.rotation.as_rotvec() == pytest.approx([0.02, 0, 0], abs=1e-9)
    assert imu.turn(SECOND, 2 * SECOND) is None
    assert imu.turn(-SECOND, SECOND) is None
    assert Inertial().turn(0, 1) is None


def test_up_turns_with_the_base():
    """A base that rolls at 0.1 rad/s: gravity turns the other way in its axes."""
    imu = Inertial()
    for n in range(1001):
        roll = Rotation.from_rotvec([0.1 * n / 100, 0, 0])
        imu.add(ImuSample(n * TICK, np.array([0.1, 0, 0]), roll.inv().apply(LEVEL)))
    up = imu.up(10 * SECOND, trusted=True)
    expected = Rotation.from_rotvec([1.0, 0, 0]).inv().apply([0, 0, 1])
    assert up.up_base == pytest.approx(expected, abs=1e-6)
    earlier = imu.up(5 * SECOND, trusted=True)
    expected = Rotation.from_rotvec([0.5, 0, 0]).inv().apply([0, 0, 1])
    assert earlier.up_base == pytest.approx(expected, abs=1e-6)


def test_a_second_of_braking_moves_up_by_little():
    imu = driven(10, [0, 0, 0])
    for n in range(1001, 1101):
        imu.add(ImuSample(n * TICK, np.zeros(3), np.array([-3.0, 0, 9.81])))
    up = imu.up(11 * SECOND, trusted=True)
    assert np.rad2deg(np.arccos(up.up_base[2])) < 2 * imu.options.gravity_sigma
    assert up.sigma == pytest.approx(np.deg2rad(2.0))


def test_gravity_is_used_once_fixes_show_that_the_maps_z_axis_is_up():
    imu = driven(10, [0, 0, 0])
    assert imu.up(10 * SECOND, trusted=False) is None
    for _ in range(imu.options.gravity_checks):
        imu.learn(10 * SECOND, Rotation.from_euler("z", 1.0))
    assert imu.up(10 * SECOND, trusted=False) is not None
    imu.learn(10 * SECOND, Rotation.from_euler("x", 1.0))
    assert imu.up(10 * SECOND, trusted=False) is None, "in this map z is not up"


def test_gravity_takes_seconds_to_be_known_and_can_be_switched_off():
    assert driven(1, [0, 0, 0]).up(SECOND, trusted=True) is None
    off = driven(10, [0, 0, 0], options=InertialOptions(gravity_sigma=0))
    assert off.up(10 * SECOND, trusted=True) is None


def test_samples_that_cannot_be_used_are_refused_and_gaps_begin_anew():
    imu = driven(5, [0, 0, 0.1])
    assert not imu.add(ImuSample(SECOND, np.zeros(3), LEVEL)), "older than the newest"
    assert not imu.add(ImuSample(9 * SECOND, np.full(3, np.nan), LEVEL))
    assert imu.add(ImuSample(9 * SECOND, np.zeros(3), LEVEL))
    assert imu.turn(4 * SECOND, 9 * SECOND) is None, "nobody knows how it turned in the gap"


def test_a_turn_before_a_gap_stays_known():
    imu = driven(5, [0, 0, 0.1])
    imu.add(ImuSample(9 * SECOND, np.zeros(3), LEVEL))
    turn = imu.turn(2 * SECOND, 3 * SECOND)
    assert turn.rotation.as_rotvec() == pytest.approx([0, 0, 0.1], abs=1e-9)


def test_a_saturated_gyro_does_not_say_how_it_turned():
    imu = driven(5, [0, 0, 0.1])
    for n in range(501, 600):
        fast = 4.36 if n < 520 else 0.1
        assert imu.add(ImuSample(n * TICK, np.array([0, 0, fast]), LEVEL)) == (n >= 520)
    assert imu.turn(5 * SECOND, 5 * SECOND + 25 * TICK) is None
    assert imu.turn(5 * SECOND + 25 * TICK, 5 * SECOND + 50 * TICK) is not None
