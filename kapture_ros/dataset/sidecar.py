"""What kapture has no column for: JSON Lines beside the kapture files, one file a sensor.

NAVER's library looks only into `sensors` and `reconstruction`, so `kapture_ros/` is ours:

    kapture_ros/sensors.jsonl              one object a sensor: id, kind, params, origin
    kapture_ros/extra/SENSOR.jsonl         one object a record that has something to add
    kapture_ros/duplicates/SENSOR/…        images of duplicates (kapture keeps one per stamp)
    kapture_ros/recording.lock             exists while a writer is at work, or was killed

JSON as Python writes it: NaN, Infinity and -Infinity are literals, floats round-trip.
docs/formats.md describes the keys.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kapture_ros.dataset.records import (
    AccessPoint,
    Beacon,
    BluetoothRecord,
    JsonValue,
    MessageRecord,
    OdometryRecord,
    Record,
    Sensor,
    WifiRecord,
)
from kapture_ros.dataset.tables import Row, record_rows
from kapture_ros.errors import InputError

FOLDER = Path("kapture_ros")
ORIGINS = FOLDER / "sensors.jsonl"
EXTRA = FOLDER / "extra"
DUPLICATES = FOLDER / "duplicates"
LOCK = FOLDER / "recording.lock"

ENCODER = json.JSONEncoder(separators=(",", ":"))

LINE_PER_RECORD = frozenset({"wifi", "bluetooth", "odometry", "message"})
"""Sensor kinds whose every record has a line, so that an empty or torn scan shows."""


def extra_path(sensor_id: str) -> Path:
    """Where the additions to a sensor's records lie."""
    return EXTRA / f"{sensor_id}.jsonl"


def encode(content: Mapping[str, Any]) -> bytes:
    """One line."""
    return ENCODER.encode(content).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None if it is torn or damaged."""
    if not line.endswith(b"\n"):
        return None
    try:
        content = json.loads(line)
    except ValueError:
        return None
    return content if isinstance(content, dict) else None


def read_lines(path: Path, start: int = 0, end: int | None = None) -> Iterator[dict[str, Any]]:
    """The good lines of a file between two byte offsets; none if the file does not exist."""
    for _, _, content in read_placed_lines(path, start, end):
        yield content


def read_placed_lines(
    path: Path, start: int = 0, end: int | None = None
) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """The good lines with the byte offsets they lie between."""
    if not path.exists():
        return
    at = start
    with path.open("rb") as file:
        file.seek(start)
        while (end is None or at < end) and (line := file.readline()):
            begin, at = at, at + len(line)
            if (content := decode(line)) is not None:
                yield begin, at, content


def sensors_text(sensors: Mapping[str, Sensor]) -> str:
    """The whole sensors.jsonl."""
    return "".join(
        encode(dataclasses.asdict(sensor) | {"params": list(sensor.params)}).decode()
        for sensor in sensors.values()
    )


def read_sensors(root: Path) -> dict[str, Sensor]:
    """The sensors with their origins; empty for a dataset that others wrote.

    Raises:
        InputError: if a line is not a sensor.
    """
    sensors = {}
    for content in read_lines(root / ORIGINS):
        try:
            sensor = Sensor(**content | {"params": tuple(content["params"])})
        except (KeyError, TypeError) as error:
            raise InputError(f"{root / ORIGINS}: not a sensor: {content}") from error
        sensors[sensor.sensor_id] = sensor
    return sensors


def is_record(content: Mapping[str, Any]) -> bool:
    """Whether a line belongs to a record of the dataset: not a duplicate, not dropped."""
    return "duplicate" not in content and "dropped" not in content


def record_content(record: Record) -> dict[str, JsonValue]:
    """What a record adds to its kapture rows; just the stamp if nothing."""
    content: dict[str, JsonValue] = {"stamp": int(record.stamp_ns)}
    match record:
        case WifiRecord():
            content["scan"] = [int(record.scan_start_ns), int(record.scan_end_ns)]
            content |= _addresses(record, record.access_points)
            if "heard" not in content and any(p.last_seen_ns for p in record.access_points):
                content["last_seen"] = [int(p.last_seen_ns) for p in record.access_points]
        case BluetoothRecord():
            content |= _addresses(record, record.beacons)
        case OdometryRecord():
            pose = record.parent_from_child
            content |= {"parent": record.parent_frame, "child": record.child_frame}
            content["pose"] = [*pose.quaternion.tolist(), *pose.translation.tolist()]
        case MessageRecord():
            content["reason"] = record.reason
    if record.extra:
        content["extra"] = dict(record.extra)
    return content


def _addresses(
    record: Record, heard: tuple[AccessPoint, ...] | tuple[Beacon, ...]
) -> dict[str, JsonValue]:
    """How many rows belong to a scan; all that was heard where an address came twice."""
    rows = len(record_rows(record))
    content: dict[str, JsonValue] = {"rows": rows}
    if rows < len(heard):
        content["heard"] = [list(dataclasses.astuple(item)) for item in heard]
    return content


def duplicate_content(record: Record, rows: list[Row]) -> dict[str, JsonValue]:
    """The line of a record whose stamp was there already: nothing of it is in kapture."""
    content = record_content(record)
    content.pop("rows", None)
    content["duplicate"] = [list(row) for row in rows]
    return content


def dropped_content(record: Record, reason: str) -> dict[str, JsonValue]:
    """The line of a record whose file could not be written."""
    return record_content(record) | {"dropped": reason}
