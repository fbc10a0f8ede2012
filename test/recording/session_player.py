"""Messages played to a recording session, and what it would have written."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from bag_tools import START, STEP, camera_info, image, make, pose_fields, transforms

from kapture_ros.dataset.records import Record, RigRow, Sensor, TrajectoryRow
from kapture_ros.recording.config import RecordingConfig, RecordingOptions
from kapture_ros.recording.session import RecordingSession

SECOND = 1_000_000_000
K = np.array([[50.0, 0, 3.5], [0, 50, 2.5], [0, 0, 1]])


class Recorded:
    """Takes what a session writes."""

    def __init__(self) -> None:
        self.sensors: dict[str, Sensor] = {}
        self.rigs: dict[tuple[str, str], RigRow] = {}
        self.poses: dict[tuple[str, int], TrajectoryRow] = {}
        self.records: dict[str, list[Record]] = defaultdict(list)

    def add_sensor(self, sensor: Sensor) -> None:
        self.sensors[sensor.sensor_id] = sensor

    def add_rig(self, row: RigRow) -> None:
        self.rigs[row.rig_id, row.sensor_id] = row

    def add_trajectory(self, row: TrajectoryRow) -> bool:
        self.poses[row.device_id, row.stamp_ns] = row
        return True

    def write(self, record: Record) -> bool:
        assert record.sensor_id in self.sensors
        self.records[record.sensor_id].append(record)
        return True


class Player:
    """Feeds messages to a session, by default received when they were stamped."""

    def __init__(self, options: RecordingOptions | None = None, **config: Any) -> None:
        self.to = Recorded()
        self.session = RecordingSession(
            self.to, RecordingConfig(options or RecordingOptions(), **config)
        )

    def play(self, topic: str, message: Any, received: int | None = None) -> bool:
        if received is None:
            received = stamp_of(message)
        return self.session.handle(topic, message.__msgtype__, message, received)

    def image(
        self, at: int, size=(6, 4), topic: str = "/cam/image_raw", frame: str = "cam"
    ) -> bool:
        return self.play(topic, image(np.zeros(size[::-1], np.uint8), "mono8", at, frame))

    def info(self, at: int, matrix=K, size=(6, 4), topic: str = "/cam/camera_info") -> None:
        self.play(topic, camera_info(size, matrix, at, "cam"))

    def tf(self, at: int, parent: str, child: str, xyz, wxyz=(1, 0, 0, 0), static=False) -> None:
        message = transforms([(at, parent, child, wxyz, xyz)])
        self.play("/tf_static" if static else "/tf", message, at)

    def odometry(self, at: int, x: float, topic: str = "/odom", child: str = "base_link") -> None:
        pose = make(
            "geometry_msgs/PoseWithCovariance", pose=pose_fields("Pose", (1, 0, 0, 0), (x, 0, 0), 2)
        )
        message = make("nav_msgs/Odometry", stamp=at, frame="odom", child_frame_id=child, pose=pose)
        self.play(topic, message)

    def fix(self, at: int, latitude: float, longitude: float = 8.0) -> None:
        self.play("/fix", make("sensor_msgs/NavSatFix", stamp=at, frame="gnss", latitude=latitude,
                               longitude=longitude, altitude=100.0))  # fmt: skip

    def finish(self) -> Recorded:
        self.session.finish()
        return self.to

    def topic(self, name: str) -> dict[str, Any]:
        from kapture_ros.dataset.writer import WriterStatistics

        return self.session.monitor.report(WriterStatistics(), self.to.sensors)["topics"][name]


def stamp_of(message: Any) -> int:
    stamp = message.header.stamp
    return stamp.sec * SECOND + stamp.nanosec


def stamps(recorded: Recorded, sensor_id: str) -> list[int]:
    return [record.stamp_ns for record in recorded.records[sensor_id]]


def positions(recorded: Recorded, device: str) -> dict[int, list[float]]:
    """Where the device was, by stamp after START in steps."""
    return {
        (stamp - START) / STEP: row.device_from_world.inverse().translation.round(9).tolist()
        for (name, stamp), row in recorded.poses.items()
        if name == device
    }
