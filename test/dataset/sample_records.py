"""Sensors and records of every kind, for tests of writing, reading and repairing."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np

from kapture_ros.dataset.records import (
    AccelerometerRecord,
    AccessPoint,
    Beacon,
    BluetoothRecord,
    DepthRecord,
    FilePayload,
    GnssRecord,
    GyroscopeRecord,
    ImageRecord,
    LidarRecord,
    MagneticRecord,
    OdometryRecord,
    Record,
    Sensor,
    WifiRecord,
)
from kapture_ros.transforms.se3 import Transform

START = 1_700_000_000_123_456_789
STEP = 100_000_000

SENSORS = (
    Sensor(
        "front",
        "Left, wide #1",
        "camera",
        ("PINHOLE", "64", "48", "50.5", "50.5", "32", "24"),
        {"topic": "/front/image", "frame_id": "a, b", "covariance": [0.1, math.inf]},
    ),
    Sensor("range", "", "depth", ("UNKNOWN_CAMERA", "64", "48")),
    Sensor("top.points", "", "lidar"),
    Sensor("fix", "", "gnss", ("EPSG:4326",)),
    Sensor("radio", "", "wifi"),
    Sensor("beacons", "", "bluetooth"),
    Sensor("imu.accelerometer", "", "accelerometer"),
    Sensor("imu.gyroscope", "", "gyroscope"),
    Sensor("compass", "", "magnetic"),
    Sensor("odom", "", "odometry"),
)

POINTS = (
    AccessPoint("aa:bb:cc:dd:ee:01", "Café, 50%\n", 2412, -40, 17),
    AccessPoint("aa:bb:cc:dd:ee:02", " 潮品 ", 5825, -71, 0),
)
POSE = Transform.exp(np.array([1.0, -2.0, 0.3, 0.1, 0.2, -0.3]))


def payload(suffix: str, content: bytes) -> FilePayload:
    return FilePayload(suffix, lambda: content, len(content))


def records_at(number: int) -> list[Record]:
    """One record of each kind; odd numbers have awkward values."""
    stamp = START + number * STEP
    odd = number % 2 == 1
    xyz = (0.1 + number, math.nan if odd else -0.0, 1e-320)
    at = {"stamp_ns": stamp}
    extra = {"orientation": [0.1, math.nan, -math.inf], "frame_id": "ü,\n"} if odd else {}
    return [
        ImageRecord(
            **at, sensor_id="front", extra=extra, payload=payload(".jpg", b"J%d" % number * 99)
        ),
        DepthRecord(**at, sensor_id="range", payload=payload(".depth", bytes(64))),
        LidarRecord(**at, sensor_id="top.points", payload=payload(".pcd", b"P%d" % number)),
        GnssRecord(
            **at,
            sensor_id="fix",
            extra=extra,
            longitude=8.1,
            latitude=47.2,
            altitude=math.nan if odd else 400.5,
            utc=1_700_000_000,
            dop=1.5,
        ),
        WifiRecord(
            **at,
            sensor_id="radio",
            access_points=() if odd else POINTS,
            scan_start_ns=stamp - 5,
            scan_end_ns=0,
        ),
        BluetoothRecord(
            **at,
            sensor_id="beacons",
            beacons=(Beacon("01", -50, "x,y"), Beacon("02", -60, ""), Beacon("01", -51, "again")),
        ),
        AccelerometerRecord(**at, sensor_id="imu.accelerometer", xyz=xyz, extra=extra),
        GyroscopeRecord(**at, sensor_id="imu.gyroscope", xyz=xyz),
        MagneticRecord(**at, sensor_id="compass", xyz=xyz),
        OdometryRecord(
            **at,
            sensor_id="odom",
            extra=extra,
            parent_frame="odom",
            child_frame="base, link",
            parent_from_child=POSE,
        ),
    ]


def comparable(record: Record) -> tuple[object, ...]:
    """A record as a value to compare: files by content, NaN equal to NaN, poses as numbers."""
    values: list[object] = [type(record).__name__]
    for name in record.__dataclass_fields__:
        value = getattr(record, name)
        if isinstance(value, FilePayload):
            value = (value.suffix, value.encode())
        if isinstance(value, Transform):
            value = np.round(np.concatenate([value.quaternion, value.translation]), 12).tolist()
        if name == "extra":
            value = dict(value)
        values.append(repr(value))
    return tuple(values)


def image(
    number: int, encode: Callable[[], bytes] | None = None, *, nbytes: int = 0
) -> ImageRecord:
    """An image of the camera 'front'."""
    made = FilePayload(".jpg", encode or (lambda: b"image %d" % number), nbytes)
    return ImageRecord(stamp_ns=START + number * STEP, sensor_id="front", payload=made)


def rows(path: Path) -> list[list[str]]:
    """The fields of a kapture text file, comments left out."""
    lines = path.read_text(encoding="utf-8").split("\n")
    assert lines.pop() == "", f"{path} does not end with a newline"
    return [line.split(", ") for line in lines if not line.startswith("#")]
