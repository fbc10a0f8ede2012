"""Odometry and transforms that the node hears become samples, or a problem that is told."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")
from heard import SECOND, header, ready, transform
from nav_msgs.msg import Odometry


def odometry(tenths: int, x: float, yaw: float = 0.0, frame: str = "odom") -> Odometry:
    message = Odometry(header=header(tenths * SECOND // 10, frame), child_frame_id="base_link")
    message.pose.pose.position.x = x
    message.pose.pose.orientation.z = np.sin(yaw / 2)
    message.pose.pose.orientation.w = np.cos(yaw / 2)
    return message


def test_odometry_comes_from_tf_where_it_has_no_topic():
    heard = ready()
    heard.inputs.on_transforms(transform(SECOND, "odom", "base_link", 3.0), static=False)
    (sample,) = heard.odometry
    assert (sample.stamp_ns, sample.odom_from_base.translation[0]) == (SECOND, 3.0)
    assert sample.covariance is None


def test_odometry_of_a_topic_brings_the_covariance_of_its_twist():
    heard = ready(odometry_topic="/odom")
    heard.inputs.on_transforms(transform(SECOND, "odom", "base_link", 3.0), static=False)
    assert heard.odometry == [], "TF is not listened to then"
    for tenths in (10, 11):
        message = Odometry(header=header(tenths * SECOND // 10, "odom"), child_frame_id="base_link")
        message.twist.covariance = np.diag([0.04] * 6).ravel()
        heard.inputs.on_odometry(message, 0)
    assert heard.odometry[0].covariance is None, "there was no step yet"
    assert heard.odometry[1].covariance == pytest.approx(np.diag([0.0004] * 6))


@pytest.mark.parametrize("unknown", [0.0, -1.0, np.nan, np.inf, 1e6])
def test_a_twist_that_says_that_something_was_not_measured_is_not_believed(unknown):
    """Wheels say 1e6 for height, roll and pitch: the pose would be lost in one step."""
    heard = ready(odometry_topic="/odom")
    for tenths in (10, 11):
        message = Odometry(header=header(tenths * SECOND // 10, "odom"), child_frame_id="base_link")
        message.twist.covariance = np.diag([0.001, 0.001, *[unknown] * 3, 0.03]).ravel()
        heard.inputs.on_odometry(message, 0)
    assert heard.odometry[1].covariance is None


def test_a_twist_with_an_impossible_covariance_is_not_believed():
    heard = ready(odometry_topic="/odom")
    for tenths in (10, 11):
        message = Odometry(header=header(tenths * SECOND // 10, "odom"), child_frame_id="base_link")
        covariance = 0.01 * np.eye(6)
        covariance[0, 1] = covariance[1, 0] = 5.0
        message.twist.covariance = covariance.ravel()
        heard.inputs.on_odometry(message, 0)
    assert heard.odometry[1].covariance is None


@pytest.mark.parametrize(("x", "yaw", "leaps"), [(4, 0.1, 0), (-20, 0, 1), (0.1, 3, 1)])
def test_odometry_that_is_started_again_begins_everything_anew(x, yaw, leaps):
    """Else the vehicle would seem to have driven to where it began."""
    heard = ready(odometry_topic="/odom")
    heard.inputs.on_odometry(odometry(10, 0.0), 0)
    heard.inputs.on_odometry(odometry(11, x, yaw), 0)
    heard.inputs.on_odometry(odometry(12, x + 0.1, yaw), 0)
    assert [("leapt" in why) for why in heard.jumps] == [True] * leaps
    assert len(heard.odometry) == 3


@pytest.mark.parametrize(
    ("pause_s", "x", "leaps"), [(3, 0.1, 1), (3, 22.0, 0), (1, 0.1, 0)], ids=str
)
def test_odometry_that_is_at_its_origin_again_after_a_pause_was_started_again(pause_s, x, leaps):
    """No leap by its speed: 20 m in 3 s."""
    heard = ready(odometry_topic="/odom")
    heard.inputs.on_odometry(odometry(10, 20.0), 0)
    heard.inputs.on_odometry(odometry(10 + 10 * pause_s, x), 0)
    assert len(heard.jumps) == leaps


def test_odometry_that_is_not_where_tf_says_is_told():
    heard = ready(odometry_topic="/wheels")
    heard.inputs.on_odometry(odometry(10, 0.0, frame="wheel_odom"), 0)
    assert "/wheels is in 'wheel_odom'; set odom_frame" in heard.inputs.foreign_odometry
    heard.inputs.on_odometry(odometry(11, 0.0), 0)
    heard.inputs.on_transforms(transform(SECOND * 11 // 10, "odom", "base_link", 2.0), static=False)
    heard.inputs.on_odometry(odometry(12, 0.0), 0)
    assert "it is 2.0 m and 0° from there" in heard.inputs.foreign_odometry
    heard.inputs.on_transforms(transform(SECOND * 12 // 10, "odom", "base_link", 0.1), static=False)
    heard.inputs.on_odometry(odometry(13, 0.0), 0)
    assert heard.inputs.foreign_odometry == ""


def test_a_filter_that_dates_its_transform_ahead_is_the_same_odometry():
    """At 20 m/s a tenth of a second is two metres."""
    heard = ready(odometry_topic="/odom")
    for tenths in range(10, 20):
        ahead = transform((tenths + 1) * SECOND // 10, "odom", "base_link", 2.0 * tenths)
        heard.inputs.on_transforms(ahead, static=False)
        heard.inputs.on_odometry(odometry(tenths, 2.0 * tenths), 0)
        assert heard.inputs.foreign_odometry == ""


def test_odometry_of_another_frame_is_moved_to_the_base():
    heard = ready(odometry_topic="/odom")
    message = Odometry(header=header(SECOND, "odom"), child_frame_id="eye")
    heard.inputs.on_odometry(message, 0)
    assert heard.odometry[0].odom_from_base.translation[0] == -1.0
    message.child_frame_id = "unheard_of"
    heard.inputs.on_odometry(message, 0)
    assert "unheard_of" in heard.inputs.problems["/odom"]


def test_our_own_transform_is_not_heard_and_that_of_others_is_told():
    heard = ready()
    heard.sent.append(SECOND)
    heard.inputs.on_transforms(transform(SECOND, "map", "odom", 3.0), static=False)
    assert heard.inputs.tree.parent("odom") is None
    assert heard.inputs.problems == {}
    heard.inputs.on_transforms(transform(SECOND + 1, "map", "odom", 3.0), static=False)
    assert "another node says where 'odom' is in 'map'" in heard.inputs.problems["tf"]


@pytest.mark.parametrize(("child", "publish_tf"), [("dock", "map_to_odom"), ("odom", "none")])
def test_what_this_node_does_not_place_others_may(child, publish_tf):
    heard = ready(publish_tf=publish_tf)
    heard.inputs.on_transforms(transform(SECOND, "map", child, 3.0), static=True)
    assert heard.inputs.problems == {}


def test_a_transform_that_closes_a_circle_is_told():
    heard = ready()
    heard.inputs.on_transforms(transform(SECOND, "eye", "base_link", 3.0), static=False)
    assert "cycle" in heard.inputs.problems["tf"]
