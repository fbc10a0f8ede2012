"""The health report on disk: report.json, and report.txt that says the same to people.

Both lie in the dataset's folder. A dataset that was resumed has one session in it for each
time it was written to.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kapture_ros.dataset.filequeue import FileRecord
from kapture_ros.dataset.reader import Dataset
from kapture_ros.errors import InputError
from kapture_ros.files import write_atomically
from kapture_ros.recording.health import IGNORED, NOT_SELECTED, UNKNOWN_TYPE

JSON_NAME = "report.json"
TEXT_NAME = "report.txt"
VERSION = 1
NANOSECONDS = 1_000_000_000
MIN_MESSAGES_FOR_GAPS = 10
WAITED_S = 0.1  # for the disk, before it is worth a word
TOLD_ELSEWHERE = (UNKNOWN_TYPE, IGNORED, NOT_SELECTED)  # the last two were asked for

Session = Mapping[str, Any]


def write_report(dataset: Path, session: Session) -> str:
    """Add a session to the dataset's report; returns its text.

    Args:
        session: `HealthMonitor.report`, with `RecordingSession.summary` under "poses" and
            what of a bag was damaged under "damage".

    Raises:
        OutputError: if it cannot be written.
        InputError: if there is a report that cannot be read.
    """
    sessions = [*read_report(dataset), {**session, "problems": list(problems(session))}]
    content = {"version": VERSION, "sessions": sessions}
    text = render(sessions)
    write_atomically(dataset / JSON_NAME, json.dumps(content, indent=1) + "\n")
    write_atomically(dataset / TEXT_NAME, text)
    return text


def read_report(dataset: Path) -> list[dict[str, Any]]:
    """The sessions of a dataset's report; none if it has no report.

    Raises:
        InputError: if it is damaged.
    """
    path = dataset / JSON_NAME
    if not path.exists():
        return []
    try:
        sessions: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["sessions"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"cannot read {path}: {error}; delete it to go on without") from error
    return sessions


def problems(session: Session) -> Iterator[str]:
    """What a driver should know, the worst first, in sentences."""
    topics: Mapping[str, Any] = session["topics"]
    for damage in session.get("damage", ()):
        yield f"damaged: {damage}"
    for sensor_id, sensor in session["sensors"].items():
        for reason, count in sensor["dropped"].items():
            yield f"{sensor_id}: {_number(count, 'record')} lost: {reason}"
    for name, topic in topics.items():
        for reason, count in topic["dropped"].items():
            yield f"{name}: {_number(count, 'message')} lost: {reason}"
        for reason, count in topic["skipped"].items():
            if reason not in TOLD_ELSEWHERE:
                yield f"{name}: {_number(count, 'message')} skipped: {reason}"
        for reason, count in topic["warned"].items():
            yield f"{name}: {reason} ({_number(count, 'time')})"
    for sensor_id, sensor in session["sensors"].items():
        if sensor["camera_model"] == "UNKNOWN_CAMERA":
            yield f"{sensor_id}: the camera has no calibration"
        if sensor["duplicates"] and sensor["kind"] != "message":  # those are in the sidecar anyway
            yield (
                f"{sensor_id}: {_number(sensor['duplicates'], 'duplicate stamp')}; kapture holds "
                "the first record of a stamp, the others are in the sidecar"
            )
    for reason, count in session.get("poses", {}).get("problems", {}).items():
        yield f"{reason} ({_number(count, 'time')})"
    for name, topic in topics.items():
        yield from _timing_problems(name, topic, session["options"])
        yield from _content_problems(name, topic)
    writer = session["writer"]
    if writer["queue_waited_s"] >= WAITED_S:
        yield (
            f"writing was too slow {_number(writer['queue_waits'], 'time')}; messages waited "
            f"{writer['queue_waited_s']:.1f} s in all"
        )
    yield from _unknown_types(topics)


def _unknown_types(topics: Mapping[str, Any]) -> Iterator[str]:
    """One line for all that nobody understands, so that it does not bury the rest."""
    unknown = {name: topic for name, topic in topics.items() if topic["skipped"].get(UNKNOWN_TYPE)}
    if unknown:
        count = sum(topic["skipped"][UNKNOWN_TYPE] for topic in unknown.values())
        names = ", ".join(f"{name} ({topic['type']})" for name, topic in unknown.items())
        yield f"{_number(count, 'message')} of unknown types skipped: {names}"


def _timing_problems(name: str, topic: Session, options: Session) -> Iterator[str]:
    if topic["zero_stamps"]:
        without = _number(topic["zero_stamps"], "message")
        yield f"{name}: {without} without a stamp; receive time was used"
    if topic["clock_jumps_back"]:
        yield f"{name}: the clock jumped back {_number(topic['clock_jumps_back'], 'time')}"
    if topic["out_of_order"]:
        yield f"{name}: {_number(topic['out_of_order'], 'message')} out of order"
    is_used = topic["received"] > sum(topic["skipped"].values())
    if is_used and topic["gaps"] and topic["received"] >= MIN_MESSAGES_FOR_GAPS:
        start, length = topic["longest_gaps"][0]
        yield (
            f"{name}: {_number(topic['gaps'], 'gap')} at {topic['rate_hz']:.3g} Hz, the longest "
            f"{length:.3g} s from {start / NANOSECONDS:.3f}"
        )
    offset = topic["clock_offset_s"]
    if offset and abs(offset["median"]) > options["clock_offset_s"]:
        side = "behind" if offset["median"] > 0 else "ahead of"
        yield f"{name}: stamps are {abs(offset['median']):.3f} s {side} the receive time"


def _content_problems(name: str, topic: Session) -> Iterator[str]:
    if images := topic.get("images"):
        for what in ("unreadable", "under_exposed", "over_exposed", "blurred"):
            if images[what]:
                words = what.replace("_", "-")
                yield f"{name}: {images[what]} of {images['checked']} images checked are {words}"
    if gnss := topic.get("gnss"):
        without = gnss["not_vouched_for"]
        if without:
            yield (
                f"{name}: {_number(without, 'position')} without a fix (held through an outage, "
                "dead reckoning, typed in, simulated): kept, but used for no pose and no map"
            )
    if (wifi := topic.get("wifi")) and wifi["empty_scans"]:
        yield f"{name}: {wifi['empty_scans']} of {wifi['scans']} Wi-Fi scans heard nothing"


def summary(dataset: Dataset) -> str:
    """What a dataset holds, one line a sensor, whoever wrote it.

    Raises:
        InputError: if it cannot be read.
    """
    rows: list[tuple[str, ...]] = [("sensor", "kind", "records", "seconds", "parameters")]
    gone = []
    for sensor_id, sensor in dataset.sensors.items():
        records = list(dataset.records(sensor_id))
        stamps = [record.stamp_ns for record in records]
        missing = sum(isinstance(r, FileRecord) and not r.payload.nbytes for r in records)
        if missing:
            gone.append(f"{sensor_id}: {missing} of {len(records)} files are missing or empty")
        seconds = _shown((stamps[-1] - stamps[0]) / NANOSECONDS) if stamps else "-"
        shown = " ".join(sensor.params[:7]) + (" …" if len(sensor.params) > 7 else "")
        rows.append((sensor_id, sensor.kind, str(len(stamps)), seconds, shown))
    poses = sum(1 for _ in dataset.trajectory())
    rigs = {row.rig_id for row in dataset.rigs()}
    lines = [f"{dataset.path}: {_number(poses, 'pose')}, {_number(len(rigs), 'rig')}", ""]
    return "\n".join([*lines, *_aligned(rows), *([""] if gone else []), *gone]) + "\n"


def render(sessions: list[dict[str, Any]]) -> str:
    """The whole report as text."""
    parts = []
    for number, session in enumerate(sessions, 1):
        heading = f"Session {number} of {len(sessions)}\n\n" if len(sessions) > 1 else ""
        parts.append(heading + _render_session(session))
    return "\n".join(parts)


def _render_session(session: Session) -> str:
    found = session["problems"]
    lines = ["Problems:" if found else "No problems found."]
    lines += [f"  - {problem}" for problem in found]
    lines += ["", "Topics:"]
    rows: list[tuple[str, ...]] = [
        ("", "messages", "skipped", "rate Hz", "gaps", "offset s", "from", "seconds")
    ]
    for name, topic in session["topics"].items():
        first, last = topic["first_ns"], topic["last_ns"]
        offset = topic["clock_offset_s"]
        rows.append(
            (
                name,
                str(topic["received"]),
                str(sum(topic["skipped"].values())),
                _shown(topic["rate_hz"]),
                str(topic["gaps"]),
                _shown(offset and offset["median"]),
                _moment(first),
                _shown(None if first is None else (last - first) / NANOSECONDS),
            )
        )
    lines += _aligned(rows)
    lines += ["", "Sensors:"]
    rows = [("", "kind", "written", "duplicates", "lost")]
    for sensor_id, sensor in session["sensors"].items():
        lost = sum(sensor["dropped"].values())
        counts = (str(sensor[key]) for key in ("written", "duplicates"))
        rows.append((sensor_id, sensor["kind"], *counts, str(lost)))
    lines += _aligned(rows)
    lines += ["", *_render_content(session["topics"])]
    writer = session["writer"]
    megabytes = writer["bytes_written"] / 1e6
    lines.append(f"{megabytes:.1f} MB written, {writer['trajectory_rows']} trajectory rows.")
    if source := session.get("poses", {}).get("source"):
        world = session["poses"]["world_frame"]
        lines.append(f"Poses come from {source}, in the frame '{world}'.")
    return "\n".join(lines) + "\n"


def _render_content(topics: Session) -> Iterator[str]:
    for name, topic in topics.items():
        if (images := topic.get("images")) and images["checked"]:
            brightness, blur = images["brightness"], images["blur"]
            if brightness:
                yield (
                    f"{name}: {images['checked']} images checked, median brightness "
                    f"{brightness['median']:.0f} of 255, median blur {blur['median']:.2f}"
                )
        if gnss := topic.get("gnss"):
            by_status = ", ".join(
                f"{n} with status {s}" for s, n in gnss["fixes_by_status"].items()
            )
            sigma = gnss["horizontal_sigma_m"]
            known = f"; median σ {sigma['median']:.2g} m" if sigma else ""
            yield f"{name}: GNSS fixes: {by_status}{known}"
        if wifi := topic.get("wifi"):
            heard = wifi["access_points_per_scan"]
            yield (
                f"{name}: {wifi['scans']} Wi-Fi scans, {wifi['different_access_points']} access "
                f"points, median {heard['median']:.0f} a scan"
            )


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _moment(stamp_ns: int | None) -> str:
    if stamp_ns is None:
        return "-"
    moment = datetime.fromtimestamp(stamp_ns // NANOSECONDS, tz=timezone.utc)
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        ("  " + "  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]
