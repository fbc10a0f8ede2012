"""The spatial grid finds what a search of all finds; the pose graph fits all measurements."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from kapture_ros.dataset import sidecar
from kapture_ros.dataset.tables import HEADERS, TABLES
from kapture_ros.mapping.adjustment import LEAST_DRIFT, Motion
from kapture_ros.mapping.gnss import RigTrack, inflation, read_fixes
from kapture_ros.mapping.grid import SpatialGrid
from kapture_ros.mapping.options import PoseOptions
from kapture_ros.mapping.pose_graph import Positions, RelativePoses, optimize
from kapture_ros.mapping.priors import gnss_arrays
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.se3 import Transform

COORDINATE = st.floats(-50, 50)
POINTS = st.lists(st.tuples(COORDINATE, COORDINATE, COORDINATE), max_size=30)
NOTHING = Positions(np.empty(0, int), np.empty((0, 3)), np.empty((0, 3)), np.empty((0, 3, 3)))


@settings(max_examples=60)
@given(POINTS, st.tuples(COORDINATE, COORDINATE, COORDINATE), st.floats(0, 60), st.booleans())
def test_the_grid_finds_all_points_within_a_radius(found, center, radius, level):
    points = np.array(found, float).reshape(-1, 3)
    grid = SpatialGrid.build(points, 7.0)
    axes = 2 if level else 3
    offset = points[:, :axes] - np.array(center)[:axes]
    distance = np.linalg.norm(offset, axis=1)
    near = set(grid.within(center[:axes], radius).tolist())
    # At the very edge, rounding may decide.
    assert set(np.flatnonzero(distance < radius - 1e-9)) <= near
    assert near <= set(np.flatnonzero(distance < radius + 1e-9))


def test_points_that_are_not_finite_are_nowhere():
    grid = SpatialGrid.build(np.array([[0.0, 0, 0], [np.nan, 0, 0]]), 5.0)
    assert grid.within([0, 0, 0], 1e5).tolist() == [0]


def circle(count: int) -> tuple[Rotation, np.ndarray]:
    angle = np.linspace(0, 2 * np.pi, count)
    xyz = 20 * np.stack([np.sin(angle), 1 - np.cos(angle), 0 * angle], axis=1)
    return Rotation.from_rotvec(np.outer(angle, [0, 0, 1])), xyz


def steps(rotations: Rotation, xyz: np.ndarray, first, second, sigma, **kwargs) -> RelativePoses:
    back = rotations[first].inv()
    return RelativePoses(
        first, second, back * rotations[second], back.apply(xyz[second] - xyz[first]),
        np.tile(np.repeat(sigma, 3), (len(first), 1)), **kwargs,
    )  # fmt: skip


def drifted(rotations: Rotation, xyz: np.ndarray) -> tuple[Rotation, np.ndarray, RelativePoses]:
    """The circle driven by odometry that turns too far; its start and its measured steps."""
    count = len(xyz)
    first = np.arange(count - 1)
    edges = steps(rotations, xyz, first, first + 1, (0.05, 0.01))
    turned = edges.rotations * Rotation.from_euler("z", 0.004)
    where, way = [Rotation.identity()], [np.zeros(3)]
    for k in range(count - 1):
        way.append(way[-1] + where[-1].apply(edges.translations[k]))
        where.append(where[-1] * turned[k])
    measured = RelativePoses(first, first + 1, turned, edges.translations, edges.sigma)
    return Rotation.concatenate(where), np.array(way), measured


def from_first(rotations: Rotation, xyz: np.ndarray) -> np.ndarray:
    """Positions in the frame of the first pose: without fixes, the frame is free."""
    return rotations[0].inv().apply(xyz - xyz[0])


def test_a_loop_closure_takes_the_drift_out():
    rotations, xyz = circle(60)
    start, way, odometry = drifted(rotations, xyz)
    loop = steps(rotations, xyz, np.array([0]), np.array([59]), (0.05, 0.005), robust=True)
    closed = from_first(*optimize(start, way, [odometry, loop], NOTHING))
    assert np.linalg.norm(way - xyz, axis=1).max() > 2.0
    assert np.linalg.norm(closed - xyz, axis=1).max() < 0.25


def test_one_wrong_loop_closure_changes_little():
    rotations, xyz = circle(60)
    start, way, odometry = drifted(rotations, xyz)
    right = steps(rotations, xyz, np.array([0, 1]), np.array([59, 58]), (0.05, 0.005), robust=True)
    wrong = RelativePoses(
        np.array([10]), np.array([40]), Rotation.identity(1), np.zeros((1, 3)),
        np.repeat([[0.05, 0.005]], 3, axis=1), robust=True,
    )  # fmt: skip
    without = from_first(*optimize(start, way, [odometry, right], NOTHING))
    closed = from_first(*optimize(start, way, [odometry, right, wrong], NOTHING))
    assert np.linalg.norm(closed - without, axis=1).max() < 0.5


def test_antennas_place_the_rig_they_are_mounted_on():
    rotations, xyz = circle(60)
    start, way, odometry = drifted(rotations, xyz)
    lever = np.tile([1.0, 0.0, 2.0], (60, 1))
    antenna = xyz + rotations.apply(lever) + [100.0, 50.0, 0.0]
    covariances = np.tile(0.05**2 * np.eye(3), (60, 1, 1))
    fixes = Positions(np.arange(60), antenna, lever, covariances)
    _, placed = optimize(start, way + np.array([99.0, 51.0, 0.0]), [odometry], fixes)
    assert placed == pytest.approx(xyz + np.array([100.0, 50.0, 0.0]), abs=0.1)


def test_heights_that_wander_do_not_tilt_a_drive_that_odometry_says_was_level():
    rotations, xyz = circle(60)
    start, way, odometry = drifted(rotations, xyz)
    high = xyz + np.outer(np.linspace(-3, 3, 60), [0.0, 0.0, 1.0])
    covariances = np.tile(60 * np.diag([1.0, 1.0, 4.0]), (60, 1, 1))
    fixes = Positions(np.arange(60), high, np.zeros((60, 3)), covariances)
    up = np.tile([0.0, 0.0, 1.0], (60, 1))
    tilt = [
        np.degrees(np.arccos(turned.mean().apply([0.0, 0.0, 1.0])[2]))
        for turned, _ in (
            optimize(start, way, [odometry], fixes),
            optimize(start, way, [odometry], fixes, up),
        )
    ]
    assert tilt[0] > 3.0
    assert tilt[1] < 1.0


def test_drift_is_measured_along_every_axis_against_a_corrected_track():
    rotations, xyz = circle(200)
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(200, 6)) * [0.01, 0.002, 0.004, 3e-3, 5e-4, 2e-4]
    where = [Transform(rotations[0], xyz[0])]
    for k in range(199):
        step = Transform(rotations[k], xyz[k]).inverse() @ Transform(rotations[k + 1], xyz[k + 1])
        where.append(where[-1] @ Transform.exp(noise[k]) @ step)
    truth = track_of(rotations, xyz)
    wheels = track_of(
        Rotation.concatenate([pose.rotation for pose in where]),
        np.array([pose.translation for pose in where]),
    )
    expected = Motion.of(wheels, PoseOptions())
    measured = expected.against(truth).drift
    length = np.linalg.norm(xyz[2] - xyz[0]) + 0.05  # two steps make a metre
    shown = noise[:-1].std(axis=0) * np.sqrt(2) / length
    assert measured == pytest.approx(np.maximum(shown, LEAST_DRIFT), rel=0.35)
    few = Motion.of(track_of(rotations[:9], xyz[:9]), PoseOptions())
    assert few.against(track_of(rotations[:9], xyz[:9])).drift.tolist() == few.drift.tolist()


def track_of(rotations: Rotation, xyz: np.ndarray) -> RigTrack:
    rows = np.arange(len(xyz))
    return RigTrack(rows, 0 * rows, rows * 10**9, rotations, xyz)


def test_a_position_kept_through_an_outage_is_no_fix(tmp_path: Path):
    rows = "".join(f"{stamp}, gps, 8.0, {48 + stamp}, 100.0, 0, 0.0\n" for stamp in range(5))
    (tmp_path / "sensors").mkdir()
    (tmp_path / TABLES["gnss"].path).write_text(HEADERS[TABLES["gnss"].path] + rows)
    extra = tmp_path / sidecar.extra_path("gps")
    extra.parent.mkdir(parents=True)
    told = {"position_covariance": [9.0, 0, 0, 0, 9, 0, 0, 0, 9], "position_covariance_type": 2}
    zeros = told | {"position_covariance": [0.0] * 9}
    said = [
        {"status": {"status": 0}},
        {"status": {"status": -1}, "position_covariance_type": 0},
        {"status": {"status": -1}} | zeros,
        {"status": {"status": -1}} | told,  # some say so of every fix: what it tells decides
    ]  # and one that says nothing
    lines = [sidecar.encode({"stamp": at, "extra": what}) for at, what in enumerate(said)]
    extra.write_bytes(b"".join(lines))
    assert read_fixes(tmp_path, 5.0).stamps.tolist() == [0, 3, 4]
    assert gnss_arrays(tmp_path, Datum(48.0, 8.0, 100.0))["stamp"].tolist() == [0, 3, 4]


def test_fixes_whose_errors_persist_count_as_one():
    rng = np.random.default_rng(0)
    stamps = np.arange(300) * 200_000_000
    told = np.tile(np.eye(3), (300, 1, 1))
    white = rng.normal(size=(300, 3))
    assert inflation(white, told, stamps, 30.0) < 0.15 * 300
    slow = np.ones((300, 3)) + 0.05 * white
    assert inflation(slow, told, stamps, 30.0) > 0.9 * 300
    assert inflation(slow, told, stamps, 0.0) == 1.0
