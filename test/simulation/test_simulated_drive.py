"""The simulated drive: true geometry, honest sensors, the same bytes every time."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kapture_ros.cli.main import main
from kapture_ros.simulation import layout, lots, sensors
from kapture_ros.simulation.layout import DATUM
from kapture_ros.simulation.mesh import MeshBuilder
from kapture_ros.simulation.motion import Trajectory, ring_path
from kapture_ros.simulation.options import LANE, Changes, StreetOptions
from kapture_ros.simulation.vehicle import MOUNTS

DURATION = 60.0


@pytest.fixture(scope="module")
def trajectory() -> Trajectory:
    return Trajectory(DURATION, speed=8.0, lane=LANE, seed=1)


def test_the_way_around_is_closed_and_smooth():
    path = ring_path(LANE)
    begin, end = path.at([0.0, path.length])[0]
    np.testing.assert_allclose(begin, end, atol=1e-3)
    along = np.arange(0, path.length, 0.5)
    points, headings = path.at(along)
    moved = np.diff(points, axis=0)
    np.testing.assert_allclose(np.hypot(*moved.T), 0.5, rtol=0.01)
    assert np.abs(np.diff(headings)).max() < 0.5 / 7.0, "no corner tighter than 7 m"


def test_twists_are_the_derivatives_of_the_poses(trajectory: Trajectory):
    step = 1e-4
    for time in (3.0, 14.2, 30.0, 55.1):
        before, after = trajectory.pose(time - step), trajectory.pose(time + step)
        moved = (before.inverse() @ after).log() / (2 * step)
        linear, angular = trajectory.twists([time])
        np.testing.assert_allclose(moved, np.hstack([linear[0], angular[0]]), atol=1e-4)


def test_a_kidnapped_vehicle_is_elsewhere_and_its_wheels_do_not_notice():
    kidnapped = Trajectory(20.0, 8.0, LANE, seed=1, kidnap=10.0)
    ordinary = Trajectory(20.0, 8.0, LANE, seed=1)
    assert kidnapped.pose(9.99) == ordinary.pose(9.99)
    metres, _ = kidnapped.pose(10.01).distance_to(ordinary.pose(10.01))
    assert metres > 60
    travelled = [
        sensors.odometry(t, 20.0, seed=2)[-1].odom_from_base for t in (kidnapped, ordinary)
    ]
    metres, _ = travelled[0].distance_to(travelled[1])
    assert metres < 40, "half a round is 210 m"


def test_odometry_drifts_within_what_its_covariance_says(trajectory: Trajectory):
    """Error of the last pose over 30 drives, in standard deviations of the covariance."""
    squared = []
    for seed in range(30):
        samples = sensors.odometry(trajectory, 20.0, seed)
        last = samples[-1]
        true = trajectory.pose(samples[0].time).inverse() @ trajectory.pose(last.time)
        x, y, _ = last.odom_from_base.translation - true.translation
        yaw = (last.odom_from_base.rotation * true.rotation.inv()).as_rotvec()[2]
        error = np.array([x, y, yaw])
        squared.append(error @ np.linalg.solve(last.covariance, error))
        assert 0.01 < np.hypot(x, y) < 15
    # The mean of 30 chi-squared values of 3 degrees of freedom: 3 ± 0.45.
    assert 1.8 < np.mean(squared) < 4.4


def test_gyroscope_and_accelerometer_integrate_to_the_motion(trajectory: Trajectory):
    samples = sensors.imu(trajectory, 10.0, seed=3)
    start, lever = samples[0].time, MOUNTS["imu_link"].translation
    rotation = trajectory.pose(start).rotation
    (linear,), (angular,) = trajectory.twists([start])
    velocity = rotation.apply(linear + np.cross(angular, lever))
    position = trajectory.pose(start).apply(lever)
    for one, two in pairwise(samples):
        step = two.time - one.time
        force = rotation.apply(one.specific_force) - [0, 0, sensors.GRAVITY]
        position = position + velocity * step + 0.5 * force * step**2
        velocity = velocity + force * step
        rotation = rotation * Rotation.from_rotvec(one.angular_velocity * step)
    true = trajectory.pose(samples[-1].time)
    turned = (rotation.inv() * true.rotation).magnitude()
    assert np.rad2deg(turned) < 2.5
    assert np.linalg.norm(position - true.apply(lever)) < 6.0, "80 m by dead reckoning"


@pytest.mark.parametrize(("kind", "in_canyon", "step"), [("single", 5.0, 1.5), ("rtk", 0.05, 0.05)])
def test_gnss_has_an_outage_and_errors_of_the_size_it_claims(
    trajectory: Trajectory, kind: str, in_canyon: float, step: float
):
    errors, sigmas, lost = [], [], 0
    for seed in range(8):
        for sample in sensors.gnss(trajectory, DURATION, seed, DATUM, sensors.RECEIVERS[kind]):
            if sample.position is None:
                lost += 1
                continue
            antenna = trajectory.pose(sample.time).apply(MOUNTS["gnss_link"].translation)
            (measured,) = DATUM.map_from_geodetic(*sample.position)
            errors.append(measured - antenna)
            sigmas.append(sample.sigma)
    normalized = np.array(errors) / np.array(sigmas)
    assert 0.6 < normalized.std() < 1.5
    assert 5 < lost / 8 < 60, "a few seconds without a fix a lap"
    assert np.ptp([s[0] for s in sigmas]) > in_canyon, (
        "far worse between high houses, and it says so"
    )
    consecutive = np.array(errors)[:50]
    assert np.linalg.norm(np.diff(consecutive, axis=0), axis=1).mean() < step, "a slow bias"


def test_access_points_are_heard_nearby_and_alike_on_both_visits(trajectory: Trajectory):
    points = np.array([[40.0, -12, 3], [120, -11, 2], [75, 70, 4], [-12, 30, 3]])
    visits = [sensors.wifi(trajectory, DURATION, seed, points) for seed in (1, 2)]
    strongest = {}
    for end, heard in visits[0]:
        antenna = trajectory.pose(end).apply(MOUNTS["wifi_link"].translation)
        for point in heard:
            assert end - sensors.WIFI_SCAN <= point.time <= end
            assert point.rssi >= round(sensors.WIFI_FLOOR)
            distance = np.linalg.norm(antenna - points[point.index])
            strongest[point.index] = max(
                strongest.get(point.index, (-999, 0)), (point.rssi, distance)
            )
    assert set(strongest) == {0, 1, 2, 3}
    assert all(distance < 45 for _, distance in strongest.values())
    levels = [{(end, p.index): p.rssi for end, heard in visit for p in heard} for visit in visits]
    both = set(levels[0]) & set(levels[1])
    differences = [levels[0][key] - levels[1][key] for key in both]
    assert len(both) >= 10
    assert np.std(differences) < 6.0, "shadowing belongs to the place, not to the visit"


def test_a_street_with_a_house_narrower_than_its_sign_is_built():
    options, sides = StreetOptions(street=8, detail=0.1), layout.sides()
    houses, _ = lots.divide(options, sides)
    assert min(house.width for row in houses for house in row) < 0.8
    assert len(lots.build(MeshBuilder(), options, Changes(), sides)) == 5


def test_an_existing_output_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "drive").mkdir()
    assert main(["simulate", str(tmp_path / "drive")]) == 1
    assert "exists already" in capsys.readouterr().err


def test_an_unwritable_output_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "file").touch()
    assert main(["simulate", str(tmp_path / "file" / "drive")]) == 1
    assert f"cannot write {tmp_path}/file/drive" in capsys.readouterr().err


def test_an_option_out_of_range_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["simulate", str(tmp_path / "drive"), "--light", "noon"]) == 1
    assert "'light' is 'noon'" in capsys.readouterr().err
    assert not (tmp_path / "drive").exists()
