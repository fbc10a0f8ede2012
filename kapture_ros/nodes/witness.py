"""A process that listens to a localizer and writes down what it heard: the demo's judge.

It knows only what a vehicle would: topics. `FOLDER/estimates.csv` gets a row for each status,
with the pose of the same stamp (none published: not localized), for `kapture_ros evaluate`;
`FOLDER/live.json` how late poses came and who is whose parent in TF. Times are those of this
process, from hearing an image to hearing the answer: a bag's clock may be slower.

    python -m kapture_ros.nodes.witness FOLDER DEVICE IMAGE_TOPIC
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import rclpy
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CompressedImage
from tf2_msgs.msg import TFMessage

from kapture_ros.evaluation.estimates import FILE_NAME, EstimateRow, write_estimates
from kapture_ros.localization.query import Reason
from kapture_ros.localization.sequence_state import State
from kapture_ros.messages.common import header_stamp_ns
from kapture_ros.messages.motion import to_transform
from kapture_ros.msg import LocalizationStatus
from kapture_ros.nodes.ending import note_signals, spin

PERCENTILES = (50, 95, 99)
UNCONFIRMED = "UNCONFIRMED"  # a fix while the pose is not known: another one has to agree
_STAGES = ("decode", "extraction", "retrieval", "matching", "pose")


class Witness(Node):
    """Hears images, poses, status and TF."""

    def __init__(self, image_topic: str) -> None:
        super().__init__("witness")
        self._arrivals: dict[int, float] = {}  # of images: stamp -> when it was heard
        self._poses: dict[int, tuple[float, Any]] = {}
        self._status: dict[int, tuple[float, Any]] = {}
        self._parents: dict[str, set[str]] = {}
        self._predictions = 0
        many = QoSProfile(depth=1000)
        latched = QoSProfile(depth=100, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for kind, topic, hear, profile in (
            (CompressedImage, image_topic, self._hear_image, many),
            (PoseWithCovarianceStamped, "/localizer/pose", self._hear_pose, many),
            (LocalizationStatus, "/localizer/status", self._hear_status, many),
            (Odometry, "/localizer/odometry", self._hear_odometry, many),
            (TFMessage, "/tf", self._hear_transforms, many),
            (TFMessage, "/tf_static", self._hear_transforms, latched),
        ):
            self.create_subscription(kind, topic, hear, profile)

    def _hear_image(self, message: Any) -> None:
        self._arrivals[header_stamp_ns(message)] = time.monotonic()

    def _hear_pose(self, message: Any) -> None:
        self._poses[header_stamp_ns(message)] = (time.monotonic(), message.pose)

    def _hear_status(self, message: Any) -> None:
        self._status[header_stamp_ns(message)] = (time.monotonic(), message)

    def _hear_odometry(self, message: Any) -> None:
        self._predictions += 1

    def _hear_transforms(self, message: Any) -> None:
        for transform in message.transforms:
            child = transform.child_frame_id
            self._parents.setdefault(child, set()).add(transform.header.frame_id)

    def rows(self, device: str) -> list[EstimateRow]:
        """A row for each image that the localizer spoke of, or that it was silent about."""
        rows = []
        for stamp in sorted(self._arrivals.keys() | self._status.keys()):
            told, pose = self._told(stamp), self._poses.get(stamp)
            if pose is not None:
                row = EstimateRow(stamp, device, True, **_estimate(pose[1]), **told)
            else:
                if told.get("reason") == Reason.ACCEPTED.name:
                    told["reason"] = UNCONFIRMED
                row = EstimateRow(stamp, device, False, **told)
            rows.append(row)
        return rows

    def _told(self, stamp_ns: int) -> dict[str, Any]:
        """What the status of an image says, and how long it took."""
        if stamp_ns not in self._status:
            return {}
        when, status = self._status[stamp_ns]
        told = _told(status)
        if stamp_ns in self._arrivals:
            told["latency_ms"]["total"] = 1e3 * (when - self._arrivals[stamp_ns])
        return told

    def summary(self) -> dict[str, Any]:
        """Latencies in milliseconds, counts, states, and the tree of frames."""
        late = [
            1e3 * (when - self._arrivals[stamp])
            for stamp, (when, _) in self._poses.items()
            if stamp in self._arrivals
        ]
        states = Counter(State(message.state).name.lower() for _, message in self._status.values())
        return {
            "images": len(self._arrivals),
            "poses": len(self._poses),
            "late": sum(told.reason == Reason.LATE for _, told in self._status.values()),
            "predictions": self._predictions,
            "states": dict(states),
            "latency_ms": {
                f"p{q}": round(float(np.percentile(late, q)), 1) for q in PERCENTILES if late
            },
            "parents": {child: sorted(found) for child, found in sorted(self._parents.items())},
        }


def _estimate(pose: Any) -> dict[str, Any]:
    covariance = np.reshape(pose.covariance, (6, 6))
    return {
        "map_from_base": to_transform(pose.pose),
        "covariance": (covariance + covariance.T) / 2,
    }


def _told(status: Any) -> dict[str, Any]:
    times = {stage: float(getattr(status, f"latency_{stage}")) for stage in _STAGES}
    return {
        "reason": Reason(status.reason).name,
        "inliers": status.inliers,
        "matches": status.matches,
        "candidates": status.candidates,
        "best_map_image": status.best_map_image,
        "latency_ms": {stage: value for stage, value in times.items() if np.isfinite(value)},
        "condition": State(status.state).name.lower(),
    }


def main() -> None:
    """Listen until SIGINT or SIGTERM, then write."""
    folder, device, image_topic = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    note_signals()
    node = Witness(image_topic)
    spin(node)
    folder.mkdir(parents=True, exist_ok=True)
    write_estimates(folder / FILE_NAME, node.rows(device))
    (folder / "live.json").write_text(json.dumps(node.summary(), indent=1), encoding="utf-8")
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
