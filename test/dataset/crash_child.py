"""A recording process for the crash test: writes until killed, says what was acknowledged."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Literal

from sample_records import POSE, SENSORS, START, STEP, payload, records_at

from kapture_ros.dataset.records import (
    AccessPoint,
    ImageRecord,
    Record,
    RigRow,
    TrajectoryRow,
    WifiRecord,
)
from kapture_ros.dataset.writer import DatasetWriter, WriterOptions

NETWORKS = 150  # so that a scan crosses pages, where a kill tears a write


def records(number: int) -> list[Record]:
    """All that is recorded at one instant; the same for the child and for the test."""
    found = records_at(number)
    image = b"\xff\xd8" + b"%08d" % number * 20_000
    networks = tuple(
        AccessPoint(f"{number:06d}:{i:03d}", f"net, {i}", 2412, -i, i) for i in range(NETWORKS)
    )
    found[0] = ImageRecord(
        stamp_ns=START + number * STEP, sensor_id="front", payload=payload(".jpg", image)
    )
    found[4] = WifiRecord(
        stamp_ns=START + number * STEP,
        sensor_id="radio",
        access_points=networks,
        scan_start_ns=number,
        scan_end_ns=0,
    )
    return found


def record_until_killed(path: Path, first: int, pipe: int, *, live: bool) -> None:
    """Write records and poses; every acknowledgement goes down the pipe as a line.

    Args:
        live: drop what is too fast, as a recorder does, instead of waiting as a conversion does.
    """

    def acknowledge(record: Record) -> None:
        os.write(pipe, f"{record.sensor_id} {record.stamp_ns}\n".encode())

    when_full: Literal["wait", "drop"] = "drop" if live else "wait"
    options = WriterOptions(workers=3, queue_images=8, when_full=when_full)
    writer = DatasetWriter(path, options, resume=True, acknowledge=acknowledge)
    for sensor in SENSORS:
        writer.add_sensor(sensor)
    writer.add_rig(RigRow("car", "front", POSE))
    for number in itertools.count(first):
        for record in records(number):
            writer.write(record)
        stamp = START + number * STEP
        if writer.add_trajectory(TrajectoryRow(stamp, "car", POSE)):
            os.write(pipe, f"car {stamp}\n".encode())
