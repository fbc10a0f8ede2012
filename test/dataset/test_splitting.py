"""Splitting: a long drive becomes several datasets, each complete in itself."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from sample_records import POSE, SENSORS, START, STEP, comparable, image, records_at

from kapture_ros.dataset.reader import open_dataset
from kapture_ros.dataset.records import RigRow, TrajectoryRow
from kapture_ros.dataset.splitting import SplitOptions, SplitWriter
from kapture_ros.errors import OutputError

NUMBERS = 30


def record_all(path: Path, split: SplitOptions, *, late: int = 0) -> SplitWriter:
    """Poses come `late` instants after their images."""
    with SplitWriter(path, split) as writer:
        for sensor in SENSORS:
            writer.add_sensor(sensor)
        writer.add_rig(RigRow("car", "front", POSE))
        for number in range(NUMBERS + late):
            if number < NUMBERS:
                for record in records_at(number):
                    writer.write(record)
            if number >= late:
                writer.add_trajectory(TrajectoryRow(START + (number - late) * STEP, "car", POSE))
        writer.flush()
    return writer


def test_parts_by_time_hold_all_records_once(tmp_path: Path) -> None:
    writer = record_all(tmp_path / "drive", SplitOptions(split_s=1.0))
    assert [path.name for path in writer.paths] == ["drive_000", "drive_001", "drive_002"]
    found = []
    for path in writer.paths:
        dataset = open_dataset(path)
        assert set(dataset.sensors) == {sensor.sensor_id for sensor in SENSORS}
        assert len(list(dataset.rigs())) == 1
        found += [comparable(r) for s in dataset.sensors for r in dataset.records(s)]
    expected = [comparable(r) for number in range(NUMBERS) for r in records_at(number)]
    assert sorted(found) == sorted(expected)
    counts = writer.statistics.sensors
    assert {sensor.written for sensor in counts.values()} == {NUMBERS}


def test_a_pose_that_comes_late_goes_to_the_part_of_its_image(tmp_path: Path) -> None:
    writer = record_all(tmp_path / "drive", SplitOptions(split_s=1.0), late=3)
    for path in writer.paths:
        dataset = open_dataset(path)
        images = {record.stamp_ns for record in dataset.records("front")}
        assert {row.stamp_ns for row in dataset.trajectory()} == images
    assert writer.statistics.trajectory_rows == NUMBERS


def test_a_rig_that_is_known_late_is_in_the_parts_before(tmp_path: Path) -> None:
    with SplitWriter(tmp_path / "drive", SplitOptions(split_s=1.0)) as writer:
        for sensor in SENSORS:
            writer.add_sensor(sensor)
        for number in range(15):
            for record in records_at(number):
                writer.write(record)
        # As a session does with the first poses, while the second part is written.
        writer.add_rig(RigRow("car", "front", POSE))
        for number in range(15):
            writer.add_trajectory(TrajectoryRow(START + number * STEP, "car", POSE))
        for record in (record for number in range(15, 25) for record in records_at(number)):
            writer.write(record)
        writer.add_rig(RigRow("car", "fix", POSE))  # and with the rest in the end
    poses = []
    for path in writer.paths:
        dataset = open_dataset(path)
        assert {row.sensor_id for row in dataset.rigs()} == {"front", "fix"}
        poses.append(len(list(dataset.trajectory())))
    assert len(writer.paths) == 3 and poses == [10, 5, 0]


def test_a_part_stays_open_while_poses_may_come(tmp_path: Path) -> None:
    now = START

    def is_awaited(received_ns: int) -> bool:
        return now - received_ns <= 15 * STEP

    with SplitWriter(
        tmp_path / "drive", SplitOptions(split_s=1.0), is_awaited=is_awaited
    ) as writer:
        writer.add_sensor(SENSORS[0])
        for number in range(45):
            now = START + number * STEP
            writer.write(records_at(number)[0])
    lengths = [len(list(open_dataset(p).records(SENSORS[0].sensor_id))) for p in writer.paths]
    assert lengths == [10, 16, 16, 3]


def test_time_is_that_of_receiving_not_of_old_stamps(tmp_path: Path) -> None:
    with SplitWriter(tmp_path / "drive", SplitOptions(split_s=1.0)) as writer:
        writer.add_sensor(SENSORS[0])
        for number in range(9):
            record = records_at(number)[0]
            stamp = record.stamp_ns if number else record.stamp_ns - 1000 * STEP
            extra = {"received": record.stamp_ns}
            writer.write(dataclasses.replace(record, stamp_ns=stamp, extra=extra))
    assert len(writer.paths) == 1


def test_parts_by_size_are_about_that_large(tmp_path: Path) -> None:
    with SplitWriter(tmp_path / "drive", SplitOptions(split_megabytes=1.0)) as writer:
        writer.add_sensor(SENSORS[0])
        for number in range(10):
            writer.write(image(number, lambda: bytes(300_000)))
            writer.flush()
    sizes = [sum(f.stat().st_size for f in p.rglob("*") if f.is_file()) for p in writer.paths]
    assert len(sizes) == 3
    assert all(1_000_000 <= size < 1_350_000 for size in sizes[:-1])
    assert writer.statistics.bytes_written == pytest.approx(sum(sizes), rel=0.01)


def test_parts_of_another_recording_are_not_touched(tmp_path: Path) -> None:
    record_all(tmp_path / "drive", SplitOptions(split_s=1.0))
    with pytest.raises(OutputError, match="exist already"):
        SplitWriter(tmp_path / "drive", SplitOptions())
