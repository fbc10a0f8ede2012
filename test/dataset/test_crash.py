"""A recording that is killed, or runs out of disk, keeps all that it acknowledged."""

from __future__ import annotations

import functools
import multiprocessing
import os
import random
import resource
import select
import shutil
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from crash_child import record_until_killed, records
from sample_records import SENSORS, START, STEP, comparable, image, records_at

from kapture_ros.dataset.reader import Dataset, open_dataset
from kapture_ros.dataset.records import Record
from kapture_ros.dataset.writer import DatasetWriter, WriterOptions
from kapture_ros.errors import OutputError

ROUNDS = 20
ROUNDS_PER_DATASET = 2
NUMBERS_PER_ROUND = 100_000
NOBODY = 65534


@pytest.mark.slow
def test_twenty_kills_leave_twenty_datasets_with_every_acknowledged_record(tmp_path: Path) -> None:
    """Each dataset is resumed after a kill, so that a repaired one is killed again.

    Every other round records as a recorder does, the rest as a conversion.
    """
    acknowledged: set[tuple[str, int]] = set()
    moments = random.Random(20)
    for round_number in range(ROUNDS):
        path = tmp_path / f"drive{round_number // ROUNDS_PER_DATASET}"
        if round_number % ROUNDS_PER_DATASET == 0:
            acknowledged = set()
        first = round_number * NUMBERS_PER_ROUND
        new = record_and_kill(path, first, moments.uniform(0.0, 0.15))
        assert new, "killed before anything was acknowledged"
        acknowledged |= new
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_dataset(open_dataset(path), acknowledged)


def record_and_kill(path: Path, first: int, seconds: float) -> set[tuple[str, int]]:
    """Have a child record, kill it so long after its first acknowledgement; what it said."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["kapture_ros.dataset.writer"])
    reading, writing = context.Pipe(duplex=False)
    arguments = (path, first, writing.fileno())
    child = context.Process(target=_run_child, args=(*arguments[:2], writing))
    child.start()
    writing.close()
    heard = b""
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        if not select.select([reading], [], [], max(0.0, deadline - time.monotonic()))[0]:
            break
        if not heard:
            deadline = time.monotonic() + seconds
        heard += os.read(reading.fileno(), 1 << 16)
    child.kill()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    while part := os.read(reading.fileno(), 1 << 16):
        heard += part
    reading.close()
    lines = heard.decode().split("\n")[:-1]  # the child may die in the middle of one
    return {(sensor_id, int(stamp)) for sensor_id, stamp in (line.split() for line in lines)}


def _run_child(path: Path, first: int, pipe: multiprocessing.connection.Connection) -> None:
    live = first // NUMBERS_PER_ROUND % 2 == 0
    record_until_killed(path, first, pipe.fileno(), live=live)


def check_dataset(dataset: Dataset, acknowledged: set[tuple[str, int]]) -> None:
    """All that was acknowledged is there, and what is there is right, acknowledged or not."""
    held = {("car", row.stamp_ns) for row in dataset.trajectory()}
    records_of = functools.lru_cache(maxsize=None)(records)
    for sensor in SENSORS:
        place = SENSORS.index(sensor)
        for record in dataset.records(sensor.sensor_id):
            number = (record.stamp_ns - START) // STEP
            expected = records_of(number)[place]
            held.add((sensor.sensor_id, record.stamp_ns))
            if (sensor.sensor_id, record.stamp_ns) in acknowledged or not is_restored(expected):
                assert comparable(record) == comparable(expected)
    assert not acknowledged - held


def is_restored(record: Record) -> bool:
    """An unacknowledged image may have lost its sidecar line: its row comes from the file."""
    return record.sensor_id in ("front", "range", "top.points")


# -- the disk ends -----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of two megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_ends_the_recording_with_one_error_and_a_whole_dataset(
    small_disk: Path, tmp_path: Path
) -> None:
    path = small_disk / "drive"
    acknowledged: list[Record] = []
    with pytest.raises(OutputError, match=r"no space left to write .*free some space"):
        record_many(path, acknowledged)
    # A cut line has to be mended, which needs some space: copied to where there is some.
    copy = shutil.copytree(path, tmp_path / "copy")
    found = {comparable(r) for s in SENSORS for r in open_dataset(copy).records(s.sensor_id)}
    assert len(acknowledged) > 20
    assert {comparable(record) for record in acknowledged} <= found


def test_a_file_size_limit_is_reported_in_the_same_way(tmp_path: Path) -> None:
    """The limit of this process: a line is cut back when only a part of it could be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    acknowledged: list[Record] = []
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_011, hard))
    try:
        with pytest.raises(OutputError, match="no space left"):
            record_many(tmp_path / "drive", acknowledged)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    dataset = open_dataset(tmp_path / "drive")
    assert dataset.repaired is not None
    found = {comparable(r) for s in SENSORS for r in dataset.records(s.sensor_id)}
    assert {comparable(record) for record in acknowledged} <= found


def test_after_a_full_disk_the_recording_can_be_resumed(small_disk: Path) -> None:
    path = small_disk / "drive"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(200_000))
    with pytest.raises(OutputError):
        record_many(path, [])
    ballast.unlink()
    with DatasetWriter(path, resume=True) as writer:
        newest = 10_000
        for record in records_at(newest)[3:]:
            writer.write(record)
    last = list(open_dataset(path).records("odom"))[-1]
    assert comparable(last) == comparable(records_at(newest)[-1])


def record_many(path: Path, acknowledged: list[Record]) -> None:
    with DatasetWriter(path, WriterOptions(), acknowledge=acknowledged.append) as writer:
        for sensor in SENSORS:
            writer.add_sensor(sensor)
        for number in range(5_000):
            for record in records_at(number):
                writer.write(record)
            writer.write(image(number + 5_000, lambda: bytes(1_000)))


@pytest.fixture
def forbidden_folder(tmp_path: Path) -> Iterator[Path]:
    """A folder that may not be written; root, who may write anywhere, is nobody for a while."""
    tmp_path.chmod(0o500)
    if os.geteuid() != 0:
        yield tmp_path
        return
    os.seteuid(NOBODY)
    yield tmp_path
    os.seteuid(0)


def test_a_folder_that_may_not_be_written_is_named(forbidden_folder: Path) -> None:
    path = forbidden_folder / "drive"
    with pytest.raises(OutputError, match=rf"cannot write {path}.*Permission denied"):
        DatasetWriter(path)


def test_a_place_that_cannot_hold_a_dataset_is_named(tmp_path: Path) -> None:
    """A file where a folder is needed: refused for root too."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*file/drive"):
        DatasetWriter(tmp_path / "file" / "drive")
