"""The truth of a drive, laid over a map that has a frame of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kapture_ros.errors import InputError
from kapture_ros.evaluation.poses import read_poses
from kapture_ros.evaluation.reference import georeference_error, place_map, write_reference
from kapture_ros.transforms import Transform
from kapture_ros.transforms.geodesy import Datum

SECOND = 1_000_000_000
MAP_FROM_TRUTH = Transform(Rotation.from_euler("z", 20, degrees=True), [400.0, -30.0, 2.0])
EYE_FROM_RIG = Transform(Rotation.from_euler("y", 90, degrees=True), [0.1, 0.2, 0.3])


def circle(count: int) -> list[Transform]:
    """truth_from_rig on a circle of 10 m."""
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [
        Transform(Rotation.from_euler("z", a), [10 * np.cos(a), 10 * np.sin(a), 0.0])
        for a in angles
    ]


@pytest.fixture
def drive(write_dataset, tmp_path: Path) -> Path:
    """A drive with its true poses."""
    return write_dataset(
        tmp_path / "truth",
        {(i * SECOND, "rig"): pose.inverse() for i, pose in enumerate(circle(12))},
        {("rig", "eye"): EYE_FROM_RIG},
        {(i * SECOND, "eye"): f"eye/{i}.jpg" for i in range(12)},
    )


def write_map(write_dataset, folder: Path, prefix: str, wrong: float, count: int = 12) -> Path:
    """A map of the drive: elsewhere, each camera `wrong` metres off, up and down in turn."""
    poses = {}
    for i, pose in enumerate(circle(12)[:count]):
        moved = MAP_FROM_TRUTH @ pose
        up = np.array([0, 0, wrong * (-1) ** i])
        eye_from_map = EYE_FROM_RIG @ Transform(moved.rotation, moved.translation + up).inverse()
        poses[i * SECOND, "eye"] = eye_from_map
    images = {(i * SECOND, "eye"): f"{prefix}eye/{i}.jpg" for i in range(count)}
    return write_dataset(folder, poses, None, images)


@pytest.mark.parametrize("prefix", ["", "monday/"])
def test_a_map_is_placed_by_its_images_and_judged_with_and_without(
    write_dataset, tmp_path: Path, drive: Path, prefix: str
):
    placed = place_map(write_map(write_dataset, tmp_path / "map", prefix, 0.05), drive)
    np.testing.assert_allclose(placed.map_from_truth.matrix(), MAP_FROM_TRUTH.matrix(), atol=0.02)
    raw, aligned = placed.errors[:2]
    assert raw.metres.median > 300
    assert 0.04 < aligned.metres.median < 0.06


@pytest.mark.parametrize(("east", "turned"), [(0.0, 0.0), (2.0, 0.01)])
def test_a_datum_is_as_wrong_as_it_puts_the_map_elsewhere(east: float, turned: float):
    """However far the two frames' origins are from each other."""
    truth = Datum(45.2, 5.8, 250.0, 0.35)
    lat, lon, alt = truth.geodetic_from_map([30.0, -20.0, 1.0])
    datum = Datum(float(lat[0]), float(lon[0]), float(alt[0]))
    origin = datum.map_from_geodetic(45.2, 5.8, 250.0)[0]
    exact = Transform(Rotation.from_euler("z", 0.35), origin)
    place = np.array([40.0, 30.0, 0.0])
    wrong = Transform(Rotation.from_euler("z", turned), [east, 0, 0])
    beside = Transform(translation=place) @ wrong @ Transform(translation=-place)
    metres, degrees = georeference_error(beside @ exact, datum, truth, place)
    assert metres == pytest.approx(east, abs=1e-3)
    assert degrees == pytest.approx(np.rad2deg(turned), abs=1e-3)


def test_the_reference_is_the_truth_in_the_frame_of_the_map(tmp_path: Path, drive: Path):
    write_reference(drive, MAP_FROM_TRUTH, tmp_path / "reference")
    reference = read_poses(tmp_path / "reference")
    for i, truth_from_rig in enumerate(circle(12)):
        found = reference.track("rig").at(i * SECOND)
        expected = MAP_FROM_TRUTH @ truth_from_rig
        np.testing.assert_allclose(found.matrix(), expected.matrix(), atol=1e-9)
    eye = reference.track("eye").at(0)
    expected = MAP_FROM_TRUTH @ circle(12)[0] @ EYE_FROM_RIG.inverse()
    np.testing.assert_allclose(eye.matrix(), expected.matrix(), atol=1e-9)


def test_a_map_of_another_drive_is_refused(write_dataset, tmp_path: Path, drive: Path):
    few = write_map(write_dataset, tmp_path / "few", "", 0.0, count=2)
    with pytest.raises(InputError, match="2 images in common"):
        place_map(few, drive)
    other = write_map(write_dataset, tmp_path / "other", "other/drive/", 0.0)
    with pytest.raises(InputError, match="0 images in common"):
        place_map(other, drive)
