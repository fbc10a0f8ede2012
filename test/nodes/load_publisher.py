"""A process that loads a recorder: an IMU at 200 Hz, and raw images of two cameras at 30 Hz.

    python load_publisher.py COUNT

It begins when all three are subscribed to, prints the stamps of the IMU messages once they
have been received, and stays until its input ends.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import rclpy
from rclpy.duration import Duration
from rclpy.qos import qos_profile_sensor_data
from recorder_client import PATIENCE_S
from sensor_msgs.msg import Image, Imu

RATE_HZ = 200.0
IMAGE_EVERY = 7  # IMU messages
WIDTH, HEIGHT = 640, 480


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("load")
    imu = node.create_publisher(Imu, "/imu/data", 1000)
    cameras = [
        node.create_publisher(Image, f"/{side}/image", qos_profile_sensor_data)
        for side in ("left", "right")
    ]
    end = time.monotonic() + PATIENCE_S
    while not all(publisher.get_subscription_count() for publisher in (imu, *cameras)):
        assert time.monotonic() < end, "nobody subscribed"
        time.sleep(0.05)

    image = Image(width=WIDTH, height=HEIGHT, step=3 * WIDTH, encoding="rgb8")
    noise = np.random.default_rng(0).integers(0, 256, 3 * WIDTH * HEIGHT, np.uint8)
    image.data = noise.tobytes()  # takes longest to compress
    sent = []
    for number in range(int(sys.argv[1])):
        now = node.get_clock().now()
        measured = Imu()
        measured.header.stamp = now.to_msg()
        imu.publish(measured)
        sent.append(now.nanoseconds)
        if number % IMAGE_EVERY == 0:
            image.header.stamp = measured.header.stamp
            for camera in cameras:
                camera.publish(image)
        time.sleep(1 / RATE_HZ)
    assert imu.wait_for_all_acked(Duration(seconds=PATIENCE_S))
    print(json.dumps(sent), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
