"""Which function understands which message: type name to function, ROS 1 and ROS 2 alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

from kapture_ros.dataset.records import Record
from kapture_ros.messages import depth, gnss, images, motion, nmea, pointclouds, wifi
from kapture_ros.messages.common import Message, normalized_type

RecordFunction: TypeAlias = Callable[[Message, int, str], Sequence[Record]]
"""(message, stamp in nanoseconds, sensor id) -> records; raises MessageError."""

IMAGE, COMPRESSED_IMAGE = "sensor_msgs/Image", "sensor_msgs/CompressedImage"
CAMERA_INFO, POINT_CLOUD = "sensor_msgs/CameraInfo", "sensor_msgs/PointCloud2"
TRANSFORMS = ("tf2_msgs/TFMessage", "tf/tfMessage")
POSES = (
    "nav_msgs/Odometry",
    "geometry_msgs/PoseStamped",
    "geometry_msgs/PoseWithCovarianceStamped",
    "geometry_msgs/TransformStamped",
)

FUNCTIONS: dict[str, RecordFunction] = {
    IMAGE: images.image_records,
    COMPRESSED_IMAGE: images.compressed_image_records,
    POINT_CLOUD: pointclouds.point_cloud_records,
    "sensor_msgs/NavSatFix": gnss.nav_sat_fix_records,
    "gps_msgs/GPSFix": gnss.gps_fix_records,
    "gps_common/GPSFix": gnss.gps_fix_records,
    "nmea_msgs/Sentence": nmea.sentence_records,
    "sensor_msgs/Imu": motion.imu_records,
    "sensor_msgs/MagneticField": motion.magnetic_records,
    "nav_msgs/Odometry": motion.odometry_records,
    "geometry_msgs/PoseStamped": motion.pose_records,
    "geometry_msgs/PoseWithCovarianceStamped": motion.pose_with_covariance_records,
    "geometry_msgs/TransformStamped": motion.transform_records,
    "kapture_ros/WifiScan": wifi.wifi_scan_records,
}

DEPTH_FUNCTIONS: dict[str, RecordFunction] = {
    IMAGE: depth.depth_records,
    COMPRESSED_IMAGE: depth.compressed_depth_records,
}


def record_function(
    type_name: str, wifi_mappings: Mapping[str, wifi.WifiMapping] | None = None
) -> RecordFunction | None:
    """The function for a type; None if nobody understands it.

    Images with depth need the one of `DEPTH_FUNCTIONS` (see `depth.is_depth`); CameraInfo
    and transforms make no records of their own.

    Args:
        wifi_mappings: further Wi-Fi types of the configuration.
    """
    name = normalized_type(type_name)
    mapping = {**wifi.KNOWN_WIFI, **(wifi_mappings or {})}.get(name)
    return partial(wifi.mapped_wifi_records, mapping) if mapping else FUNCTIONS.get(name)
