"""What differs between two datasets, record for record."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kapture_ros.dataset.reader import Dataset, open_dataset
from kapture_ros.dataset.records import DepthRecord, ImageRecord, LidarRecord, Record

ARRIVAL = ("received", "seq")  # how a message came, not what it said


def differences(one: Path, other: Path, ignore: tuple[str, ...] = ARRIVAL) -> list[str]:
    """Sensors, records with their files and sidecars, rigs and poses that are not equal."""
    return list(_differences(open_dataset(one), open_dataset(other), ignore))


def _differences(one: Dataset, other: Dataset, ignore: tuple[str, ...]) -> Iterator[str]:
    if one.sensors != other.sensors:
        for sensor_id in one.sensors.keys() | other.sensors.keys():
            if one.sensors.get(sensor_id) != other.sensors.get(sensor_id):
                yield f"sensor {one.sensors.get(sensor_id)} != {other.sensors.get(sensor_id)}"
    for sensor_id in one.sensors.keys() & other.sensors.keys():
        a = {r.stamp_ns: _content(r, ignore) for r in one.records(sensor_id)}
        b = {r.stamp_ns: _content(r, ignore) for r in other.records(sensor_id)}
        for stamp in sorted(a.keys() | b.keys()):
            if a.get(stamp) != b.get(stamp):
                yield f"{sensor_id} at {stamp}: {a.get(stamp)!r:.300} != {b.get(stamp)!r:.300}"
    rows = {"rig": lambda d: set(map(repr, map(_rig, d.rigs())))}
    rows["pose"] = lambda d: set(map(repr, map(_pose, d.trajectory())))
    for name, read in rows.items():
        for row in sorted(read(one) ^ read(other)):
            yield f"{name} of one only: {row}"


def _content(record: Record, ignore: tuple[str, ...]) -> Any:
    values = {name: getattr(record, name) for name in record.__dataclass_fields__}
    values["extra"] = {k: v for k, v in record.extra.items() if k not in ignore}
    if isinstance(record, (ImageRecord, DepthRecord, LidarRecord)):
        values["payload"] = (record.payload.suffix, record.payload.encode())
    return repr(values) if "altitude" in values else values  # NaN is equal in words


def _rig(row: Any) -> Any:
    return (row.rig_id, row.sensor_id, _numbers(row.sensor_from_rig))


def _pose(row: Any) -> Any:
    return (row.stamp_ns, row.device_id, row.oriented, _numbers(row.device_from_world))


def _numbers(transform: Any) -> list[float]:
    return [*transform.quaternion.tolist(), *transform.translation.tolist()]
