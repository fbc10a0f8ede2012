"""Cameras that are turned against their poses: found by their images, said, corrected."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drive_scene import CAMERAS, DriveOptions, make_drive
from scipy.spatial.transform import Rotation

from kapture_ros.errors import InputError
from kapture_ros.mapping.feature_files import FeatureFolder, unit_rows
from kapture_ros.mapping.images import ImageTable, read_images
from kapture_ros.mapping.matching import MatchStore, match_pairs
from kapture_ros.mapping.mounting import Mounting, corrected, mountings
from kapture_ros.mapping.options import MapSettings, MatchOptions
from kapture_ros.mapping.pairs import choose_pairs
from kapture_ros.mapping.pipeline import build_map
from kapture_ros.transforms.se3 import Transform

STREET = DriveOptions(frames=50, step=2.0, poses="truth")
TURN = (0.6, -0.4, 0.3)  # degrees


class Scene:
    """A street with exact poses, matched."""

    def __init__(self, folder: Path, settings: MapSettings, options: DriveOptions = STREET) -> None:
        path = make_drive(folder / "drive", options).path
        self.images = read_images(path)
        self.keypoints = FeatureFolder.in_dataset(path, "keypoints", "fake")
        descriptors = FeatureFolder.in_dataset(path, "descriptors", "fake")
        places = FeatureFolder.in_dataset(path, "global_features", "fakeplace")
        rows = unit_rows(np.stack([places.read(name).ravel() for name in self.images.names]))
        self.pairs = choose_pairs(self.images, rows, None, settings.pairs)
        self.store = MatchStore(folder, "fake")
        match_pairs(self.images, self.pairs, descriptors, self.store, MatchOptions())

    def found(self, images: ImageTable | None = None) -> dict[str, Mounting]:
        told = mountings(images or self.images, self.pairs, self.keypoints, self.store)
        return {mounting.sensor_id: mounting for mounting in told}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, few_pairs: MapSettings) -> Scene:
    return Scene(tmp_path_factory.mktemp("mounting"), few_pairs)


def turned(images: ImageTable, camera: str, degrees: tuple[float, ...]) -> ImageTable:
    """As if the extrinsics of a camera were off by a turn, given_from_true."""
    turn = Rotation.from_rotvec(degrees, degrees=True)
    return corrected(images, Mounting(camera, np.zeros(3), np.zeros(3), turn.inv(), 0.0, 0.0))


def test_right_extrinsics_are_left_in_peace(scene: Scene):
    found = scene.found()
    assert set(found) == set(CAMERAS)
    assert not any(mounting.is_off for mounting in found.values())


@pytest.mark.parametrize("camera", list(CAMERAS))
@pytest.mark.parametrize("turn", [TURN, (-2.0, 1.0, 0.0), (0.0, 0.0, 1.0)])
def test_a_turned_camera_is_found_and_no_other(scene: Scene, camera: str, turn: tuple[float, ...]):
    found = scene.found(turned(scene.images, camera, turn))
    off = found.pop(camera)
    assert off.is_off
    assert off.turn.as_rotvec(degrees=True) == pytest.approx(turn, abs=0.1)
    assert off.after < off.before
    assert not any(mounting.is_off for mounting in found.values())


def test_the_deviation_told_is_that_over_many_drives(tmp_path: Path, few_pairs: MapSettings):
    squares = []
    for seed in range(6):
        drive = Scene(tmp_path / str(seed), few_pairs, replace(STREET, seed=seed, points=700))
        squares += [(mounting.found / mounting.sigma) ** 2 for mounting in drive.found().values()]
    assert 0.2 < np.mean(squares) < 3.0


def test_poses_that_err_by_themselves_do_not_turn_the_camera(scene: Scene):
    """Each stretch of the drive has a turn of its own, half a degree about every axis."""
    rng, images = np.random.default_rng(0), scene.images
    poses = images.poses.copy()
    for instants in np.array_split(np.unique(images.frames), 10):
        turn = Transform(Rotation.from_rotvec(rng.normal(0, 0.5, 3), degrees=True))
        for row in np.flatnonzero(np.isin(images.frames, instants)).tolist():
            pose = turn @ images.cam_from_map(row)
            poses[row] = [*pose.quaternion, *pose.translation]
    erring = images.with_poses(np.arange(len(images)), poses)
    assert not any(mounting.is_off for mounting in scene.found(erring).values())


def test_straight_ahead_nothing_tells_a_roll(scene: Scene):
    images = turned(scene.images, "front", (0.6, 0.0, 0.0))
    turns = [
        (images.cam_from_map(one) @ images.cam_from_map(other).inverse()).rotation.magnitude()
        for one, other in scene.pairs.tolist()
    ]
    straight = scene.pairs[np.degrees(turns) < 0.1]
    told = mountings(images, straight, scene.keypoints, scene.store)
    found = next(mounting for mounting in told if mounting.sensor_id == "front")
    assert found.turn.as_rotvec(degrees=True) == pytest.approx((0.6, 0.0, 0.0), abs=0.1)
    assert found.found[2] == 0
    assert found.sigma[2] == np.inf
    assert "clockwise" not in found.told()


def test_it_is_said_which_way_a_camera_is_turned():
    turn, sigma = Rotation.from_rotvec(TURN, degrees=True), np.radians([0.1, 0.1, 0.2])
    mounting = Mounting("front", turn.as_rotvec(), sigma, turn, 1.0, 0.5)
    assert mounting.told() == "0.60 ± 0.10° up, -0.40 ± 0.10° right, 0.30 ± 0.20° clockwise"
    nodding = Rotation.from_rotvec([0.5, 0.0, 0.0], degrees=True)
    assert replace(mounting, turn=nodding).told() == (
        "0.50 ± 0.10° up (left alone: -0.40 ± 0.10° right, 0.30 ± 0.20° clockwise)"
    )
    ahead = mounting.turn.apply([0.0, 0.0, 1.0])
    assert ahead[0] < 0 < -ahead[1], "the true axis is left of and above the one given"
    assert mounting.turn.apply([1.0, 0.0, 0.0])[1] > 0, "what was to the right is lower"


def test_a_corrected_camera_stays_where_it_is_and_the_others_as_they_are(scene: Scene):
    wrong = turned(scene.images, "front", TURN)
    right = corrected(wrong, scene.found(wrong)["front"])
    front = np.array([right.cameras[row].sensor_id == "front" for row in right.camera])
    assert right.centers() == pytest.approx(scene.images.centers())
    assert right.poses[~front] == pytest.approx(scene.images.poses[~front])
    assert not scene.found(right)["front"].is_off
    for name in CAMERAS:
        metres, radians = right.rigs["car"][name].distance_to(scene.images.rigs["car"][name])
        assert metres < 0.01
        assert np.degrees(radians) < 0.15


def test_a_map_says_it_and_corrects_it_if_asked(tmp_path: Path, few_pairs: MapSettings):
    drive = make_drive(tmp_path / "drive", replace(STREET, mounting_deg=TURN))
    kept = build_map([drive.path], tmp_path / "kept", few_pairs)
    (told,) = kept.record["warnings"]
    assert told.startswith("camera 'front' is turned 0.")
    assert told.endswith("or pass --correct-mounting")
    poses = replace(few_pairs.poses, correct_mounting=True)
    better = build_map([drive.path], tmp_path / "better", replace(few_pairs, poses=poses))
    assert "corrected" in better.record["warnings"][0]
    off = [
        np.degrees(
            read_images(tmp_path / name).rigs["car"]["front"].distance_to(CAMERAS["front"])[1]
        )
        for name in ("kept", "better")
    ]
    assert off[0] == pytest.approx(np.linalg.norm(TURN), abs=1e-6)
    assert off[1] < 0.15


def test_one_camera_turned_far_maps_as_if_it_were_not(tmp_path: Path, few_pairs: MapSettings):
    options = replace(STREET, frames=30, rig=False, gnss=False, mounting_deg=(0.0, 15.0, 0.0))
    drive = make_drive(tmp_path / "drive", options)
    with pytest.raises(InputError, match="--correct-mounting: up to a turn of some degrees"):
        build_map([drive.path], tmp_path / "kept", few_pairs)
    poses = replace(few_pairs.poses, correct_mounting=True)
    build_map([drive.path], tmp_path / "better", replace(few_pairs, poses=poses))
    right = read_images(tmp_path / "better")
    for row, name in enumerate(right.names):
        truth = CAMERAS["front"] @ drive.truth[int(Path(name).stem)].inverse()
        metres, radians = right.cam_from_map(row).distance_to(truth)
        assert metres < 0.2, "of the map's origin, through the turn that is left"
        assert np.degrees(radians) < 0.15


def test_where_poses_are_not_kept_cameras_stay_as_given(tmp_path: Path, few_pairs: MapSettings):
    options = replace(STREET, frames=30, mounting_deg=TURN)
    drive = make_drive(tmp_path / "drive", options)
    poses = replace(few_pairs.poses, poses="refine", correct_mounting=True)
    manifest = build_map([drive.path], tmp_path / "map", replace(few_pairs, poses=poses))
    assert any("cameras stay as given" in told for told in manifest.record["warnings"])
    rig = read_images(tmp_path / "map").rigs["car"]
    turn = np.degrees(rig["front"].distance_to(CAMERAS["front"])[1])
    assert turn == pytest.approx(np.linalg.norm(TURN), abs=1e-6)


@pytest.mark.parametrize("frames", [6, 20])
def test_a_drive_too_short_to_tell_tells_nothing(
    tmp_path: Path, few_pairs: MapSettings, frames: int
):
    """Poses err alike over some metres, as if the camera were turned."""
    assert Scene(tmp_path, few_pairs, replace(STREET, frames=frames)).found() == {}
