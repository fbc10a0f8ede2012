"""A process that plays a small drive on real topics, and prints what it sent as JSON.

    python drive_publisher.py SECONDS [TOPIC…]

Cameras publish best effort as drivers do, /tf_static is latched. It waits until the topics
(all if none is named) have a subscriber, so that what it sends is what can be received, and
at the end until the recorder has taken it.
"""

from __future__ import annotations

import json
import sys
import time

import cv2
import numpy as np
import rclpy
from geometry_msgs.msg import TransformStamped
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from recorder_client import PATIENCE_S, wait_for_rest
from sensor_msgs.msg import CameraInfo, CompressedImage, Imu, NavSatFix
from tf2_msgs.msg import TFMessage

from kapture_ros.msg import WifiAccessPoint, WifiScan

RATE_HZ = 10.0
LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def transform(stamp, parent: str, child: str, x: float) -> TFMessage:
    message = TransformStamped(child_frame_id=child)
    message.header.stamp, message.header.frame_id = stamp, parent
    message.transform.translation.x = x
    return TFMessage(transforms=[message])


def main() -> None:
    seconds, awaited = float(sys.argv[1]), sys.argv[2:]
    rclpy.init()
    node = rclpy.create_node("drive")
    sensor = qos_profile_sensor_data
    image = node.create_publisher(CompressedImage, "/camera/image_raw/compressed", sensor)
    info = node.create_publisher(CameraInfo, "/camera/camera_info", sensor)
    fix = node.create_publisher(NavSatFix, "/gnss/fix", 10)
    imu = node.create_publisher(Imu, "/imu/data", sensor)
    wifi = node.create_publisher(WifiScan, "/wifi", 10)
    moving = node.create_publisher(TFMessage, "/tf", 100)
    static = node.create_publisher(TFMessage, "/tf_static", LATCHED)
    publishers = [
        publisher
        for publisher in (image, info, fix, imu, wifi, moving, static)
        if not awaited or publisher.topic_name in awaited
    ]
    static.publish(transform(node.get_clock().now().to_msg(), "base_link", "camera", 0.5))

    end = time.monotonic() + PATIENCE_S
    while any(p.get_subscription_count() == 0 for p in publishers):
        if time.monotonic() > end:
            sys.exit("nobody subscribed")
        time.sleep(0.05)
    time.sleep(0.3)

    sent = []
    for number in range(int(seconds * RATE_HZ)):
        now = node.get_clock().now()
        stamp = now.to_msg()
        moving.publish(transform(stamp, "odom", "base_link", 0.1 * number))
        calibration = CameraInfo(width=64, height=48, distortion_model="plumb_bob", d=[0.0] * 5)
        calibration.k = [50.0, 0.0, 31.5, 0.0, 50.0, 23.5, 0.0, 0.0, 1.0]
        calibration.header.stamp, calibration.header.frame_id = stamp, "camera"
        info.publish(calibration)
        pixels = np.full((48, 64, 3), number % 256, np.uint8)
        jpeg = CompressedImage(format="jpeg", data=cv2.imencode(".jpg", pixels)[1].tobytes())
        jpeg.header = calibration.header
        image.publish(jpeg)
        measured = Imu()
        measured.header = calibration.header
        measured.linear_acceleration.z = 9.81 + number
        imu.publish(measured)
        position = NavSatFix(latitude=45.0 + number * 1e-6, longitude=7.0, altitude=200.0)
        position.header = calibration.header
        fix.publish(position)
        scan = WifiScan(access_points=[WifiAccessPoint(bssid="aa", ssid="a,b", rssi=-number)])
        scan.header = calibration.header
        wifi.publish(scan)
        sent.append(now.nanoseconds)
        time.sleep(1 / RATE_HZ)
    wait_for_rest(node)  # what was sent is still on its way
    print(json.dumps(sent))
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
