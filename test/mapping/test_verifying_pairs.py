"""Only matches that obey the geometry of their pair are believed."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from kapture_ros.errors import InputError
from kapture_ros.mapping.consistency import check_poses
from kapture_ros.mapping.feature_files import FeatureFolder
from kapture_ros.mapping.images import read_images
from kapture_ros.mapping.matching import MatchStore, match_pairs
from kapture_ros.mapping.options import MapSettings, MatchOptions, VerifyOptions
from kapture_ros.mapping.pipeline import Run, verify_step
from kapture_ros.mapping.verification import epipolar_error, known_motion, verify_pairs
from kapture_ros.transforms.se3 import Transform

MOTION = Transform(Rotation.from_euler("y", 5, degrees=True), np.array([0.4, 0.0, -1.0]))


def on_plane(points: np.ndarray) -> np.ndarray:
    return points[:, :2] / points[:, 2:]


def test_true_matches_have_no_epipolar_error():
    points = np.random.default_rng(0).uniform([-2, -2, 4], [2, 2, 20], (50, 3))
    first, second = on_plane(points), on_plane(MOTION.apply(points))
    assert epipolar_error(MOTION, first, second) == pytest.approx(np.zeros(50), abs=1e-12)
    aside = second + 0.01
    assert np.median(epipolar_error(MOTION, first, aside)) > 1e-3


def test_without_a_baseline_the_turned_point_itself_is_compared():
    turn = Transform(MOTION.rotation)
    first = np.array([[0.0, 0.0], [0.2, 0.1]])
    second = on_plane(turn.apply(np.column_stack([first, np.ones(2)])))
    assert epipolar_error(turn, first, second) == pytest.approx([0, 0], abs=1e-12)
    assert epipolar_error(turn, first, second + np.array([0.3, 0.4])) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("known", [True, False])
def test_right_matches_are_kept_and_wrong_ones_dropped(street, tmp_path: Path, known: bool):
    images = read_images(street.path)
    keypoints = FeatureFolder.in_dataset(street.path, "keypoints", "fake")
    descriptors = FeatureFolder.in_dataset(street.path, "descriptors", "fake")
    store = MatchStore(tmp_path, "fake")
    first, second = (images.names.index(f"front/{k:05d}.jpg") for k in (2, 3))
    match_pairs(images, np.array([(first, second)]), descriptors, store, MatchOptions())
    right, _ = store.read(images.names[first], images.names[second])
    rng = np.random.default_rng(0)
    wrong = np.stack([rng.permutation(right[:, 0]), rng.permutation(right[:, 1])], axis=1)[:40]
    both = np.concatenate([right, wrong]).astype(np.int32)
    store.write(images.names[first], images.names[second], both, np.ones(len(both), np.float32))

    (found,) = verify_pairs(
        images, np.array([(first, second)]), keypoints, store, np.array([known]), VerifyOptions()
    )
    kept = {tuple(match) for match in found.matches.tolist()}
    assert len(kept & {tuple(m) for m in right.tolist()}) > 0.8 * len(right)
    assert len(kept - {tuple(m) for m in right.tolist()}) < 0.35 * len(wrong)
    assert found.tried == len(both)
    if known:
        assert found.second_from_first is None
    else:
        truth = known_motion(images, first, second)
        _, radians = found.second_from_first.distance_to(truth)
        assert np.degrees(radians) < 1.0
        direction = truth.translation / np.linalg.norm(truth.translation)
        assert found.second_from_first.translation @ direction > np.cos(np.radians(5))


def test_without_poses_a_pair_must_be_surer_of_its_motion(street, tmp_path: Path):
    images = read_images(street.path)
    folders = {
        kind: FeatureFolder.in_dataset(street.path, kind, "fake")
        for kind in ("keypoints", "descriptors")
    }
    store = MatchStore(tmp_path, "fake")
    first, second = (images.names.index(f"front/{k:05d}.jpg") for k in (2, 3))
    pairs = np.array([(first, second)])
    match_pairs(images, pairs, folders["descriptors"], store, MatchOptions())
    right, _ = store.read(images.names[first], images.names[second])
    rng = np.random.default_rng(0)
    wrong = [np.stack([rng.permutation(column) for column in right.T], axis=1) for _ in range(3)]
    both = np.concatenate([right, *wrong])[: int(3.5 * len(right))].astype(np.int32)
    store.write(images.names[first], images.names[second], both, np.ones(len(both), np.float32))

    given = Run(MapSettings()), images, pairs, folders, store, tmp_path
    (found,) = verify_step(*given, "refine")
    assert 0.25 < len(found.matches) / len(both) < 0.33
    with pytest.raises(InputError, match="no pair of images shows the same scene"):
        verify_step(*given, "none")


def test_a_pair_without_a_common_scene_keeps_nothing(street, tmp_path: Path):
    images = read_images(street.path)
    keypoints = FeatureFolder.in_dataset(street.path, "keypoints", "fake")
    store = MatchStore(tmp_path, "fake")
    rng = np.random.default_rng(0)
    count = min(len(keypoints.read(images.names[row])) for row in (0, 5))
    chance = np.stack([rng.permutation(count), rng.permutation(count)], axis=1).astype(np.int32)
    store.write(images.names[0], images.names[5], chance, np.ones(count, np.float32))
    (found,) = verify_pairs(
        images, np.array([(0, 5)]), keypoints, store, np.array([False]), VerifyOptions()
    )
    assert len(found.matches) == 0
    assert found.tried == count


def test_cameras_of_one_instant_move_as_their_rig_says(street):
    images = read_images(street.path)
    first, second = np.flatnonzero(images.frames == 3)
    by_poses = images.cam_from_map(second) @ images.cam_from_map(first).inverse()
    metres, radians = known_motion(images, first, second).distance_to(by_poses)
    assert metres < 1e-6
    assert radians < 1e-6


@pytest.mark.parametrize("scale", [1.0, 0.02])  # once round a block, and round a room
@pytest.mark.parametrize("drifting", [True, False])
def test_poses_that_drift_are_noticed(lap, tmp_path: Path, scale: float, drifting: bool):
    images = read_images(lap.drive.path)
    images = images.select([images.names.index(f"front/{k:05d}.jpg") for k in range(50)])
    keypoints, descriptors = (
        FeatureFolder.in_dataset(lap.drive.path, kind, "fake")
        for kind in ("keypoints", "descriptors")
    )
    again = [(k, k + 46 + step) for k in range(3) for step in (0, 1)]
    pairs = np.array([*pairwise(range(50)), *again])
    store = MatchStore(tmp_path, "fake")
    match_pairs(images, pairs, descriptors, store, MatchOptions())
    rigs = lap.drive.odometry if drifting else lap.drive.truth
    poses = [lap.drive.cameras["front"] @ pose.inverse() for pose in rigs]
    rows = np.array([[*pose.quaternion, *(scale * pose.translation)] for pose in poses])
    given = images.with_poses(np.arange(50), rows)

    check = check_poses(given, pairs, keypoints, store, VerifyOptions())
    assert check.drifts == drifting, check
    assert check.fits != drifting, check
    assert check.near["front"] > 0.9
