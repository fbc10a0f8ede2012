"""Repair: damage of every kind is found, mended or dropped, and said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sample_records import POSE, SENSORS, START, STEP, comparable, records_at, rows

from kapture_ros.dataset import sidecar, tables
from kapture_ros.dataset.reader import open_dataset
from kapture_ros.dataset.records import RigRow, TrajectoryRow
from kapture_ros.dataset.repair import needs_repair, repair
from kapture_ros.dataset.storage import IN_PLACE
from kapture_ros.dataset.writer import DatasetWriter
from kapture_ros.errors import InputError

NUMBERS = range(4)


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A dataset as a killed writer leaves it, yet undamaged: its lock is still there."""
    path = tmp_path / "drive"
    with DatasetWriter(path) as writer:
        for sensor in SENSORS:
            writer.add_sensor(sensor)
        writer.add_rig(RigRow("car", "front", POSE))
        for number in NUMBERS:
            for record in records_at(number):
                writer.write(record)
            writer.add_trajectory(TrajectoryRow(START + number * STEP, "car", POSE))
    (path / sidecar.LOCK).touch()
    return path


def held(path: Path) -> set[tuple[object, ...]]:
    dataset = open_dataset(path)
    return {comparable(r) for sensor in dataset.sensors for r in dataset.records(sensor)}


def everything() -> set[tuple[object, ...]]:
    return {comparable(record) for number in NUMBERS for record in records_at(number)}


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def test_an_undamaged_dataset_is_left_alone(killed: Path) -> None:
    before = {path: path.read_bytes() for path in killed.rglob("*.txt")}
    report = repair(killed)
    assert str(report) == f"{killed}: nothing to repair"
    assert {path: path.read_bytes() for path in killed.rglob("*.txt")} == before
    assert not needs_repair(killed)


def test_a_dataset_that_was_closed_is_not_checked(killed: Path) -> None:
    repair(killed)
    assert open_dataset(killed).repaired is None


TORN: dict[str, Callable[[Path], None]] = {
    "torn image row": lambda p: append(p / "sensors/records_camera.txt", b"17000001, fro"),
    "torn gnss row": lambda p: append(p / "sensors/records_gnss.txt", b"1700000123, fix, 8.1, 4"),
    "torn pose": lambda p: append(p / "sensors/trajectories.txt", b"1700000123, car, 1.0"),
    "row of zeros": lambda p: append(p / "sensors/records_gyroscope.txt", bytes(4096)),
    "torn sidecar": lambda p: append(p / "kapture_ros/extra/odom.jsonl", b'{"stamp":17000'),
    "half an image": lambda p: (
        (p / "sensors/records_data/front/.1700000009.jpg.partial").write_bytes(b"half") and None
    ),
    "header cut off": lambda p: (
        (p / "sensors/records_depth.txt").write_bytes(
            b"# kapture fo" + (p / "sensors/records_depth.txt").read_bytes().split(b"_path", 1)[1]
        )
        and None
    ),
    "no sensors.txt": lambda p: (p / "sensors/sensors.txt").unlink(),
    "empty sensors.txt": lambda p: (p / "sensors/sensors.txt").write_bytes(b"") and None,
}


@pytest.mark.parametrize("damage", TORN)
def test_what_was_not_acknowledged_is_dropped_and_all_else_stays(
    killed: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    TORN[damage](killed)
    assert held(killed) == everything()
    assert "was not ended properly" in caplog.text
    assert len(list(open_dataset(killed).trajectory())) == len(NUMBERS)
    assert not list(killed.rglob(".*.partial"))
    assert str(repair(killed)).endswith("nothing to repair")


@pytest.mark.parametrize("loss", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_row_whose_image_is_gone_is_dropped(killed: Path, loss: Callable[[Path], None]) -> None:
    loss(killed / f"sensors/records_data/front/{START}.jpg")
    report = repair(killed)
    assert report.notes == [
        "sensors/records_camera.txt: dropped 1 lines, torn or without what they name"
    ]
    assert len(rows(killed / "sensors/records_camera.txt")) == len(NUMBERS) - 1


def test_an_image_without_a_row_gets_one(killed: Path) -> None:
    table = killed / "sensors/records_camera.txt"
    *kept, _ = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(kept))
    report = repair(killed)
    assert "restored 1 rows" in str(report)
    assert held(killed) == everything()


def test_an_image_without_a_row_is_removed_where_it_may_be_torn(killed: Path) -> None:
    """A conversion writes in place, and still has the bag."""
    (killed / sidecar.LOCK).write_text(IN_PLACE)
    torn = killed / f"sensors/records_data/front/{START + 9 * STEP}.jpg"
    torn.write_bytes(b"\xff\xd8 half")
    report = repair(killed)
    assert report.notes == ["removed 1 files that had no row yet"]
    assert held(killed) == everything()
    assert not torn.exists()


def test_a_scan_that_lacks_rows_is_dropped_as_a_whole(killed: Path) -> None:
    """A scan is many lines; half of it would look like a place with fewer networks."""
    table = killed / "sensors/records_wifi.txt"
    *kept, _ = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(kept))
    last = comparable(records_at(2)[4])  # odd scans are empty
    assert held(killed) == everything() - {last}
    with DatasetWriter(killed, resume=True) as writer:
        writer.write(records_at(2)[4])
    assert held(killed) == everything()


def test_repair_of_a_dataset_whose_very_beginning_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "drive"
    (path / sidecar.FOLDER).mkdir(parents=True)
    (path / sidecar.LOCK).touch()
    dataset = open_dataset(path)
    assert dataset.sensors == {}
    assert (path / tables.SENSORS).exists()


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no folder 'sensors'"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="no folder 'sensors'"):
        open_dataset(tmp_path / "nowhere")
    (tmp_path / "half" / "sensors").mkdir(parents=True)
    with pytest.raises(InputError, match=r"sensors/sensors\.txt is missing"):
        open_dataset(tmp_path / "half")


def test_a_dataset_of_others_opens_and_is_not_changed(shared_data: Path, tmp_path: Path) -> None:
    path = tmp_path / "gallery"
    shutil.copytree(shared_data / "virtual_gallery/mapping", path)
    before = sorted(path.rglob("*"))
    dataset = open_dataset(path)
    camera = dataset.sensors["training_camera_0"]
    assert (camera.kind, camera.params[:3]) == ("camera", ("PINHOLE", "1920", "1080"))
    assert len(list(dataset.records("training_camera_0"))) > 0
    assert len(list(dataset.trajectory())) > 0
    assert sorted(path.rglob("*")) == before
