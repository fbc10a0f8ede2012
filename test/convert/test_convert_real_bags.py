"""Bags of real robots convert whole; NAVER's library loads them; nothing differs."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from kapture_ros.cli.main import main
from kapture_ros.dataset.reader import open_dataset

# records of each sensor kind, and skipped messages by reason
EXPECTED = {
    "husky_gps_imu_odom.bag": (
        {"gnss": 989, "accelerometer": 11865, "gyroscope": 11865, "odometry": 3952},
        {},
    ),
    "nav2_turtlebot.mcap": ({"odometry": 2639 + 135}, {}),
    "underwater_gps_imu_tf.mcap": (
        {"gnss": 12, "accelerometer": 161, "gyroscope": 161, "odometry": 72 + 201 + 68 + 11},
        {"no-position": 46, "bad-pose": 3, "unknown type": 1935},
    ),
    "tf_example.db3": ({}, {}),
    "septentrio.nmea": ({"gnss": 6827}, {"nmea-other": 3414, "nmea-broken": 1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPECTED)
def test_a_real_bag_becomes_a_whole_dataset(name, shared_data: Path, tmp_path, caplog) -> None:
    bag, out = shared_data / "bags" / name, tmp_path / "out"
    assert main(["convert", str(bag), str(out)]) == 0
    records, skipped = EXPECTED[name]
    dataset = open_dataset(out)
    with caplog.at_level(logging.WARNING):
        assert dataset.kapture.sensors
    assert not caplog.records
    found: dict[str, int] = {}
    for sensor in dataset.sensors.values():
        if not sensor.sensor_id.startswith("tf"):
            count = sum(1 for _ in dataset.records(sensor.sensor_id))
            if sensor.kind == "message":
                count += sum(1 for _ in dataset.duplicates(sensor.sensor_id))
            found[sensor.kind] = found.get(sensor.kind, 0) + count
    kept_whole = found.pop("message", 0)
    assert found == records
    understood = sum(count for why, count in skipped.items() if why != "unknown type")
    assert kept_whole == understood
    (session,) = json.loads((out / "report.json").read_text())["sessions"]
    reasons: dict[str, int] = {}
    for topic in session["topics"].values():
        for reason, count in topic["skipped"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    assert reasons == skipped
    assert main(["verify", str(bag), str(out)]) == 0


def test_a_lone_db3_without_metadata_keeps_all_transforms(shared_data: Path, tmp_path) -> None:
    assert main(["convert", str(shared_data / "bags" / "tf_example.db3"), str(tmp_path / "o")]) == 0
    dataset = open_dataset(tmp_path / "o")
    assert set(dataset.sensors) == {"tf-base_footprint", "tf_static-base_link"}
    records = list(dataset.records("tf-base_footprint"))
    assert len(records) == 517
    assert {(r.parent_frame, r.child_frame) for r in records} == {("odom", "base_footprint")}
