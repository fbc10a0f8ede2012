"""The viewer node: what a localizer publishes, shown in a browser (`kapture_ros view`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, qos_profile_sensor_data
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage, PointCloud2
from visualization_msgs.msg import MarkerArray

from kapture_ros.messages.common import Message, MessageError
from kapture_ros.msg import LocalizationStatus
from kapture_ros.nodes.ending import note_signals, spin
from kapture_ros.view import scene
from kapture_ros.view.options import ViewerOptions
from kapture_ros.view.server import SceneServer

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class ViewerNode(Node):
    """Hands the messages of a localizer to the web server, each as one frame of the scene."""

    def __init__(self, options: ViewerOptions, server: SceneServer) -> None:
        super().__init__("viewer")
        self._server = server
        best_effort = qos_profile_sensor_data
        points_frame = partial(scene.points_frame, limit=options.max_points)

        for name, kind, profile, frame_of in (
            ("pose", PoseWithCovarianceStamped, best_effort, scene.pose_frame),
            ("odometry", Odometry, best_effort, partial(scene.pose_frame, kind="odometry")),
            ("status", LocalizationStatus, best_effort, scene.status_frame),
            ("path", Path, best_effort, scene.path_frame),
            ("debug_image/compressed", CompressedImage, best_effort, scene.image_frame),
            ("map_cameras", MarkerArray, LATCHED, partial(scene.lines_frame, kind="cameras")),
            ("candidates", MarkerArray, best_effort, partial(scene.lines_frame, kind="candidates")),
            ("map_points", PointCloud2, LATCHED, points_frame),
        ):
            topic = f"{options.localizer.rstrip('/')}/{name}"
            self.create_subscription(kind, topic, self._show(topic, frame_of), profile)

    def _show(
        self, topic: str, frame_of: Callable[[Message], scene.SceneFrame]
    ) -> Callable[[Any], None]:
        def show(message: Message) -> None:
            try:
                self._server.put(frame_of(message))
            except MessageError as error:
                self.get_logger().warning(f"{topic}: {error}", throttle_duration_sec=10.0)

        return show


def run(options: ViewerOptions, server: SceneServer, ros_arguments: Sequence[str] = ()) -> None:
    """Show what there is until a signal."""
    rclpy.init(args=["--ros-args", *ros_arguments], signal_handler_options=SignalHandlerOptions.NO)
    note_signals()
    node = ViewerNode(options, server)
    try:
        spin(node)
    finally:
        node.destroy_node()
        rclpy.try_shutdown()
