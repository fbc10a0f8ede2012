"""What a conversion would do, found out from the beginning of the bag without writing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from kapture_ros.dataset.records import Record, RigRow, Sensor, TrajectoryRow
from kapture_ros.messages.common import NANOSECONDS, normalized_type
from kapture_ros.recording.bag import Bag
from kapture_ros.recording.convert import (
    Conversion,
    Feeder,
    check_trajectory,
    prepare,
    unknown_topics,
)
from kapture_ros.recording.poses import DECIDE_S, STEP_S
from kapture_ros.recording.session import RecordingSession

LOOK_S = DECIDE_S + 2 * STEP_S  # until the source of the trajectory is decided


@dataclass(slots=True)
class _Collector:
    """Takes what a session would have written."""

    sensors: dict[str, Sensor] = field(default_factory=dict)
    rigs: dict[str, RigRow] = field(default_factory=dict)
    records: Counter[str] = field(default_factory=Counter)
    poses: Counter[str] = field(default_factory=Counter)

    def add_sensor(self, sensor: Sensor) -> None:
        self.sensors[sensor.sensor_id] = sensor

    def add_rig(self, row: RigRow) -> None:
        self.rigs[row.sensor_id] = row

    def add_trajectory(self, row: TrajectoryRow) -> bool:
        self.poses[row.device_id] += 1
        return True

    def write(self, record: Record) -> bool:
        self.records[record.sensor_id] += 1
        return True


def plan(bag: Bag, conversion: Conversion) -> str:
    """The plan as text: topic to sensor, counts, rates, camera models, rigs, trajectory.

    Raises:
        InputError: if there is nothing to convert.
    """
    start, end = conversion.window.bounds(bag)
    check_trajectory(bag, conversion.config.options.trajectory)
    collector = _Collector()
    session = RecordingSession(collector, conversion.config)
    prepare(bag, session, start)
    feeder = Feeder(bag, session)
    for message in bag.messages(None, start, min(end, start + round(LOOK_S * NANOSECONDS))):
        feeder.feed(message)
    session.finish()
    seconds = (bag.end_ns - bag.start_ns) / NANOSECONDS
    names = ", ".join(map(str, bag.paths))
    lines = [f"{names}: {seconds:.1f} s, {sum(bag.counts.values())} messages", ""]
    lines += _topics(bag, session, collector, seconds)
    lines += ["", *_sensors(collector)]
    lines += ["", *_trajectory(session, collector)]
    lines += unknown_topics(bag, conversion.config)
    lines += [f"damage: {problem}" for problem in bag.problems]
    return "\n".join(lines) + "\n"


def _topics(
    bag: Bag, session: RecordingSession, collector: _Collector, seconds: float
) -> Iterator[str]:
    by_topic: dict[tuple[str, str], list[str]] = {}
    for sensor in collector.sensors.values():
        key = str(sensor.origin["topic"]), str(sensor.origin["type"])
        by_topic.setdefault(key, []).append(sensor.sensor_id)
    rows = [("topic", "type", "messages", "Hz", "sensor")]
    for channel, count in sorted(bag.counts.items(), key=lambda item: item[0].topic):
        rate = f"{count / seconds:.1f}" if seconds else "-"
        name = normalized_type(channel.type_name)
        unused = session.unused_because(channel.topic, name)
        sensors = by_topic.get((channel.topic, name), [])
        shown = ", ".join(sensors[:3]) + (f" and {len(sensors) - 3} more" if sensors[3:] else "")
        silent = "calibrations" if name.endswith("CameraInfo") else f"none in {LOOK_S:g} s"
        rows.append(
            (
                channel.topic,
                name,
                str(count),
                rate,
                f"({unused})" if unused else shown or f"({silent})",
            )
        )
    return _aligned(rows)


def _sensors(collector: _Collector) -> Iterator[str]:
    rows = [("sensor", "kind", "camera model", "rig", "sensor_from_rig (qw qx qy qz, metres)")]
    for sensor in collector.sensors.values():
        if sensor.kind in ("odometry", "message"):
            continue
        model = " ".join(_short(value) for value in sensor.params)
        row = collector.rigs.get(sensor.sensor_id)
        rig, pose = "-", ""
        if row is not None:
            moved = row.sensor_from_rig
            rig = row.rig_id
            numbers = [*moved.quaternion, *moved.translation]
            pose = " ".join(f"{number:.4g}" for number in numbers)
        rows.append((sensor.sensor_id, sensor.kind, model, rig, pose))
    return _aligned(rows)


def _trajectory(session: RecordingSession, collector: _Collector) -> Iterator[str]:
    summary = session.poses.summary()
    if summary["source"] is None:
        yield "trajectory: none"
    else:
        devices = ", ".join(collector.poses) or "no device"
        yield f"trajectory: of {devices} in '{summary['world_frame']}', from {summary['source']}"
    for section in ("without_pose", "problems"):
        found = summary[section]
        assert isinstance(found, dict)
        for reason, count in found.items():
            yield f"  {section.replace('_', ' ')}: {reason} ({count} times in {LOOK_S:g} s)"


def _short(value: str) -> str:
    try:
        return f"{float(value):.6g}"
    except ValueError:
        return value


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
