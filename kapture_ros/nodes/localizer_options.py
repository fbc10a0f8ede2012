"""What the localizer node listens to and publishes: its own parameters.

Light to import and without ROS, since `kapture_ros node localize` offers them as options.
The core's parameters join them in `settings.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from kapture_ros.dataset.camera_models import base_topic
from kapture_ros.errors import OptionError
from kapture_ros.options import option
from kapture_ros.transforms.se3 import Transform


@dataclass(frozen=True)
class InputOptions:
    """What the node loads and listens to."""

    map: str = option("", "folder of the visual map (kapture_ros map)")
    autostart: bool = option(True, "configure and activate at once; else wait for lifecycle")
    image_topics: tuple[str, ...] = option(
        ("/camera/image_raw",), "image topics, one a camera; those on …/compressed are that"
    )
    camera_info_topics: tuple[str, ...] = option(
        (), "CameraInfo of each image topic; empty: camera_info beside it"
    )
    camera_frames: tuple[str, ...] = option(
        (), "optical frame of each camera; empty: as its images say"
    )
    camera_poses: tuple[str, ...] = option(
        (), "pose of each optical frame in base_frame, 'x y z qx qy qz qw'; empty: from TF"
    )
    odometry_topic: str = option("", "nav_msgs/Odometry; empty: odom_frame to base_frame from TF")
    gnss_topic: str = option("", "sensor_msgs/NavSatFix; empty: none")
    wifi_topic: str = option("", "kapture_ros/WifiScan; empty: none")
    imu_topic: str = option("", "sensor_msgs/Imu; empty: none")
    map_frame: str = option("map", "frame of the map")
    odom_frame: str = option("odom", "frame of the odometry")
    base_frame: str = option("base_link", "frame whose pose is estimated")


@dataclass(frozen=True)
class SensorOptions:
    """How the inputs are brought together and trusted."""

    sync_slop: float = option(
        0.0, "stamps of one instant differ by this at most; 0: as measured", unit="s", minimum=0
    )
    max_age: float = option(
        1.0, "an older image is not begun with", unit="s", minimum=0.01, maximum=60
    )
    odometry_covariance: bool = option(
        True, "believe the twist covariance of odometry_topic, where it has one"
    )
    gnss_max_age: float = option(0.5, "between a fix and the image", unit="s", minimum=0)
    gnss_sigma: float = option(
        5.0, "standard deviation of fixes without a covariance", unit="m", minimum=0.01
    )
    wifi_max_age: float = option(5.0, "between a scan and the image", unit="s", minimum=0)
    silence_warning: float = option(2.0, "without an image: WARN", unit="s", minimum=0.1)
    silence_error: float = option(10.0, "without an image: ERROR", unit="s", minimum=0.1)


@dataclass(frozen=True)
class OutputOptions:
    """What the node publishes."""

    publish_rate: float = option(
        30.0, "of ~/odometry and TF, predicted to now", unit="Hz", minimum=1, maximum=200
    )
    publish_tf: str = option(
        "map_to_odom", "which transform goes to /tf", choices=("map_to_odom", "map_to_base", "none")
    )
    transform_tolerance: float = option(
        0.1, "how far into the future the transform holds", unit="s", minimum=0, maximum=10
    )
    path_spacing: float = option(0.2, "between poses of ~/path", unit="m", minimum=0)
    path_length: int = option(5000, "poses of ~/path at most, the newest", minimum=1)
    map_points: int = option(500_000, "points of ~/map_points at most, a sample", minimum=0)
    debug_quality: int = option(
        80, "JPEG quality of ~/debug_image/compressed", minimum=1, maximum=100
    )


NODE_OPTIONS = (InputOptions, SensorOptions, OutputOptions)
"""The node's own parameters, without a prefix."""


@dataclass(frozen=True, slots=True)
class CameraSettings:
    """One camera as the parameters describe it; `frame` empty and no pose: ask the images, TF."""

    topic: str
    info_topic: str
    frame: str
    base_from_camera: Transform | None


def camera_settings(inputs: InputOptions) -> tuple[CameraSettings, ...]:
    """The cameras of the parameters.

    Raises:
        OptionError: if there is none, one is named twice, a list has another length, or a
            pose is none.
    """
    topics = inputs.image_topics
    if not topics:
        raise OptionError("'image_topics' is empty; name at least one")
    if len(set(topics)) < len(topics):
        raise OptionError(f"'image_topics' names a topic twice: {', '.join(topics)}")
    beside = tuple(f"{base_topic(topic).rpartition('/')[0]}/camera_info" for topic in topics)
    infos = _for_each(inputs, "camera_info_topics") or beside
    frames = _for_each(inputs, "camera_frames") or ("",) * len(topics)
    poses = _for_each(inputs, "camera_poses") or ("",) * len(topics)
    return tuple(
        CameraSettings(topic, info, frame, _pose(text) if text else None)
        for topic, info, frame, text in zip(topics, infos, frames, poses, strict=True)
    )


def _for_each(inputs: InputOptions, name: str) -> tuple[str, ...]:
    values: tuple[str, ...] = getattr(inputs, name)
    if values and len(values) != len(inputs.image_topics):
        raise OptionError(
            f"'{name}' has {len(values)} entries but 'image_topics' {len(inputs.image_topics)}; "
            "give one for each, or none"
        )
    return values


def _pose(text: str) -> Transform:
    try:
        x, y, z, qx, qy, qz, qw = (float(number) for number in text.split())
        return Transform.from_quaternion((qw, qx, qy, qz), (x, y, z))
    except ValueError:
        raise OptionError(
            f"'camera_poses': '{text}' is no pose; write 'x y z qx qy qz qw'"
        ) from None
