"""A process that prints what it hears as JSON, until a topic said enough.

    python topic_listener.py COUNT TOPIC=TYPE…

The first topic is counted, of the others one message is enough. For each topic: the stamps
and some content of its messages; and /clock in nanoseconds. The first topic is subscribed to
last, so that all are heard when it is.
"""

from __future__ import annotations

import json
import sys
import time

import rclpy
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rosgraph_msgs.msg import Clock

from kapture_ros.messages.common import time_ns
from kapture_ros.nodes.recorder_node import message_class

PROFILES = {
    "/tf_static": QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL),
    "/camera/image_raw": qos_profile_sensor_data,
}


def content(message) -> list:
    """Stamp and what tells the message from others."""
    if hasattr(message, "transforms"):
        (said,) = message.transforms
        return [time_ns(said.header.stamp), said.child_frame_id]
    told = getattr(message, "k", None)
    if told is None:
        told = getattr(message, "data", None)
    if told is None:
        told = [message.linear_acceleration.z]
    return [time_ns(message.header.stamp), [float(value) for value in told]]


def main() -> None:
    count, named = int(sys.argv[1]), [word.split("=") for word in sys.argv[2:]]
    rclpy.init()
    node = rclpy.create_node("listener")
    heard: dict[str, list] = {topic: [] for topic, _ in named}
    clock: list[int] = []
    node.create_subscription(Clock, "/clock", lambda said: clock.append(time_ns(said.clock)), 100)
    for topic, type_name in reversed(named):
        node.create_subscription(
            message_class(type_name),
            topic,
            lambda message, topic=topic: heard[topic].append(content(message)),
            PROFILES.get(topic, QoSProfile(depth=1000)),
        )
    end = time.monotonic() + 120
    while len(heard[named[0][0]]) < count or not all(heard.values()):
        if time.monotonic() > end:
            break
        rclpy.spin_once(node, timeout_sec=0.1)
    print(json.dumps({"topics": heard, "clock": clock}), flush=True)


if __name__ == "__main__":
    main()
