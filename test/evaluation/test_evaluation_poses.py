"""Poses of a dataset: rigs resolved both ways, interpolation, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from kapture_ros.errors import InputError
from kapture_ros.evaluation.poses import read_images, read_poses
from kapture_ros.transforms import Transform

transforms = st.builds(Transform.exp, arrays(float, 6, elements=st.floats(-1.5, 1.5)))


def assert_same(a: Transform | None, b: Transform) -> None:
    assert a is not None
    np.testing.assert_allclose(a.matrix(), b.matrix(), atol=1e-9)


@given(rig=transforms, left_from_rig=transforms, head_from_rig=transforms, eye_from_head=transforms)
def test_any_device_of_a_rig_tells_where_all_others_were(
    rig: Transform,
    left_from_rig: Transform,
    head_from_rig: Transform,
    eye_from_head: Transform,
    write_dataset,
    tmp_path_factory,
):
    rigs = {
        ("rig", "left"): left_from_rig,
        ("rig", "head"): head_from_rig,
        ("head", "eye"): eye_from_head,
    }
    true = {
        "rig": rig,
        "left": left_from_rig @ rig,
        "head": head_from_rig @ rig,
        "eye": eye_from_head @ head_from_rig @ rig,
    }
    for given_device in true:
        folder = tmp_path_factory.mktemp("data") / "set"
        table = read_poses(write_dataset(folder, {(7, given_device): true[given_device]}, rigs))
        for device, device_from_world in true.items():
            assert_same(table.track(device).at(7), device_from_world.inverse())


def test_a_devices_own_pose_comes_before_its_rigs(write_dataset, tmp_path: Path):
    own, rig = Transform.exp([1, 2, 3, 0, 0, 0]), Transform.exp([9, 9, 9, 0, 0, 0])
    poses = {(1, "rig"): rig, (1, "left"): own, (2, "rig"): rig}
    table = read_poses(write_dataset(tmp_path / "set", poses, {("rig", "left"): Transform()}))
    track = table.track("left")
    assert_same(track.at(1), own.inverse())
    assert_same(track.at(2), rig.inverse())


def test_poses_are_interpolated_only_over_the_gap_allowed(write_dataset, tmp_path: Path):
    poses = {(0, "car"): Transform(), (100, "car"): Transform.exp([-1, 0, 0, 0, 0, 0])}
    track = read_poses(write_dataset(tmp_path / "set", poses)).track("car")
    assert track.at(25) is None
    assert track.at(25, max_gap_ns=99) is None
    assert_same(track.at(25, max_gap_ns=100), Transform.exp([0.25, 0, 0, 0, 0, 0]))
    assert track.at(-1, max_gap_ns=10**9) is None
    assert track.at(101, max_gap_ns=10**9) is None


def test_images_have_the_pose_of_their_camera(write_dataset, tmp_path: Path):
    pose = Transform.exp([1, 2, 3, 0.1, 0.2, 0.3])
    images = {(5, "left"): "left/5.jpg", (6, "left"): "left/6.jpg"}
    folder = write_dataset(
        tmp_path / "set", {(5, "rig"): pose}, {("rig", "left"): Transform()}, images
    )
    table = read_poses(folder)
    assert table.device("left/5.jpg") == "left"
    assert table.device("rig") == "rig"
    assert list(table.image_poses()) == ["left/5.jpg"]
    assert_same(table.image_poses()["left/5.jpg"], pose.inverse())
    assert read_images(folder) == {"left/5.jpg": (5, "left"), "left/6.jpg": (6, "left")}


def test_rows_with_only_a_position_are_left_out(tmp_path: Path):
    sensors = tmp_path / "sensors"
    sensors.mkdir()
    (sensors / "trajectories.txt").write_text("1, car, , , , , 1, 2, 3\n")
    assert read_poses(tmp_path).track("car").at(1) is None


@pytest.mark.parametrize(
    ("trajectories", "rigs", "words"),
    [
        (None, "", r"has no poses: sensors/trajectories\.txt is missing"),
        ("1, car, 1, 0, 0\n", "", r"trajectories\.txt is not a valid kapture file"),
        ("1, car, 1, 0, 0, 0, nan, 0, 0\n", "", r"trajectories\.txt: 'car' at 1: not a rigid"),
        ("1, car, 0, 0, 0, 0, 0, 0, 0\n", "", "'car' at 1: not a rigid transform"),
        ("", "a, b, 1, 0, 0, 0, 0, 0, 0\nb, a, 1, 0, 0, 0, 0, 0, 0\n", "in a circle"),
        ("", "a, b, 1, 0, 0, 0, nan, 0, 0\n", r"rigs\.txt: 'b' on 'a': a transform needs"),
    ],
)
def test_a_damaged_dataset_is_refused(
    tmp_path: Path, trajectories: str | None, rigs: str, words: str
):
    sensors = tmp_path / "sensors"
    sensors.mkdir()
    if trajectories is not None:
        (sensors / "trajectories.txt").write_text(trajectories)
    (sensors / "rigs.txt").write_text(rigs)
    with pytest.raises(InputError, match=words):
        read_poses(tmp_path)
