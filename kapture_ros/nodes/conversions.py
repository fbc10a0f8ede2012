"""ROS messages as the core's inputs: pixels, fixes, scans and directions.

Pure functions over attribute access, called by `inputs.py`; so any message class will do.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from kapture_ros.localization.inertial import ImuSample
from kapture_ros.localization.query import GnssFix
from kapture_ros.localization.refinement import PosePrior
from kapture_ros.messages import Message, MessageError
from kapture_ros.messages.common import finite_xyz
from kapture_ros.messages.gnss import NO_FIX, check_position
from kapture_ros.messages.images import decode_message
from kapture_ros.messages.motion import to_transform
from kapture_ros.transforms.se3 import Array

UNKNOWN_COVARIANCE = 0  # sensor_msgs/NavSatFix COVARIANCE_TYPE_UNKNOWN
UNKNOWN_ALTITUDE_SIGMA = 1e4  # metres: says nothing
RVIZ_VARIANCES = (0.25, 0.25, 0.0, 0.0, 0.0, (np.pi / 12) ** 2)  # of its 2D Pose Estimate
MIN_SIGMA = 0.01  # metres; as in mapping: receivers that claim less are not believed


def rgb_pixels(message: Message) -> npt.NDArray[np.uint8]:
    """An Image or CompressedImage as (H, W) grey or (H, W, 3) RGB, 8 bit.

    Raises:
        MessageError: if it cannot be decoded, or holds distances instead of light.
    """
    pixels = decode_message(message)
    if pixels.dtype == np.uint16:
        if getattr(message, "encoding", "").lower() in ("16uc1", "mono16", ""):
            return _stretched(pixels)
        pixels = (pixels >> 8).astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise MessageError("unknown-encoding", f"{pixels.dtype} pixels are no camera image")
    if pixels.ndim == 2:
        return np.asarray(pixels, np.uint8)
    code = cv2.COLOR_BGRA2RGB if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return np.asarray(cv2.cvtColor(pixels, code), np.uint8)


def _stretched(pixels: npt.NDArray[np.uint16]) -> npt.NDArray[np.uint8]:
    """16 bits often hold 10 or 12, so the brightest pixels decide what is white."""
    if pixels.ndim != 2:
        return np.asarray(cv2.cvtColor((pixels >> 8).astype(np.uint8), cv2.COLOR_BGR2RGB))
    white = max(float(np.percentile(pixels[::4, ::4], 99.5)), 1.0)
    return np.asarray(np.clip(pixels * (255.0 / white), 0, 255), np.uint8)


def gnss_fix(message: Message, lever_arm: Array, default_sigma: float) -> GnssFix:
    """A sensor_msgs/NavSatFix.

    Args:
        lever_arm: (3,) metres, the antenna in the base frame.
        default_sigma: metres, where the message has no covariance.

    Raises:
        MessageError: if it has no position, or only one that its receiver does not vouch for.
    """
    latitude, longitude = float(message.latitude), float(message.longitude)
    altitude = float(message.altitude)
    no_fix = message.status.status == NO_FIX
    check_position(latitude, longitude, altitude, no_fix=no_fix)
    covariance = np.array(message.position_covariance, dtype=float).reshape(3, 3)
    if not np.isfinite(covariance).all():
        raise MessageError("not-finite", "position_covariance")
    told = message.position_covariance_type != UNKNOWN_COVARIANCE
    if told and np.diagonal(covariance).min() > 0:  # some senders leave zeros
        spread, axes = np.linalg.eigh((covariance + covariance.T) / 2)
        covariance = (axes * np.maximum(spread, MIN_SIGMA**2)) @ axes.T
    else:
        if no_fix:
            raise MessageError("no-position", "status says 'no fix', and there is no covariance")
        covariance = np.diag(np.square([default_sigma, default_sigma, 2 * default_sigma]))
    if np.isnan(altitude):
        altitude = 0.0
        covariance[2, :] = covariance[:, 2] = 0.0
        covariance[2, 2] = UNKNOWN_ALTITUDE_SIGMA**2
    return GnssFix(latitude, longitude, altitude, covariance, lever_arm)


def wifi_signals(message: Message) -> dict[str, float]:
    """A kapture_ros/WifiScan: dBm by BSSID."""
    return {str(point.bssid): float(point.rssi) for point in message.access_points}


def imu_sample(message: Message, stamp_ns: int, base_from_imu: Rotation) -> ImuSample:
    """A sensor_msgs/Imu in the axes of the base; its orientation is not used.

    Raises:
        MessageError: if a number is not finite.
    """
    rate = finite_xyz(message.angular_velocity, "angular_velocity")
    acceleration = finite_xyz(message.linear_acceleration, "linear_acceleration")
    return ImuSample(stamp_ns, base_from_imu.apply(rate), base_from_imu.apply(acceleration))


def pose_prior(message: Message, min_sigma: float = 0.05) -> PosePrior:
    """The pose of a PoseWithCovarianceStamped, as RViz sends it: planar, so that height, roll
    and pitch have no variance; they get one. Without any variance it gets RViz's.

    Raises:
        MessageError: if the pose or its covariance is not finite.
    """
    pose = to_transform(message.pose.pose)
    covariance = np.array(message.pose.covariance, dtype=float).reshape(6, 6)
    if not np.isfinite(covariance).all():
        raise MessageError("not-finite", "pose.covariance")
    covariance = (covariance + covariance.T) / 2
    if not covariance.any():
        covariance = np.diag(RVIZ_VARIANCES)
    planar = max(covariance[0, 0], covariance[1, 1], min_sigma**2)
    for row, least in enumerate((min_sigma**2, min_sigma**2, planar, 0.01, 0.01, 0.0025)):
        covariance[row, row] = max(covariance[row, row], least)
    values, vectors = np.linalg.eigh(covariance)
    definite: Array = (vectors * np.maximum(values, 1e-6)) @ vectors.T
    return PosePrior(pose, definite)
