"""What all message functions share: stamps, plain Python values and the error they raise.

Messages are read by attribute, so an rclpy message and a `rosbags` message, of ROS 1 or
ROS 2, take the same way.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from kapture_ros.dataset.records import JsonValue
from kapture_ros.errors import KaptureRosError

Message = Any  # rclpy and rosbags classes have no common base

NANOSECONDS = 1_000_000_000
EMPTY_MESSAGE_MEMBER = "structure_needs_at_least_one_member"  # ROS 2's placeholder


class MessageError(KaptureRosError):
    """A message cannot become a record; it is skipped and counted under `reason`.

    Args:
        reason: a short code that is the same for all messages with this fault.
        detail: what exactly is wrong with this one.
    """

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


def normalized_type(type_name: str) -> str:
    """`sensor_msgs/Image` of both `sensor_msgs/Image` (ROS 1) and `sensor_msgs/msg/Image`."""
    package, _, rest = type_name.partition("/")
    return f"{package}/{rest.rpartition('/')[2]}"


def time_ns(time: Message) -> int:
    """Nanoseconds of a builtin_interfaces/Time (`rosbags` gives ROS 1 times that shape too)."""
    return int(time.sec) * NANOSECONDS + int(time.nanosec)


def header_stamp_ns(message: Message) -> int:
    """The header's stamp; 0 if the message has none."""
    header = getattr(message, "header", None)
    return time_ns(header.stamp) if header is not None else 0


def frame_id(message: Message) -> str:
    """The header's frame, without the leading slash that ROS 1 allowed; "" if there is none."""
    header = getattr(message, "header", None)
    return str(header.frame_id).lstrip("/") if header is not None else ""


def xyz(vector: Message) -> tuple[float, float, float]:
    """The components of a Vector3 or Point."""
    return float(vector.x), float(vector.y), float(vector.z)


def finite_xyz(vector: Message, what: str) -> tuple[float, float, float]:
    """The components of a Vector3.

    Raises:
        MessageError: `not-finite` if one is NaN or infinite.
    """
    values = xyz(vector)
    if not all(map(math.isfinite, values)):
        raise MessageError("not-finite", f"{what} is {values}")
    return values


def byte_array(data: Message) -> npt.NDArray[np.uint8]:
    """The bytes of a uint8[] field, without a copy where it is a buffer."""
    if isinstance(data, np.ndarray):
        return data.view(np.uint8)
    return np.frombuffer(bytes(data) if isinstance(data, list) else data, np.uint8)


def plain(message: Message, without: tuple[str, ...] = ()) -> dict[str, JsonValue]:
    """All fields of a message as values a sidecar holds, nested messages as mappings.

    Args:
        without: top-level fields that are stored elsewhere.
    """
    return {name: _plain_value(getattr(message, name)) for name in fields(message, without)}


def fields(message: Message, without: tuple[str, ...] = ()) -> list[str]:
    """The names of a message's fields, in order."""
    names = _FIELDS.get(type(message))
    if names is None:
        names = _FIELDS[type(message)] = _fields_of(message)
    return [name for name in names if name not in without]


_FIELDS: dict[type, tuple[str, ...]] = {}


def _fields_of(message: Message) -> tuple[str, ...]:
    if hasattr(message, "get_fields_and_field_types"):
        names = list(message.get_fields_and_field_types())
    else:
        # The message's constants look like fields, but have values.
        declared = dataclasses.fields(message)
        names = [field.name for field in declared if field.default is dataclasses.MISSING]
    return tuple(name for name in names if name != EMPTY_MESSAGE_MEMBER)


def _plain_value(value: Any) -> JsonValue:
    if isinstance(value, (bool, int, float, str)) or value is None:
        return value
    if isinstance(value, np.generic):
        scalar: JsonValue = value.item()
        return scalar
    if isinstance(value, bytes):  # rclpy's `byte`
        return value[0] if len(value) == 1 else list(value)
    if isinstance(value, (list, tuple)):
        return [_plain_value(item) for item in value]
    if hasattr(value, "tolist"):  # numpy and array.array
        items: JsonValue = value.tolist()
        return items
    if isinstance(value, Mapping):
        return {str(key): _plain_value(item) for key, item in value.items()}
    return plain(value)
