"""ROS messages of the simulated drive: measurements in, typed messages out.

The messages are instances of rosbags' types, ROS 2 layout; bags.py writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from kapture_ros.simulation import sensors
from kapture_ros.simulation.camera import Camera
from kapture_ros.simulation.mesh import Floats, Image
from kapture_ros.transforms.se3 import Array, Transform

DEFINITIONS = {
    "kapture_ros/msg/WifiAccessPoint": (
        "string bssid\nstring ssid\nuint16 frequency\nint16 rssi\nbuiltin_interfaces/Time last_seen"
    ),
    "kapture_ros/msg/WifiScan": (
        "std_msgs/Header header\nbuiltin_interfaces/Time scan_start\n"
        "builtin_interfaces/Time scan_end\nWifiAccessPoint[] access_points"
    ),
    "tf2_msgs/msg/TFMessage": "geometry_msgs/TransformStamped[] transforms",
}
"""Messages that rosbags' stores lack: our own, as in msg/, and ROS 1's tf2_msgs."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it arrives: topic, type, time of arrival, content."""

    topic: str
    msgtype: str
    receive_ns: int
    content: Any


def make_typestore(store: Stores) -> Typestore:
    """The types of a ROS distribution together with ours."""
    typestore = get_typestore(store)
    for name, definition in DEFINITIONS.items():
        if name not in typestore.fielddefs:
            typestore.register(get_types_from_msg(definition, name))
    return typestore


ROS2 = make_typestore(Stores.ROS2_JAZZY)


def _make(msgtype: str, **fields: Any) -> Any:
    return ROS2.types[msgtype](**fields)


def time(stamp_ns: int) -> Any:
    """builtin_interfaces/Time."""
    return _make("builtin_interfaces/msg/Time", sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)


def header(stamp_ns: int, frame_id: str) -> Any:
    """std_msgs/Header."""
    return _make("std_msgs/msg/Header", stamp=time(stamp_ns), frame_id=frame_id)


def _vector(values: Iterable[float], name: str = "Vector3") -> Any:
    x, y, z = (float(value) for value in values)
    return _make(f"geometry_msgs/msg/{name}", x=x, y=y, z=z)


def _quaternion(transform: Transform) -> Any:
    w, x, y, z = (float(value) for value in transform.quaternion)
    return _make("geometry_msgs/msg/Quaternion", x=x, y=y, z=z, w=w)


def transform(stamp_ns: int, parent: str, child: str, parent_from_child: Transform) -> Any:
    """geometry_msgs/TransformStamped."""
    body = _make(
        "geometry_msgs/msg/Transform",
        translation=_vector(parent_from_child.translation),
        rotation=_quaternion(parent_from_child),
    )
    head = header(stamp_ns, parent)
    return _make(
        "geometry_msgs/msg/TransformStamped", header=head, child_frame_id=child, transform=body
    )


def transforms(items: list[Any]) -> Any:
    """tf2_msgs/TFMessage."""
    return _make("tf2_msgs/msg/TFMessage", transforms=items)


def odometry(
    stamp_ns: int,
    frames: tuple[str, str],
    pose: Transform,
    twist: tuple[Array, Array],
    covariances: tuple[Array, Array],
) -> Any:
    """nav_msgs/Odometry; twist in the child frame; covariances (6, 6)."""
    pose_message = _make(
        "geometry_msgs/msg/Pose",
        position=_vector(pose.translation, "Point"),
        orientation=_quaternion(pose),
    )
    linear, angular = (_vector(part) for part in twist)
    twist_message = _make("geometry_msgs/msg/Twist", linear=linear, angular=angular)
    return _make(
        "nav_msgs/msg/Odometry",
        header=header(stamp_ns, frames[0]),
        child_frame_id=frames[1],
        pose=_make(
            "geometry_msgs/msg/PoseWithCovariance",
            pose=pose_message,
            covariance=covariances[0].ravel(),
        ),
        twist=_make(
            "geometry_msgs/msg/TwistWithCovariance",
            twist=twist_message,
            covariance=covariances[1].ravel(),
        ),
    )


def wheel_odometry(stamp_ns: int, sample: sensors.OdometrySample) -> Any:
    """nav_msgs/Odometry of the wheels: planar, so z, roll and pitch are loosely known."""
    planar = [0, 1, 5]
    pose, twist = np.diag([0.0, 0.0, 1e-2, 1e-3, 1e-3, 0.0]), np.zeros((6, 6))
    pose[np.ix_(planar, planar)] = sample.covariance
    spread = [sensors.SPEED_NOISE, 0.01, 0.02, 0.02, 0.02, sensors.TURN_NOISE]
    np.fill_diagonal(twist, np.square(spread))
    moving = np.array([sample.speed, 0.0, 0.0]), np.array([0.0, 0.0, sample.turn])
    return odometry(stamp_ns, ("odom", "base_link"), sample.odom_from_base, moving, (pose, twist))


def imu(stamp_ns: int, sample: sensors.ImuSample) -> Any:
    """sensor_msgs/Imu without an orientation, which is marked as the message demands."""
    unknown = np.zeros(9)
    unknown[0] = -1.0
    return _make(
        "sensor_msgs/msg/Imu",
        header=header(stamp_ns, "imu_link"),
        orientation=_quaternion(Transform()),
        orientation_covariance=unknown,
        angular_velocity=_vector(sample.angular_velocity),
        angular_velocity_covariance=np.diag([sensors.GYRO_NOISE**2] * 3).ravel(),
        linear_acceleration=_vector(sample.specific_force),
        linear_acceleration_covariance=np.diag([sensors.ACCEL_NOISE**2] * 3).ravel(),
    )


def nav_sat_fix(stamp_ns: int, sample: sensors.GnssSample) -> Any:
    """sensor_msgs/NavSatFix; NaN and STATUS_NO_FIX where there is no fix."""
    fixed = sample.position is not None
    latitude, longitude, altitude = sample.position or (np.nan, np.nan, np.nan)
    status = _make("sensor_msgs/msg/NavSatStatus", status=0 if fixed else -1, service=1)
    return _make(
        "sensor_msgs/msg/NavSatFix",
        header=header(stamp_ns, "gnss_link"),
        status=status,
        latitude=latitude,
        longitude=longitude,
        altitude=altitude,
        position_covariance=np.diag(np.square(sample.sigma)).ravel(),
        # COVARIANCE_TYPE_DIAGONAL_KNOWN, COVARIANCE_TYPE_UNKNOWN
        position_covariance_type=2 if fixed else 0,
    )


def wifi_scan(start_ns: int, end: float, heard: list[sensors.HeardAccessPoint]) -> Any:
    """kapture_ros/WifiScan; times are seconds after `start_ns`."""
    end_ns = start_ns + round(end * 1e9)
    points = []
    for access_point in heard:
        bssid, ssid, frequency = radio(access_point.index)
        points.append(
            _make(
                "kapture_ros/msg/WifiAccessPoint",
                bssid=bssid,
                ssid=ssid,
                frequency=frequency,
                rssi=access_point.rssi,
                last_seen=time(start_ns + round(access_point.time * 1e9)),
            )
        )
    return _make(
        "kapture_ros/msg/WifiScan",
        header=header(end_ns, "wifi_link"),
        scan_start=time(end_ns - round(sensors.WIFI_SCAN * 1e9)),
        scan_end=time(end_ns),
        access_points=points,
    )


def radio(index: int) -> tuple[str, str, int]:
    """BSSID, SSID and frequency (MHz) of an access point; some hide, some are awkward."""
    bssid = f"02:4b:52:{index // 256:02x}:{index % 256:02x}:{(index * 37) % 256:02x}"
    names = (f"home-{index:03d}", "", f"Café {index}", f"Müller, Sohn & Co {index}", "freewifi")
    channels = (2412, 2437, 2462, 5180, 5220, 5745)
    return bssid, names[index % len(names)], channels[index % len(channels)]


def camera_info(stamp_ns: int, camera: Camera) -> Any:
    """sensor_msgs/CameraInfo of an unrectified image."""
    projection = np.zeros((3, 4))
    projection[:, :3] = camera.matrix
    roi = _make(
        "sensor_msgs/msg/RegionOfInterest",
        x_offset=0, y_offset=0, height=0, width=0, do_rectify=False,
    )  # fmt: skip
    return _make(
        "sensor_msgs/msg/CameraInfo",
        header=header(stamp_ns, camera.frame_id),
        height=camera.height,
        width=camera.width,
        distortion_model=camera.model,
        d=np.array(camera.distortion),
        k=camera.matrix.ravel(),
        r=np.eye(3).ravel(),
        p=projection.ravel(),
        binning_x=0,
        binning_y=0,
        roi=roi,
    )


def compressed_image(stamp_ns: int, frame_id: str, image: Image) -> Any:
    """sensor_msgs/CompressedImage, JPEG."""
    payload = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].ravel()
    head = header(stamp_ns, frame_id)
    return _make(
        "sensor_msgs/msg/CompressedImage", header=head, format="bgr8; jpeg compressed bgr8",
        data=payload,
    )  # fmt: skip


def raw_image(stamp_ns: int, frame_id: str, image: Image) -> Any:
    """sensor_msgs/Image, bgr8."""
    return _image(stamp_ns, frame_id, "bgr8", image)


def depth_image(stamp_ns: int, frame_id: str, depth: Floats) -> Any:
    """sensor_msgs/Image, 16UC1: millimetres, 0 where unknown."""
    millimetres = np.where(np.isfinite(depth), np.round(depth * 1000), 0)
    known = (millimetres > 0) & (millimetres < 65_535)
    return _image(stamp_ns, frame_id, "16UC1", np.where(known, millimetres, 0).astype("<u2"))


def _image(stamp_ns: int, frame_id: str, encoding: str, pixels: np.ndarray[Any, Any]) -> Any:
    payload = np.ascontiguousarray(pixels).view(np.uint8).ravel()
    return _make(
        "sensor_msgs/msg/Image",
        header=header(stamp_ns, frame_id),
        height=pixels.shape[0],
        width=pixels.shape[1],
        encoding=encoding,
        is_bigendian=0,
        step=payload.size // pixels.shape[0],
        data=payload,
    )
