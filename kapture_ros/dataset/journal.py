"""The lines of a dataset that is being written, in the order that lets it survive a kill.

Of each record the sidecar's line comes first, then its rows: a row says that all of the record
is there. Everything that is appended, refused or lost is counted here.
"""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from kapture_ros.dataset import sidecar, tables
from kapture_ros.dataset.filequeue import FileJob, QueueCounts
from kapture_ros.dataset.records import Record, TrajectoryRow
from kapture_ros.dataset.stamps import StampIndex
from kapture_ros.dataset.storage import AppendFile
from kapture_ros.dataset.streams import Stream
from kapture_ros.dataset.tables import TABLES, TRAJECTORY_TABLE, Row
from kapture_ros.errors import OutputError

NOT_WRITTEN = "could not be written"


@dataclass(slots=True)
class SensorCounts:
    """What became of one sensor's records in this session."""

    written: int = 0
    duplicates: int = 0
    dropped: dict[str, int] = field(default_factory=lambda: defaultdict(int))  # by reason


@dataclass(slots=True)
class WriterStatistics:
    """What a writer did so far; nothing is dropped or delayed without showing here."""

    sensors: dict[str, SensorCounts] = field(default_factory=lambda: defaultdict(SensorCounts))
    trajectory_rows: int = 0
    trajectory_duplicates: int = 0
    bytes_written: int = 0
    queue: QueueCounts = field(default_factory=QueueCounts)


class WholeFile(NamedTuple):
    """A file that is whole, and the lines that will say so. Its bytes are not kept."""

    stream: Stream
    stamp_ns: int
    duplicate: bool
    size: int
    addition: bytes  # to the sidecar
    row: bytes
    record: Record | None  # to be acknowledged


def whole_file(job: FileJob, stream: Stream, *, acknowledged: bool) -> WholeFile:
    """What a finished job leaves to be written; with its record where that is acknowledged."""
    record = job.record
    row: Row = (f"{record.sensor_id}/{job.name}",)  # its path below records_data
    content = None
    if job.duplicate:
        content = sidecar.duplicate_content(record, [row])
    elif record.extra:
        content = sidecar.record_content(record)
    return WholeFile(
        stream,
        record.stamp_ns,
        job.duplicate,
        job.written,
        addition=sidecar.encode(content) if content else b"",
        row=b"" if job.duplicate else tables.lines(record.stamp_ns, record.sensor_id, [row]),
        record=record if acknowledged else None,
    )


class Journal:
    """Appends to the tables and sidecars of one dataset; for one thread at a time.

    Args:
        sync_s: how often all of it is brought to the disk; None: never.

    Attributes:
        failure: why something could not be written; nothing may be added after that.
    """

    def __init__(self, root: Path, sync_s: float | None) -> None:
        self.statistics = WriterStatistics()
        self.failure: OutputError | None = None
        self._root, self._sync_s = root, sync_s
        self._files: dict[Path, AppendFile] = {}
        self._last_sync = time.monotonic()

    def add_pose(self, row: TrajectoryRow, index: StampIndex) -> bool:
        """Append a pose; False if its device has one at that stamp already.

        Raises:
            OutputError: if it cannot be written.
        """
        if row.stamp_ns in index:
            self.statistics.trajectory_duplicates += 1
            return False
        data = tables.lines(row.stamp_ns, row.device_id, [tables.trajectory_row(row)])
        index.commit(row.stamp_ns, *self._append(TRAJECTORY_TABLE.path, data))
        self.statistics.trajectory_rows += 1
        self._sync_if_due()
        return True

    def add(self, record: Record, stream: Stream) -> None:
        """Append a record that has no file; a duplicate goes to the sidecar alone.

        Raises:
            OutputError: if it cannot be written.
        """
        counts = self.statistics.sensors[record.sensor_id]
        rows = tables.record_rows(record)
        if record.stamp_ns in stream.index:
            self._append(stream.extra, sidecar.encode(sidecar.duplicate_content(record, rows)))
            counts.duplicates += 1
            self._sync_if_due()
            return
        if stream.by_sidecar or record.extra:
            place = self._append(stream.extra, sidecar.encode(sidecar.record_content(record)))
        if stream.table is not None and rows:
            data = tables.lines(record.stamp_ns, record.sensor_id, rows)
            row_place = self._append(stream.table.path, data)
            place = place if stream.by_sidecar else row_place
        stream.index.commit(record.stamp_ns, *place)
        counts.written += 1
        self._sync_if_due()

    def add_files(self, group: list[WholeFile]) -> None:
        """Append the lines of files that are whole; where that fails, give them up (`failure`)."""
        try:
            if self.failure is None:
                self._append_group(group)
                self._sync_if_due()
        except OutputError as error:
            self.failure = error
        for whole in group:
            if self.failure is not None:
                self.give_up(whole.stream, whole.stamp_ns, duplicate=whole.duplicate)
                continue
            counts = self.statistics.sensors[whole.stream.sensor.sensor_id]
            counts.duplicates += whole.duplicate
            counts.written += not whole.duplicate
            self.statistics.bytes_written += whole.size

    def _append_group(self, group: list[WholeFile]) -> None:
        additions: dict[Stream, list[bytes]] = defaultdict(list)
        rows: dict[str, list[WholeFile]] = defaultdict(list)  # by kind: cameras share a table
        for whole in group:
            if whole.addition:
                additions[whole.stream].append(whole.addition)
            if whole.row:
                rows[whole.stream.sensor.kind].append(whole)
        for stream, lines in additions.items():
            self._append(stream.extra, b"".join(lines))
        for kind, listed in rows.items():
            end, _ = self._append(TABLES[kind].path, b"".join([whole.row for whole in listed]))
            for whole in listed:
                start, end = end, end + len(whole.row)
                whole.stream.index.commit(whole.stamp_ns, start, end)

    def drop(self, record: Record, stream: Stream, reason: str) -> None:
        """Count a record that will not be there, and say so in the sidecar.

        Raises:
            OutputError: if that cannot be written.
        """
        self.statistics.sensors[record.sensor_id].dropped[reason] += 1
        self._append(stream.extra, sidecar.encode(sidecar.dropped_content(record, reason)))

    def give_up(self, stream: Stream, stamp_ns: int, *, duplicate: bool) -> None:
        """Count a record that is lost since nothing can be written any more."""
        stream.release(stamp_ns, duplicate=duplicate)
        self.statistics.sensors[stream.sensor.sensor_id].dropped[NOT_WRITTEN] += 1

    def sync(self) -> None:
        """Bring everything to the disk.

        Raises:
            OutputError: if that fails.
        """
        try:
            for file in self._files.values():
                file.sync()
        except OutputError as error:
            self.failure = error
            raise
        self._last_sync = time.monotonic()

    def close(self) -> None:
        """Append no more."""
        for file in self._files.values():
            file.close()

    def _sync_if_due(self) -> None:
        if self._sync_s is not None and time.monotonic() - self._last_sync >= self._sync_s:
            self.sync()

    def _append(self, path: Path, data: bytes) -> tuple[int, int]:
        try:
            file = self._files.get(path)
            if file is None:
                header = tables.HEADERS.get(path, "")
                file = self._files[path] = AppendFile(self._root / path, header)
            place = file.append(data)
        except OutputError as error:
            self.failure = error
            raise
        self.statistics.bytes_written += len(data)
        return place
