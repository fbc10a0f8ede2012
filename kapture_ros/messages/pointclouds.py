"""sensor_msgs PointCloud2 as binary PCD files, and back.

All fields are kept, whatever their names. Bytes between the fields become fields named `_`,
as in files of the Point Cloud Library, so the points are written as they lie in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from kapture_ros.dataset.records import FilePayload, JsonValue, LidarRecord
from kapture_ros.messages.common import Message, MessageError, byte_array

# sensor_msgs/PointField datatype: NumPy's type; its kind and size are PCD's TYPE and SIZE.
DATATYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 8: "f8"}
PADDING = "_"


@dataclass(frozen=True, slots=True)
class Field:
    """One column of a cloud: PCD's name, NumPy type, count, and its bytes from the start."""

    name: str
    dtype: str
    count: int
    offset: int

    @property
    def size(self) -> int:
        """Bytes of all its elements."""
        return np.dtype(self.dtype).itemsize * self.count


def point_cloud_records(message: Message, stamp_ns: int, sensor_id: str) -> tuple[LidarRecord, ...]:
    """A point cloud as a PCD file.

    Raises:
        MessageError: `bad-size` if the numbers contradict each other or the data is too
            short, `bad-fields` if fields overlap, repeat, or are of an unknown type.
    """
    fields = _fields(message)
    width, height = int(message.width), int(message.height)
    step, row_step, size = int(message.point_step), int(message.row_step), len(message.data)
    row = width * step
    needed = row_step * (height - 1) + row if height and width else 0
    if row_step < row or size < needed:
        raise MessageError(
            "bad-size", f"{width}×{height} points of {step} bytes in rows of {row_step}: {size}"
        )
    extra: dict[str, JsonValue] = {"is_dense": bool(message.is_dense)}
    if row_step != row:
        extra["row_step"] = row_step
    if message.is_bigendian:
        extra["is_bigendian"] = True
    payload = FilePayload(".pcd", lambda: _pcd(message, fields), size)
    return (LidarRecord(stamp_ns=stamp_ns, sensor_id=sensor_id, extra=extra, payload=payload),)


def read_pcd(file: bytes) -> tuple[dict[str, list[str]], bytes]:
    """The header (keyword: words) and the point data of a binary PCD file.

    Raises:
        MessageError: `bad-fields` if it is not one.
    """
    header: dict[str, list[str]] = {}
    at = 0
    while "DATA" not in header:
        end = file.find(b"\n", at)
        if end < 0:
            raise MessageError("bad-fields", "the PCD header has no end")
        keyword, *words = file[at:end].decode("utf-8", "replace").split(" ")
        header[keyword] = words
        at = end + 1
    return header, file[at:]


def packed_points(message: Message) -> bytes:
    """The points without gaps between rows, little-endian: what the PCD file holds."""
    width, height = int(message.width), int(message.height)
    step = int(message.point_step)
    data = byte_array(message.data)
    if message.row_step != width * step and height:
        rows = np.ndarray((height, width * step), np.uint8, data, strides=(message.row_step, 1))
        data = np.ascontiguousarray(rows)
    points = data.reshape(-1)[: width * height * step]
    if not message.is_bigendian:
        return points.tobytes()
    fields = _fields(message)
    swapped = np.frombuffer(points.tobytes(), _dtype(fields, ">")).astype(_dtype(fields, "<"))
    return swapped.tobytes()


def _pcd(message: Message, fields: list[Field]) -> bytes:
    width, height = int(message.width), int(message.height)
    columns = {
        "FIELDS": [field.name for field in fields],
        "SIZE": [str(np.dtype(field.dtype).itemsize) for field in fields],
        "TYPE": [field.dtype[0].upper() for field in fields],
        "COUNT": [str(field.count) for field in fields],
    }
    lines = ["# .PCD v0.7 - Point Cloud Data file format", "VERSION 0.7"]
    lines += [f"{keyword} {' '.join(words)}" for keyword, words in columns.items()]
    lines += [f"WIDTH {width}", f"HEIGHT {height}", "VIEWPOINT 0 0 0 1 0 0 0"]
    lines += [f"POINTS {width * height}", "DATA binary", ""]
    return "\n".join(lines).encode() + packed_points(message)


def _fields(message: Message) -> list[Field]:
    """The columns in the order of their bytes, padding included."""
    found: list[Field] = []
    end = 0
    for field in sorted(message.fields, key=lambda f: int(f.offset)):
        dtype, offset = DATATYPES.get(int(field.datatype)), int(field.offset)
        if dtype is None or offset < end or not str(field.name) or " " in str(field.name):
            raise MessageError(
                "bad-fields", f"'{field.name}' of type {field.datatype} at byte {offset}"
            )
        if offset > end:
            found.append(Field(PADDING, "u1", offset - end, end))
        # Drivers of old leave count at 0 and mean 1.
        found.append(Field(str(field.name), dtype, max(int(field.count), 1), offset))
        end = offset + found[-1].size
    step = int(message.point_step)
    if end > step or not found:
        raise MessageError("bad-fields", f"{end} bytes of fields in points of {step} bytes")
    if step > end:
        found.append(Field(PADDING, "u1", step - end, end))
    return found


def _dtype(fields: list[Field], order: str) -> np.dtype[Any]:
    names = [f"{index}" for index in range(len(fields))]
    formats = [(order + field.dtype, (field.count,)) for field in fields]
    offsets = [field.offset for field in fields]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets})
