"""Everything the node publishes but /diagnostics: its publishers, and what goes when.

Made when the node is configured, closed at cleanup. Answers arrive from the inference
thread, predictions from the node's timer.
"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from geometry_msgs.msg import PoseStamped, PoseWithCovarianceStamped
from nav_msgs.msg import Odometry, Path
from rclpy.event_handler import PublisherEventCallbacks
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CompressedImage, NavSatFix, PointCloud2
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from kapture_ros.dataset.tables import RECORDS_DATA
from kapture_ros.localization.debug_image import draw_estimate
from kapture_ros.localization.odometry import SECOND
from kapture_ros.localization.query import Estimate
from kapture_ros.localization.sequence_state import State
from kapture_ros.mapping.visual_map import VisualMap
from kapture_ros.msg import LocalizationStatus
from kapture_ros.nodes import publishing
from kapture_ros.nodes.inference import Answer
from kapture_ros.nodes.predictor import Prediction
from kapture_ros.nodes.settings import Settings
from kapture_ros.transforms.se3 import Transform

LATCHED = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
SILENT = PublisherEventCallbacks(use_default_callbacks=False)  # as in drive.py
TOPICS: dict[str, tuple[type[Any], QoSProfile]] = {
    "pose": (PoseWithCovarianceStamped, QoSProfile(depth=10)),
    "odometry": (Odometry, QoSProfile(depth=10)),
    "path": (Path, QoSProfile(depth=1)),
    "status": (LocalizationStatus, QoSProfile(depth=50)),
    "status_marker": (Marker, QoSProfile(depth=1)),
    "map_points": (PointCloud2, LATCHED),
    "map_cameras": (MarkerArray, LATCHED),
    "candidates": (MarkerArray, QoSProfile(depth=1)),
    "debug_image/compressed": (CompressedImage, QoSProfile(depth=1)),
    "fix": (NavSatFix, QoSProfile(depth=10)),
}
"""Topics below the node's name."""


class Outputs:
    """The publishers of a configured node.

    Attributes:
        sent_ns: stamps of the newest transforms, to know them again on /tf.
        published: when a pose was published last, as of `time.monotonic`.
    """

    def __init__(self, node: Node, settings: Settings, visual_map: VisualMap):
        self.settings = settings
        self._node = node
        self._map = visual_map
        self._topics = {
            name: node.create_publisher(message, f"~/{name}", profile, event_callbacks=SILENT)
            for name, (message, profile) in TOPICS.items()
        }
        self._tf = node.create_publisher(
            TFMessage, "/tf", QoSProfile(depth=100), event_callbacks=SILENT
        )
        self._path: deque[PoseStamped] = deque(maxlen=settings.outputs.path_length)
        self._path_end: Transform | None = None
        self._path_changed = False
        self._place = np.zeros(3)  # in the map, the last one known
        self._predicted_ns = 0
        self.published = 0.0
        self.sent_ns: deque[int] = deque(maxlen=1000)

    def use(self, settings: Settings) -> None:
        """Go on with other parameters."""
        self.settings = settings
        self._path = deque(self._path, maxlen=settings.outputs.path_length)

    def close(self) -> None:
        """Take everything back."""
        for publisher in (*self._topics.values(), self._tf):
            self._node.destroy_publisher(publisher)

    def restart(self) -> None:
        """Time began anew."""
        self._path.clear()
        self._path_end = None
        self._predicted_ns = 0

    def publish_map(self, visual_map: VisualMap, stamp_ns: int) -> None:
        """The map for people, once."""
        self._map = visual_map
        frame, most = self.settings.inputs.map_frame, self.settings.outputs.map_points
        cloud = publishing.point_cloud(visual_map, frame, stamp_ns, most)
        self._topics["map_points"].publish(cloud)
        cameras = publishing.map_camera_markers(visual_map, frame, stamp_ns)
        self._topics["map_cameras"].publish(cameras)

    def publish_answer(self, answer: Answer, state: State, now_ns: int) -> None:
        """What became of an image; a pose only if it was accepted."""
        frame, stamp = self.settings.inputs.map_frame, answer.estimate.stamp_ns
        latency = (now_ns - stamp) / SECOND
        status = publishing.status_message(answer, state, self._map, frame, latency)
        self._topics["status"].publish(status)
        known = None if answer.tracked is None else publishing.pose_of(answer.tracked)
        if known is not None:
            self._place = known[0].translation
        if answer.estimate.accepted and known is not None:
            self.published = time.monotonic()
            self._topics["pose"].publish(publishing.pose_message(stamp, frame, *known))
            self._extend_path(stamp, known[0])
            if self._map.datum is not None:
                base = self.settings.inputs.base_frame
                fix = publishing.fix_message(stamp, base, *known, self._map.datum)
                self._topics["fix"].publish(fix)
        if answer.query is not None:
            self._publish_state(state, answer.estimate)
            self._publish_candidates(answer.estimate)
            self._publish_picture(answer)

    def _publish_state(self, state: State, estimate: Estimate) -> None:
        if self._topics["status_marker"].get_subscription_count():
            frame = self.settings.inputs.map_frame
            marker = publishing.status_marker(
                state, estimate.reason_text, self._place, frame, estimate.stamp_ns
            )
            self._topics["status_marker"].publish(marker)

    def _publish_candidates(self, estimate: Estimate) -> None:
        if self._topics["candidates"].get_subscription_count():
            frame = self.settings.inputs.map_frame
            markers = publishing.candidate_markers(
                estimate.candidates, estimate.best_image, self._map, frame, estimate.stamp_ns
            )
            self._topics["candidates"].publish(markers)

    def _publish_picture(self, answer: Answer) -> None:
        topic = self._topics["debug_image/compressed"]
        if not topic.get_subscription_count() or answer.query is None:
            return
        estimate = answer.estimate
        seen = None if estimate.best_image is None else self._map_pixels(estimate.best_image)
        picture = draw_estimate(self._map, answer.query, estimate, seen)
        quality = self.settings.outputs.debug_quality
        topic.publish(publishing.jpeg_message(estimate.stamp_ns, "", picture, quality))

    def _map_pixels(self, row: int) -> npt.NDArray[np.uint8] | None:
        """A map image, where the map has its images beside it."""
        path = self._map.path / RECORDS_DATA / self._map.image_names[row]
        image = cv2.imread(str(path)) if path.is_file() else None
        return None if image is None else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))

    def _extend_path(self, stamp_ns: int, map_from_base: Transform) -> None:
        spacing = self.settings.outputs.path_spacing
        if self._path_end is None or self._path_end.distance_to(map_from_base)[0] >= spacing:
            frame = self.settings.inputs.map_frame
            self._path.append(publishing.pose_stamped(stamp_ns, frame, map_from_base))
            self._path_end = map_from_base
            self._path_changed = True

    def publish_path(self, now_ns: int) -> None:
        """The way so far, if it grew and anybody listens."""
        if self._path_changed and self._topics["path"].get_subscription_count():
            frame = self.settings.inputs.map_frame
            head = publishing.header(now_ns, frame)
            self._topics["path"].publish(Path(header=head, poses=list(self._path)))
            self._path_changed = False

    def publish_prediction(self, prediction: Prediction, *, transform: bool) -> None:
        """~/odometry and TF, once for each time.

        Args:
            transform: False if somebody else says where the child of our transform is.
        """
        if prediction.stamp_ns <= self._predicted_ns:
            return
        self._predicted_ns = prediction.stamp_ns
        self.published = time.monotonic()
        inputs, outputs = self.settings.inputs, self.settings.outputs
        message = publishing.odometry_message(prediction, inputs.map_frame, inputs.base_frame)
        self._topics["odometry"].publish(message)
        child, pose = {
            "map_to_odom": (inputs.odom_frame, prediction.map_from_odom),
            "map_to_base": (inputs.base_frame, prediction.map_from_base),
            "none": ("", None),
        }[outputs.publish_tf]
        if pose is not None and transform:
            valid_ns = prediction.stamp_ns + int(outputs.transform_tolerance * SECOND)
            self.sent_ns.append(valid_ns)
            sent = publishing.transform_message(valid_ns, inputs.map_frame, child, pose)
            self._tf.publish(TFMessage(transforms=[sent]))
