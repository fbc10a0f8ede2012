"""The same function takes a message of rclpy and one of rosbags, of ROS 1 and of ROS 2."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
from bag_tools import START, STORES, camera_info, image, make, pose_fields, transforms

from kapture_ros.dataset.camera_models import model_of_camera_info
from kapture_ros.messages import record_function
from kapture_ros.messages.common import plain
from kapture_ros.messages.motion import stamped_transforms


def samples(ros: int) -> dict[str, Any]:
    """One message of each type, with values in every field that can be lost."""
    status = make("sensor_msgs/NavSatStatus", ros, status=1, service=3)
    vector = make("geometry_msgs/Vector3", ros, x=1.5, y=-2.5, z=9.75)
    turn = make("geometry_msgs/Quaternion", ros, w=1.0)
    pose = make(
        "geometry_msgs/PoseWithCovariance", ros, covariance=np.arange(36.0),
        pose=pose_fields("Pose", (1, 0, 0, 0), (1, 2, 3), ros),
    )  # fmt: skip
    point = make("kapture_ros/WifiAccessPoint", ros, bssid="aa", ssid="n", frequency=2412, rssi=-50)
    field = make("sensor_msgs/PointField", ros, name="x", datatype=7, count=1)
    made = [
        image(np.arange(24, dtype=np.uint8).reshape(2, 4, 3), "rgb8", START, "cam", ros),
        make("sensor_msgs/CompressedImage", ros, stamp=START, format="jpeg", data=JPEG),
        make("sensor_msgs/PointCloud2", ros, height=1, width=2, fields=[field], point_step=4,
             row_step=8, data=np.arange(8, dtype=np.uint8), is_dense=True),
        make("sensor_msgs/NavSatFix", ros, status=status, latitude=48.0, longitude=11.0,
             altitude=500.0, position_covariance=np.arange(9.0)),
        make("sensor_msgs/Imu", ros, linear_acceleration=vector, angular_velocity=vector,
             orientation=turn, orientation_covariance=np.arange(9.0)),
        make("sensor_msgs/MagneticField", ros, magnetic_field=vector),
        make("nav_msgs/Odometry", ros, frame="odom", child_frame_id="base", pose=pose),
        make("geometry_msgs/PoseStamped", ros, pose=pose.pose),
        make("geometry_msgs/PoseWithCovarianceStamped", ros, pose=pose),
        make("geometry_msgs/TransformStamped", ros, frame="world", child_frame_id="vicon/body",
             transform=pose_fields("Transform", (1, 0, 0, 0), (1, 2, 3), ros)),
        make("kapture_ros/WifiScan", ros, access_points=[point, point]),
    ]  # fmt: skip
    return {message.__msgtype__: message for message in made}


JPEG = np.frombuffer(b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x02\x00\x03\x03" + bytes(20), np.uint8)


def through_rclpy(message: Any) -> Any:
    """The message as rclpy would deliver it."""
    serialization = pytest.importorskip("rclpy.serialization", reason="rclpy is not installed")
    package, _, name = message.__msgtype__.split("/")
    module = pytest.importorskip(f"{package}.msg", reason=f"{package} is not built")
    data = bytes(STORES[2].serialize_cdr(message, message.__msgtype__))
    return serialization.deserialize_message(data, getattr(module, name))


def comparable(records: Any) -> list[Any]:
    return [
        {
            name: value.encode() if name == "payload" else value
            for name in record.__dataclass_fields__
            if (value := getattr(record, name)) is not None
        }
        for record in records
    ]


@pytest.mark.parametrize("name", samples(2))
def test_rclpy_and_rosbags_messages_give_the_same_records(name: str) -> None:
    function = record_function(name)
    message = samples(2)[name]
    theirs = through_rclpy(message)
    assert comparable(function(theirs, START, "id")) == comparable(function(message, START, "id"))
    assert plain(theirs, without=("data",)) == plain(message, without=("data",))


@pytest.mark.parametrize("name", samples(2))
def test_ros_1_and_ros_2_messages_give_the_same_records(name: str) -> None:
    function = record_function(name)
    one, two = (comparable(function(samples(ros)[name], START, "id")) for ros in (1, 2))
    assert one == two


def test_camera_info_and_transforms_of_rclpy_are_understood() -> None:
    info = camera_info((640, 480), np.diag([500.0, 500, 1]), START, "cam", d=np.array([0.1] * 5))
    model = model_of_camera_info(info, rectified=False)
    assert model_of_camera_info(through_rclpy(info), rectified=False) == model
    message = transforms([(START, "a", "b", (1, 0, 0, 0), (1, 2, 3))])
    (one,), (two,) = (list(stamped_transforms(m)) for m in (message, through_rclpy(message)))
    assert one == two and one.stamp_ns == START


def test_importing_the_messages_imports_no_ros() -> None:
    import subprocess
    import sys

    code = "import sys, kapture_ros.recording.session; sys.exit('rclpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert importlib.util.find_spec("kapture_ros.messages")
