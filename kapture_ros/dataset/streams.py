"""Where the records of each sensor go, and which stamps are there already.

Of a new dataset that is none; of one that is resumed, what its tables and sidecars hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from kapture_ros.dataset import sidecar, tables
from kapture_ros.dataset.records import Sensor
from kapture_ros.dataset.stamps import StampIndex
from kapture_ros.dataset.tables import TABLES, TRAJECTORY_TABLE, Table


@dataclass(slots=True, eq=False)
class Stream:
    """Where the records of one sensor go."""

    sensor: Sensor
    table: Table | None  # None: the sidecar alone (odometry)
    extra: Path  # the sidecar
    folder: str  # of its files
    duplicates: str  # folder of the files of duplicates
    index: StampIndex
    by_sidecar: bool  # the index describes the sidecar, not the table
    copies: int = 0  # files of duplicates

    def release(self, stamp_ns: int, *, duplicate: bool) -> None:
        """A record that was accepted will not be written after all."""
        if not duplicate:  # the stamp of a duplicate belongs to the first
            self.index.release(stamp_ns)


def new_stream(root: Path, sensor: Sensor) -> Stream:
    """The stream of a sensor of the dataset at `root`, none of whose records are known yet."""
    table = TABLES.get(sensor.kind)
    by_sidecar = sensor.kind in sidecar.LINE_PER_RECORD
    read = _sidecar_stamps(root) if table is None or by_sidecar else _table_stamps(root, table)
    folder = str(root / tables.RECORDS_DATA / sensor.sensor_id)
    duplicates = root / sidecar.DUPLICATES / sensor.sensor_id
    copies = len(list(duplicates.iterdir())) if duplicates.is_dir() else 0
    index = StampIndex(partial(read, sensor.sensor_id))
    extra = sidecar.extra_path(sensor.sensor_id)
    return Stream(sensor, table, extra, folder, str(duplicates), index, by_sidecar, copies)


def new_pose_index(root: Path, device_id: str) -> StampIndex:
    """The stamps of a device's poses, none of which are known yet."""
    return StampIndex(partial(_table_stamps(root, TRAJECTORY_TABLE), device_id))


def read_streams(root: Path, sensors: Mapping[str, Sensor]) -> dict[str, Stream]:
    """The streams of a dataset's sensors, with what is there of each."""
    streams = {key: new_stream(root, sensor) for key, sensor in sensors.items()}
    for stream in streams.values():
        if stream.by_sidecar:
            for start, end, content in sidecar.read_placed_lines(root / stream.extra):
                if sidecar.is_record(content):
                    stream.index.commit(content["stamp"], start, end)
    in_tables = {key: s.index for key, s in streams.items() if not s.by_sidecar}
    for table in TABLES.values():
        for line in tables.read_table(root, table):
            if line.device_id in in_tables:
                in_tables[line.device_id].commit(line.stamp_ns, line.start, line.end)
    return streams


def read_poses(root: Path) -> dict[str, StampIndex]:
    """The stamps of the poses that a dataset holds, by device."""
    poses: dict[str, StampIndex] = {}
    for line in tables.read_table(root, TRAJECTORY_TABLE):
        index = poses.get(line.device_id)
        if index is None:
            index = poses[line.device_id] = new_pose_index(root, line.device_id)
        index.commit(line.stamp_ns, line.start, line.end)
    return poses


def _table_stamps(root: Path, table: Table) -> Callable[[str, int, int], set[int]]:
    def stamps(device_id: str, start: int, end: int) -> set[int]:
        found = tables.read_table(root, table, start, end)
        return {line.stamp_ns for line in found if line.device_id == device_id}

    return stamps


def _sidecar_stamps(root: Path) -> Callable[[str, int, int], set[int]]:
    def stamps(sensor_id: str, start: int, end: int) -> set[int]:
        found = sidecar.read_lines(root / sidecar.extra_path(sensor_id), start, end)
        return {content["stamp"] for content in found if sidecar.is_record(content)}

    return stamps
