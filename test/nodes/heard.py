"""Messages as a localizer hears them, and inputs that keep what they hand on."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import CameraInfo, Image, NavSatFix
from std_msgs.msg import Header
from tf2_msgs.msg import TFMessage

from kapture_ros.nodes.inputs import Inputs, Outlets
from kapture_ros.nodes.localizer_options import camera_settings
from kapture_ros.nodes.settings import Settings, read_settings
from kapture_ros.nodes.synchronizer import Instant
from kapture_ros.transforms import Transform

SECOND = 10**9


def header(stamp_ns: int, frame: str) -> Header:
    return Header(stamp=Time(sec=stamp_ns // SECOND, nanosec=stamp_ns % SECOND), frame_id=frame)


def image(stamp_ns: int, frame: str = "eye", size: tuple[int, int] = (32, 24), **changes) -> Image:
    width, height = size
    pixels = np.arange(height * width * 3, dtype=np.uint8)
    fields = {"encoding": "rgb8", "step": 3 * width, "data": pixels.tobytes()} | changes
    return Image(header=header(stamp_ns, frame), height=height, width=width, **fields)


def info(width: int = 32, height: int = 24) -> CameraInfo:
    message = CameraInfo(width=width, height=height, distortion_model="plumb_bob", d=[0.0] * 5)
    message.k = [20.0, 0, 15.5, 0, 20.0, 11.5, 0, 0, 1.0]
    return message


def transform(stamp_ns: int, parent: str, child: str, x: float) -> TFMessage:
    message = TransformStamped(header=header(stamp_ns, parent), child_frame_id=child)
    message.transform.translation.x = x
    return TFMessage(transforms=[message])


@dataclass
class Heard:
    """Inputs and what they handed on."""

    inputs: Inputs
    instants: list = field(default_factory=list)
    odometry: list = field(default_factory=list)
    imu: list = field(default_factory=list)
    jumps: list = field(default_factory=list)
    sent: list = field(default_factory=list)
    clock_ns: int = 10**18


def listening(**changes) -> Heard:
    values = {"image_topics": ["/a/image", "/b/image"]} | changes
    settings: Settings = read_settings(values.get, "test")
    heard = Heard(None)  # type: ignore[arg-type]

    def take(sample) -> bool:
        heard.odometry.append(sample)
        return True

    def is_over(stamp_ns: int) -> bool:
        return stamp_ns > heard.clock_ns

    moved = Transform(translation=[0.5, 0, 0])
    outlets = Outlets(
        heard.instants.append,
        take,
        heard.imu.append,
        lambda a, b: moved,
        heard.jumps.append,
        is_over,
        heard.sent,
    )
    heard.inputs = Inputs(settings, camera_settings(settings.inputs), outlets)
    return heard


def ready(**changes) -> Heard:
    """With both calibrations and where the cameras are."""
    heard = listening(**changes)
    for camera in range(len(heard.inputs.cameras)):
        heard.inputs.on_info(camera, info())
    static = TFMessage(
        transforms=[
            *transform(0, "base_link", "eye", 1.0).transforms,
            *transform(0, "base_link", "other_eye", 2.0).transforms,
        ]
    )
    heard.inputs.on_transforms(static, static=True)
    return heard


def instant(**images: Image) -> Instant:
    """Of cameras a and b."""
    numbers = {"a": 0, "b": 1}
    return Instant(
        {
            numbers[c]: (m.header.stamp.sec * SECOND + m.header.stamp.nanosec, m)
            for c, m in images.items()
        }
    )


def fix(stamp_ns: int, **changes) -> NavSatFix:
    message = NavSatFix(header=header(stamp_ns, "eye"), latitude=45.0, longitude=5.0, altitude=9.0)
    message.position_covariance = np.diag([1.0, 1.0, 4.0]).ravel()
    message.position_covariance_type = NavSatFix.COVARIANCE_TYPE_DIAGONAL_KNOWN
    for name, value in changes.items():
        setattr(message, name, value)
    return message
