"""A live recording without ROS: what it does when messages come faster than they are written."""

from __future__ import annotations

import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bag_tools import STORES, image, transforms
from rosbags.typesys import Stores, get_typestore

from kapture_ros.dataset.reader import open_dataset
from kapture_ros.dataset.splitting import SplitOptions
from kapture_ros.errors import OutputError
from kapture_ros.recording.recorder import (
    RecorderOptions,
    Recording,
    RecordingSettings,
    new_dataset_path,
)
from kapture_ros.recording.report import read_report

STORE = get_typestore(Stores.ROS2_JAZZY)
IMU = "sensor_msgs/msg/Imu"
SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND


def decode(type_name: str, data: bytes) -> Any:
    try:
        return STORE.deserialize_cdr(data, type_name)
    except Exception as error:  # whatever the library raises for bytes that are no message
        raise ValueError(str(error)) from error


def imu(number: int) -> bytes:
    types = STORE.types
    stamp = START + number * SECOND // 100
    vector = types["geometry_msgs/msg/Vector3"]
    message = types[IMU](
        header=types["std_msgs/msg/Header"](
            stamp=types["builtin_interfaces/msg/Time"](stamp // SECOND, stamp % SECOND),
            frame_id="imu",
        ),
        orientation=types["geometry_msgs/msg/Quaternion"](0.0, 0.0, 0.0, 1.0),
        orientation_covariance=[0.0] * 9,
        angular_velocity=vector(0.0, 0.0, float(number)),
        angular_velocity_covariance=[0.0] * 9,
        linear_acceleration=vector(0.0, 0.0, 9.81),
        linear_acceleration_covariance=[0.0] * 9,
    )
    return bytes(STORE.serialize_cdr(_with_arrays(message), IMU))


def _with_arrays(message: Any) -> Any:
    for name in message.__dataclass_fields__:
        if name.endswith("_covariance"):
            setattr(message, name, np.array(getattr(message, name)))
    return message


def settings_of(**recorder: Any) -> RecordingSettings:
    return RecordingSettings(recorder=RecorderOptions(**{"min_free_megabytes": 0.0, **recorder}))


def put_all(recording: Recording, numbers: range) -> None:
    for number in numbers:
        recording.put("/imu", IMU, imu(number), START + number * SECOND // 100)


def test_what_arrives_is_recorded_and_reported(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "drive", settings_of(), decode)
    put_all(recording, range(200))
    recording.stop()
    dataset = open_dataset(tmp_path / "drive")
    assert dataset.repaired is None
    assert len(list(dataset.records("imu-gyroscope"))) == 200
    status = recording.status()
    assert (status.received, status.dropped, status.ended) == (200, 0, "")
    (session,) = read_report(tmp_path / "drive")
    assert session["topics"]["/imu"]["received"] == 200
    assert recording.report_text == (tmp_path / "drive/report.txt").read_text()


def test_a_full_inbox_loses_the_newest_and_counts_them(tmp_path: Path) -> None:
    """The first message is held up; what does not fit meanwhile is dropped."""
    release = threading.Event()

    def held_up(type_name: str, data: bytes) -> Any:
        release.wait(60)
        return decode(type_name, data)

    size = len(imu(0))
    fit = 1_000_000 // size
    recording = Recording(tmp_path / "drive", settings_of(inbox_megabytes=1.0), held_up)
    put_all(recording, range(fit + 500))
    assert recording.status().inbox_bytes <= 1_000_000
    release.set()
    recording.stop()
    status = recording.status()
    assert 490 <= status.dropped <= 500, "one message is already being handled"
    found = list(open_dataset(tmp_path / "drive").records("imu-gyroscope"))
    assert len(found) == status.received - status.dropped
    (session,) = read_report(tmp_path / "drive")
    assert session["topics"]["/imu"]["dropped"] == {"the recorder was too slow": status.dropped}
    assert f"/imu: {status.dropped} messages lost: the recorder was too slow" in session["problems"]


def test_losses_of_the_middleware_are_in_the_report(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "drive", settings_of(), decode)
    put_all(recording, range(3))
    recording.lost("/imu", "lost in the middleware", 5)
    recording.stop()
    (session,) = read_report(tmp_path / "drive")
    assert session["topics"]["/imu"]["dropped"] == {"lost in the middleware": 5}
    assert recording.status().dropped == 5


def test_a_message_that_is_no_message_costs_only_itself(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "drive", settings_of(), decode)
    put_all(recording, range(2))
    recording.put("/imu", IMU, b"\x00\x01\x00\x00 nonsense", START + 5)
    put_all(recording, range(2, 4))
    recording.stop()
    assert len(list(open_dataset(tmp_path / "drive").records("imu-accelerometer"))) == 4
    (session,) = read_report(tmp_path / "drive")
    assert session["topics"]["/imu"]["skipped"] == {"cannot be decoded": 1}


def test_a_fault_of_ours_costs_one_message_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def faulty(type_name: str, data: bytes) -> Any:
        if data == b"bad":
            raise ZeroDivisionError
        return decode(type_name, data)

    recording = Recording(tmp_path / "drive", settings_of(), faulty)
    recording.put("/imu", IMU, b"bad", START)
    put_all(recording, range(3))
    recording.stop()
    assert len(list(open_dataset(tmp_path / "drive").records("imu-gyroscope"))) == 3
    assert "/imu: a message could not be handled" in caplog.text
    (session,) = read_report(tmp_path / "drive")
    assert session["topics"]["/imu"]["skipped"] == {"internal error: ZeroDivisionError": 1}


def test_nothing_is_created_where_there_is_too_little_space(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="less than min_free_megabytes"):
        Recording(tmp_path / "drive", settings_of(min_free_megabytes=1e9), decode)
    assert not (tmp_path / "drive").exists()


def test_what_had_arrived_is_recorded_when_space_runs_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real disk, as soon as the recording looks at it with a threshold it cannot meet."""
    settings = settings_of()
    recording = Recording(tmp_path / "drive", settings, decode)
    put_all(recording, range(50))
    free = shutil.disk_usage(tmp_path).free / 1e6
    object.__setattr__(settings.recorder, "min_free_megabytes", free * 2)
    recording._thread.join(120)
    assert not recording.running
    assert "MB are free" in recording.status().ended
    put_all(recording, range(50, 60))  # too late, and no error
    recording.stop()
    dataset = open_dataset(tmp_path / "drive")
    assert dataset.repaired is None
    assert len(list(dataset.records("imu-gyroscope"))) == 50


def test_a_disk_that_fails_ends_the_recording_and_says_why(tmp_path: Path) -> None:
    recording = Recording(tmp_path / "drive", settings_of(), decode)
    put_all(recording, range(3))
    while recording.status().bytes_written == 0:
        time.sleep(0.001)
    # A folder where the next sensor's sidecar must go: the real error of the file system.
    obstacle = tmp_path / "drive/kapture_ros/extra/fix.jsonl"
    obstacle.mkdir()
    fix = "sensor_msgs/msg/NavSatFix"
    recording.put("/fix", fix, nav_sat_fix(), START)
    recording._thread.join(120)
    assert "cannot write" in recording.status().ended
    obstacle.rmdir()
    assert open_dataset(tmp_path / "drive").repaired is not None
    assert len(list(open_dataset(tmp_path / "drive").records("imu-gyroscope"))) == 3


def nav_sat_fix() -> bytes:
    types = STORE.types
    message = types["sensor_msgs/msg/NavSatFix"](
        header=types["std_msgs/msg/Header"](
            stamp=types["builtin_interfaces/msg/Time"](1_700_000_000, 0), frame_id="antenna"
        ),
        status=types["sensor_msgs/msg/NavSatStatus"](0, 1),
        latitude=47.0,
        longitude=8.0,
        altitude=400.0,
        position_covariance=np.zeros(9),
        position_covariance_type=0,
    )
    return bytes(STORE.serialize_cdr(message, "sensor_msgs/msg/NavSatFix"))


def test_a_split_recording_reports_in_every_part(tmp_path: Path) -> None:
    settings = RecordingSettings(
        recorder=RecorderOptions(min_free_megabytes=0.0), split=SplitOptions(split_s=1.0)
    )
    recording = Recording(tmp_path / "drive", settings, decode)
    put_all(recording, range(250))
    recording.stop()
    assert [path.name for path in recording.paths] == ["drive_000", "drive_001", "drive_002"]
    counts = [len(list(open_dataset(p).records("imu-gyroscope"))) for p in recording.paths]
    assert counts == [100, 100, 50]
    assert all((path / "report.txt").exists() for path in recording.paths)


def test_each_part_of_a_split_recording_has_its_own_poses_and_all_rigs(tmp_path: Path) -> None:
    """Though they are known seconds later, and the first ones only after ten."""
    settings = RecordingSettings(
        recorder=RecorderOptions(min_free_megabytes=0.0), split=SplitOptions(split_s=2.0)
    )
    store = STORES[2]
    recording = Recording(
        tmp_path / "drive", settings, lambda name, data: store.deserialize_cdr(data, name)
    )

    def put(topic: str, message: Any, at: int) -> None:
        name = message.__msgtype__
        recording.put(topic, name, bytes(store.serialize_cdr(message, name)), at)

    mounted = transforms([(START - 99 * SECOND, "base_link", "cam", (1, 0, 0, 0), (1, 0, 2))])
    put("/tf_static", mounted, START)
    for number in range(250):
        at = START + number * SECOND // 10
        put("/tf", transforms([(at, "odom", "base_link", (1, 0, 0, 0), (number, 0, 0))]), at)
        put("/cam/image_raw", image(np.zeros((4, 6), np.uint8), "mono8", at, "cam"), at)
    recording.stop()
    assert recording.status().ended == "" and len(recording.paths) > 2
    for path in recording.paths:
        dataset = open_dataset(path)
        images = {record.stamp_ns for record in dataset.records("cam.image_raw")}
        assert images and images <= {row.stamp_ns for row in dataset.trajectory()}
        assert [row.sensor_id for row in dataset.rigs()] == ["cam.image_raw"]


def test_topics_are_chosen_by_name_with_wildcards() -> None:
    options = RecorderOptions(topics=("/camera/*", "/fix"), exclude=("*/debug",))
    wanted = [t for t in ("/camera/front", "/camera/debug", "/fix", "/fix2") if options.wants(t)]
    assert wanted == ["/camera/front", "/fix"]
    assert RecorderOptions().wants("/anything")


def test_a_recording_is_put_into_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")  # no shell replaces the ~ of a parameter file
    path = new_dataset_path(RecorderOptions(output="~/drives", name="city"))
    assert path.parent == Path("/home/somebody/drives")


def test_two_starts_in_one_second_do_not_meet(tmp_path: Path) -> None:
    options = RecorderOptions(output=str(tmp_path), name="city")
    first = new_dataset_path(options)
    first.mkdir()
    assert new_dataset_path(options) != first
    assert first.name.startswith("city_")
