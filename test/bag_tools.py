"""Messages of any type and bags of any kind, for tests of messages, conversion and recording."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rosbags import rosbag1, rosbag2
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

MSG_FOLDER = Path(__file__).resolve().parent.parent / "msg"
BASE, NAME, ARRAY, SEQUENCE = 1, 2, 3, 4
START = 1_700_000_000_000_000_000
STEP = 100_000_000


def typestore(ros: int) -> Any:
    """All types of ROS 1 or 2, ours, and those of packages that only send Wi-Fi or NMEA."""
    store = get_typestore(Stores.ROS1_NOETIC if ros == 1 else Stores.ROS2_JAZZY)
    types = {}
    for name in ("WifiAccessPoint", "WifiScan"):
        types |= get_types_from_msg(
            (MSG_FOLDER / f"{name}.msg").read_text(), f"kapture_ros/msg/{name}"
        )
    for name, text in OTHERS.items():
        types |= get_types_from_msg(text, name)
    store.register({name: said for name, said in types.items() if name not in store.fielddefs})
    return store


OTHERS = {
    "tf2_msgs/msg/TFMessage": "geometry_msgs/TransformStamped[] transforms",
    "nmea_msgs/msg/Sentence": "std_msgs/Header header\nstring sentence",
    "wireless_msgs/msg/Connection": "float32 bitrate\nint16 txpower\nstring link_quality_raw\n"
    "float32 link_quality\nint16 signal_level\nint16 noise_level\nstring essid\nstring bssid\n"
    "float64 frequency",
    "rf_msgs/msg/Station": "std_msgs/Header header\nuint8[6] mac\nint32 channel\nint32 rssi",
    "rf_msgs/msg/AccessPoints": "std_msgs/Header header\nrf_msgs/Station[] aps",
    "rtabmap_msgs/msg/EnvSensor": "std_msgs/Header header\nint32 type\nfloat64 value",
    "gps_common/msg/GPSStatus": "int16 status",
    "gps_common/msg/GPSFix": "std_msgs/Header header\ngps_common/GPSStatus status\n"
    "float64 latitude\nfloat64 longitude\nfloat64 altitude\nfloat64 time\nfloat64 hdop",
    "strange_msgs/msg/Thing": "std_msgs/Header header\nfloat64[3] value",
}

STORES = {ros: typestore(ros) for ros in (1, 2)}


def make(type_name: str, ros: int = 2, **values: Any) -> Any:
    """A message with zeros where nothing is given; `stamp` and `frame` go to the header."""
    full = type_name if "/msg/" in type_name else type_name.replace("/", "/msg/")
    store = STORES[ros]
    in_header = ("stamp", "frame", "seq") if full != "std_msgs/msg/Header" else ()
    header = {key: values.pop(key) for key in in_header if key in values}
    content = {}
    for name, kind in store.fielddefs[full][1]:
        given = values.pop(name, values.pop(name.lower(), None))
        content[name] = _default(kind, ros) if given is None else given
    assert not values, f"{full} has no {list(values)}"
    message = store.types[full](**content)
    if header:
        message.header = make_header(ros=ros, **header)
    return message


def make_header(stamp: int = 0, frame: str = "", seq: int = 0, ros: int = 2) -> Any:
    time = make("builtin_interfaces/Time", ros, sec=stamp // 10**9, nanosec=stamp % 10**9)
    counted = {"seq": seq} if ros == 1 else {}
    return make("std_msgs/Header", ros, stamp=time, frame_id=frame, **counted)


def _default(kind: Any, ros: int) -> Any:
    what, of = kind
    if what == BASE:
        return "" if of[0] == "string" else of[0] == "bool" and False
    if what == NAME:
        return make(of, ros)
    length = of[1] if what == ARRAY else 0
    if of[0][0] == BASE and of[0][1][0] != "string":
        return np.zeros(length, of[0][1][0])
    return [_default(of[0], ros) for _ in range(length)]


def image(
    pixels: np.ndarray, encoding: str, stamp: int, frame: str, ros: int = 2, **more: Any
) -> Any:
    data = np.ascontiguousarray(pixels)
    height, width = data.shape[:2]
    return make(
        "sensor_msgs/Image", ros, stamp=stamp, frame=frame, height=height, width=width,
        encoding=encoding, step=data.nbytes // height, data=data.reshape(-1).view(np.uint8), **more,
    )  # fmt: skip


def pose_fields(name: str, wxyz: Any, xyz: Any, ros: int) -> Any:
    """A geometry_msgs Pose or Transform."""
    position, orientation = (
        ("position", "orientation")
        if name == "Pose"
        else (
            "translation",
            "rotation",
        )
    )
    point = "Point" if name == "Pose" else "Vector3"
    vector = make(f"geometry_msgs/{point}", ros, **dict(zip("xyz", map(float, xyz), strict=True)))
    turn = make("geometry_msgs/Quaternion", ros, **dict(zip("wxyz", map(float, wxyz), strict=True)))
    return make(f"geometry_msgs/{name}", ros, **{position: vector, orientation: turn})


def transforms(items: Iterable[tuple[int, str, str, Any, Any]], ros: int = 2) -> Any:
    """A TFMessage of (stamp, parent, child, quaternion wxyz, translation)."""
    return make(
        "tf2_msgs/TFMessage", ros,
        transforms=[
            make("geometry_msgs/TransformStamped", ros, stamp=stamp, frame=parent,
                 child_frame_id=child, transform=pose_fields("Transform", wxyz, xyz, ros))
            for stamp, parent, child, wxyz, xyz in items
        ],
    )  # fmt: skip


def camera_info(
    size: tuple[int, int], matrix: Any, stamp: int, frame: str, ros: int = 2, **more: Any
) -> Any:
    width, height = size
    k = np.asarray(matrix, float).reshape(9)
    p = np.hstack([k.reshape(3, 3), np.zeros((3, 1))]).reshape(12)
    values = {"distortion_model": "plumb_bob", "d": np.zeros(5), "r": np.eye(3).reshape(9), "p": p}
    values |= more
    if ros == 1:
        values = {key.upper() if len(key) == 1 else key: v for key, v in values.items()}
    return make(
        "sensor_msgs/CameraInfo", ros, stamp=stamp, frame=frame, width=width, height=height,
        **({"K": k} if ros == 1 else {"k": k}), **values,
    )  # fmt: skip


Stream = list[tuple[str, Any, int]]  # topic, message, time of recording


def write_bag(path: Path, kind: str, stream: Stream, compression: str = "") -> Path:
    """Write `PATH.bag` (kind ros1) or a folder PATH (kind db3 or mcap)."""
    ros = 1 if kind == "ros1" else 2
    store = STORES[ros]
    if ros == 1:
        writer: Any = rosbag1.Writer(path.with_suffix(".bag"))
        if compression:
            writer.set_compression(rosbag1.Writer.CompressionFormat[compression.upper()])
    else:
        plugin = {"db3": "SQLITE3", "mcap": "MCAP"}[kind]
        writer = rosbag2.Writer(path, version=9, storage_plugin=rosbag2.StoragePlugin[plugin])
        if compression:
            mode = rosbag2.CompressionMode[compression.upper()]
            writer.set_compression(mode, rosbag2.CompressionFormat.ZSTD)
    connections: dict[str, Any] = {}
    with writer:
        for topic, message, time in stream:
            name = message.__msgtype__
            if topic not in connections:
                connections[topic] = writer.add_connection(topic, name, typestore=store)
            serialize = store.serialize_ros1 if ros == 1 else store.serialize_cdr
            writer.write(connections[topic], time, serialize(message, name))
    return path.with_suffix(".bag") if ros == 1 else path
