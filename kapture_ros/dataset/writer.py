"""The dataset writer: records in, a kapture 1.1 dataset out that survives being killed.

Text rows are appended the moment their record arrives. Images, depth maps and point clouds
are encoded and written by threads behind a bounded queue; their rows follow in the order of
arrival, each after its file is whole. What kapture has no column for goes to sidecars.
"""

from __future__ import annotations

import copy
import re
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from kapture_ros.dataset import sidecar, tables
from kapture_ros.dataset.escape import check_id
from kapture_ros.dataset.filequeue import (
    FileJob,
    FileQueue,
    FileRecord,
    QueueCounts,
    WriterOptions,
)
from kapture_ros.dataset.records import (
    DepthRecord,
    ImageRecord,
    LidarRecord,
    Record,
    RigRow,
    Sensor,
    TrajectoryRow,
)
from kapture_ros.dataset.repair import RepairReport, repair_locked
from kapture_ros.dataset.stamps import StampIndex
from kapture_ros.dataset.storage import AppendFile, FolderLock, output_error
from kapture_ros.dataset.tables import TABLES, TRAJECTORY_TABLE, Row, Table
from kapture_ros.errors import InputError, OptionError, OutputError
from kapture_ros.files import write_atomically

__all__ = ["DatasetWriter", "SensorCounts", "WriterOptions", "WriterStatistics"]

QUEUE_FULL, NOT_WRITTEN = "the write queue was full", "could not be written"
GROUP = 32  # whole files whose lines are appended together: two writes, not two for each
FILE_RECORDS = (ImageRecord, DepthRecord, LidarRecord)
SUFFIX = re.compile(r"(\.[A-Za-z0-9]+)+")


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


@dataclass(slots=True, eq=False)
class _Stream:
    """Where the records of one sensor go."""

    sensor: Sensor
    table: Table | None  # None: the sidecar alone (odometry)
    extra: Path  # the sidecar
    folder: str  # of its files
    duplicates: str  # folder of the files of duplicates
    index: StampIndex
    by_sidecar: bool  # the index describes the sidecar, not the table
    copies: int = 0  # files of duplicates


class _Whole(NamedTuple):
    """A file that is whole, and the lines that will say so. Its bytes are not kept."""

    stream: _Stream
    stamp_ns: int
    duplicate: bool
    size: int
    addition: bytes  # to the sidecar
    row: bytes
    record: Record | None  # to be acknowledged


class DatasetWriter:
    """Writes one dataset; all methods may be called from any thread.

    Args:
        path: a new folder, or with `resume` one that a writer began.
        acknowledge: called with each record once the operating system has all of it (with
            `sync_s=0`: the disk has), so that it survives `kill -9`. It runs on the thread
            that finished the record and must not call the writer.
        resume: repair what lies there and go on; records that are there already count as
            duplicates (see `has`).

    Raises:
        OutputError: if the folder holds something already, is being written by another
            process, or cannot be written.
        InputError: if what it holds was not written by this class.
    """

    def __init__(
        self,
        path: Path,
        options: WriterOptions | None = None,
        *,
        resume: bool = False,
        acknowledge: Callable[[Record], None] | None = None,
    ) -> None:
        self.path = path
        self.options = options or WriterOptions()
        self.repaired: RepairReport | None = None
        self._acknowledge = acknowledge
        self._changed = threading.Condition()
        self._statistics = WriterStatistics()
        self._sensors: dict[str, Sensor] = {}
        self._rigs: dict[tuple[str, str], RigRow] = {}
        self._streams: dict[str, _Stream] = {}
        self._poses: dict[str, StampIndex] = {}
        self._files: dict[Path, AppendFile] = {}
        self._group: list[_Whole] = []
        self._group_size = 1 if self.options.when_full == "drop" else GROUP
        self._committed: list[Record] = []  # to be acknowledged
        self._failure: OutputError | None = None
        self._closed = False
        self._last_sync = time.monotonic()
        begun = _holds_something(path)
        if begun and not resume:
            raise OutputError(f"{path} exists already; choose another name or resume it")
        if begun and not (path / sidecar.FOLDER).is_dir():
            raise InputError(f"{path} was not written by kapture_ros and cannot be resumed")
        self._lock = FolderLock(path / sidecar.LOCK)
        if begun:
            self.repaired = repair_locked(path, self._lock)
            self._load()
        else:
            self._write_sensors()
        self._lock.note(in_place=self.options.in_place)
        self._queue = FileQueue(
            self.options, self._changed, self._finish, self._acknowledge_committed
        )

    # -- what goes in -------------------------------------------------------------------------

    def add_sensor(self, sensor: Sensor) -> None:
        """Declare a sensor; a second call with the same id changes its name, params or origin.

        Raises:
            OptionError: if kapture could not read it back, or its kind changes.
        """
        tables.check_sensor(sensor)
        with self._changed:
            self._check_usable()
            known = self._sensors.get(sensor.sensor_id)
            if known == sensor:
                return
            if known is not None and known.kind != sensor.kind:
                raise OptionError(
                    f"sensor '{sensor.sensor_id}' is a {known.kind}, not a {sensor.kind}"
                )
            if any(rig_id == sensor.sensor_id for rig_id, _ in self._rigs):
                raise OptionError(f"'{sensor.sensor_id}' is a rig already")
            self._sensors[sensor.sensor_id] = sensor
            self._write_sensors()
            if known is None:
                self._streams[sensor.sensor_id] = self._new_stream(sensor)

    def add_rig(self, row: RigRow) -> None:
        """Place a sensor (or a rig) on a rig; the last call for a pair holds.

        Raises:
            OptionError: on an unknown sensor or an id that is taken.
        """
        check_id(row.rig_id)
        with self._changed:
            self._check_usable()
            if row.rig_id in self._sensors:
                raise OptionError(f"rig id '{row.rig_id}' is a sensor already")
            if not self._knows_device(row.sensor_id):
                raise OptionError(f"rig '{row.rig_id}' names the unknown sensor '{row.sensor_id}'")
            if self._rigs.get((row.rig_id, row.sensor_id)) != row:
                self._rigs[row.rig_id, row.sensor_id] = row
                write_atomically(self.path / tables.RIGS, tables.rigs_text(self._rigs))

    def add_trajectory(self, row: TrajectoryRow) -> bool:
        """Append a pose; False if the device has one at that stamp already (the first stays).

        Raises:
            OptionError: on an unknown device (kapture would ignore its poses silently).
            OutputError: if it cannot be written.
        """
        with self._changed:
            self._check_usable()
            if not self._knows_device(row.device_id):
                raise OptionError(f"trajectory of the unknown device '{row.device_id}'")
            index = self._pose_index(row.device_id)
            if row.stamp_ns in index:
                self._statistics.trajectory_duplicates += 1
                return False
            data = tables.lines(row.stamp_ns, row.device_id, [tables.trajectory_row(row)])
            index.commit(row.stamp_ns, *self._append(TRAJECTORY_TABLE.path, data))
            self._statistics.trajectory_rows += 1
            self._sync_if_due()
            return True

    def write(self, record: Record) -> bool:
        """Take a record; False if it was dropped because the queue is full.

        When this returns True, a record without a file is acknowledged; one with a file is
        after `flush`, or when `acknowledge` is called with it. A record whose stamp its
        sensor has already is a duplicate: counted, and kept in the sidecar alone.

        Raises:
            OptionError: if its sensor is unknown or of another kind.
            OutputError: if this or an earlier record could not be written.
        """
        if isinstance(record, FILE_RECORDS):
            return self._queue_file(record)
        with self._changed:
            self._check_usable()
            stream = self._stream_of(record)
            self._commit(record, stream)
            self._sync_if_due()
        if self._acknowledge:
            self._acknowledge(record)
        return True

    def has(self, sensor_id: str, stamp_ns: int) -> bool:
        """Whether the sensor has a record of that stamp; lets a conversion skip done work."""
        with self._changed:
            stream = self._streams.get(sensor_id)
            return stream is not None and stamp_ns in stream.index

    # -- what is known about it ---------------------------------------------------------------

    @property
    def sensors(self) -> dict[str, Sensor]:
        """The sensors declared so far, those of a resumed dataset included."""
        with self._changed:
            return dict(self._sensors)

    @property
    def rigs(self) -> list[RigRow]:
        """The rig rows so far."""
        with self._changed:
            return list(self._rigs.values())

    @property
    def statistics(self) -> WriterStatistics:
        """A snapshot of the counts of this session."""
        with self._changed:
            self._statistics.queue = self._queue.counts
            return copy.deepcopy(self._statistics)

    @property
    def bytes_written(self) -> int:
        """Rows and files of this session together."""
        return self._statistics.bytes_written

    @property
    def paths(self) -> list[Path]:
        """The datasets that are written: this one."""
        return [self.path]

    @property
    def queued(self) -> int:
        """Files that wait to be written."""
        return self._queue.length

    # -- the end ------------------------------------------------------------------------------

    def flush(self) -> None:
        """Wait until everything taken is acknowledged (and on the disk, if `sync_s` is set).

        Raises:
            OutputError: if something could not be written.
        """
        with self._changed:
            self._queue.wait_until_empty()
            self._commit_group()
            self._check_usable()
            if self.options.sync_s is not None:
                self._sync()
        self._acknowledge_committed()

    def close(self) -> None:
        """Finish the dataset; a second call does nothing.

        Raises:
            OutputError: if something could not be written. The dataset holds all that was
                acknowledged, is repaired when opened and can be resumed.
        """
        if self._closed:
            return
        self._queue.close()
        try:
            self.flush()
        finally:
            self._closed = True
            for file in self._files.values():
                file.close()
            self._lock.release(finished=self._failure is None)

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except OutputError:
            if error is None:  # else the first error tells more
                raise

    # -- inside; the lock is held -------------------------------------------------------------

    def _queue_file(self, record: FileRecord) -> bool:
        if not SUFFIX.fullmatch(record.payload.suffix):
            raise OptionError(f"'{record.payload.suffix}' is not a file name suffix")
        with self._changed:
            self._check_usable()
            stream = self._stream_of(record)
            if not self._queue.make_room(record.payload):
                self._drop(record, QUEUE_FULL)
                return False
            self._check_usable()  # waiting for room may have taken a while
            name = f"{record.stamp_ns:019d}"  # sorts by time: today's stamps have 19 digits
            duplicate = record.stamp_ns in stream.index
            if duplicate:
                stream.copies += 1
                folder, name = stream.duplicates, f"{name}_{stream.copies}"
            else:
                stream.index.reserve(record.stamp_ns)
                folder = stream.folder
            job = FileJob(record, folder, name + record.payload.suffix, duplicate)
            self._queue.put(job)
        self._acknowledge_committed()
        return True

    def _finish(self, job: FileJob) -> None:
        """A file is whole, or will never be: have its row written, or note why there is none."""
        stream = self._streams[job.record.sensor_id]
        self._failure = self._failure or job.error
        if self._failure is not None:
            self._give_up(stream, job.record.stamp_ns, job.duplicate)
        elif job.dropped:
            self._release(stream, job.record.stamp_ns, job.duplicate)
            try:
                self._drop(job.record, job.dropped)
            except OutputError as error:
                self._failure = error
        else:
            self._group.append(self._whole(job, stream))
            if len(self._group) >= self._group_size:
                self._commit_group()

    def _whole(self, job: FileJob, stream: _Stream) -> _Whole:
        record = job.record
        row: Row = (f"{record.sensor_id}/{job.name}",)  # its path below records_data
        content = None
        if job.duplicate:
            content = sidecar.duplicate_content(record, [row])
        elif record.extra:
            content = sidecar.record_content(record)
        return _Whole(
            stream,
            record.stamp_ns,
            job.duplicate,
            job.written,
            addition=sidecar.encode(content) if content else b"",
            row=b"" if job.duplicate else tables.lines(record.stamp_ns, record.sensor_id, [row]),
            record=record if self._acknowledge else None,
        )

    def _commit_group(self) -> None:
        """Append the lines of the files that are whole; as `_commit`, sidecars first."""
        group, self._group = self._group, []
        try:
            if self._failure is None:
                self._append_group(group)
                self._sync_if_due()
        except OutputError as error:
            self._failure = error
        for whole in group:
            if self._failure is not None:
                self._give_up(whole.stream, whole.stamp_ns, whole.duplicate)
                continue
            counts = self._statistics.sensors[whole.stream.sensor.sensor_id]
            counts.duplicates += whole.duplicate
            counts.written += not whole.duplicate
            self._statistics.bytes_written += whole.size
            if whole.record is not None:
                self._committed.append(whole.record)

    def _append_group(self, group: list[_Whole]) -> None:
        additions: dict[_Stream, list[bytes]] = defaultdict(list)
        rows: dict[str, list[_Whole]] = defaultdict(list)  # by kind: cameras share a table
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

    def _give_up(self, stream: _Stream, stamp_ns: int, duplicate: bool) -> None:
        self._release(stream, stamp_ns, duplicate)
        self._statistics.sensors[stream.sensor.sensor_id].dropped[NOT_WRITTEN] += 1

    def _release(self, stream: _Stream, stamp_ns: int, duplicate: bool) -> None:
        if not duplicate:  # the stamp of a duplicate belongs to the first
            stream.index.release(stamp_ns)

    def _acknowledge_committed(self) -> None:
        """Without the lock."""
        if self._acknowledge:
            with self._changed:
                committed, self._committed = self._committed, []
            for record in committed:
                self._acknowledge(record)

    def _commit(self, record: Record, stream: _Stream) -> None:
        """Sidecar first, then the rows: a row says that all of its record is there."""
        counts = self._statistics.sensors[record.sensor_id]
        rows = tables.record_rows(record)
        if record.stamp_ns in stream.index:
            self._append(stream.extra, sidecar.encode(sidecar.duplicate_content(record, rows)))
            counts.duplicates += 1
            return
        if stream.by_sidecar or record.extra:
            place = self._append(stream.extra, sidecar.encode(sidecar.record_content(record)))
        if stream.table is not None and rows:
            data = tables.lines(record.stamp_ns, record.sensor_id, rows)
            row_place = self._append(stream.table.path, data)
            place = place if stream.by_sidecar else row_place
        stream.index.commit(record.stamp_ns, *place)
        counts.written += 1

    def _drop(self, record: Record, reason: str) -> None:
        self._statistics.sensors[record.sensor_id].dropped[reason] += 1
        extra = self._streams[record.sensor_id].extra
        self._append(extra, sidecar.encode(sidecar.dropped_content(record, reason)))

    def _append(self, path: Path, data: bytes) -> tuple[int, int]:
        try:
            file = self._files.get(path)
            if file is None:
                header = tables.HEADERS.get(path, "")
                file = self._files[path] = AppendFile(self.path / path, header)
            place = file.append(data)
        except OutputError as error:
            self._failure = error
            raise
        self._statistics.bytes_written += len(data)
        return place

    def _check_usable(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._closed:
            raise OutputError(f"{self.path} is closed already")

    def _stream_of(self, record: Record) -> _Stream:
        stream = self._streams.get(record.sensor_id)
        if stream is None:
            raise OptionError(f"record of the unknown sensor '{record.sensor_id}'")
        if stream.sensor.kind != tables.RECORD_KINDS[type(record)]:
            raise OptionError(
                f"sensor '{record.sensor_id}' is a {stream.sensor.kind} and cannot have a "
                f"{type(record).__name__}"
            )
        return stream

    def _knows_device(self, device_id: str) -> bool:
        return device_id in self._sensors or any(rig == device_id for rig, _ in self._rigs)

    def _write_sensors(self) -> None:
        try:
            (self.path / tables.SENSORS).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(self.path, error) from error
        write_atomically(self.path / sidecar.ORIGINS, sidecar.sensors_text(self._sensors))
        write_atomically(self.path / tables.SENSORS, tables.sensors_text(self._sensors))

    def _new_stream(self, sensor: Sensor) -> _Stream:
        table = TABLES.get(sensor.kind)
        by_sidecar = sensor.kind in sidecar.LINE_PER_RECORD
        read = self._sidecar_stamps if table is None or by_sidecar else self._table_stamps(table)
        folder = str(self.path / tables.RECORDS_DATA / sensor.sensor_id)
        duplicates = self.path / sidecar.DUPLICATES / sensor.sensor_id
        copies = len(list(duplicates.iterdir())) if duplicates.is_dir() else 0
        index = StampIndex(partial(read, sensor.sensor_id))
        extra = sidecar.extra_path(sensor.sensor_id)
        return _Stream(sensor, table, extra, folder, str(duplicates), index, by_sidecar, copies)

    def _pose_index(self, device_id: str) -> StampIndex:
        index = self._poses.get(device_id)
        if index is None:
            read = partial(self._table_stamps(TRAJECTORY_TABLE), device_id)
            index = self._poses[device_id] = StampIndex(read)
        return index

    def _table_stamps(self, table: Table) -> Callable[[str, int, int], set[int]]:
        def stamps(device_id: str, start: int, end: int) -> set[int]:
            found = tables.read_table(self.path, table, start, end)
            return {line.stamp_ns for line in found if line.device_id == device_id}

        return stamps

    def _sidecar_stamps(self, sensor_id: str, start: int, end: int) -> set[int]:
        found = sidecar.read_lines(self.path / sidecar.extra_path(sensor_id), start, end)
        return {content["stamp"] for content in found if sidecar.is_record(content)}

    def _load(self) -> None:
        """What a resumed dataset holds already."""
        self._sensors = sidecar.read_sensors(self.path)
        self._rigs = tables.read_rigs(self.path)
        self._streams = {key: self._new_stream(sensor) for key, sensor in self._sensors.items()}
        for stream in self._streams.values():
            if stream.by_sidecar:
                path = self.path / stream.extra
                for start, end, content in sidecar.read_placed_lines(path):
                    if sidecar.is_record(content):
                        stream.index.commit(content["stamp"], start, end)
        in_tables = {key: s.index for key, s in self._streams.items() if not s.by_sidecar}
        for table in TABLES.values():
            for line in tables.read_table(self.path, table):
                if line.device_id in in_tables:
                    in_tables[line.device_id].commit(line.stamp_ns, line.start, line.end)
        for line in tables.read_table(self.path, TRAJECTORY_TABLE):
            self._pose_index(line.device_id).commit(line.stamp_ns, line.start, line.end)

    def _sync_if_due(self) -> None:
        period = self.options.sync_s
        if period is not None and time.monotonic() - self._last_sync >= period:
            self._sync()

    def _sync(self) -> None:
        try:
            for file in self._files.values():
                file.sync()
        except OutputError as error:
            self._failure = error
            raise
        self._last_sync = time.monotonic()


def _holds_something(path: Path) -> bool:
    try:
        return path.is_dir() and any(path.iterdir())
    except OSError as error:
        raise output_error(path, error) from error
