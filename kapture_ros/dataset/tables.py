"""kapture 1.1's text tables: which record goes to which file, and how its rows look.

Format: kapture_format.adoc of NAVER's kapture, version 1.1. Numbers are written so that
they read back exactly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kapture_ros.dataset.escape import check_id, escape
from kapture_ros.dataset.records import (
    AccelerometerRecord,
    BluetoothRecord,
    DepthRecord,
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
from kapture_ros.errors import InputError, OptionError
from kapture_ros.transforms.se3 import Transform

FORMAT_LINE = "# kapture format: 1.1"
SENSORS = Path("sensors/sensors.txt")
RIGS = Path("sensors/rigs.txt")
TRAJECTORIES = Path("sensors/trajectories.txt")
RECORDS_DATA = Path("sensors/records_data")

Row = tuple[str, ...]

POSE_COLUMNS = ("qw", "qx", "qy", "qz", "tx", "ty", "tz")
SENSORS_HEADER = "# sensor_id, name, sensor_type, [sensor_params]+"
RIGS_HEADER = "# " + ", ".join(("rig_id", "sensor_id", *POSE_COLUMNS))


@dataclass(frozen=True, slots=True)
class Table:
    """One `sensors/*.txt` file whose rows begin with timestamp and device_id."""

    path: Path
    columns: tuple[str, ...]
    in_files: bool = False  # the row names a file under records_data

    @property
    def header(self) -> str:
        """The two comment lines that open the file."""
        return f"{FORMAT_LINE}\n# {', '.join(('timestamp', 'device_id', *self.columns))}\n"


def _records(kind: str, *columns: str, in_files: bool = False) -> Table:
    return Table(Path(f"sensors/records_{kind}.txt"), columns, in_files)


TRAJECTORY_TABLE = Table(TRAJECTORIES, POSE_COLUMNS)
TABLES: dict[str, Table] = {
    "camera": _records("camera", "image_path", in_files=True),
    "depth": _records("depth", "depth_map_path", in_files=True),
    "lidar": _records("lidar", "point_cloud_path", in_files=True),
    "gnss": _records("gnss", "x", "y", "z", "utc", "dop"),
    "wifi": _records(
        "wifi", "BSSID", "frequency", "RSSI", "SSID", "scan_time_start", "scan_time_end"
    ),
    "bluetooth": _records("bluetooth", "address", "RSSI", "name"),
    "accelerometer": _records("accelerometer", "x_accel", "y_accel", "z_accel"),
    "gyroscope": _records("gyroscope", "x_speed", "y_speed", "z_speed"),
    "magnetic": _records("magnetic", "x_strength", "y_strength", "z_strength"),
}
"""Where the records of each sensor kind go."""

HEADERS = {table.path: table.header for table in (TRAJECTORY_TABLE, *TABLES.values())}

RECORD_KINDS: dict[type[Record], str] = {
    ImageRecord: "camera",
    DepthRecord: "depth",
    LidarRecord: "lidar",
    GnssRecord: "gnss",
    WifiRecord: "wifi",
    BluetoothRecord: "bluetooth",
    AccelerometerRecord: "accelerometer",
    GyroscopeRecord: "gyroscope",
    MagneticRecord: "magnetic",
    OdometryRecord: "odometry",
    MessageRecord: "message",
}

CAMERA_PARAMETERS = {
    "SIMPLE_PINHOLE": 5,
    "PINHOLE": 6,
    "SIMPLE_RADIAL": 6,
    "RADIAL": 7,
    "OPENCV": 10,
    "OPENCV_FISHEYE": 10,
    "FULL_OPENCV": 14,
    "FOV": 7,
    "SIMPLE_RADIAL_FISHEYE": 6,
    "RADIAL_FISHEYE": 7,
    "THIN_PRISM_FISHEYE": 14,
    "UNKNOWN_CAMERA": 2,
}
"""How many numbers follow the name of each camera model, width and height included."""


def check_sensor(sensor: Sensor) -> None:
    """Refuse a sensor that kapture's reader could not read.

    Raises:
        OptionError: naming the sensor and what is wrong.
    """
    check_id(sensor.sensor_id)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", sensor.kind):
        raise OptionError(f"sensor '{sensor.sensor_id}': '{sensor.kind}' is not a sensor type")
    if sensor.kind == "gnss" and not sensor.params:
        raise OptionError(f"GNSS sensor '{sensor.sensor_id}' needs its EPSG code (EPSG:4326)")
    if sensor.kind in ("camera", "depth"):
        model, *values = sensor.params or ("",)
        expected = CAMERA_PARAMETERS.get(model)
        try:
            finite = all(math.isfinite(float(value)) for value in values)
        except ValueError:
            finite = False
        if len(values) != expected or not finite:
            raise OptionError(
                f"camera '{sensor.sensor_id}': {model or 'no model'} with {values}; kapture "
                + (f"wants {expected} numbers for it" if expected else "does not know that model")
            )


def number(value: float) -> str:
    """A float as the shortest text that reads back exactly; NaN and infinities too."""
    return repr(float(value))


def record_rows(record: Record) -> list[Row]:
    """The columns after timestamp and device_id; none for a record kept in files or a sidecar.

    Of several access points (beacons) with one address kapture can hold the first only.
    """
    match record:
        case GnssRecord():
            place = (record.longitude, record.latitude, record.altitude)
            return [(*map(number, place), str(int(record.utc)), number(record.dop))]
        case AccelerometerRecord() | GyroscopeRecord() | MagneticRecord():
            return [tuple(map(number, record.xyz))]
        case WifiRecord():
            times = (str(int(record.scan_start_ns)), str(int(record.scan_end_ns)))
            found: dict[str, Row] = {}
            for point in record.access_points:
                row = (str(int(point.frequency)), str(int(point.rssi)), escape(point.ssid), *times)
                found.setdefault(escape(point.bssid), row)
            return [(address, *row) for address, row in found.items()]
        case BluetoothRecord():
            heard: dict[str, Row] = {}
            for beacon in record.beacons:
                signal = (str(int(beacon.rssi)), escape(beacon.name))
                heard.setdefault(escape(beacon.address), signal)
            return [(address, *row) for address, row in heard.items()]
        case _:
            return []


def pose_row(b_from_a: Transform, *, oriented: bool = True) -> Row:
    """qw, qx, qy, qz, tx, ty, tz; the quaternion is empty where only a position is known."""
    quaternion = map(number, b_from_a.quaternion) if oriented else [""] * 4
    return (*quaternion, *map(number, b_from_a.translation))


def trajectory_row(row: TrajectoryRow) -> Row:
    """The columns after timestamp and device_id."""
    return pose_row(row.device_from_world, oriented=row.oriented)


def lines(stamp_ns: int, device_id: str, rows: list[Row]) -> bytes:
    """Rows as they are appended to a table."""
    start = f"{int(stamp_ns)}, {device_id}, "
    return "".join(start + ", ".join(row) + "\n" for row in rows).encode()


def sensors_text(sensors: dict[str, Sensor]) -> str:
    """The whole sensors.txt."""
    rows = (
        ", ".join((s.sensor_id, escape(s.name), s.kind, *map(escape, s.params)))
        for s in sensors.values()
    )
    return "\n".join((FORMAT_LINE, SENSORS_HEADER, *rows)) + "\n"


def read_rigs(root: Path) -> dict[tuple[str, str], RigRow]:
    """The rows of rigs.txt; none if there is no such file.

    Raises:
        InputError: if a line is not a rig row.
    """
    path = root / RIGS
    if not path.exists():
        return {}
    rigs = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        try:
            rig_id, sensor_id, *values = (field.strip() for field in line.split(","))
            numbers = [float(value) for value in values]
            pose = Transform.from_quaternion(numbers[:4], numbers[4:])
        except ValueError as error:
            raise InputError(f"{path}: not a rig row: '{line}'") from error
        rigs[rig_id, sensor_id] = RigRow(rig_id, sensor_id, pose)
    return rigs


def rigs_text(rigs: dict[tuple[str, str], RigRow]) -> str:
    """The whole rigs.txt."""
    rows = (", ".join((*key, *pose_row(row.sensor_from_rig))) for key, row in rigs.items())
    return "\n".join((FORMAT_LINE, RIGS_HEADER, *rows)) + "\n"


@dataclass(frozen=True, slots=True)
class TableLine:
    """A row as it lies in its file, between two byte offsets."""

    start: int
    end: int
    stamp_ns: int
    device_id: str
    fields: Row


def split_line(table: Table, line: bytes) -> tuple[int, str, Row] | None:
    """Stamp, device and columns of a line; None if it is torn or damaged."""
    if not line.endswith(b"\n") or b"\0" in line:
        return None
    try:
        stamp, device_id, *fields = (field.strip() for field in line.decode().split(","))
        if len(fields) != len(table.columns):
            return None
        return int(stamp), device_id, tuple(fields)
    except ValueError:  # not UTF-8, too few fields, or no integer stamp
        return None


def read_table(
    root: Path, table: Table, start: int = 0, end: int | None = None
) -> Iterator[TableLine]:
    """The good rows of a table between two byte offsets; none if the file does not exist."""
    at = start
    if not (root / table.path).exists():
        return
    with (root / table.path).open("rb") as file:
        file.seek(start)
        while (end is None or at < end) and (line := file.readline()):
            begin, at = at, at + len(line)
            if line.startswith(b"#") or (parts := split_line(table, line)) is None:
                continue
            yield TableLine(begin, at, *parts)
