"""A process that publishes what a localizer does: a small town, and a vehicle on its way in it.

It says the same ten times a second until it is told to end. Points are magenta, so that a picture
of the page shows whether they are there.
"""

from __future__ import annotations

import time

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import Point, Pose, PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, PointCloud2, PointField
from visualization_msgs.msg import Marker, MarkerArray

from kapture_ros.msg import LocalizationStatus

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def cloud() -> PointCloud2:
    random = np.random.default_rng(0)
    table = np.zeros(20_000, [("x", "<f4"), ("y", "<f4"), ("z", "<f4"), ("rgb", "<u4")])
    table["x"] = random.uniform(-40, 40, len(table))
    table["y"] = np.where(random.random(len(table)) < 0.5, -8, 8)
    table["z"] = random.uniform(0, 6, len(table))
    table["rgb"] = 0xFF00FF
    fields = [PointField(name=n, offset=4 * k, datatype=7, count=1) for k, n in enumerate("xyz")]
    fields.append(PointField(name="rgb", offset=12, datatype=7, count=1))
    message = PointCloud2(height=1, width=len(table), fields=fields, point_step=16)
    message.row_step, message.data = 16 * len(table), table.tobytes()
    return message


def pose(x: float) -> Pose:
    made = Pose()
    made.position.x, made.position.z = x, 0.5
    return made


def lines(z: float) -> MarkerArray:
    """A line across the street every two metres."""
    marker = Marker(type=Marker.LINE_LIST)
    marker.color.g = marker.color.b = 1.0
    marker.points = [Point(x=float(x), y=y, z=z) for x in range(-30, 30, 2) for y in (-1.0, 1.0)]
    return MarkerArray(markers=[marker])


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("localizer")
    latched = {"map_points": cloud(), "map_cameras": lines(2.0)}
    for name, message in latched.items():
        node.create_publisher(type(message), f"~/{name}", LATCHED).publish(message)
    ok, jpeg = cv2.imencode(".jpg", np.full((120, 160, 3), 80, np.uint8))
    assert ok
    here = PoseWithCovarianceStamped()
    here.header.frame_id = "map"
    here.pose.pose = pose(5.25)
    here.pose.covariance[0], here.pose.covariance[7], here.pose.covariance[14] = 0.5, 0.1, 0.05
    status = LocalizationStatus(state=2, reason_text="321 inliers (64%)", inliers=321, matches=500)
    status.fix_age = float("nan")
    said = {
        "pose": here,
        "odometry": Odometry(header=here.header, pose=here.pose),
        "candidates": lines(3.0),
        "path": Path(poses=[PoseStamped(pose=pose(float(x))) for x in range(-20, 6)]),
        "status": status,
        "debug_image/compressed": CompressedImage(format="jpeg", data=jpeg.tobytes()),
    }
    publishers = {name: node.create_publisher(type(m), f"~/{name}", 10) for name, m in said.items()}
    while rclpy.ok():
        here.header.stamp = node.get_clock().now().to_msg()
        for name, publisher in publishers.items():
            publisher.publish(said[name])
        time.sleep(0.1)


if __name__ == "__main__":
    main()
