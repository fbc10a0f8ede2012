"""Records whose stamp was there already, which kapture cannot hold: read from the sidecars."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kapture_ros.dataset import sidecar
from kapture_ros.dataset.escape import unescape
from kapture_ros.dataset.reader import Dataset
from kapture_ros.dataset.records import (
    AccelerometerRecord,
    AccessPoint,
    DepthRecord,
    FilePayload,
    GnssRecord,
    GyroscopeRecord,
    ImageRecord,
    LidarRecord,
    MagneticRecord,
    MessageRecord,
    OdometryRecord,
    Record,
    Sensor,
    WifiRecord,
)
from kapture_ros.transforms import Transform

FILES: dict[str, type[ImageRecord | DepthRecord | LidarRecord]] = {
    "camera": ImageRecord,
    "depth": DepthRecord,
    "lidar": LidarRecord,
}
VECTORS: dict[str, type[AccelerometerRecord | GyroscopeRecord | MagneticRecord]] = {
    "accelerometer": AccelerometerRecord,
    "gyroscope": GyroscopeRecord,
    "magnetic": MagneticRecord,
}


def duplicate_records(dataset: Dataset, sensor: Sensor) -> Iterator[Record]:
    """A sensor's duplicates as records, in the order in which they came."""
    for line in dataset.duplicates(sensor.sensor_id):
        base = {
            "stamp_ns": line["stamp"],
            "sensor_id": sensor.sensor_id,
            "extra": line.get("extra", {}),
        }
        yield _record(dataset, sensor.kind, base, line)


def _record(dataset: Dataset, kind: str, base: dict[str, Any], line: dict[str, Any]) -> Record:
    rows = line["duplicate"]
    if kind in FILES:
        path = dataset.path / sidecar.DUPLICATES / rows[0][0]
        return FILES[kind](**base, payload=FilePayload(path.suffix, path.read_bytes))
    if kind in VECTORS:
        x, y, z = map(float, rows[0])
        return VECTORS[kind](**base, xyz=(x, y, z))
    if kind == "gnss":
        x, y, z, utc, dop = rows[0]
        return GnssRecord(
            **base,
            longitude=float(x),
            latitude=float(y),
            altitude=float(z),
            utc=int(utc),
            dop=float(dop),
        )
    if kind == "wifi":
        seen = line.get("last_seen") or [0] * len(rows)
        points = tuple(
            AccessPoint(unescape(row[0]), unescape(row[3]), int(row[1]), int(row[2]), last)
            for row, last in zip(rows, seen, strict=True)
        )
        if "heard" in line:
            points = tuple(AccessPoint(*item) for item in line["heard"])
        start, end = line["scan"]
        return WifiRecord(**base, access_points=points, scan_start_ns=start, scan_end_ns=end)
    if kind == "message":
        return MessageRecord(**base, reason=line["reason"])
    pose = Transform.from_quaternion(line["pose"][:4], line["pose"][4:])
    frames = {"parent_frame": line["parent"], "child_frame": line["child"]}
    return OdometryRecord(**base, **frames, parent_from_child=pose)
