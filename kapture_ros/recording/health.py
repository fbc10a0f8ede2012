"""The health of a recording while it runs: fed by the recorder and by the bag conversion.

Every message is announced with `message`, every record passes through `watch` on its way to
the writer, and what goes wrong is counted by reason. `report` gives all of it as plain
values for report.json; memory does not grow with the recording.
"""

from __future__ import annotations

import dataclasses
import math
import operator
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from kapture_ros.dataset.records import (
    FileBytes,
    GnssRecord,
    ImageRecord,
    JsonValue,
    Record,
    Sensor,
    WifiRecord,
)
from kapture_ros.dataset.writer import WriterStatistics
from kapture_ros.messages.gnss import is_vouched_for
from kapture_ros.options import option
from kapture_ros.recording.image_quality import ImageQuality, measure
from kapture_ros.recording.streaming import NANOSECONDS, Intervals, RateHistory, Reservoir

AnyRecord = TypeVar("AnyRecord", bound=Record)

KEPT_REASONS = 50
KEPT_ACCESS_POINTS = 100_000
OTHER_REASONS = "other reasons"
UNKNOWN_TYPE, IGNORED, NOT_SELECTED = "unknown type", "ignored", "not selected"
BATCH = 256  # messages of a topic that are counted at once
JUMP_NS = NANOSECONDS  # a stamp this much older than the newest is a jump of the clock


@dataclass(frozen=True)
class HealthOptions:
    """What a recording's report calls a problem."""

    gap_factor: float = option(
        3.0, "a pause longer than this many usual intervals is a gap", minimum=1
    )
    image_check_s: float = option(
        10.0, "how often an image of each camera is checked; 0 checks all", unit="s", minimum=0
    )
    dark_fraction: float = option(
        0.7, "an image is under-exposed when this much of it is nearly black", minimum=0, maximum=1
    )
    bright_fraction: float = option(
        0.3, "an image is over-exposed when this much of it is nearly white", minimum=0, maximum=1
    )
    blur: float = option(
        0.6, "an image is blurred from here on (0 sharp, 1 blurred)", minimum=0, maximum=1
    )
    clock_offset_s: float = option(
        1.0, "header and receive time may differ by this much", unit="s", minimum=0
    )


@dataclass(slots=True)
class _Images:
    checked: int = 0
    unreadable: int = 0
    under_exposed: int = 0
    over_exposed: int = 0
    blurred: int = 0
    brightness: Reservoir = field(default_factory=Reservoir)
    blur: Reservoir = field(default_factory=Reservoir)
    next_check_ns: int | None = None


@dataclass(slots=True)
class _Gnss:
    by_status: Counter[str] = field(default_factory=Counter)
    not_vouched_for: int = 0
    sigma_m: Reservoir = field(default_factory=Reservoir)


@dataclass(slots=True)
class _Wifi:
    scans: int = 0
    empty: int = 0
    access_points: Reservoir = field(default_factory=Reservoir)
    strongest_dbm: Reservoir = field(default_factory=Reservoir)
    addresses: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Topic:
    """What is known of one topic."""

    type_name: str
    arrived: list[tuple[int | None, int]] = field(default_factory=list)  # not yet counted
    received: int = 0
    first_ns: int | None = None  # stamps
    newest_ns: int | None = None
    repeated: int = 0
    out_of_order: int = 0
    clock_jumps: int = 0
    zero_stamps: int = 0
    intervals: Intervals = field(default_factory=Intervals)
    offset_s: Reservoir = field(default_factory=Reservoir)
    rate: RateHistory = field(default_factory=RateHistory)
    sensors: set[str] = field(default_factory=set)
    skipped: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    warned: Counter[str] = field(default_factory=Counter)
    images: _Images | None = None
    gnss: _Gnss | None = None
    wifi: _Wifi | None = None


class HealthMonitor:
    """Counts what a recording receives; may be called from any thread."""

    def __init__(self, options: HealthOptions | None = None) -> None:
        self.options = options or HealthOptions()
        self._lock = threading.Lock()
        self._topics: dict[str, _Topic] = {}

    def message(self, topic: str, type_name: str, stamp_ns: int | None, receive_ns: int) -> None:
        """A message came.

        Args:
            stamp_ns: its header's stamp, 0 if that is zero; None if the type has no header.
            receive_ns: when it was received or logged.
        """
        with self._lock:
            seen = self._topic(topic, type_name)
            seen.arrived.append((stamp_ns, receive_ns))
            if len(seen.arrived) >= BATCH:
                _count_arrivals(seen)

    def watch(self, topic: str, record: AnyRecord) -> AnyRecord:
        """A record on its way to the writer; write what this returns.

        Some images are looked at when they are written, on the writer's threads.
        """
        with self._lock:
            seen = self._topic(topic)
            seen.sensors.add(record.sensor_id)
            match record:
                case ImageRecord():
                    return self._watch_image(seen, record)  # type: ignore[return-value]
                case GnssRecord():
                    _count_fix(seen, record)
                case WifiRecord():
                    _count_scan(seen, record)
        return record

    def skipped(self, topic: str, reason: str) -> None:
        """A message gave no record, for a reason worded the same each time."""
        with self._lock:
            _count(self._topic(topic).skipped, reason)

    def dropped(self, topic: str, reason: str, count: int = 1) -> None:
        """Messages were lost before they reached the writer."""
        with self._lock:
            _count(self._topic(topic).dropped, reason, count)

    def warned(self, topic: str, reason: str) -> None:
        """Something is missing around a record that was written (CameraInfo, a transform)."""
        with self._lock:
            _count(self._topic(topic).warned, reason)

    def report(
        self, statistics: WriterStatistics, sensors: Mapping[str, Sensor]
    ) -> dict[str, JsonValue]:
        """Everything counted so far, joined with what became of the records."""
        with self._lock:
            topics: dict[str, JsonValue] = {
                name: self._describe(topic) for name, topic in sorted(self._topics.items())
            }
        return {
            "options": dataclasses.asdict(self.options),
            "topics": topics,
            "sensors": _describe_sensors(statistics, sensors),
            "writer": {
                "trajectory_rows": statistics.trajectory_rows,
                "trajectory_duplicates": statistics.trajectory_duplicates,
                "bytes_written": statistics.bytes_written,
                "queue_waits": statistics.queue.waits,
                "queue_waited_s": round(statistics.queue.waited_s, 3),
                "queue_longest": statistics.queue.longest,
            },
        }

    # -- inside; the lock is held ---------------------------------------------------------

    def _topic(self, name: str, type_name: str = "") -> _Topic:
        topic = self._topics.get(name)
        if topic is None:
            topic = self._topics[name] = _Topic(type_name)
        topic.type_name = type_name or topic.type_name
        return topic

    def _watch_image(self, topic: _Topic, record: ImageRecord) -> ImageRecord:
        images = topic.images = topic.images or _Images()
        due = images.next_check_ns
        # A stamp far before the next check means that the clock jumped back.
        period = int(self.options.image_check_s * NANOSECONDS)
        if due is not None and due - 2 * period < record.stamp_ns < due:
            return record
        images.next_check_ns = record.stamp_ns + period

        def look(file: FileBytes) -> None:
            self._look_at(images, measure(file))

        payload = dataclasses.replace(record.payload, inspect=look)
        return dataclasses.replace(record, payload=payload)

    def _look_at(self, images: _Images, quality: ImageQuality | None) -> None:
        with self._lock:
            images.checked += 1
            if quality is None:
                images.unreadable += 1
                return
            images.brightness.add(quality.brightness)
            images.blur.add(quality.blur)
            under = quality.dark >= self.options.dark_fraction
            over = quality.bright >= self.options.bright_fraction
            images.under_exposed += under
            images.over_exposed += over
            images.blurred += quality.blur >= self.options.blur and not under and not over

    def _describe(self, topic: _Topic) -> dict[str, JsonValue]:
        _count_arrivals(topic)
        gaps, worst = topic.intervals.gaps(self.options.gap_factor)
        described: dict[str, JsonValue] = {
            "type": topic.type_name,
            "received": topic.received,
            "sensors": sorted(topic.sensors),  # type: ignore[dict-item]
            "first_ns": topic.first_ns,
            "last_ns": topic.newest_ns,
            "rate_hz": _rounded(topic.intervals.rate_hz),
            "gaps": gaps,
            "longest_gaps": [[start, _rounded(length)] for start, length in worst],
            "repeated_stamps": topic.repeated,
            "out_of_order": topic.out_of_order,
            "clock_jumps_back": topic.clock_jumps,
            "zero_stamps": topic.zero_stamps,
            "clock_offset_s": _spread(topic.offset_s),
            "skipped": dict(topic.skipped),
            "dropped": dict(topic.dropped),
            "warned": dict(topic.warned),
            "rate_history": {
                "start_ns": topic.rate.start_ns,
                "bin_s": topic.rate.bin_s,
                "rates_hz": topic.rate.rates,  # type: ignore[dict-item]
            },
        }
        if images := topic.images:
            described["images"] = {
                "checked": images.checked,
                "unreadable": images.unreadable,
                "under_exposed": images.under_exposed,
                "over_exposed": images.over_exposed,
                "blurred": images.blurred,
                "brightness": _spread(images.brightness),
                "blur": _spread(images.blur),
            }
        if gnss := topic.gnss:
            described["gnss"] = {
                "fixes_by_status": dict(gnss.by_status),
                "not_vouched_for": gnss.not_vouched_for,
                "horizontal_sigma_m": _spread(gnss.sigma_m),
            }
        if wifi := topic.wifi:
            described["wifi"] = {
                "scans": wifi.scans,
                "empty_scans": wifi.empty,
                "different_access_points": len(wifi.addresses),
                "access_points_per_scan": _spread(wifi.access_points),
                "strongest_dbm": _spread(wifi.strongest_dbm),
            }
        return described


def _count_arrivals(topic: _Topic) -> None:
    """Count what arrived since the last time; many at once, each costs a tenth."""
    arrived, topic.arrived = topic.arrived, []
    topic.received += len(arrived)
    topic.rate.extend(receive_ns for _, receive_ns in arrived)
    topic.zero_stamps += sum(stamp_ns == 0 for stamp_ns, _ in arrived)
    topic.offset_s.extend((received - stamp) / NANOSECONDS for stamp, received in arrived if stamp)
    stamps = [stamp_ns or receive_ns for stamp_ns, receive_ns in arrived]
    if topic.newest_ns is None and stamps:
        topic.first_ns = topic.newest_ns = stamps.pop(0)
    if topic.newest_ns is not None:
        known = [topic.newest_ns, *stamps]
        if all(map(operator.lt, known, stamps)):
            topic.intervals.extend(known)
            topic.newest_ns = known[-1]
        else:
            for stamp_ns in stamps:
                _order(topic, topic.newest_ns, stamp_ns)


def _order(topic: _Topic, newest_ns: int, stamp_ns: int) -> None:
    """Compare a stamp with the newest so far."""
    if stamp_ns > newest_ns:
        topic.intervals.extend((newest_ns, stamp_ns))
        topic.newest_ns = stamp_ns
    elif stamp_ns == newest_ns:
        topic.repeated += 1
    elif stamp_ns > newest_ns - JUMP_NS:
        topic.out_of_order += 1
    else:
        topic.clock_jumps += 1
        topic.newest_ns = stamp_ns


def _count_fix(topic: _Topic, record: GnssRecord) -> None:
    gnss = topic.gnss = topic.gnss or _Gnss()
    status: Any = record.extra.get("status")
    code = status.get("status") if isinstance(status, Mapping) else None
    gnss.by_status["unknown" if code is None else str(code)] += 1
    gnss.not_vouched_for += not is_vouched_for(record.extra)
    covariance: Any = record.extra.get("position_covariance")
    if covariance and record.extra.get("position_covariance_type") != 0:
        variance = (float(covariance[0]) + float(covariance[4])) / 2  # east, north
        gnss.sigma_m.add(math.sqrt(variance) if variance >= 0 else math.nan)


def _count_scan(topic: _Topic, record: WifiRecord) -> None:
    wifi = topic.wifi = topic.wifi or _Wifi()
    wifi.scans += 1
    wifi.access_points.add(len(record.access_points))
    if not record.access_points:
        wifi.empty += 1
        return
    wifi.strongest_dbm.add(max(point.rssi for point in record.access_points))
    if len(wifi.addresses) < KEPT_ACCESS_POINTS:
        wifi.addresses.update(point.bssid for point in record.access_points)


def _describe_sensors(
    statistics: WriterStatistics, sensors: Mapping[str, Sensor]
) -> dict[str, JsonValue]:
    described: dict[str, JsonValue] = {}
    for sensor_id, sensor in sensors.items():
        counts = statistics.sensors.get(sensor_id)
        described[sensor_id] = {
            "kind": sensor.kind,
            "topic": sensor.origin.get("topic"),
            "camera_model": sensor.params[0] if sensor.kind in ("camera", "depth") else None,
            "written": counts.written if counts else 0,
            "duplicates": counts.duplicates if counts else 0,
            "dropped": dict(counts.dropped) if counts else {},
        }
    return described


def _count(counter: Counter[str], reason: str, count: int = 1) -> None:
    known = reason in counter or len(counter) < KEPT_REASONS
    counter[reason if known else OTHER_REASONS] += count


def _spread(values: Reservoir) -> JsonValue:
    """Smallest, median and largest; None if there are none."""
    if not values.count:
        return None
    median = values.quantile(0.5)
    return {
        "min": _rounded(values.smallest),
        "median": _rounded(median),
        "max": _rounded(values.largest),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
