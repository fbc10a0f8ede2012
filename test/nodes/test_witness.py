"""The demo's judge as its own process: what it writes of what it hears on real topics."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="no rclpy: pip install -r requirements/ros-jazzy.txt")

from processes import end_process

from kapture_ros.evaluation.estimates import FILE_NAME, read_estimates
from kapture_ros.nodes.witness import UNCONFIRMED

PATIENCE_S = 150.0  # a loaded machine is slow, a hanging one is not

# Image 1 is localized, 2 rejected, 3 waits for a second fix, 4 came late; nobody speaks of 5.
SPEAKER = """
import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from nav_msgs.msg import Odometry
from rcl_interfaces.srv import ListParameters
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage
from tf2_msgs.msg import TFMessage
from kapture_ros.localization.query import Reason
from kapture_ros.localization.sequence_state import State
from kapture_ros.msg import LocalizationStatus

rclpy.init()
node = rclpy.create_node("speaker")
latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
publishers = [
    node.create_publisher(kind, topic, profile)
    for kind, topic, profile in (
        (CompressedImage, "/eye/compressed", 10),
        (PoseWithCovarianceStamped, "/localizer/pose", 10),
        (LocalizationStatus, "/localizer/status", 10),
        (Odometry, "/localizer/odometry", 10),
        (TFMessage, "/tf", 10),
        (TFMessage, "/tf_static", latched),
    )
]
images, poses, statuses, odometry, tf, tf_static = publishers
while not all(publisher.get_subscription_count() for publisher in publishers):
    pass


def stamped(message, second):
    message.header.stamp.sec = second
    return message


def link(parent, child):
    transform = TransformStamped(child_frame_id=child)
    transform.header.frame_id = parent
    return TFMessage(transforms=[transform])


client = node.create_client(ListParameters, "/witness/list_parameters")


def wait_until_heard():
    assert all(publisher.wait_for_all_acked() for publisher in publishers)
    # An answer tells that the executor went around, with a message of each topic that has any.
    assert client.wait_for_service({patience})
    for _ in range(10):
        answer = client.call_async(ListParameters.Request())
        rclpy.spin_until_future_complete(node, answer, timeout_sec={patience})
        assert answer.done()


def say(second, reason, state, **numbers):
    status = LocalizationStatus(reason=int(reason), state=int(state), **numbers)
    statuses.publish(stamped(status, second))


tf_static.publish(link("base_link", "eye"))
tf.publish(link("map", "odom"))
tf.publish(link("odom", "base_link"))
for second in range(1, 6):
    images.publish(stamped(CompressedImage(), second))
wait_until_heard()  # a localizer has to hear an image before it speaks of it
for second in range(7):
    odometry.publish(stamped(Odometry(), second))
pose = stamped(PoseWithCovarianceStamped(), 1)
pose.pose.pose.position.x, pose.pose.pose.orientation.w = 2.5, 1.0
pose.pose.covariance[::7] = [0.25] * 6
poses.publish(pose)
nan = float("nan")
times = dict(latency_decode=1.5, latency_extraction=80.0, latency_retrieval=nan,
             latency_matching=nan, latency_pose=3.0)
found = dict(inliers=40, matches=90, candidates=3, best_map_image="a.jpg")
say(1, Reason.ACCEPTED, State.TRACKING, **found, **times)
say(2, Reason.TOO_FEW_INLIERS, State.COASTING, inliers=5)
say(3, Reason.ACCEPTED, State.INITIALIZING, inliers=20)
say(4, Reason.LATE, State.INITIALIZING)
wait_until_heard()
"""


@pytest.fixture
def written(ros_environment: dict[str, str], tmp_path: Path) -> Path:
    """The folder of a witness that heard the speaker."""
    folder = tmp_path / "live"
    command = [sys.executable, "-m", "kapture_ros.nodes.witness", str(folder), "car"]
    speaker = [sys.executable, "-c", SPEAKER.replace("{patience}", str(PATIENCE_S))]
    with subprocess.Popen([*command, "/eye/compressed"], env=ros_environment) as witness:
        try:
            subprocess.run(speaker, env=ros_environment, timeout=PATIENCE_S, check=True)
            witness.send_signal(signal.SIGINT)
            assert witness.wait(PATIENCE_S) == 0
        finally:
            end_process(witness)
    return folder


def test_each_image_gets_a_row_and_only_a_published_pose_counts(written: Path):
    rows = {row.stamp_ns // 10**9: row for row in read_estimates(written / FILE_NAME)}
    assert sorted(rows) == [1, 2, 3, 4, 5]
    assert {second: row.accepted for second, row in rows.items() if row.accepted} == {1: True}
    told = {second: (row.reason, row.condition, row.inliers) for second, row in rows.items()}
    assert told == {
        1: ("ACCEPTED", "tracking", 40),
        2: ("TOO_FEW_INLIERS", "coasting", 5),
        3: (UNCONFIRMED, "initializing", 20),
        4: ("LATE", "initializing", 0),
        5: ("", "", 0),
    }
    localized = rows[1]
    assert localized.query == "car"
    assert localized.map_from_base is not None and localized.covariance is not None
    np.testing.assert_allclose(localized.map_from_base.translation, [2.5, 0, 0])
    assert localized.covariance.tolist() == np.diag([0.25] * 6).tolist()
    assert (localized.matches, localized.candidates) == (90, 3)
    assert localized.best_map_image == "a.jpg"
    latency = dict(localized.latency_ms)
    assert latency.pop("total") > 0, "from hearing the image to hearing of it"
    assert latency == {"decode": 1.5, "extraction": 80.0, "pose": 3.0}
    assert all(row.map_from_base is None for second, row in rows.items() if second != 1)

    live = json.loads((written / "live.json").read_text())
    assert 0 < live["latency_ms"]["p50"] == live["latency_ms"]["p99"]
    assert {name: live[name] for name in ("images", "poses", "late", "predictions")} == {
        "images": 5, "poses": 1, "late": 1, "predictions": 7
    }  # fmt: skip
    assert live["states"] == {"tracking": 1, "coasting": 1, "initializing": 2}
    assert live["parents"] == {"base_link": ["odom"], "eye": ["base_link"], "odom": ["map"]}
