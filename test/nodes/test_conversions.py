"""Messages become what the core takes: light, fixes, poses, accelerations, signals."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")
from geometry_msgs.msg import PoseWithCovarianceStamped
from heard import fix, image
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Imu, NavSatFix, NavSatStatus

from kapture_ros.messages import MessageError
from kapture_ros.nodes import conversions


@pytest.mark.parametrize(
    ("encoding", "dtype", "shape"),
    [
        ("mono8", np.uint8, (24, 32)),
        ("mono16", np.uint16, (24, 32)),
        ("bgra8", np.uint8, (24, 32, 3)),
    ],
)
def test_every_kind_of_light_becomes_grey_or_rgb(encoding, dtype, shape):
    samples = 4 if encoding == "bgra8" else 1
    data = (np.arange(24 * 32 * samples) % 200).astype(dtype)
    message = image(1, encoding=encoding, step=32 * samples * data.itemsize, data=data.tobytes())
    pixels = conversions.rgb_pixels(message)
    assert (pixels.shape, pixels.dtype) == (shape, np.uint8)
    assert pixels.max() > 150


def test_a_fix_without_covariance_or_altitude_is_believed_accordingly():
    unknown = fix(1, position_covariance_type=NavSatFix.COVARIANCE_TYPE_UNKNOWN)
    assert conversions.gnss_fix(unknown, np.zeros(3), 3.0).covariance[0, 0] == pytest.approx(9)
    flat = conversions.gnss_fix(fix(1, altitude=np.nan), np.zeros(3), 3.0)
    assert np.isfinite(flat.altitude) and flat.covariance[2, 2] > 1e6
    with pytest.raises(MessageError):
        conversions.gnss_fix(fix(1, latitude=np.nan), np.zeros(3), 3.0)


@pytest.mark.parametrize("diagonal", [(0, 0, 0), (-1, 0, 0), (1, 1, -1)])
def test_a_fix_with_an_impossible_covariance_has_none(diagonal):
    impossible = fix(1, position_covariance=np.diag(np.array(diagonal, float)).ravel())
    assert conversions.gnss_fix(impossible, np.zeros(3), 3.0).covariance[0, 0] == pytest.approx(9)


def test_a_receiver_without_a_fix_is_believed_by_its_covariance_only():
    none = NavSatStatus(status=NavSatStatus.STATUS_NO_FIX)
    assert conversions.gnss_fix(fix(1, status=none), np.zeros(3), 3.0).covariance[0, 0] == 1
    unknown = fix(1, status=none, position_covariance_type=NavSatFix.COVARIANCE_TYPE_UNKNOWN)
    with pytest.raises(MessageError, match="no fix"):
        conversions.gnss_fix(unknown, np.zeros(3), 3.0)


def test_a_pose_from_rviz_gets_the_variances_it_does_not_have():
    message = PoseWithCovarianceStamped()
    message.pose.pose.orientation.w = 1.0
    message.pose.covariance[0] = message.pose.covariance[7] = 0.25
    message.pose.covariance[35] = 0.0685
    prior = conversions.pose_prior(message)
    assert np.linalg.eigvalsh(prior.covariance)[0] > 0
    assert prior.covariance[2, 2] == 0.25
    message.pose.covariance = np.zeros(36)  # as on the command line: nobody points so well
    assert conversions.pose_prior(message).covariance[0, 0] == 0.25
    message.pose.covariance[0] = np.nan
    with pytest.raises(MessageError):
        conversions.pose_prior(message)


def test_an_imu_is_turned_into_the_axes_of_the_base():
    imu = Imu()
    imu.linear_acceleration.x = 9.81
    sample = conversions.imu_sample(imu, 1, Rotation.from_euler("y", -np.pi / 2))
    assert sample.acceleration == pytest.approx([0, 0, 9.81])


def test_a_message_needs_no_ros_class():
    plain = SimpleNamespace(access_points=[SimpleNamespace(bssid="aa", rssi=-50)])
    assert conversions.wifi_signals(plain) == {"aa": -50.0}
