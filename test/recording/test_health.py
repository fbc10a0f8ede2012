"""The health report: what went wrong in a recording is in it, in figures and in sentences."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from kapture_ros.cli.main import main
from kapture_ros.dataset.reader import open_dataset
from kapture_ros.dataset.records import (
    AccessPoint,
    FilePayload,
    GnssRecord,
    ImageRecord,
    Sensor,
    WifiRecord,
)
from kapture_ros.dataset.writer import DatasetWriter, WriterStatistics
from kapture_ros.errors import InputError
from kapture_ros.recording.health import HealthMonitor, HealthOptions
from kapture_ros.recording.report import problems, read_report, render, summary, write_report

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
TOPIC, TYPE = "/front/image", "sensor_msgs/Image"


def monitor_of(*stamps: float, receive: float = 0.01) -> HealthMonitor:
    """Fed with stamps in seconds after START; 0 stands for a missing stamp."""
    monitor = HealthMonitor()
    for seconds in stamps:
        stamp = START + round(seconds * SECOND)
        monitor.message(TOPIC, TYPE, stamp, stamp + round(receive * SECOND))
    return monitor


def session_of(monitor: HealthMonitor, *sensors: Sensor, **statistics: object) -> dict:
    report = monitor.report(
        WriterStatistics(**statistics),  # type: ignore[arg-type]
        {sensor.sensor_id: sensor for sensor in sensors},
    )
    return json.loads(json.dumps(report))  # it must survive its file


def said(session: dict) -> str:
    return "\n".join(problems(session))


def test_a_steady_topic_has_no_problems() -> None:
    session = session_of(monitor_of(*(0.1 * n for n in range(100))))
    topic = session["topics"][TOPIC]
    assert (topic["received"], topic["gaps"], topic["out_of_order"]) == (100, 0, 0)
    assert topic["rate_hz"] == pytest.approx(10, rel=0.006)
    assert topic["clock_offset_s"]["median"] == pytest.approx(0.01, abs=1e-6)
    assert said(session) == ""
    text = render([{**session, "problems": []}])
    assert "No problems found." in text
    assert "2023-11-14 22:13:20" in text


def test_a_gap_is_named_with_its_length_and_moment() -> None:
    stamps = [0.1 * n for n in range(50)] + [8.0 + 0.1 * n for n in range(50)]
    text = said(session_of(monitor_of(*stamps)))
    assert re.search(r"1 gap at (10|9\.98) Hz, the longest 3\.1 s from 1700000004\.900", text)


def test_stamps_that_repeat_go_back_or_jump_are_told_apart() -> None:
    session = session_of(monitor_of(10.0, 10.1, 10.1, 10.05, 10.2, 2.0, 2.1))
    topic = session["topics"][TOPIC]
    assert topic["repeated_stamps"] == 1
    assert topic["out_of_order"] == 1
    assert topic["clock_jumps_back"] == 1
    assert "the clock jumped back 1 time" in said(session)


def test_a_missing_stamp_is_counted_and_leaves_the_clock_offset_alone() -> None:
    monitor = monitor_of(1.0, 1.1)
    monitor.message(TOPIC, TYPE, 0, START + 2 * SECOND)
    session = session_of(monitor)
    assert session["topics"][TOPIC]["zero_stamps"] == 1
    assert session["topics"][TOPIC]["clock_offset_s"]["max"] == pytest.approx(0.01, abs=1e-6)
    assert "1 message without a stamp" in said(session)


def test_a_type_without_header_has_no_clock_offset() -> None:
    monitor = HealthMonitor()
    monitor.message("/tf", "tf2_msgs/TFMessage", None, START)
    assert session_of(monitor)["topics"]["/tf"]["clock_offset_s"] is None


def test_a_clock_that_is_wrong_is_a_problem() -> None:
    session = session_of(monitor_of(*(0.1 * n for n in range(20)), receive=3600.5))
    assert "stamps are 3600.500 s behind the receive time" in said(session)
    session = session_of(monitor_of(*(0.1 * n for n in range(20)), receive=-3600.5))
    assert "stamps are 3600.500 s ahead of the receive time" in said(session)


def test_losses_are_told_first_and_by_reason() -> None:
    monitor = monitor_of(0.0, 5.0)
    monitor.skipped(TOPIC, "not-finite")
    monitor.skipped(TOPIC, "not-finite")
    monitor.dropped(TOPIC, "the recorder was too slow", 7)
    monitor.warned(TOPIC, "no transform to base_link")
    lines = list(problems(session_of(monitor)))
    assert lines[:3] == [
        f"{TOPIC}: 7 messages lost: the recorder was too slow",
        f"{TOPIC}: 2 messages skipped: not-finite",
        f"{TOPIC}: no transform to base_link (1 time)",
    ]


def test_topics_that_nobody_understands_share_one_line_at_the_end() -> None:
    monitor = monitor_of(0.0, 0.1)
    monitor.skipped(TOPIC, "not-finite")
    moments = [0.1 * n for n in range(15)] + [60 + 0.1 * n for n in range(5)]
    for name in ("/battery", "/leak"):
        for seconds in moments:  # with a gap that nobody needs to know
            monitor.message(name, "my_msgs/Level", None, START + round(seconds * SECOND))
            monitor.skipped(name, "unknown type")
    *_, first, last = problems(session_of(monitor))
    assert first == f"{TOPIC}: 1 message skipped: not-finite"
    assert last == (
        "40 messages of unknown types skipped: /battery (my_msgs/Level), /leak (my_msgs/Level)"
    )


def test_messages_that_were_not_asked_for_are_no_problem() -> None:
    monitor = monitor_of(*(0.1 * n for n in range(20)))
    for _ in range(15):
        monitor.skipped(TOPIC, "not selected")
    session = session_of(monitor)
    assert said(session) == ""
    (line,) = [line for line in render([{**session, "problems": []}]).splitlines() if TOPIC in line]
    assert line.split()[:3] == [TOPIC, "20", "15"]


def test_reasons_without_end_do_not_fill_the_memory() -> None:
    monitor = HealthMonitor()
    for number in range(1000):
        monitor.skipped(TOPIC, f"reason {number}")
    skipped = session_of(monitor)["topics"][TOPIC]["skipped"]
    assert len(skipped) == 51
    assert sum(skipped.values()) == 1000


def test_a_camera_without_calibration_is_a_problem() -> None:
    camera = Sensor("front", "", "camera", ("UNKNOWN_CAMERA", "64", "48"))
    assert "front: the camera has no calibration" in said(session_of(HealthMonitor(), camera))


def test_poses_and_damage_of_a_conversion_are_told_too() -> None:
    session = session_of(HealthMonitor())
    session["poses"] = {"problems": {"cycle": 1}}
    session["damage"] = ["drive.bag: cut off"]
    text = said(session)
    for part in ("cycle (1 time)", "damaged: drive.bag"):
        assert part in text


def image(level: int, seconds: float) -> ImageRecord:
    pixels = np.random.default_rng(0).integers(0, 30, (48, 64), np.uint8) + np.uint8(level)
    data = cv2.imencode(".png", pixels)[1].tobytes()
    stamp = START + round(seconds * SECOND)
    return ImageRecord(stamp_ns=stamp, sensor_id="front", payload=FilePayload(".png", lambda: data))


def written(record: ImageRecord) -> bytes:
    """What the writer does with a record's file."""
    data = bytes(record.payload.encode())
    if record.payload.inspect is not None:
        record.payload.inspect(data)
    return data


def test_images_are_checked_now_and_then_and_not_changed() -> None:
    monitor = HealthMonitor(HealthOptions(image_check_s=2.0))
    for number in range(41):  # 4 s at 10 Hz
        record = image(100, number / 10)
        watched = monitor.watch(TOPIC, record)
        assert written(watched) == record.payload.encode()
        assert dataclasses.replace(watched, payload=record.payload) == record
    assert session_of(monitor)["topics"][TOPIC]["images"]["checked"] == 3


def test_checks_go_on_after_the_clock_jumped_back() -> None:
    monitor = HealthMonitor(HealthOptions(image_check_s=2.0))
    for seconds in (100.0, 100.1, 5.0, 5.1, 7.0):
        written(monitor.watch(TOPIC, image(100, seconds)))
    assert session_of(monitor)["topics"][TOPIC]["images"]["checked"] == 3


@pytest.mark.parametrize(("level", "what"), [(0, "under-exposed"), (225, "over-exposed")])
def test_bad_exposure_is_a_problem(level: int, what: str) -> None:
    monitor = HealthMonitor(HealthOptions(image_check_s=0.0, dark_fraction=0.4))
    for number in range(3):
        written(monitor.watch(TOPIC, image(level, number)))
    assert f"3 of 3 images checked are {what}" in said(session_of(monitor))


def test_an_image_that_nobody_can_read_is_a_problem() -> None:
    monitor = HealthMonitor()
    record = dataclasses.replace(image(0, 0), payload=FilePayload(".jpg", lambda: b"\xff\xd8 half"))
    assert written(monitor.watch(TOPIC, record)) == b"\xff\xd8 half"
    assert "1 of 1 images checked are unreadable" in said(session_of(monitor))


@pytest.mark.parametrize(("waited_s", "told"), [(0.04, False), (2.0, True)])
def test_waits_for_the_disk_are_told_where_they_took_time(waited_s: float, told: bool) -> None:
    session = session_of(HealthMonitor())
    session["writer"] |= {"queue_waits": 100, "queue_waited_s": waited_s}
    assert ("writing was too slow 100 times" in said(session)) is told


def test_gnss_quality_is_summed_up_by_status_and_spread() -> None:
    monitor = HealthMonitor()
    for status, variance in ((-1, math.nan), (0, 4.0), (0, 9.0), (2, 0.01)):
        monitor.watch(
            "/fix",
            GnssRecord(
                stamp_ns=START,
                sensor_id="fix",
                longitude=8.0,
                latitude=47.0,
                altitude=400.0,
                utc=0,
                dop=0.0,
                extra={
                    "status": {"status": status},
                    "position_covariance": [variance, 0, 0, 0, variance, 0, 0, 0, 1.0],
                    "position_covariance_type": 2,
                },
            ),
        )
    session = session_of(monitor)
    gnss = session["topics"]["/fix"]["gnss"]
    assert gnss["fixes_by_status"] == {"-1": 1, "0": 2, "2": 1}
    assert gnss["horizontal_sigma_m"] == {"min": 0.1, "median": 2.0, "max": 3.0}
    assert gnss["not_vouched_for"] == 1
    assert "/fix: 1 position without a fix" in said(session)


def test_wifi_coverage_is_counted() -> None:
    monitor = HealthMonitor()
    for addresses in (("a", "b"), ("b", "c", "d"), ()):
        points = tuple(AccessPoint(address, "", 2412, -50) for address in addresses)
        monitor.watch(
            "/wifi",
            WifiRecord(
                stamp_ns=START,
                sensor_id="wifi",
                access_points=points,
                scan_start_ns=0,
                scan_end_ns=0,
            ),
        )
    session = session_of(monitor)
    wifi = session["topics"]["/wifi"]["wifi"]
    assert (wifi["scans"], wifi["empty_scans"], wifi["different_access_points"]) == (3, 1, 4)
    assert "1 of 3 Wi-Fi scans heard nothing" in said(session)


def record_something(path: Path, *, resume: bool = False) -> None:
    monitor = monitor_of(*(0.1 * n for n in range(20)))
    with DatasetWriter(path, resume=resume) as writer:
        writer.add_sensor(Sensor("front", "", "camera", ("UNKNOWN_CAMERA", "64", "48")))
        for number in range(20):
            seconds = number / 10 + (10 if resume else 0)
            writer.write(monitor.watch(TOPIC, image(100, seconds)))
        writer.flush()
        write_report(path, monitor.report(writer.statistics, writer.sensors))


def test_a_dataset_without_its_files_is_summed_up_all_the_same(tmp_path: Path) -> None:
    record_something(tmp_path / "drive")
    files = sorted((tmp_path / "drive/sensors/records_data").glob("*/*"))
    files[1].unlink()
    text = summary(open_dataset(tmp_path / "drive"))
    assert f"1 of {len(files)} files are missing or empty" in text


def test_a_resumed_recording_has_a_session_for_each_time(tmp_path: Path) -> None:
    record_something(tmp_path / "drive")
    record_something(tmp_path / "drive", resume=True)
    first, second = read_report(tmp_path / "drive")
    assert first["sensors"]["front"]["written"] == second["sensors"]["front"]["written"] == 20
    assert "Session 2 of 2" in (tmp_path / "drive/report.txt").read_text()


def test_a_damaged_report_is_named(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot read .*report\.json"):
        read_report(tmp_path)


def test_info_prints_summary_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record_something(tmp_path / "drive")
    capsys.readouterr()
    assert main(["info", str(tmp_path / "drive")]) == 0
    shown = capsys.readouterr().out
    for part in ("front", "UNKNOWN_CAMERA", "no calibration", "20"):
        assert part in shown


def test_info_says_what_it_cannot_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(tmp_path)]) == 1
    assert "is not a kapture dataset" in capsys.readouterr().err
