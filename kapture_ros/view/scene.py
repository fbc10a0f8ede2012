"""What the browser shows, as frames: from the localizer's messages, by attribute access.

A frame is a JSON header with its length before it (uint32, little-endian) and binary data
behind it. Coordinates go as float32 relative to an origin in the header, so that maps far from
their own origin lose nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from kapture_ros.messages.common import Message, MessageError, byte_array, time_ns
from kapture_ros.messages.pointclouds import DATATYPES, packed_points
from kapture_ros.transforms.se3 import Array

STATUS_FIELDS = (
    "state", "reason", "reason_text", "inliers", "matches", "candidates", "best_map_image",
    "window_size", "fix_age", "latency_decode", "latency_extraction", "latency_retrieval",
    "latency_matching", "latency_pose", "latency_fusion", "latency_total", "map_id",
)  # fmt: skip
LINE_LIST = 5  # visualization_msgs/Marker


@dataclass(frozen=True, slots=True)
class SceneFrame:
    """The newest of its kind replaces the one before."""

    kind: str
    header: Mapping[str, Any]
    data: bytes = b""

    def pack(self) -> bytes:
        """The frame as it is sent."""
        header = json.dumps({"kind": self.kind, **self.header}, allow_nan=False).encode()
        return len(header).to_bytes(4, "little") + header + self.data


def pose_frame(message: Message, kind: str = "pose") -> SceneFrame:
    """A PoseWithCovarianceStamped or Odometry: position, orientation xyzw, covariance (3 × 3)."""
    pose = message.pose.pose
    covariance = np.asarray(message.pose.covariance, float).reshape(6, 6)
    return SceneFrame(
        kind,
        {
            "stamp_ns": str(time_ns(message.header.stamp)),  # too long for JavaScript's numbers
            "frame": message.header.frame_id,
            "position": _numbers(pose.position, "xyz"),
            "orientation": _numbers(pose.orientation, "xyzw"),
            "covariance": covariance[:3, :3].ravel().tolist(),
            "yaw_sigma_deg": math.degrees(math.sqrt(max(float(covariance[5, 5]), 0.0))),
        },
    )


def path_frame(message: Message) -> SceneFrame:
    """A nav_msgs/Path: its positions."""
    positions = [_numbers(stamped.pose.position, "xyz") for stamped in message.poses]
    return _positions_frame("path", np.array(positions, float).reshape(-1, 3))


def lines_frame(message: Message, kind: str) -> SceneFrame:
    """The LINE_LIST markers of a MarkerArray: ends of lines, then colours as three bytes each."""
    markers = [marker for marker in message.markers if marker.type == LINE_LIST]
    ends = [_numbers(point, "xyz") for marker in markers for point in marker.points]
    colors = [
        np.tile(np.uint8(255 * np.array(_numbers(marker.color, "rgb"))), (len(marker.points), 1))
        for marker in markers
    ]
    frame = _positions_frame(kind, np.array(ends, float).reshape(-1, 3))
    tints = np.concatenate([np.empty((0, 3), np.uint8), *colors])
    return SceneFrame(kind, frame.header, frame.data + tints.tobytes())


def points_frame(message: Message, limit: int) -> SceneFrame:
    """A PointCloud2: positions, then colours as three bytes each; evenly thinned to `limit`.

    Raises:
        MessageError: `bad-fields` if there is no x, y, z.
    """
    table = _table(message)
    if missing := {"x", "y", "z"} - set(table.dtype.names or ()):
        raise MessageError("bad-fields", f"a cloud without {', '.join(sorted(missing))}")
    table = table[:: max(1, math.ceil(len(table) / limit))]
    points = np.stack([table[axis].astype(float) for axis in "xyz"], axis=1)
    whole = np.isfinite(points).all(axis=1)
    frame = _positions_frame("points", points[whole])
    return SceneFrame(frame.kind, frame.header, frame.data + _colors(table[whole]).tobytes())


def status_frame(message: Message) -> SceneFrame:
    """A kapture_ros/LocalizationStatus: state and reason by name, NaN as null."""
    values = {name: getattr(message, name) for name in STATUS_FIELDS}
    said = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    for name in ("state", "reason"):
        said[name] = _constant_name(message, f"{name.upper()}_", values[name])
    return SceneFrame("status", said)


def image_frame(message: Message) -> SceneFrame:
    """A CompressedImage, as it is."""
    kind = "png" if "png" in str(message.format).lower() else "jpeg"
    return SceneFrame("image", {"type": f"image/{kind}"}, byte_array(message.data).tobytes())


def _constant_name(message: Message, prefix: str, value: int) -> str:
    """TRACKING for 2: the message's own name of one of its values."""
    for name, constant in vars(type(message)).items():
        if name.startswith(prefix) and constant == value:
            return name.removeprefix(prefix)
    return str(value)


def _numbers(message: Message, names: str) -> list[float]:
    return [float(getattr(message, name)) for name in names]


def _positions_frame(kind: str, positions: Array) -> SceneFrame:
    """Positions (N, 3) as float32 from their middle."""
    origin = (positions.min(axis=0) + positions.max(axis=0)) / 2 if len(positions) else np.zeros(3)
    header = {"count": len(positions), "origin": origin.tolist()}
    return SceneFrame(kind, header, (positions - origin).astype("<f4").tobytes())


def _table(message: Message) -> Any:
    """The points as a structured array with the message's names."""
    fields = [field for field in message.fields if int(field.datatype) in DATATYPES]
    dtype = np.dtype(
        {
            "names": [str(field.name) for field in fields],
            "formats": ["<" + DATATYPES[int(field.datatype)] for field in fields],
            "offsets": [int(field.offset) for field in fields],
            "itemsize": int(message.point_step),
        }
    )
    return np.frombuffer(packed_points(message), dtype)


def _colors(table: Any) -> Any:
    """RGB (N, 3) uint8: the field rgb (0xRRGGBB in its 32 bits), else grey."""
    if "rgb" not in (table.dtype.names or ()):
        return np.full((len(table), 3), 170, np.uint8)
    bits = np.ascontiguousarray(table["rgb"]).view("<u4")
    return np.stack([bits >> 16 & 255, bits >> 8 & 255, bits & 255], axis=1).astype(np.uint8)
