"""A process that publishes a ROS 2 bag on real topics, in its own time, bytes as they are.

    python bag_publisher.py BAG

It begins when every topic has a subscriber.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile
from rosbags.rosbag2 import Reader

from kapture_ros.nodes.recorder_node import message_class


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("bag_publisher")
    with Reader(Path(sys.argv[1])) as reader:
        publishers = {}
        for connection in reader.connections:
            static = connection.topic == "/tf_static"
            durability = DurabilityPolicy.TRANSIENT_LOCAL if static else DurabilityPolicy.VOLATILE
            publishers[connection.topic] = node.create_publisher(
                message_class(connection.msgtype),
                connection.topic,
                QoSProfile(depth=1000, durability=durability),
            )
        end = time.monotonic() + 30
        while any(p.get_subscription_count() == 0 for p in publishers.values()):
            if time.monotonic() > end:
                sys.exit("nobody subscribed")
            time.sleep(0.05)
        time.sleep(0.3)
        begin, first = time.monotonic(), None
        for connection, stamp_ns, data in reader.messages():
            first = stamp_ns if first is None else first
            time.sleep(max(0.0, (stamp_ns - first) / 1e9 - (time.monotonic() - begin)))
            publishers[connection.topic].publish(bytes(data))
    time.sleep(1.0)  # what was sent is still on its way
    node.destroy_node()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
