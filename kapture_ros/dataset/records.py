"""What a sensor said at one instant, as it goes into a kapture dataset.

Made by `kapture_ros.messages` from ROS messages (and by importers), consumed by
`DatasetWriter`. Stamps are integer nanoseconds of the message header. What kapture has
no column for travels in `extra` and lands in the sensor's sidecar, so that the message
can be reconstructed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from kapture_ros.transforms.se3 import Transform

JsonValue: TypeAlias = bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"] | None
"""What a sidecar can hold; floats round-trip exactly, NaN and infinities included."""

FileBytes: TypeAlias = bytes | memoryview


@dataclass(frozen=True, slots=True)
class Sensor:
    """A row of sensors.txt.

    Attributes:
        sensor_id: unique in the dataset; also the folder of its files.
        kind: kapture's sensor type: camera, depth, lidar, gnss, wifi, bluetooth,
            accelerometer, gyroscope, magnetic; or a type of ours that kapture passes
            through (odometry).
        params: kapture's sensor parameters (for cameras: model, width, height, …).
        origin: where it comes from (topic, type, frame_id, …), kept in the sidecar.
    """

    sensor_id: str
    name: str
    kind: str
    params: tuple[str, ...] = ()
    origin: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FilePayload:
    """A file to be written; `encode` is called on a worker thread, off the critical path.

    Attributes:
        nbytes: about what it holds in memory while it waits; it bounds the writer's queue.
        ready: `encode` has nothing to do but to return the bytes.
        inspect: called on a worker thread with the bytes that were written; must not raise.
    """

    suffix: str
    encode: Callable[[], FileBytes]
    nbytes: int = 0
    ready: bool = False
    inspect: Callable[[FileBytes], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One record of one sensor; the base of the kinds below."""

    stamp_ns: int
    sensor_id: str
    extra: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord(Record):
    """A camera image: the payload is the image file; width and height as far as known."""

    payload: FilePayload
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthRecord(Record):
    """A depth map: float32 little-endian metres, row by row, no header (`.depth`).

    The file does not say its width and height; the sensor does.
    """

    payload: FilePayload
    size: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LidarRecord(Record):
    """A point cloud file (`.pcd`)."""

    payload: FilePayload


@dataclass(frozen=True, slots=True, kw_only=True)
class GnssRecord(Record):
    """A GNSS fix: degrees, degrees, metres above the ellipsoid; utc in whole seconds."""

    longitude: float
    latitude: float
    altitude: float
    utc: int
    dop: float


@dataclass(frozen=True, slots=True)
class AccessPoint:
    """One access point of a scan: frequency in MHz, rssi in dBm."""

    bssid: str
    ssid: str
    frequency: int
    rssi: int
    last_seen_ns: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WifiRecord(Record):
    """One Wi-Fi scan; start and end in nanoseconds, 0 if unknown."""

    access_points: tuple[AccessPoint, ...]
    scan_start_ns: int
    scan_end_ns: int


@dataclass(frozen=True, slots=True)
class Beacon:
    """One Bluetooth device heard: address, rssi in dBm, name."""

    address: str
    rssi: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BluetoothRecord(Record):
    """Bluetooth devices heard at one instant."""

    beacons: tuple[Beacon, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AccelerometerRecord(Record):
    """Specific force, m/s²."""

    xyz: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class GyroscopeRecord(Record):
    """Angular rate, rad/s."""

    xyz: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class MagneticRecord(Record):
    """Magnetic field, tesla."""

    xyz: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class OdometryRecord(Record):
    """A pose reported by a topic (odometry, a localizer, ground truth).

    The whole message, twist and covariances included, is in `extra`; it goes to the
    sensor's sidecar. Which source becomes the dataset's trajectory is decided where the
    dataset is made, since trajectories are wanted at the stamps of the images.
    """

    parent_frame: str
    child_frame: str
    parent_from_child: Transform


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRecord(Record):
    """A message that became no other record (a fix without a position); `extra` is all of it."""

    reason: str


@dataclass(frozen=True, slots=True)
class TrajectoryRow:
    """A row of trajectories.txt: `device_from_world` of a sensor or rig.

    Where only a position is known (GNSS, surveyed points), `oriented` is false, the rotation
    is the identity and is left empty in the file; kapture's translation is then minus the
    position.
    """

    stamp_ns: int
    device_id: str
    device_from_world: Transform
    oriented: bool = True


@dataclass(frozen=True, slots=True)
class RigRow:
    """A row of rigs.txt: `sensor_from_rig`."""

    rig_id: str
    sensor_id: str
    sensor_from_rig: Transform
