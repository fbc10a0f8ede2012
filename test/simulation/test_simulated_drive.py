"""The simulated drive: true geometry, honest sensors, the same bytes every time."""

from __future__ import annotations

import filecmp
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kapture_ros.cli.main import main
from kapture_ros.simulation import sensors
from kapture_ros.simulation.drive import Exposure, Photographer, make_trajectory
from kapture_ros.simulation.layout import DATUM
from kapture_ros.simulation.options import DriveOptions, QueryOptions, StreetOptions, laps
from kapture_ros.simulation.street import World, build_world
from kapture_ros.simulation.vehicle import MOUNTS, make_camera

SMALL = DriveOptions(width=160, height=120, duration=60.0)
LAP1, LAP2 = laps(QueryOptions())


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(StreetOptions(detail=0.1))


@pytest.fixture(scope="module")
def trajectory():
    return make_trajectory(LAP1, SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["front", "left", "right"])
def test_depth_and_poses_agree_between_two_images(world: World, name: str):
    """Points seen in one image lie where the other image sees a surface as far away."""
    photographer = Photographer(LAP1, world, SMALL)
    camera = make_camera(name, SMALL.width, SMALL.height)
    depths, poses = [], []
    for time in (20.0, 20.3):
        _, depth = photographer.take(Exposure(camera, 0, time, depth=True))
        depths.append(depth)
        poses.append(photographer.trajectory.pose(time) @ camera.base_from_camera)
    seen = np.isfinite(depths[0]) & (depths[0] < 15)  # the sensor's noise grows with distance
    rows, columns = np.nonzero(seen)
    rays = camera.rays(np.stack([columns, rows], -1).astype(float))
    points = rays / rays[:, 2:] * depths[0][seen][:, None]
    moved = (poses[1].inverse() @ poses[0]).apply(points)
    pixels = np.round(camera.project(moved))
    with np.errstate(invalid="ignore"):
        inside = ((pixels >= 0) & (pixels < [SMALL.width, SMALL.height])).all(axis=1)
    u, v = pixels[inside].astype(int).T
    found, expected = depths[1][v, u], moved[inside, 2]
    error = np.abs(found - expected) / expected
    assert len(error) > 1500
    assert np.mean(error < 0.05) > 0.8, "the rest is hidden in one of the two"
    assert np.median(error) < 0.02  # a pixel of 160 is coarse


@pytest.mark.slow
def test_the_second_lap_shows_the_same_street_in_another_light(world: World):
    camera = make_camera("front", 160, 120)
    images = [
        Photographer(lap, world, SMALL).take(Exposure(camera, 0, 12.0, depth=False))[0]
        for lap in (LAP1, LAP1, LAP2)
    ]
    np.testing.assert_array_equal(images[0], images[1])
    assert np.abs(images[0].astype(int) - images[2]).mean() > 10
    for image in images:
        assert image.std() > 25, "a street, not a wall"


def test_odometry_drifts_within_what_its_covariance_says(trajectory):
    """Error of the last pose over 20 drives, in standard deviations of the covariance."""
    squared = []
    for seed in range(20):
        samples = sensors.odometry(trajectory, 30.0, seed)
        last = samples[-1]
        true = trajectory.pose(samples[0].time).inverse() @ trajectory.pose(last.time)
        x, y, _ = last.odom_from_base.translation - true.translation
        yaw = (last.odom_from_base.rotation * true.rotation.inv()).as_rotvec()[2]
        error = np.array([x, y, yaw])
        squared.append(error @ np.linalg.solve(last.covariance, error))
        assert 0.01 < np.hypot(x, y) < 15
    assert 1.0 < np.mean(squared) < 8.0, "three degrees of freedom"


def test_gyroscope_and_accelerometer_integrate_to_the_motion(trajectory):
    samples = sensors.imu(trajectory, 10.0, seed=3)
    start, lever = samples[0].time, MOUNTS["imu_link"].translation
    rotation = trajectory.pose(start).rotation
    linear, angular = trajectory.twist(start)
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


def test_gnss_has_an_outage_and_errors_of_the_size_it_claims(trajectory):
    errors, sigmas, lost = [], [], 0
    for seed in range(5):
        for sample in sensors.gnss(trajectory, 60.0, seed, DATUM):
            if sample.position is None:
                lost += 1
                continue
            antenna = trajectory.pose(sample.time).apply(MOUNTS["gnss_link"].translation)
            (measured,) = DATUM.map_from_geodetic(*sample.position)
            errors.append(measured - antenna)
            sigmas.append(sample.sigma)
    normalized = np.array(errors) / np.array(sigmas)
    assert 0.6 < normalized.std() < 1.5
    assert 5 < lost / 5 < 60, "a few seconds without a fix a lap"
    assert np.ptp([s[0] for s in sigmas]) > 0.5, "worse between high houses"


@pytest.mark.slow
def test_the_same_options_give_the_same_bytes(tmp_path: Path):
    tiny = ["--duration", "1", "--width", "64", "--height", "48", "--detail", "0.1"]
    for name in ("one", "two"):
        assert main(["simulate", str(tmp_path / name), *tiny]) == 0
    for lap in ("lap1", "lap2"):
        one, two = (tmp_path / name / lap / f"{lap}.mcap" for name in ("one", "two"))
        assert one.stat().st_size > 10_000
        assert filecmp.cmp(one, two, shallow=False)


def test_an_existing_output_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "drive").mkdir()
    assert main(["simulate", str(tmp_path / "drive")]) == 1
    assert "exists already" in capsys.readouterr().err


def test_an_option_out_of_range_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["simulate", str(tmp_path / "drive"), "--light", "noon"]) == 1
    assert "'light' is 'noon'" in capsys.readouterr().err
    assert not (tmp_path / "drive").exists()
