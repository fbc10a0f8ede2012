"""One recording: messages in, in the order they come, a dataset out; live and from a bag.

`RecordingSession.handle` takes every message; what it does with one depends on its type.
Images are written at once; poses follow when they can be interpolated.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from kapture_ros.dataset.escape import derived_id
from kapture_ros.dataset.escape import sensor_id as safe_id
from kapture_ros.dataset.records import (
    DepthRecord,
    GnssRecord,
    ImageRecord,
    JsonValue,
    MessageRecord,
    OdometryRecord,
    Record,
    RigRow,
    Sensor,
    TrajectoryRow,
)
from kapture_ros.dataset.tables import RECORD_KINDS
from kapture_ros.messages import depth
from kapture_ros.messages.common import (
    Message,
    MessageError,
    frame_id,
    header_stamp_ns,
    normalized_type,
    plain,
)
from kapture_ros.messages.gnss import is_vouched_for
from kapture_ros.messages.motion import StampedTransform, stamped_transforms
from kapture_ros.messages.table import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    DEPTH_FUNCTIONS,
    IMAGE,
    POINT_CLOUD,
    TRANSFORMS,
    RecordFunction,
    record_function,
)
from kapture_ros.recording.cameras import CameraBook
from kapture_ros.recording.config import RecordingConfig
from kapture_ros.recording.health import IGNORED, NOT_SELECTED, UNKNOWN_TYPE, HealthMonitor
from kapture_ros.recording.poses import PoseBook, Request
from kapture_ros.recording.undistortion import Undistortion
from kapture_ros.transforms.se3 import Array

REFUSED = "-refused"
POSED_KINDS = ("camera", "depth", "lidar", "wifi", "bluetooth")
SENSOR_PARAMS = {"gnss": ("EPSG:4326",)}
HELD_BYTES = 256_000_000  # of images that wait for their pose, with min_distance
STATIC_TRANSFORMS = "tf_static"


class Writer(Protocol):
    """Where a session's records go: a DatasetWriter, or the collector of a dry run."""

    def add_sensor(self, sensor: Sensor) -> None:
        """Declare a sensor."""

    def add_rig(self, row: RigRow) -> None:
        """Place a sensor on a rig."""

    def add_trajectory(self, row: TrajectoryRow) -> bool:
        """Append a pose."""

    def write(self, record: Record) -> bool:
        """Take a record; False if it was dropped."""


Handler = Callable[["_Topic", Message, int, int], None]


@dataclass(slots=True)
class _Topic:
    """What a session knows of one topic."""

    name: str
    type_name: str
    sensor_id: str  # of its first sensor; those of others begin with it
    handler: Handler
    function: RecordFunction | None
    every: int
    begun: bool = False
    frame_id: str = ""  # of its first message, as it came
    frame: str = ""  # of its sensors, in transforms
    is_depth: bool = False
    images: int = 0
    kept_at: Array | None = None  # where the last kept image was taken


class RecordingSession:
    """Turns messages into the records of one dataset; may be called from any thread.

    Args:
        writer: takes the records; closed by its owner, after `finish`.
        monitor: is told of every message and what became of it.
        is_done: whether a record is in the dataset already (a resumed conversion).
    """

    def __init__(
        self,
        writer: Writer,
        config: RecordingConfig | None = None,
        monitor: HealthMonitor | None = None,
        is_done: Callable[[Record], bool] | None = None,
    ) -> None:
        self.config = config or RecordingConfig()
        self.options = self.config.options
        self.monitor = monitor or HealthMonitor()
        self._writer, self._is_done = writer, is_done
        self._lock = threading.RLock()
        self._topics: dict[tuple[str, str], _Topic] = {}  # by name and type, as messages name it
        self._names: dict[str, tuple[str, str]] = {}  # first sensor id -> topic and type
        self._topic_of: dict[str, str] = {}  # by sensor id, as the next
        self._frames: dict[str, str] = {}
        self._statics: dict[tuple[str, str], JsonValue] = {}
        self._undistortions: dict[str, Undistortion] = {}
        self._unused: dict[tuple[str, str], str] = {}  # topic and type -> reason
        self._held_bytes = 0
        said = self.config.topics.items()
        self._cameras = CameraBook(
            {topic: options.camera_info for topic, options in said if options.camera_info},
            self._add_camera,
            self.monitor.warned,
            late_info=not self.options.undistort,
        )
        self.poses = PoseBook(
            self.options,
            tuple(self.config.extrinsics),
            writer.add_rig,
            writer.add_trajectory,
            lambda sensor_id, reason: self.monitor.warned(self._topic_of[sensor_id], reason),
        )

    def handle(self, topic: str, type_name: str, message: Message, receive_ns: int) -> bool:
        """Take one message; never fails because of what is in it.

        Args:
            receive_ns: when it was received or logged.

        Returns:
            False if it gave nothing and was counted as skipped.

        Raises:
            OutputError: if the dataset cannot be written.
        """
        with self._lock:
            known = self._topics.get((topic, type_name)) or self._new_topic(topic, type_name)
            header = getattr(message, "header", None)
            stamp_ns = header_stamp_ns(message)
            self.monitor.message(
                topic, known.type_name, None if header is None else stamp_ns, receive_ns
            )
            try:
                # Never receive time, unless the header is zero (or, broken, before 1970).
                used_ns = stamp_ns if stamp_ns > 0 else receive_ns
                known.handler(known, message, used_ns, receive_ns)
            except MessageError as error:
                self.monitor.skipped(topic, error.reason)
                if known.handler in (self._records, self._transforms):
                    self._keep_whole(known, message, used_ns, receive_ns, error.reason)
                return False
            finally:
                self.poses.advance(receive_ns)
            return True

    def skip(self, topic: str, type_name: str, reason: str, receive_ns: int) -> None:
        """Count a message that could not even be decoded."""
        with self._lock:
            self.monitor.message(topic, normalized_type(type_name), None, receive_ns)
            self.monitor.skipped(topic, reason)
            self.poses.advance(receive_ns)

    def repeated(self, topic: str, type_name: str, stamp_ns: int, receive_ns: int) -> None:
        """Count a message that says nothing new but its header's stamp."""
        with self._lock:
            self.monitor.message(topic, normalized_type(type_name), stamp_ns, receive_ns)
            self.poses.advance(receive_ns)

    def prepare(self, topic: str, type_name: str, message: Message) -> None:
        """Learn what holds throughout from a message that is not, or not yet, to be recorded.

        That is static transforms, which may stand anywhere in a bag, and calibrations.
        """
        with self._lock:
            name = normalized_type(type_name)
            if name == CAMERA_INFO:
                self._cameras.add_info(topic, message, 0)
            elif name in TRANSFORMS and is_static(topic):
                for item in stamped_transforms(message):
                    if isinstance(item, StampedTransform):
                        self.poses.add_static(item.parent, item.child, item.parent_from_child)

    def unused_because(self, topic: str, type_name: str) -> str:
        """Why messages of a topic give nothing; empty if they are used."""
        reason = self._unused.get((topic, type_name))
        if reason is None:
            name = normalized_type(type_name)
            known = record_function(name, self.config.wifi) is not None
            known |= name == CAMERA_INFO or name in TRANSFORMS
            reason = IGNORED if self.config.topic(topic).ignore else "" if known else UNKNOWN_TYPE
            self._unused[topic, type_name] = reason
        return reason

    def finish(self) -> None:
        """No more messages: answer what waits, place the sensors on their rigs.

        Raises:
            OutputError: if the dataset cannot be written.
        """
        with self._lock:
            self._cameras.finish()
            self.poses.finish()
            for sensor_id, frame in self._frames.items():
                self.poses.mount(sensor_id, frame)

    def summary(self) -> dict[str, JsonValue]:
        """What became of the poses, for the report."""
        with self._lock:
            return self.poses.summary()

    # -- what a topic's messages are ----------------------------------------------------------

    def _new_topic(self, topic: str, type_name: str) -> _Topic:
        """A topic; it has sensors of its own for each type that its messages have.

        Bags of one drive may differ in that, and names of ROS 1 and 2 are of one type.
        """
        name = normalized_type(type_name)
        for known in self._topics.values():
            if (known.name, known.type_name) == (topic, name):
                self._topics[topic, type_name] = known
                return known
        said = self.config.topic(topic)
        sensor_id = said.name or safe_id(topic)
        owner, _ = self._names.setdefault(sensor_id, (topic, name))
        if owner != topic:  # the name of another topic
            sensor_id = derived_id(sensor_id, f"+{safe_id(topic)}")
            self._names.setdefault(sensor_id, (topic, name))
        if self._names[sensor_id] != (topic, name):
            sensor_id = derived_id(sensor_id, f"-{safe_id(name.rpartition('/')[2])}")
        function = record_function(name, self.config.wifi)
        handler: Handler
        if said.ignore:
            handler = self._ignore
        elif name in TRANSFORMS:
            handler = self._transforms
        elif name == CAMERA_INFO:
            handler = self._camera_info
        elif name in (IMAGE, COMPRESSED_IMAGE):
            handler = self._image
        else:
            handler = self._records if function else self._unknown
        every = said.every or self.options.every
        known = _Topic(topic, name, sensor_id, handler, function, every)
        self._topics[topic, type_name] = known
        return known

    def _begin(self, topic: _Topic, message: Message) -> None:
        """Remember what the first good message of a topic says about all of them."""
        header = getattr(message, "header", None)
        topic.frame_id = str(header.frame_id) if header is not None else ""
        topic.frame = self.config.topic(topic.name).frame or frame_id(message)
        topic.begun = True

    def _compare_frame(self, topic: _Topic, message: Message) -> None:
        """Tell of a sensor that is said to be elsewhere than at first: it has one place."""
        frame = frame_id(message)
        if frame != topic.frame and not self.config.topic(topic.name).frame:
            reason = f"in the frame '{frame}'; '{topic.frame}', which came first, counts"
            self.monitor.warned(topic.name, reason)

    def _origin(self, topic: _Topic) -> dict[str, JsonValue]:
        return {"topic": topic.name, "type": topic.type_name, "frame_id": topic.frame_id}

    # -- one message each ---------------------------------------------------------------------

    def _ignore(self, topic: _Topic, message: Message, stamp_ns: int, receive_ns: int) -> None:
        raise MessageError(IGNORED, "by the configuration")

    def _unknown(self, topic: _Topic, message: Message, stamp_ns: int, receive_ns: int) -> None:
        raise MessageError(UNKNOWN_TYPE, topic.type_name)

    def _camera_info(self, topic: _Topic, message: Message, stamp_ns: int, receive_ns: int) -> None:
        self._cameras.add_info(topic.name, message, stamp_ns)

    def _records(self, topic: _Topic, message: Message, stamp_ns: int, receive_ns: int) -> None:
        assert topic.function is not None
        records = topic.function(message, stamp_ns, topic.sensor_id)
        if not topic.begun and records:
            self._begin(topic, message)
        if records and not isinstance(records[0], OdometryRecord):  # poses are in that frame
            self._compare_frame(topic, message)
        for record in records:
            kind = RECORD_KINDS[type(record)]
            self._declare(record.sensor_id, kind, topic, topic.frame)
            self._write(topic, _with_header(record, message, topic, receive_ns))
            if isinstance(record, OdometryRecord):
                frames = (record.parent_frame, record.child_frame)
                self.poses.add_pose(topic.name, *frames, stamp_ns, record.parent_from_child)
            elif isinstance(record, GnssRecord) and is_vouched_for(record.extra):
                place = (record.latitude, record.longitude, record.altitude)
                self.poses.add_position(stamp_ns, *place)
            if kind in POSED_KINDS:
                self.poses.request(Request(stamp_ns, record.sensor_id, topic.frame, receive_ns))

    def _transforms(self, topic: _Topic, message: Message, stamp_ns: int, receive_ns: int) -> None:
        static = is_static(topic.name)
        bad: MessageError | None = None
        for item in stamped_transforms(message):
            if isinstance(item, MessageError):
                bad = item
            elif static:
                self._static_transform(topic, item, receive_ns)
            else:
                used_ns = item.stamp_ns if item.stamp_ns > 0 else receive_ns
                self.poses.add_transform(item.parent, item.child, used_ns, item.parent_from_child)
                if self.options.transforms:
                    self._keep_transform(topic, item, used_ns, receive_ns)
        if bad is not None:
            raise bad

    def _static_transform(self, topic: _Topic, item: StampedTransform, receive_ns: int) -> None:
        """Publishers repeat these; one that says nothing new is not kept again."""
        if self._statics.get((item.parent, item.child)) == item.extra:
            return
        self._statics[item.parent, item.child] = item.extra
        self.poses.add_static(item.parent, item.child, item.parent_from_child)
        self._keep_transform(topic, item, max(item.stamp_ns, 0), receive_ns)

    def _keep_transform(
        self, topic: _Topic, item: StampedTransform, stamp_ns: int, receive_ns: int
    ) -> None:
        sensor_id = derived_id(topic.sensor_id, f"-{safe_id(item.child)}")
        self._declare(sensor_id, "odometry", topic, "")
        self._write(
            topic,
            OdometryRecord(
                stamp_ns=stamp_ns,
                sensor_id=sensor_id,
                extra={**item.extra, "received": receive_ns},
                parent_frame=item.parent,
                child_frame=item.child,
                parent_from_child=item.parent_from_child,
            ),
        )

    def _image(self, topic: _Topic, message: Message, stamp_ns: int, receive_ns: int) -> None:
        topic.images += 1
        if (topic.images - 1) % topic.every:
            raise MessageError(NOT_SELECTED, f"every {topic.every}")
        if not topic.begun:
            kind = self.config.topic(topic.name).kind
            topic.is_depth = kind == "depth" or (not kind and depth.is_depth(message))
            if topic.is_depth:
                topic.function = DEPTH_FUNCTIONS[topic.type_name]
        assert topic.function is not None
        (record,) = topic.function(message, stamp_ns, topic.sensor_id)
        assert isinstance(record, (ImageRecord, DepthRecord))
        assert record.size is not None
        if not topic.begun:
            self._begin(topic, message)
            kind = "depth" if topic.is_depth else "camera"
            self._cameras.add_camera(topic.name, kind, topic.sensor_id, self._origin(topic))
        self._compare_frame(topic, message)
        sensor_id = self._cameras.sensor_of(topic.sensor_id, record.size, stamp_ns)
        self._frames[sensor_id], self._topic_of[sensor_id] = topic.frame, topic.name
        record = _with_header(record, message, topic, receive_ns, sensor_id)
        if sensor_id in self._undistortions and isinstance(record, ImageRecord):
            record = self._undistortions[sensor_id].applied_to(record)
        request = Request(stamp_ns, sensor_id, topic.frame, receive_ns)
        if self.options.min_distance > 0:
            self._hold(topic, record, request, len(message.data))
        else:
            self._write(topic, record)
            self.poses.request(request)

    def _keep_whole(
        self, topic: _Topic, message: Message, stamp_ns: int, receive_ns: int, reason: str
    ) -> None:
        """Lose no message that could not become a record; clouds alone are too large for it."""
        if topic.type_name == POINT_CLOUD:
            return
        sensor_id = derived_id(topic.sensor_id, REFUSED)
        self._declare(sensor_id, "message", topic, "")
        extra = {**plain(message), "received": receive_ns}
        self._write(
            topic,
            MessageRecord(stamp_ns=stamp_ns, sensor_id=sensor_id, extra=extra, reason=reason),
        )

    # -- records on their way out -------------------------------------------------------------

    def _declare(self, sensor_id: str, kind: str, topic: _Topic, frame: str) -> None:
        if sensor_id in self._frames:
            return
        self._frames[sensor_id], self._topic_of[sensor_id] = frame, topic.name
        params = SENSOR_PARAMS.get(kind, ())
        self._writer.add_sensor(Sensor(sensor_id, sensor_id, kind, params, self._origin(topic)))

    def _add_camera(self, sensor: Sensor) -> None:
        if self.options.undistort and sensor.kind == "camera":
            undistortion = Undistortion.of(sensor.params)
            if undistortion is None:
                topic = str(sensor.origin.get("topic"))
                self.monitor.warned(topic, "cannot be undistorted: no calibration")
            else:
                self._undistortions[sensor.sensor_id] = undistortion
                origin = {**sensor.origin, "distorted": ", ".join(sensor.params)}
                sensor = dataclasses.replace(sensor, params=undistortion.params, origin=origin)
        self._writer.add_sensor(sensor)

    def _write(self, topic: _Topic, record: Record) -> None:
        if self._is_done is None or not self._is_done(record):
            self._writer.write(self.monitor.watch(topic.name, record))

    def _hold(self, topic: _Topic, record: Record, request: Request, nbytes: int) -> None:
        """Wait for an image's pose before deciding on it, while there is memory for that."""
        if self._held_bytes + nbytes > HELD_BYTES:
            self.monitor.warned(topic.name, "kept unseen: too many images waited for a pose")
            self._write(topic, record)
            self.poses.request(request)
            return
        self._held_bytes += nbytes

        def decide(position: Array | None) -> bool:
            self._held_bytes -= nbytes
            if position is not None and topic.kept_at is not None:
                moved = float(np.linalg.norm(position - topic.kept_at))
                if moved < self.options.min_distance:
                    self.monitor.skipped(topic.name, NOT_SELECTED)
                    return False
            topic.kept_at = topic.kept_at if position is None else position
            self._write(topic, record)
            return True

        self.poses.request(dataclasses.replace(request, keep=decide))


def is_static(topic: str) -> bool:
    """Whether the transforms of a topic hold at every time."""
    return topic.rpartition("/")[2] == STATIC_TRANSFORMS


def _with_header(
    record: Record, message: Message, topic: _Topic, receive_ns: int, sensor_id: str = ""
) -> Record:
    """Add to a record what of the header its stamp and its sensor do not say.

    Args:
        sensor_id: in place of its own.
    """
    extra: dict[str, JsonValue] = {**record.extra, "received": receive_ns}
    header = getattr(message, "header", None)
    if header is not None:
        if str(header.frame_id) != topic.frame_id:
            extra["frame_id"] = str(header.frame_id)
        if getattr(header, "seq", 0):  # ROS 1
            extra["seq"] = int(header.seq)
        if record.stamp_ns != header_stamp_ns(message):
            extra["stamp"] = header_stamp_ns(message)
    return dataclasses.replace(record, extra=extra, sensor_id=sensor_id or record.sensor_id)
