"""Real frames, written as bags of every kind, come back equal: pixels, stamps, intrinsics,
rig and poses; and NAVER's library reads the result without a word."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_tools import write_bag
from dataset_comparison import differences
from kitti_drive import (
    BASE_FROM_CAMERA,
    BASE_FROM_GNSS,
    FRAMES,
    SIZE,
    Drive,
    K,
    colored,
    drive,
)

from kapture_ros.dataset.reader import Dataset, open_dataset
from kapture_ros.recording.bag import Bag
from kapture_ros.recording.convert import Conversion, convert
from kapture_ros.recording.verify import verify

RIG = "rig-base_link"
CAMERAS = {
    "grey": "grey.image_raw",
    "colour": "colour.image_raw",
    "jpeg": "jpeg.image_raw.compressed",
    "png": "png.image_raw.compressed",
}


@pytest.fixture(scope="module", params=["ros1", "db3", "mcap"])
def converted(request, shared_data: Path, tmp_path_factory) -> tuple[Drive, Dataset, Path]:
    kind = request.param
    folder = tmp_path_factory.mktemp(f"kitti_{kind}")
    made = drive(shared_data, 1 if kind == "ros1" else 2)
    path = write_bag(folder / "bag", kind, made.stream)
    with Bag([path]) as bag:
        convert(bag, folder / "dataset", Conversion())
    return made, open_dataset(folder / "dataset"), path


def files(dataset: Dataset, camera: str) -> dict[int, bytes]:
    return {r.stamp_ns: r.payload.encode() for r in dataset.records(CAMERAS[camera])}


def pixels(file: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_UNCHANGED)


def test_every_image_is_there_at_its_stamp_with_its_pixels(converted) -> None:
    made, dataset, _ = converted
    for camera in CAMERAS:
        assert list(files(dataset, camera)) == made.stamps
    for stamp, grey, jpeg in zip(made.stamps, made.grey, made.jpeg, strict=True):
        assert np.array_equal(pixels(files(dataset, "grey")[stamp]), grey)
        assert np.array_equal(pixels(files(dataset, "colour")[stamp]), colored(grey))
        assert np.array_equal(pixels(files(dataset, "png")[stamp]), grey)
        assert files(dataset, "jpeg")[stamp] == jpeg


def test_intrinsics_are_those_of_camera_info_half_a_pixel_on(converted) -> None:
    _, dataset, _ = converted
    for sensor_id in CAMERAS.values():
        model, *numbers = dataset.sensors[sensor_id].params
        assert model == "PINHOLE"
        expected = [*SIZE, K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
        assert list(map(float, numbers)) == expected


def test_the_rig_is_that_of_tf_static(converted) -> None:
    _, dataset, _ = converted
    rows = {row.sensor_id: row.sensor_from_rig for row in dataset.rigs()}
    assert set(rows) == {*CAMERAS.values(), "fix"}
    for sensor_id, sensor_from_rig in rows.items():
        truth = BASE_FROM_GNSS if sensor_id == "fix" else BASE_FROM_CAMERA
        metres, radians = sensor_from_rig.distance_to(truth.inverse())
        assert metres < 1e-12 and radians < 1e-12
    assert {row.rig_id for row in dataset.rigs()} == {RIG}


def test_poses_are_interpolated_at_the_images_stamps(converted) -> None:
    made, dataset, _ = converted
    rows = {row.stamp_ns: row for row in dataset.trajectory()}
    assert list(rows) == made.stamps
    for stamp, truth in made.base_from_map.items():
        assert rows[stamp].device_id == RIG
        metres, radians = rows[stamp].device_from_world.distance_to(truth)
        assert metres < 1e-9 and radians < 1e-9


def test_fixes_are_exact(converted) -> None:
    made, dataset, _ = converted
    found = {r.stamp_ns: (r.latitude, r.longitude, r.altitude) for r in dataset.records("fix")}
    assert found == made.fixes and len(found) == FRAMES // 3


def test_navers_library_reads_it_without_a_warning(converted, caplog, recwarn) -> None:
    _, dataset, _ = converted
    from kapture.io.csv import kapture_from_dir

    with caplog.at_level(logging.WARNING):
        loaded = kapture_from_dir(str(dataset.path))
    assert not caplog.records and not recwarn.list
    assert len(loaded.records_camera.key_pairs()) == FRAMES * len(CAMERAS)
    assert len(loaded.trajectories.key_pairs()) == FRAMES
    assert len(loaded.records_gnss.key_pairs()) == FRAMES // 3


def test_verify_finds_no_difference(converted) -> None:
    made, dataset, path = converted
    with Bag([path]) as bag:
        result = verify(bag, dataset)
    assert result.different == 0
    assert sum(topic.equal for topic in result.topics.values()) == len(made.stream)


def test_bags_of_all_kinds_give_equal_datasets(shared_data: Path, tmp_path: Path) -> None:
    for kind in ("ros1", "db3", "mcap"):
        stream = drive(shared_data, 1 if kind == "ros1" else 2).stream
        with Bag([write_bag(tmp_path / kind, kind, stream[:60])]) as bag:
            convert(bag, tmp_path / f"{kind}_dataset", Conversion())
    for kind in ("db3", "mcap"):
        assert differences(tmp_path / "ros1_dataset", tmp_path / f"{kind}_dataset") == []
