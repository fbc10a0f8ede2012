"""Reading a kapture dataset through NAVER's library, our sidecars joined in again."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

from kapture_ros.dataset import sidecar, tables
from kapture_ros.dataset.escape import unescape
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
    MessageRecord,
    OdometryRecord,
    Record,
    RigRow,
    Sensor,
    TrajectoryRow,
    WifiRecord,
)
from kapture_ros.dataset.repair import RepairReport, needs_repair, repair
from kapture_ros.errors import InputError
from kapture_ros.transforms.se3 import Transform

log = logging.getLogger(__name__)

_FILE_RECORDS: dict[str, type[ImageRecord | DepthRecord | LidarRecord]] = {
    "camera": ImageRecord,
    "depth": DepthRecord,
    "lidar": LidarRecord,
}
_VECTOR_RECORDS: dict[str, type[AccelerometerRecord | GyroscopeRecord | MagneticRecord]] = {
    "accelerometer": AccelerometerRecord,
    "gyroscope": GyroscopeRecord,
    "magnetic": MagneticRecord,
}


class Dataset:
    """A kapture dataset on disk, written by us or by others.

    Attributes:
        path: its folder.
        repaired: what had to be repaired when it was opened; None if nothing had.
    """

    def __init__(self, path: Path, repaired: RepairReport | None) -> None:
        self.path = path
        self.repaired = repaired

    @cached_property
    def kapture(self) -> Any:
        """All of it as NAVER's `kapture.Kapture`.

        Raises:
            InputError: if the library cannot read it.
        """
        from kapture.io.csv import kapture_from_dir  # takes seconds to import

        try:
            return kapture_from_dir(str(self.path))
        except (AssertionError, KeyError, IndexError, TypeError, ValueError, OSError) as error:
            raise InputError(f"{self.path} is not a readable kapture dataset: {error}") from error

    @cached_property
    def sensors(self) -> dict[str, Sensor]:
        """The sensors; `origin` is empty where a dataset was written by others."""
        ours = sidecar.read_sensors(self.path)
        return {
            sensor_id: ours.get(sensor_id)
            or Sensor(
                sensor_id,
                unescape(found.name or ""),
                found.sensor_type,
                tuple(unescape(str(value)) for value in found.sensor_params),
            )
            for sensor_id, found in self.kapture.sensors.items()
        }

    def file(self, record_path: str) -> Path:
        """Where an image, depth map or point cloud of a kapture row lies."""
        return self.path / tables.RECORDS_DATA / record_path

    def records(self, sensor_id: str) -> Iterator[Record]:
        """A sensor's records by time; files are read when their payload is encoded.

        A file that is not there has no bytes until then.

        Raises:
            InputError: if there is no such sensor.
        """
        sensor = self.sensors.get(sensor_id)
        if sensor is None:
            known = ", ".join(self.sensors) or "none"
            raise InputError(f"{self.path} has no sensor '{sensor_id}'; it has {known}")
        lines = sidecar.read_lines(self.path / sidecar.extra_path(sensor_id))
        extras = {line["stamp"]: line for line in lines if sidecar.is_record(line)}
        found: dict[int, Any] = {
            stamp: devices[sensor_id]
            for stamp, devices in (
                getattr(self.kapture, f"records_{sensor.kind}", None) or {}
            ).items()
            if sensor_id in devices
        }
        stamps = set(found) | (set(extras) if sensor.kind in sidecar.LINE_PER_RECORD else set())
        for stamp in sorted(stamps):
            line = extras.get(stamp, {})
            base = {"stamp_ns": stamp, "sensor_id": sensor_id, "extra": line.get("extra", {})}
            yield self._record(sensor.kind, base, found.get(stamp), line)

    def duplicates(self, sensor_id: str) -> Iterator[dict[str, Any]]:
        """Sidecar lines of the records that kapture could not hold, in order of arrival."""
        lines = sidecar.read_lines(self.path / sidecar.extra_path(sensor_id))
        return (line for line in lines if "duplicate" in line)

    def trajectory(self) -> Iterator[TrajectoryRow]:
        """The rows of trajectories.txt, by time."""
        poses = self.kapture.trajectories or {}
        for stamp in sorted(poses):
            for device_id, pose in poses[stamp].items():
                if pose.t is None:
                    continue
                oriented = pose.r is not None
                quaternion = pose.r_raw if oriented else (1.0, 0.0, 0.0, 0.0)
                device_from_world = Transform.from_quaternion(quaternion, pose.t_raw)
                yield TrajectoryRow(stamp, device_id, device_from_world, oriented)

    def rigs(self) -> Iterator[RigRow]:
        """The rows of rigs.txt."""
        for rig_id, placed in (self.kapture.rigs or {}).items():
            for sensor_id, pose in placed.items():
                yield RigRow(rig_id, sensor_id, Transform.from_quaternion(pose.r_raw, pose.t_raw))

    def _record(self, kind: str, base: dict[str, Any], found: Any, line: dict[str, Any]) -> Record:
        if kind in _FILE_RECORDS:
            path = self.file(found)
            size = path.stat().st_size if path.is_file() else 0
            payload = FilePayload("".join(path.suffixes), path.read_bytes, size)
            return _FILE_RECORDS[kind](**base, payload=payload)
        if kind in _VECTOR_RECORDS:
            return _VECTOR_RECORDS[kind](**base, xyz=found.astuple())
        match kind:
            case "gnss":
                place = {"longitude": found.x, "latitude": found.y, "altitude": found.z}
                return GnssRecord(**base, **place, utc=found.utc, dop=found.dop)
            case "wifi":
                start, end = line.get("scan") or _scan_times(found)
                points = _access_points(found or {}, line)
                return WifiRecord(
                    **base, access_points=points, scan_start_ns=start, scan_end_ns=end
                )
            case "bluetooth":
                return BluetoothRecord(**base, beacons=_beacons(found or {}, line))
            case "odometry":
                pose = Transform.from_quaternion(line["pose"][:4], line["pose"][4:])
                frames = {"parent_frame": line["parent"], "child_frame": line["child"]}
                return OdometryRecord(**base, **frames, parent_from_child=pose)
            case "message":
                return MessageRecord(**base, reason=line["reason"])
        raise InputError(f"{self.path}: records of sensor type '{kind}' are not known")


def open_dataset(path: Path) -> Dataset:
    """Open a dataset; one whose recording was killed is repaired first, and that is logged.

    Raises:
        InputError: if there is no dataset.
        OutputError: if it is being written at this moment, or cannot be repaired.
    """
    if not (path / "sensors").is_dir() and not needs_repair(path):
        raise InputError(f"{path} is not a kapture dataset: there is no folder 'sensors' in it")
    repaired = None
    if needs_repair(path):
        repaired = repair(path)
        log.warning("the recording was not ended properly: %s", repaired)
    if not (path / "sensors" / "sensors.txt").is_file():
        raise InputError(f"{path} is not a kapture dataset: sensors/sensors.txt is missing")
    return Dataset(path, repaired)


def _scan_times(found: Any) -> tuple[int, int]:
    first = next(iter(found.values()))
    return first.scan_time_start, first.scan_time_end


def _access_points(found: Any, line: dict[str, Any]) -> tuple[AccessPoint, ...]:
    if "heard" in line:
        return tuple(AccessPoint(*item) for item in line["heard"])
    last_seen = line.get("last_seen") or [0] * len(found)
    return tuple(
        AccessPoint(unescape(bssid), unescape(s.ssid), s.frequency, int(s.rssi), seen)
        for (bssid, s), seen in zip(found.items(), last_seen, strict=True)
    )


def _beacons(found: Any, line: dict[str, Any]) -> tuple[Beacon, ...]:
    if "heard" in line:
        return tuple(Beacon(*item) for item in line["heard"])
    return tuple(
        Beacon(unescape(address), int(signal.rssi), unescape(signal.name))
        for address, signal in found.items()
    )
