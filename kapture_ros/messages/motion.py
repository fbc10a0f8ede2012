"""Imu, MagneticField, Odometry, poses and transforms as records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kapture_ros.dataset.escape import derived_id
from kapture_ros.dataset.records import (
    AccelerometerRecord,
    GyroscopeRecord,
    JsonValue,
    MagneticRecord,
    OdometryRecord,
    Record,
)
from kapture_ros.messages.common import (
    Message,
    MessageError,
    finite_xyz,
    frame_id,
    header_stamp_ns,
    plain,
    xyz,
)
from kapture_ros.transforms.se3 import Transform

ACCELEROMETER, GYROSCOPE = "-accelerometer", "-gyroscope"


def imu_records(message: Message, stamp_ns: int, sensor_id: str) -> tuple[Record, ...]:
    """Two records: accelerometer (with the orientation in its sidecar) and gyroscope.

    Raises:
        MessageError: `not-finite`.
    """
    acceleration = finite_xyz(message.linear_acceleration, "linear_acceleration")
    rate = finite_xyz(message.angular_velocity, "angular_velocity")
    vectors = ("header", "linear_acceleration", "angular_velocity")
    rest = plain(message, without=(*vectors, "angular_velocity_covariance"))
    covariance = plain(message, without=(*vectors, *rest))
    return (
        AccelerometerRecord(
            stamp_ns=stamp_ns,
            sensor_id=derived_id(sensor_id, ACCELEROMETER),
            extra=rest,
            xyz=acceleration,
        ),
        GyroscopeRecord(
            stamp_ns=stamp_ns,
            sensor_id=derived_id(sensor_id, GYROSCOPE),
            extra=covariance,
            xyz=rate,
        ),
    )


def magnetic_records(message: Message, stamp_ns: int, sensor_id: str) -> tuple[Record, ...]:
    """One record of the field in tesla.

    Raises:
        MessageError: `not-finite`.
    """
    field = finite_xyz(message.magnetic_field, "magnetic_field")
    extra = plain(message, without=("header", "magnetic_field"))
    return (MagneticRecord(stamp_ns=stamp_ns, sensor_id=sensor_id, extra=extra, xyz=field),)


def odometry_records(message: Message, stamp_ns: int, sensor_id: str) -> tuple[Record, ...]:
    """The pose of nav_msgs/Odometry.

    Raises:
        MessageError: `bad-pose`.
    """
    child = str(message.child_frame_id).lstrip("/")
    pose = message.pose.pose
    return _pose_record(message, stamp_ns, sensor_id, (child, to_transform(pose)))


def pose_records(message: Message, stamp_ns: int, sensor_id: str) -> tuple[Record, ...]:
    """The pose of geometry_msgs PoseStamped; it does not say of which frame.

    Raises:
        MessageError: `bad-pose`.
    """
    return _pose_record(message, stamp_ns, sensor_id, ("", to_transform(message.pose)))


def pose_with_covariance_records(
    message: Message, stamp_ns: int, sensor_id: str
) -> tuple[Record, ...]:
    """The pose of geometry_msgs PoseWithCovarianceStamped; it does not say of which frame.

    Raises:
        MessageError: `bad-pose`.
    """
    return _pose_record(message, stamp_ns, sensor_id, ("", to_transform(message.pose.pose)))


def transform_records(message: Message, stamp_ns: int, sensor_id: str) -> tuple[Record, ...]:
    """The pose of a geometry_msgs TransformStamped on a topic of its own, as Vicon sends it.

    Raises:
        MessageError: `bad-pose`.
    """
    child = str(message.child_frame_id).lstrip("/")
    pose = _transform(message.transform.rotation, message.transform.translation)
    return _pose_record(message, stamp_ns, sensor_id, (child, pose))


@dataclass(frozen=True, slots=True)
class StampedTransform:
    """One transform of a TFMessage; `extra` holds its numbers as they came."""

    stamp_ns: int
    parent: str
    child: str
    parent_from_child: Transform
    extra: dict[str, JsonValue]


def stamped_transforms(message: Message) -> Iterator[StampedTransform | MessageError]:
    """The transforms of a tf2_msgs or tf TFMessage; an error in place of each bad one."""
    for item in message.transforms:
        parent, child = frame_id(item), str(item.child_frame_id).lstrip("/")
        if not parent or not child or parent == child:
            yield MessageError("bad-frame", f"transform from '{child}' to '{parent}'")
            continue
        try:
            pose = _transform(item.transform.rotation, item.transform.translation)
        except MessageError as error:
            yield MessageError(error.reason, f"'{parent}' to '{child}': {error.detail}")
            continue
        extra = plain(item.transform)
        yield StampedTransform(header_stamp_ns(item), parent, child, pose, extra)


def to_transform(pose: Message) -> Transform:
    """A geometry_msgs/Pose.

    Raises:
        MessageError: `bad-pose` if it is not finite or the quaternion is zero.
    """
    return _transform(pose.orientation, pose.position)


def _pose_record(
    message: Message, stamp_ns: int, sensor_id: str, child_pose: tuple[str, Transform]
) -> tuple[Record, ...]:
    child, pose = child_pose
    return (
        OdometryRecord(
            stamp_ns=stamp_ns,
            sensor_id=sensor_id,
            extra=plain(message, without=("header",)),
            parent_frame=frame_id(message),
            child_frame=child,
            parent_from_child=pose,
        ),
    )


def _transform(orientation: Message, position: Message) -> Transform:
    wxyz = (orientation.w, orientation.x, orientation.y, orientation.z)
    try:
        return Transform.from_quaternion(wxyz, xyz(position))
    except ValueError as error:
        raise MessageError("bad-pose", str(error)) from error
