"""The dataset writer: all that is given reads back, in order, and nothing is lost silently."""

from __future__ import annotations

import dataclasses
import math
import threading
import time
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_records import (
    POSE,
    SENSORS,
    START,
    STEP,
    comparable,
    image,
    payload,
    records_at,
    rows,
)

from kapture_ros.dataset.reader import open_dataset
from kapture_ros.dataset.records import (
    AccelerometerRecord,
    AccessPoint,
    FilePayload,
    GnssRecord,
    ImageRecord,
    OdometryRecord,
    Record,
    RigRow,
    Sensor,
    TrajectoryRow,
    WifiRecord,
)
from kapture_ros.dataset.writer import DatasetWriter, WriterOptions
from kapture_ros.errors import InputError, OptionError, OutputError
from kapture_ros.transforms.se3 import Transform

CAMERA, ACCELEROMETER = SENSORS[0], SENSORS[6]


def writer_of(path: Path, *sensors: Sensor, **options: object) -> DatasetWriter:
    writer = DatasetWriter(path, WriterOptions(**options))  # type: ignore[arg-type]
    for sensor in sensors:
        writer.add_sensor(sensor)
    return writer


def read_back(path: Path) -> set[tuple[object, ...]]:
    dataset = open_dataset(path)
    return {comparable(r) for sensor in dataset.sensors for r in dataset.records(sensor)}


def test_every_kind_of_record_reads_back_equal_and_without_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given_records = [record for number in range(12) for record in records_at(number)]
    with writer_of(tmp_path / "drive", *SENSORS) as writer:
        for record in given_records:
            assert writer.write(record)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_back(tmp_path / "drive")
    assert found == {comparable(record) for record in given_records}
    assert not caplog.records
    assert open_dataset(tmp_path / "drive").sensors == {s.sensor_id: s for s in SENSORS}


def test_kapture_itself_sees_every_record(tmp_path: Path) -> None:
    with writer_of(tmp_path / "drive", *SENSORS) as writer:
        for record in records_at(0) + records_at(2):
            writer.write(record)
    kapture = open_dataset(tmp_path / "drive").kapture
    stamp = START + 2 * STEP
    assert kapture.records_camera[stamp, "front"] == f"front/{stamp}.jpg"
    assert kapture.records_gnss[stamp, "fix"].astuple() == (8.1, 47.2, 400.5, 1_700_000_000, 1.5)
    first, second = kapture.records_wifi[stamp, "radio"].items()
    assert first[0] == "aa:bb:cc:dd:ee:01"
    assert first[1].astuple() == (2412, -40.0, "Café%2C 50%25%0A", stamp - 5, 0)
    assert second[1].ssid == "%20潮品%20"
    assert list(kapture.records_bluetooth[stamp, "beacons"]) == ["01", "02"]
    assert kapture.records_gyroscope[stamp, "imu.gyroscope"].astuple() == (2.1, -0.0, 1e-320)
    assert kapture.sensors["front"].camera_params == [64, 48, 50.5, 50.5, 32, 24]
    assert {len(records) for records in (kapture.records_depth, kapture.records_lidar)} == {2}


@settings(max_examples=40)
@given(
    st.integers(-(2**62), 2**62),
    st.lists(
        st.tuples(st.text(max_size=20), st.text(max_size=40), st.integers(0, 9000)), max_size=5
    ),
    st.tuples(st.floats(), st.floats(), st.floats()),
)
def test_any_text_and_any_number_reads_back(
    tmp_path_factory: pytest.TempPathFactory,
    stamp: int,
    networks: list[tuple[str, str, int]],
    xyz: tuple[float, float, float],
) -> None:
    path = tmp_path_factory.mktemp("any") / "drive"
    points = tuple(AccessPoint(bssid, ssid, mhz, -50, mhz) for bssid, ssid, mhz in networks)
    given_records: list[Record] = [
        WifiRecord(
            stamp_ns=stamp, sensor_id="radio", access_points=points, scan_start_ns=1, scan_end_ns=2
        ),
        AccelerometerRecord(stamp_ns=stamp, sensor_id="imu.accelerometer", xyz=xyz),
    ]
    with writer_of(path, *SENSORS) as writer:
        for record in given_records:
            writer.write(record)
    assert read_back(path) == {comparable(record) for record in given_records}


def test_poses_and_rigs_read_back(tmp_path: Path) -> None:
    with writer_of(tmp_path / "drive", CAMERA) as writer:
        writer.add_rig(RigRow("car", "front", POSE))
        assert writer.add_trajectory(TrajectoryRow(START, "car", POSE))
        place = Transform(translation=np.array([-3.0, 2.0, -1.0]))
        assert writer.add_trajectory(TrajectoryRow(START + 1, "front", place, oriented=False))
    dataset = open_dataset(tmp_path / "drive")
    (rig,) = dataset.rigs()
    assert (rig.rig_id, rig.sensor_id) == ("car", "front")
    assert rig.sensor_from_rig.distance_to(POSE) == pytest.approx((0, 0), abs=1e-12)
    posed, placed = dataset.trajectory()
    assert posed.device_from_world.distance_to(POSE) == pytest.approx((0, 0), abs=1e-12)
    assert placed == TrajectoryRow(START + 1, "front", place, oriented=False)
    assert dataset.kapture.trajectories[START + 1, "front"].r is None


def test_rows_follow_the_order_of_arrival_though_images_take_their_time(tmp_path: Path) -> None:
    def slow(number: int) -> bytes:
        time.sleep(0.02 if number % 3 == 0 else 0)
        return b"x"

    with writer_of(tmp_path / "drive", CAMERA, workers=8) as writer:
        order = [5, 1, 2, 9, 3, 12, 11, 10, 4]
        for number in order:
            writer.write(image(number, lambda number=number: slow(number)))  # type: ignore[misc]
    stamps = [int(row[0]) for row in rows(tmp_path / "drive/sensors/records_camera.txt")]
    assert stamps == [START + number * STEP for number in order]


def test_a_record_is_acknowledged_when_its_row_and_file_are_there(tmp_path: Path) -> None:
    path = tmp_path / "drive"
    seen: list[bool] = []

    def acknowledge(record: Record) -> None:
        lines = rows(path / "sensors/records_camera.txt")
        stamp, _, name = lines[-1]
        whole = (path / "sensors/records_data" / name).read_bytes() == b"abc"
        seen.append(int(stamp) == record.stamp_ns and whole)

    writer = DatasetWriter(path, WriterOptions(workers=1), acknowledge=acknowledge)
    with writer:
        writer.add_sensor(CAMERA)
        for number in range(5):
            writer.write(image(number, lambda: b"abc"))
            writer.flush()
    assert seen == [True] * 5


# -- duplicates ------------------------------------------------------------------------------


def test_of_two_records_with_one_stamp_the_first_stays_and_the_second_is_kept_aside(
    tmp_path: Path,
) -> None:
    path = tmp_path / "drive"
    with writer_of(path, *SENSORS) as writer:
        for record in records_at(0):
            writer.write(record)
        for record in records_at(0):
            again = dataclasses.replace(record, extra={"second": True})
            if isinstance(again, ImageRecord):
                again = dataclasses.replace(again, payload=payload(".png", b"second image"))
            assert writer.write(again)
        writer.flush()
        counts = writer.statistics.sensors
    assert {s: (c.written, c.duplicates) for s, c in counts.items()} == dict.fromkeys(
        (sensor.sensor_id for sensor in SENSORS), (1, 1)
    )
    assert read_back(path) == {comparable(record) for record in records_at(0)}
    dataset = open_dataset(path)
    for sensor in SENSORS:
        (line,) = dataset.duplicates(sensor.sensor_id)
        assert line["extra"] == {"second": True}
    (line,) = dataset.duplicates("front")
    ((name,),) = line["duplicate"]
    assert (path / "kapture_ros/duplicates" / name).read_bytes() == b"second image"
    (line,) = dataset.duplicates("fix")
    assert line["duplicate"] == [["8.1", "47.2", "400.5", "1700000000", "1.5"]]


def test_a_duplicate_is_seen_while_the_first_is_still_being_encoded(tmp_path: Path) -> None:
    release = threading.Event()
    with writer_of(tmp_path / "drive", CAMERA, workers=2) as writer:
        writer.write(image(1, lambda: b"first" if release.wait(60) else b"never"))
        writer.write(image(1, lambda: b"second"))
        release.set()
    (record,) = open_dataset(tmp_path / "drive").records("front")
    assert isinstance(record, ImageRecord)
    assert record.payload.encode() == b"first"


def test_a_second_pose_at_a_stamp_is_refused_and_counted(tmp_path: Path) -> None:
    with writer_of(tmp_path / "drive", CAMERA) as writer:
        assert writer.add_trajectory(TrajectoryRow(START, "front", POSE))
        assert not writer.add_trajectory(TrajectoryRow(START, "front", Transform()))
        assert writer.statistics.trajectory_duplicates == 1


# -- the queue -------------------------------------------------------------------------------


def taken_when_the_caller_waits(
    writer: DatasetWriter, number: int, waits: int
) -> Callable[[], bytes]:
    """An image that is encoded once the caller had to wait for the queue after it."""

    def encode() -> bytes:
        while writer.statistics.queue.waits <= number < waits:
            time.sleep(0.001)
        return b"x"

    return encode


def test_a_full_queue_makes_the_caller_wait_and_counts_it(tmp_path: Path) -> None:
    with writer_of(tmp_path / "drive", CAMERA, workers=1, queue_images=2) as writer:
        for number in range(6):
            writer.write(image(number, taken_when_the_caller_waits(writer, number, 4)))
            assert writer.queued <= 2
        writer.flush()
        queue = writer.statistics.queue
    assert queue.waits == 4
    assert queue.waited_s > 0
    assert queue.longest == 2
    assert len(rows(tmp_path / "drive/sensors/records_camera.txt")) == 6


def test_a_live_recording_drops_images_when_the_queue_is_full_and_says_which(
    tmp_path: Path,
) -> None:
    release = threading.Event()
    options = {"workers": 1, "queue_images": 1, "when_full": "drop"}
    with writer_of(tmp_path / "drive", CAMERA, **options) as writer:
        assert writer.write(image(0, lambda: b"x" if release.wait(60) else b""))
        assert not writer.write(image(1))
        release.set()
        writer.flush()
        assert writer.statistics.sensors["front"].dropped == {"the write queue was full": 1}
        assert writer.write(image(1)), "a dropped stamp is free again"
    notes = (tmp_path / "drive/kapture_ros/extra/front.jsonl").read_text()
    assert f'{{"stamp":{START + STEP},"dropped":"the write queue was full"}}' in notes


def test_live_what_needs_no_encoding_is_not_lost_behind_what_does(tmp_path: Path) -> None:
    release = threading.Event()
    options = {"workers": 1, "queue_images": 1, "when_full": "drop"}
    acknowledged: list[Record] = []
    with DatasetWriter(
        tmp_path / "drive", WriterOptions(**options), acknowledge=acknowledged.append
    ) as writer:
        writer.add_sensor(CAMERA)
        assert writer.write(image(0, lambda: b"x" if release.wait(60) else b""))
        for number in range(1, 20):
            jpeg = FilePayload(".jpg", lambda: b"jpeg", nbytes=4, ready=True)
            assert writer.write(dataclasses.replace(image(number), payload=jpeg))
        assert writer.queued == 1
        assert not acknowledged, "rows come in the order of arrival"
        release.set()
    stamps = [int(row[0]) for row in rows(tmp_path / "drive/sensors/records_camera.txt")]
    assert stamps == [START + number * STEP for number in range(20)]
    assert [record.stamp_ns for record in acknowledged] == stamps
    found = open_dataset(tmp_path / "drive").records("front")
    assert [bytes(r.payload.encode()) for r in found if isinstance(r, ImageRecord)] == [
        b"x",
        *[b"jpeg"] * 19,
    ]


def test_the_queue_is_bounded_in_memory_too(tmp_path: Path) -> None:
    options = {"workers": 1, "queue_images": 100, "queue_megabytes": 10}
    with writer_of(tmp_path / "drive", CAMERA, **options) as writer:
        for number in range(8):
            payload = taken_when_the_caller_waits(writer, number, 6)
            writer.write(image(number, payload, nbytes=4_000_000))
        writer.flush()
        assert writer.statistics.queue.longest == 2


def test_an_image_that_cannot_be_encoded_costs_only_itself(tmp_path: Path) -> None:
    def broken() -> bytes:
        raise ValueError("bad pixels")

    with writer_of(tmp_path / "drive", CAMERA) as writer:
        writer.write(image(0))
        writer.write(image(1, broken))
        writer.write(image(2))
        writer.flush()
        counts = writer.statistics.sensors["front"]
    assert (counts.written, dict(counts.dropped)) == (
        2,
        {"could not be encoded: bad pixels": 1},
    )
    assert len(rows(tmp_path / "drive/sensors/records_camera.txt")) == 2


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    """Ten times the records, the same memory but for the index: 32 bytes for 1024 rows."""

    def peak(records: int, path: Path) -> int:
        with writer_of(path, CAMERA, ACCELEROMETER) as writer:
            tracemalloc.start()
            for number in range(records):
                stamp = START + number
                writer.write(
                    AccelerometerRecord(
                        stamp_ns=stamp, sensor_id="imu.accelerometer", xyz=(0.0, 1.0, 2.0)
                    )
                )
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        return most

    short = peak(3_000, tmp_path / "short")
    assert peak(30_000, tmp_path / "long") < short + 50_000


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sensor", "why"),
    [
        (Sensor("../up", "", "wifi"), "cannot be a sensor"),
        (Sensor("cam", "", "camera", ("PINHOLE", "64", "48")), "wants 6 numbers"),
        (Sensor("cam", "", "camera", ("MAGIC", "64", "48")), "does not know that model"),
        (Sensor("cam", "", "camera"), "no model"),
        (Sensor("cam", "", "camera", ("UNKNOWN_CAMERA", "64", "nan")), "wants 2 numbers"),
        (Sensor("fix", "", "gnss"), "EPSG"),
        (Sensor("odd", "", "Wi-Fi, really"), "not a sensor type"),
    ],
)
def test_a_sensor_that_kapture_could_not_read_is_refused(
    tmp_path: Path, sensor: Sensor, why: str
) -> None:
    with writer_of(tmp_path / "drive") as writer, pytest.raises(OptionError, match=why):
        writer.add_sensor(sensor)
    assert open_dataset(tmp_path / "drive").sensors == {}


def test_records_and_poses_of_unknown_devices_are_refused(tmp_path: Path) -> None:
    with writer_of(tmp_path / "drive", CAMERA) as writer:
        with pytest.raises(OptionError, match="unknown sensor 'odom'"):
            writer.write(records_at(0)[-1])
        with pytest.raises(OptionError, match="is a camera and cannot have a GnssRecord"):
            writer.write(
                GnssRecord(
                    stamp_ns=1, sensor_id="front", longitude=0, latitude=0, altitude=0, utc=0, dop=0
                )
            )
        with pytest.raises(OptionError, match="unknown device 'car'"):
            writer.add_trajectory(TrajectoryRow(START, "car", POSE))
        with pytest.raises(OptionError, match="unknown sensor 'rear'"):
            writer.add_rig(RigRow("car", "rear", POSE))
        with pytest.raises(OptionError, match="is a sensor already"):
            writer.add_rig(RigRow("front", "front", POSE))


def test_a_camera_gets_its_calibration_later_but_stays_a_camera(tmp_path: Path) -> None:
    with writer_of(tmp_path / "drive") as writer:
        writer.add_sensor(Sensor("front", "", "camera", ("UNKNOWN_CAMERA", "64", "48")))
        writer.write(image(0))
        writer.add_sensor(CAMERA)
        with pytest.raises(OptionError, match="is a camera, not a wifi"):
            writer.add_sensor(Sensor("front", "", "wifi"))
    assert open_dataset(tmp_path / "drive").sensors["front"] == CAMERA


def test_a_suffix_cannot_lead_out_of_the_dataset(tmp_path: Path) -> None:
    record = dataclasses.replace(image(0), payload=payload("/../../../out.jpg", b""))
    writer = writer_of(tmp_path / "drive", CAMERA)
    with writer, pytest.raises(OptionError, match="not a file name suffix"):
        writer.write(record)


def test_an_existing_folder_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="exists already"):
        DatasetWriter(tmp_path)
    with pytest.raises(InputError, match="not written by kapture_ros"):
        DatasetWriter(tmp_path, resume=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_two_writers_cannot_share_a_dataset(tmp_path: Path) -> None:
    with writer_of(tmp_path / "drive", CAMERA):
        with pytest.raises(OutputError, match="being written by another process"):
            DatasetWriter(tmp_path / "drive", resume=True)
        with pytest.raises(OutputError, match="being written by another process"):
            open_dataset(tmp_path / "drive")
    DatasetWriter(tmp_path / "drive", resume=True).close()


def test_a_closed_writer_refuses_records(tmp_path: Path) -> None:
    writer = writer_of(tmp_path / "drive", CAMERA)
    writer.close()
    writer.close()
    with pytest.raises(OutputError, match="closed"):
        writer.write(image(0))


# -- going on --------------------------------------------------------------------------------


def test_a_recording_is_resumed_where_it_ended(tmp_path: Path) -> None:
    path = tmp_path / "drive"
    with writer_of(path, *SENSORS) as writer:
        writer.add_rig(RigRow("car", "front", POSE))
        for record in records_at(0):
            writer.write(record)
        writer.add_trajectory(TrajectoryRow(START, "car", POSE))
    with DatasetWriter(path, resume=True) as writer:
        assert writer.sensors == {sensor.sensor_id: sensor for sensor in SENSORS}
        assert all(writer.has(record.sensor_id, START) for record in records_at(0))
        assert not writer.has("front", START + STEP)
        for record in records_at(0) + records_at(1):
            writer.write(record)
        assert not writer.add_trajectory(TrajectoryRow(START, "car", POSE))
        assert writer.add_trajectory(TrajectoryRow(START + STEP, "car", POSE))
        writer.flush()
        assert {c.duplicates for c in writer.statistics.sensors.values()} == {1}
    expected = {comparable(record) for record in records_at(0) + records_at(1)}
    assert read_back(path) == expected
    assert len(list(open_dataset(path).trajectory())) == 2


def test_sync_brings_every_record_to_the_disk_before_it_is_acknowledged(tmp_path: Path) -> None:
    acknowledged: list[int] = []
    writer = DatasetWriter(
        tmp_path / "drive",
        WriterOptions(sync_s=0.0),
        acknowledge=lambda record: acknowledged.append(record.stamp_ns),
    )
    with writer:
        for sensor in SENSORS:
            writer.add_sensor(sensor)
        for record in records_at(0):
            writer.write(record)
        writer.flush()
        assert not any(file.dirty for file in writer._journal._files.values())
    assert len(acknowledged) == len(SENSORS)


def test_an_odometry_stream_keeps_nan_covariances(tmp_path: Path) -> None:
    record = OdometryRecord(
        stamp_ns=START,
        sensor_id="odom",
        extra={"covariance": [math.nan, 1e-9]},
        parent_frame="odom",
        child_frame="base",
        parent_from_child=POSE,
    )
    with writer_of(tmp_path / "drive", SENSORS[-1]) as writer:
        writer.write(record)
    assert read_back(tmp_path / "drive") == {comparable(record)}
