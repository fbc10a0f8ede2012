"""The proof that a conversion lost nothing: each message of the bag against the dataset.

Messages are rebuilt from the dataset (`restore`) and compared field by field, so a fault in
the conversion cannot hide by being made twice.
"""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from kapture_ros.dataset.reader import Dataset
from kapture_ros.dataset.records import JsonValue, OdometryRecord, Record, Sensor
from kapture_ros.errors import InputError
from kapture_ros.messages import depth
from kapture_ros.messages.common import (
    Message,
    MessageError,
    byte_array,
    header_stamp_ns,
    normalized_type,
    plain,
)
from kapture_ros.messages.motion import StampedTransform, stamped_transforms
from kapture_ros.messages.pointclouds import packed_points
from kapture_ros.messages.table import (
    CAMERA_INFO,
    COMPRESSED_IMAGE,
    DEPTH_FUNCTIONS,
    IMAGE,
    POINT_CLOUD,
    TRANSFORMS,
    record_function,
)
from kapture_ros.messages.wifi import WifiMapping
from kapture_ros.options import from_mapping
from kapture_ros.recording.bag import Bag, BagMessage
from kapture_ros.recording.cameras import camera_info_content
from kapture_ros.recording.config import RecordingConfig, RecordingOptions, TopicOptions
from kapture_ros.recording.convert import CONVERSION, WindowOptions, read_conversion
from kapture_ros.recording.duplicates import duplicate_records
from kapture_ros.recording.health import IGNORED, NOT_SELECTED, UNKNOWN_TYPE
from kapture_ros.recording.restore import restore_fields, restore_header
from kapture_ros.recording.session import is_static

SHOWN = 20  # differences described per topic; all are counted
SENTENCE = "nmea_msgs/Sentence"


@dataclass(slots=True)
class TopicResult:
    """What became of the messages of one topic."""

    messages: int = 0
    equal: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    different: int = 0
    differences: list[str] = field(default_factory=list)  # the first of them


@dataclass(slots=True)
class Verification:
    """What came of comparing a bag with a dataset."""

    topics: dict[str, TopicResult] = field(default_factory=lambda: defaultdict(TopicResult))
    unexplained: Counter[str] = field(default_factory=Counter)  # records without a message
    missing_bags: tuple[str, ...] = ()  # names of those it was made of that were not given

    @property
    def different(self) -> int:
        """How many messages or records differ."""
        of_topics = sum(topic.different for topic in self.topics.values())
        return of_topics + sum(self.unexplained.values())


def verify(bag: Bag, dataset: Dataset) -> Verification:
    """Compare every message with what the dataset holds of it.

    Raises:
        InputError: if the dataset cannot be read, or was not made by `convert`.
    """
    window, config, names = _conversion(dataset.path)
    verifier = _Verifier(dataset, config)
    total = sum(bag.counts.values())
    quiet = not sys.stderr.isatty()
    for message in tqdm(bag.messages(None, *window.bounds(bag)), "verify", total, disable=quiet):
        verifier.check(bag, message)
    result = verifier.finish()
    given = {path.resolve().name for path in bag.paths}
    result.missing_bags = tuple(name for name in names if name not in given)
    return result


def _conversion(dataset: Path) -> tuple[WindowOptions, RecordingConfig, list[str]]:
    """The settings that the dataset was made with, and the names of the bags.

    Without extrinsics: they change no record.
    """
    path = dataset / CONVERSION
    if not path.exists():
        raise InputError(
            f"{dataset} was not made by convert ({CONVERSION} is missing); in a recording of live "
            "topics messages arrived at other times than in the bag, so they cannot be compared"
        )
    content = read_conversion(dataset)
    where = str(path)
    topics = {
        topic: from_mapping(TopicOptions, said, where) for topic, said in content["topics"].items()
    }
    wifi = {
        name: from_mapping(WifiMapping, said, where)
        for name, said in content.get("wifi", {}).items()  # not noted by an older version
    }
    options = from_mapping(RecordingOptions, content["options"], where)
    window = from_mapping(WindowOptions, content["window"], where)
    return window, RecordingConfig(options, topics, wifi=wifi), content["bags"]


class _Verifier:
    """Holds the dataset's records until their messages come."""

    def __init__(self, dataset: Dataset, config: RecordingConfig) -> None:
        self._config = config
        self._result = Verification()
        self._sensors: dict[str, list[Sensor]] = defaultdict(list)  # by topic
        self._infos: dict[str, list[JsonValue]] = defaultdict(list)  # by CameraInfo topic
        # By sensor: those of one stamp and receive time. What is left at the end has no message.
        self._records: dict[str, dict[tuple[int, Any], list[Record]]] = {}
        self._statics: list[tuple[str, str, Mapping[str, JsonValue]]] = []
        for sensor in dataset.sensors.values():
            self._sensors[str(sensor.origin.get("topic"))].append(sensor)
            if "camera_info" in sensor.origin:
                info_topic = str(sensor.origin["camera_info_topic"])
                self._infos[info_topic].append(sensor.origin["camera_info"])
            found = self._records.setdefault(sensor.sensor_id, defaultdict(list))
            for record in _all_records(dataset, sensor):
                found[record.stamp_ns, record.extra.get("received")].append(record)

    def check(self, bag: Bag, message: BagMessage) -> None:
        """Compare one message."""
        channel = message.channel
        result = self._result.topics[channel.topic]
        result.messages += 1
        decoded: Message = None
        try:
            if self._config.topic(channel.topic).ignore:
                raise MessageError(IGNORED, "by the configuration")
            name = normalized_type(channel.type_name)
            understood = name in (CAMERA_INFO, *TRANSFORMS)
            if not understood and record_function(name, self._config.wifi) is None:
                raise MessageError(UNKNOWN_TYPE, name)
            decoded = bag.decode(message)
            if name == CAMERA_INFO:
                different = self._check_info(channel.topic, decoded)
            elif name in TRANSFORMS:
                different = self._check_transforms(channel.topic, decoded, message.time_ns)
            else:
                different = self._check_records(channel.topic, name, decoded, message.time_ns)
        except MessageError as error:
            if decoded is None or not self._is_kept_whole(message, decoded):
                result.skipped[error.reason] += 1
                return
            different = ""
        if not different:
            result.equal += 1
            return
        result.different += 1
        if len(result.differences) < SHOWN:
            result.differences.append(f"at {message.time_ns}: {different}")

    def finish(self) -> Verification:
        """The result, with the records that no message explains."""
        for sensor_id, found in self._records.items():
            count = sum(map(len, found.values()))
            if count:
                self._result.unexplained[sensor_id] = count
        return self._result

    def _is_kept_whole(self, message: BagMessage, decoded: Message) -> bool:
        """Whether a message that became no other record is in the sidecar as it came."""
        sensors = self._sensors.get(message.channel.topic, ())
        stamp = header_stamp_ns(decoded)
        key = (stamp if stamp > 0 else message.time_ns, message.time_ns)
        for sensor in sensors:
            if sensor.kind != "message":
                continue
            for record in self._records[sensor.sensor_id].get(key, ()):
                content = {k: value for k, value in record.extra.items() if k != "received"}
                if _equal(content, plain(decoded)):
                    self._explain(sensor, record)
                    return True
        return False

    def _check_info(self, topic: str, message: Message) -> str:
        kept = self._infos.get(topic)
        if kept is None:
            raise MessageError("no image of this camera", topic)
        content = camera_info_content(message)
        return "" if any(_equal(content, info) for info in kept) else "this calibration is missing"

    def _check_transforms(self, topic: str, message: Message, received: int) -> str:
        if not self._config.options.transforms and not is_static(topic):
            raise MessageError("not kept", "by the options")
        different, bad = [], None
        for item in stamped_transforms(message):
            if isinstance(item, MessageError):
                bad = item
            elif not self._transform_is_there(topic, item, received):
                different.append(f"'{item.parent}' to '{item.child}' is missing")
        if bad is not None and not different:
            raise bad
        return "; ".join(different)

    def _transform_is_there(self, topic: str, item: StampedTransform, received: int) -> bool:
        static = is_static(topic)
        stamp = item.stamp_ns if item.stamp_ns > 0 or static else received
        for sensor in self._sensors.get(topic, ()):
            for record in self._records[sensor.sensor_id].get((stamp, received), ()):
                if isinstance(record, OdometryRecord) and _is_transform(record, item):
                    self._explain(sensor, record)
                    if static:
                        self._statics.append((item.parent, item.child, item.extra))
                    return True
        return static and (item.parent, item.child, item.extra) in self._statics  # a repetition

    def _check_records(self, topic: str, name: str, message: Message, received: int) -> str:
        stamp = header_stamp_ns(message)
        key = (stamp if stamp > 0 else received, received)
        found: list[tuple[Sensor, Record]] = []
        for sensor in self._sensors.get(topic, ()):
            if sensor.kind == "message" or sensor.origin.get("type") != name:
                continue
            for record in self._records[sensor.sensor_id].get(key, ()):
                if name != SENTENCE or record.extra.get("sentence") == message.sentence:
                    found.append((sensor, record))
                    break
        if not found:
            self._raise_if_skipped(topic, name, message)
            return f"there is no record of stamp {key[0]}"
        for sensor, record in found:
            self._explain(sensor, record)
        sensor, records = found[0][0], [record for _, record in found]
        if records[0].extra.get("undistorted"):
            raise MessageError("undistorted", "the pixels are meant to differ")
        return _difference(name, message, records, sensor)

    def _raise_if_skipped(self, topic: str, name: str, message: Message) -> None:
        """Tell a message that was skipped for its content from one that is missing."""
        function = record_function(name, self._config.wifi)
        if name in (IMAGE, COMPRESSED_IMAGE):
            kind = self._config.topic(topic).kind
            if kind == "depth" or (not kind and depth.is_depth(message)):
                function = DEPTH_FUNCTIONS[name]
        assert function is not None
        function(message, 1, "")
        options, said = self._config.options, self._config.topic(topic)
        selected = options.min_distance > 0 or (said.every or options.every) > 1
        if name in (IMAGE, COMPRESSED_IMAGE) and selected:
            raise MessageError(NOT_SELECTED, "by the options")

    def _explain(self, sensor: Sensor, record: Record) -> None:
        found = self._records[sensor.sensor_id]
        key = (record.stamp_ns, record.extra.get("received"))
        rest = [other for other in found[key] if other is not record]
        if rest:
            found[key] = rest
        else:
            del found[key]


def _all_records(dataset: Dataset, sensor: Sensor) -> Iterator[Record]:
    yield from dataset.records(sensor.sensor_id)
    yield from duplicate_records(dataset, sensor)


def _is_transform(record: OdometryRecord, item: StampedTransform) -> bool:
    content = {key: value for key, value in record.extra.items() if key != "received"}
    frames = (record.parent_frame, record.child_frame)
    return frames == (item.parent, item.child) and _equal(content, item.extra)


def _difference(name: str, message: Message, records: list[Record], sensor: Sensor) -> str:
    """In what a message and its records differ; empty if in nothing."""
    try:
        restored = restore_fields(records, sensor)
    except (MessageError, OSError) as error:
        return str(error)
    expected: dict[str, Any] = plain(message, without=("header", "data"))
    if name in (IMAGE, COMPRESSED_IMAGE):
        expected["data"] = byte_array(message.data).tobytes()
        if name == COMPRESSED_IMAGE and sensor.kind == "depth":
            expected["data"] = depth.compressed_metres(message).astype("<f4").tobytes()
    elif name == POINT_CLOUD:
        expected["data"] = packed_points(message)
        for column in expected["fields"]:
            column["count"] = max(column["count"], 1)
    elif sensor.kind == "wifi" and "message" in records[0].extra:
        restored = restored["message"]
    header = getattr(message, "header", None)
    if header is not None:
        expected["header"], restored["header"] = plain(header), restore_header(records[0], sensor)
        expected["header"] = {k: v for k, v in expected["header"].items() if k != "seq" or v}
    different = [key for key in expected if not _equal(expected[key], restored.get(key))]
    return f"different: {', '.join(different)}" if different else ""


def _equal(one: Any, other: Any) -> bool:
    """Equality in which NaN equals NaN, and that is not misled by True == 1.0."""
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_equal(one[k], other[k]) for k in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_equal, one, other))
    return bool(one == other)
