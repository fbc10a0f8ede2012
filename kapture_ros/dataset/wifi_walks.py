"""Walks of phones through a building (Wi-Fi, Bluetooth, way points) as kapture datasets.

The files are those of the Indoor Location Competition 2.0 (Microsoft Research and XYZ10):
tab-separated lines `milliseconds, TYPE, …`. One walk becomes one dataset with a rig
`phone`; surveyed way points become positions of it, in metres of the floor plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kapture_ros.dataset.records import (
    AccessPoint,
    Beacon,
    BluetoothRecord,
    JsonValue,
    RigRow,
    Sensor,
    TrajectoryRow,
    WifiRecord,
)
from kapture_ros.dataset.writer import DatasetWriter
from kapture_ros.errors import InputError
from kapture_ros.transforms import Transform

MILLISECOND = 1_000_000  # in nanoseconds
RIG = "phone"
FIELDS = {"TYPE_WIFI": 7, "TYPE_BEACON": 10, "TYPE_WAYPOINT": 4}


@dataclass(slots=True)
class Walk:
    """One file: scans and beacons by stamp, way points (stamp, x, y), what was damaged.

    `ranging` has, for each beacon, the power in dBm that it announces for one metre, and
    the distance in metres that the phone made of it.
    """

    path: Path
    scans: dict[int, list[AccessPoint]] = field(default_factory=dict)
    beacons: dict[int, list[Beacon]] = field(default_factory=dict)
    ranging: dict[int, list[tuple[int, float]]] = field(default_factory=dict)
    way_points: list[tuple[int, float, float]] = field(default_factory=list)
    head: dict[str, str] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)


def read_walk(path: Path) -> Walk:
    """Read one walk; damaged lines are counted in it.

    Raises:
        InputError: if the file cannot be read, or holds neither scans nor way points.
    """
    walk = Walk(path)
    try:
        # Only a newline ends a line; a network's name may hold other separators.
        lines = path.read_bytes().decode().removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    for number, line in enumerate(lines, 1):
        if not line or line.startswith("#"):
            # `#\tkey:value\tkey:value`
            items = (item.split(":", 1) for item in line.lstrip("#").split("\t"))
            walk.head |= {item[0].strip(): item[1] for item in items if len(item) == 2}
        elif not _read_line(walk, line.split("\t")):
            walk.damaged.append(f"line {number}")
    if not walk.scans and not walk.way_points:
        raise InputError(f"{path} holds no Wi-Fi scans and no way points; is it a walk?")
    return walk


def _read_line(walk: Walk, cells: list[str]) -> bool:
    """Take one line; False if it is damaged. Other sensors' lines are passed over."""
    kind = cells[1] if len(cells) > 1 else ""
    if kind in FIELDS and len(cells) != FIELDS[kind]:
        return False
    try:
        stamp = int(cells[0]) * MILLISECOND
        match kind:
            case "TYPE_WIFI":
                ssid, bssid, rssi, frequency, seen = cells[2:]
                last_seen = int(seen) * MILLISECOND
                heard = AccessPoint(bssid, ssid, int(frequency), int(rssi), last_seen)
                walk.scans.setdefault(stamp, []).append(heard)
            case "TYPE_BEACON":
                uuid, major, minor, power, rssi, distance, address, _ = cells[2:]
                beacon = Beacon(address, int(rssi), f"{uuid}/{major}/{minor}")
                ranged = (int(power), float(distance))
                walk.beacons.setdefault(stamp, []).append(beacon)
                walk.ranging.setdefault(stamp, []).append(ranged)
            case "TYPE_WAYPOINT":
                walk.way_points.append((stamp, float(cells[2]), float(cells[3])))
    except ValueError:
        return False
    return True


def write_walk(walk: Walk, path: Path) -> None:
    """Write a walk as a dataset.

    Raises:
        OutputError: if the dataset cannot be written.
    """
    with DatasetWriter(path) as writer:
        for kind in ("wifi", "bluetooth"):
            origin = {"file": walk.path.name, **walk.head}
            writer.add_sensor(Sensor(kind, kind, kind, origin=origin))
            writer.add_rig(RigRow(RIG, kind, Transform()))
        for record in _records(walk):
            writer.write(record)
        for stamp, x, y in sorted(walk.way_points):
            # Only the position is known; kapture's translation is then minus the position.
            phone_from_floor = Transform(translation=[-x, -y, 0.0])
            writer.add_trajectory(TrajectoryRow(stamp, RIG, phone_from_floor, oriented=False))


def _records(walk: Walk) -> Iterator[WifiRecord | BluetoothRecord]:
    for stamp, points in sorted(walk.scans.items()):
        # When the radio scanned is not known: phones also report what they heard before,
        # here 28 s ago in the median.
        yield WifiRecord(
            stamp_ns=stamp,
            sensor_id="wifi",
            access_points=tuple(points),
            scan_start_ns=0,
            scan_end_ns=0,
        )
    for stamp, beacons in sorted(walk.beacons.items()):
        power, distance = zip(*walk.ranging[stamp], strict=True)
        extra: dict[str, JsonValue] = {"tx_power": list(power), "distance": list(distance)}
        yield BluetoothRecord(
            stamp_ns=stamp, sensor_id="bluetooth", beacons=tuple(beacons), extra=extra
        )
