"""A process that listens to a localizer and commands it, one JSON request a line.

Requests: {"do": NAME, …}, where NAME is a method of `Client` that begins with `do_`; the
answer is one line of JSON. It ends with its input.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import cv2
import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseWithCovarianceStamped, TransformStamped
from lifecycle_msgs.srv import ChangeState, GetState
from nav_msgs.srv import LoadMap
from rcl_interfaces.msg import Log
from rcl_interfaces.msg import Parameter as ParameterMessage
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage

from kapture_ros.nodes.outputs import TOPICS

PATIENCE = 240.0  # seconds; a loaded machine is slow, a hanging one is not
TRANSITIONS = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4}


def stamp_ns(header) -> int:
    return header.stamp.sec * 10**9 + header.stamp.nanosec


def pose_numbers(pose) -> list[float]:
    p, q = pose.position, pose.orientation
    return [p.x, p.y, p.z, q.w, q.x, q.y, q.z]


def picture_shape(message) -> list[int]:
    return list(cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR).shape)


SIMPLE = {
    "pose": lambda m: {
        "stamp": stamp_ns(m.header),
        "frame": m.header.frame_id,
        "pose": pose_numbers(m.pose.pose),
        "covariance": m.pose.covariance.tolist(),
    },
    "odometry": lambda m: {
        "stamp": stamp_ns(m.header),
        "frames": [m.header.frame_id, m.child_frame_id],
        "pose": pose_numbers(m.pose.pose),
        "speed": m.twist.twist.linear.x,
    },
    "status": lambda m: {
        "stamp": stamp_ns(m.header),
        "state": m.state,
        "reason": m.reason,
        "text": m.reason_text,
        "inliers": m.inliers,
        "candidates": m.candidates,
        "map_id": m.map_id,
        "latency": [m.latency_decode, m.latency_extraction, m.latency_total],
    },
    "path": lambda m: len(m.poses),
    "map_points": lambda m: m.width,
    "map_cameras": lambda m: len(m.markers[0].points),
    "status_marker": lambda m: m.text,
    "candidates": lambda m: [len(marker.points) for marker in m.markers],
    "debug_image/compressed": picture_shape,
    "fix": lambda m: [m.latitude, m.longitude, m.altitude],
    "diagnostics": lambda m: [[s.level[0], s.name, s.message] for s in m.status],
    "tf": lambda m: [
        [t.header.frame_id, t.child_frame_id, stamp_ns(t.header), t.transform.translation.x,
         t.transform.translation.y, t.transform.rotation.z]
        for t in m.transforms
    ],
    "rosout": lambda m: [m.level, m.msg],
}  # fmt: skip


class Client:
    def __init__(self, node: Node):
        self.node = node
        self.heard: dict[str, list] = {name: [] for name in SIMPLE}
        for name, (kind, profile) in TOPICS.items():
            self._listen(kind, f"/localizer/{name}", name, profile)
        self._listen(DiagnosticArray, "/diagnostics", "diagnostics", QoSProfile(depth=10))
        self._listen(TFMessage, "/tf", "tf", QoSProfile(depth=200))
        latched = QoSProfile(depth=1000, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._listen(Log, "/rosout", "rosout", latched)
        self.mounts = node.create_publisher(TFMessage, "/tf_static", latched)
        self.cameras: dict[str, tuple] = {}
        self.shown: list[dict] = []
        node.create_timer(0.1, self._show)
        self.hints = node.create_publisher(PoseWithCovarianceStamped, "/initialpose", 1)

    def _listen(self, kind, topic, name, profile) -> None:
        def keep(message) -> None:
            self.heard[name].append(SIMPLE[name](message))

        self.node.create_subscription(kind, topic, keep, profile)

    def do_heard(self, topic: str, count: int = 0, seconds: float = PATIENCE) -> list:
        """What was heard since it was forgotten; waits until it is that much."""
        end = time.monotonic() + seconds
        while len(self.heard[topic]) < count and time.monotonic() < end:
            time.sleep(0.05)
        return list(self.heard[topic])

    def do_forget(self) -> None:
        for messages in self.heard.values():
            messages.clear()

    def do_trigger(self, name: str) -> list:
        answer = self._call(Trigger, name, Trigger.Request())
        return [answer.success, answer.message]

    def do_load_map(self, path: str) -> int:
        return self._call(LoadMap, "load_map", LoadMap.Request(map_url=path)).result

    def do_change(self, transition: str) -> bool:
        request = ChangeState.Request()
        request.transition.id = TRANSITIONS[transition]
        return self._call(ChangeState, "change_state", request).success

    def do_state(self) -> str:
        return self._call(GetState, "get_state", GetState.Request()).current_state.label

    def do_set(self, name: str, value) -> list:
        parameter: ParameterMessage = Parameter(name, value=value).to_parameter_msg()
        request = SetParameters.Request(parameters=[parameter])
        (result,) = self._call(SetParameters, "set_parameters", request).results
        return [result.successful, result.reason]

    def do_publishers(self) -> list:
        found = self.node.get_publisher_names_and_types_by_node("localizer", "/")
        return sorted(name for name, _ in found)

    def do_subscriptions(self) -> list:
        found = self.node.get_subscriber_names_and_types_by_node("localizer", "/")
        return sorted(name for name, _ in found)

    def do_hint(self, frame: str, x: float, y: float) -> None:
        message = PoseWithCovarianceStamped()
        message.header.frame_id = frame
        message.pose.pose.position.x, message.pose.pose.position.y = x, y
        message.pose.pose.orientation.w = 1.0
        message.pose.covariance[0] = message.pose.covariance[7] = 0.25
        message.pose.covariance[35] = 0.07
        self.hints.publish(message)

    def do_mount(self, frames: list[str]) -> None:
        """These frames are on the vehicle."""
        links = [TransformStamped(child_frame_id=frame) for frame in frames]
        for link in links:
            link.header.frame_id = "base_link"
        self.mounts.publish(TFMessage(transforms=links))

    def do_show(self, images: list[dict]) -> None:
        """From now on these images are published ten times a second, with one stamp.

        Each: `camera` (its topics begin with that), `frame`, `size`, `encoding`. The calibration
        is for 32×24 pixels.
        """
        self.shown = images

    def _show(self) -> None:
        stamp = self.node.get_clock().now().to_msg()
        for wanted in self.shown:
            name, (width, height) = wanted["camera"], wanted["size"]
            if name not in self.cameras:
                self.cameras[name] = (
                    self.node.create_publisher(CameraInfo, f"/{name}/camera_info", 5),
                    self.node.create_publisher(Image, f"/{name}/image", 5),
                )
            info = CameraInfo(width=32, height=24, distortion_model="plumb_bob", d=[0.0] * 5)
            info.k = [20.0, 0.0, 15.5, 0.0, 20.0, 11.5, 0.0, 0.0, 1.0]
            image = Image(width=width, height=height, encoding=wanted["encoding"], step=3 * width)
            image.data = bytes(3 * width * height)
            for publisher, message in zip(self.cameras[name], (info, image), strict=True):
                message.header.stamp, message.header.frame_id = stamp, wanted["frame"]
                publisher.publish(message)

    def _call(self, kind, name: str, request):
        client = self.node.create_client(kind, f"/localizer/{name}")
        try:
            assert client.wait_for_service(timeout_sec=PATIENCE), f"no service {name}"
            future = client.call_async(request)
            end = time.monotonic() + PATIENCE
            while not future.done() and time.monotonic() < end:
                time.sleep(0.01)
            assert future.done(), f"no answer from {name}"
            return future.result()
        finally:
            self.node.destroy_client(client)


def main() -> None:
    rclpy.init()
    node = rclpy.create_node("client")
    client = Client(node)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    spinning = threading.Thread(target=executor.spin, daemon=True)
    spinning.start()
    for line in sys.stdin:
        request = json.loads(line)
        answer = getattr(client, "do_" + request.pop("do"))(**request)
        print(json.dumps(answer), flush=True)
    executor.shutdown()
    spinning.join()
    rclpy.shutdown()


if __name__ == "__main__":
    main()
