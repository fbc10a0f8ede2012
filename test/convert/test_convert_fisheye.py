"""A fisheye stereo drive as research bags have it: cameras, IMU, motion capture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_tools import (
    START,
    STEP,
    Stream,
    camera_info,
    image,
    make,
    pose_fields,
    transforms,
    write_bag,
)

from kapture_ros.cli.main import main
from kapture_ros.dataset.reader import open_dataset

K = np.array([[190.0, 0, 31.5], [0, 191.0, 23.5], [0, 0, 1]])
FISHEYE = (0.003, 0.0007, -0.002, 0.0002)
BASELINE = 0.1
COUNT = 4


def pixels(index: int, side: str) -> np.ndarray:
    return np.random.default_rng((index, len(side))).integers(0, 256, (48, 64), np.uint8)


def drive(ros: int) -> Stream:
    """The left camera raw, the right one compressed; motion capture says where `body` is."""
    d = "D" if ros == 1 else "d"
    mounts = [
        (START, "body", "left", (1, 0, 0, 0), (0, 0, 0)),
        (START, "body", "right", (1, 0, 0, 0), (BASELINE, 0, 0)),
    ]
    stream: Stream = [("/tf_static", transforms(mounts, ros), START)]
    for index in range(COUNT):
        at = START + index * STEP
        jpeg = np.frombuffer(cv2.imencode(".jpg", pixels(index, "right"))[1].tobytes(), np.uint8)
        for side in ("left", "right"):
            info = camera_info(
                (64, 48), K, at, side, ros, distortion_model="equidistant", **{d: np.array(FISHEYE)}
            )
            stream.append((f"/{side}/camera_info", info, at))
        truth = make(
            "geometry_msgs/TransformStamped", ros, stamp=at, frame="world", child_frame_id="body",
            transform=pose_fields("Transform", (1, 0, 0, 0), (index, 0, 0), ros),
        )  # fmt: skip
        stream += [
            ("/left/image_raw", image(pixels(index, "left"), "mono8", at, "left", ros), at + 1),
            ("/right/image_raw/compressed",
             make("sensor_msgs/CompressedImage", ros, stamp=at, frame="right",
                  format="mono8; jpeg compressed mono8", data=jpeg), at + 2),
            ("/imu0", make("sensor_msgs/Imu", ros, stamp=at, frame="body"), at + 3),
            ("/vicon/body/body", truth, at + 4),
        ]  # fmt: skip
    return stream


@pytest.mark.parametrize("kind", ["ros1", "db3", "mcap"])
def test_fisheye_stereo_with_motion_capture(kind: str, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "drive", kind, drive(1 if kind == "ros1" else 2))
    out = tmp_path / "dataset"
    truth = ("--trajectory", "/vicon/body/body", "--pose-frame", "body")
    assert main(["convert", str(bag), str(out), *truth]) == 0
    assert main(["verify", str(bag), str(out)]) == 0
    kapture = open_dataset(out).kapture
    cameras = ("left.image_raw", "right.image_raw.compressed")
    for name in cameras:
        params = kapture.sensors[name].sensor_params
        assert params[0] == "OPENCV_FISHEYE" and list(map(float, params[1:3])) == [64, 48]
        assert list(map(float, params[3:])) == pytest.approx([190, 191, 31.5, 23.5, *FISHEYE])
    (rig,) = kapture.rigs
    left, right = (kapture.rigs[rig][name].inverse().t.ravel() for name in cameras)
    assert right - left == pytest.approx([BASELINE, 0, 0])
    assert kapture.trajectories[START + 2 * STEP, rig].inverse().t.ravel() == pytest.approx(
        [2, 0, 0]
    )
    files = sorted((out / "sensors" / "records_data" / "left.image_raw").iterdir())
    for index, file in enumerate(files):
        stored = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(stored, pixels(index, "left"))
    assert len(files) == COUNT
