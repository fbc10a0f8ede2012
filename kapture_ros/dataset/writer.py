"""The dataset writer: records in, a kapture 1.1 dataset out that survives being killed.

Text rows are appended the moment their record arrives. Images, depth maps and point clouds
are encoded and written by threads behind a bounded queue; their rows follow in the order of
arrival, each after its file is whole. What kapture has no column for goes to sidecars.
"""

from __future__ import annotations

import contextlib
import copy
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from kapture_ros.dataset import sidecar, tables
from kapture_ros.dataset.escape import check_id
from kapture_ros.dataset.filequeue import FileJob, FileQueue, FileRecord, WriterOptions
from kapture_ros.dataset.journal import (
    Journal,
    SensorCounts,
    WholeFile,
    WriterStatistics,
    whole_file,
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
from kapture_ros.dataset.storage import FolderLock, output_error
from kapture_ros.dataset.streams import (
    Stream,
    new_pose_index,
    new_stream,
    read_poses,
    read_streams,
)
from kapture_ros.errors import InputError, OptionError, OutputError
from kapture_ros.files import write_atomically

__all__ = ["DatasetWriter", "SensorCounts", "WriterOptions", "WriterStatistics"]

QUEUE_FULL = "the write queue was full"
GROUP = 32  # whole files whose lines are appended together: two writes, not two for each
FILE_RECORDS = (ImageRecord, DepthRecord, LidarRecord)
SUFFIX = re.compile(r"(\.[A-Za-z0-9]+)+")


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
        self._journal = Journal(path, self.options.sync_s)
        self._sensors: dict[str, Sensor] = {}
        self._rigs: dict[tuple[str, str], RigRow] = {}
        self._streams: dict[str, Stream] = {}
        self._poses: dict[str, StampIndex] = {}
        self._group: list[WholeFile] = []
        self._group_size = 1 if self.options.when_full == "drop" else GROUP
        self._committed: list[Record] = []  # to be acknowledged
        self._closed = False
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
                self._streams[sensor.sensor_id] = new_stream(self.path, sensor)

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
            if not self._knows(row.sensor_id):
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
            if not self._knows(row.device_id):
                raise OptionError(f"trajectory of the unknown device '{row.device_id}'")
            index = self._poses.get(row.device_id)
            if index is None:
                index = self._poses[row.device_id] = new_pose_index(self.path, row.device_id)
            return self._journal.add_pose(row, index)

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
            self._journal.add(record, self._stream_of(record))
        if self._acknowledge:
            self._acknowledge(record)
        return True

    def has(self, sensor_id: str, stamp_ns: int) -> bool:
        """Whether the sensor has a record of that stamp; lets a conversion skip done work."""
        with self._changed:
            stream = self._streams.get(sensor_id)
            return stream is not None and stamp_ns in stream.index

    # -- what is known about it ---------------------------------------------------------------

    def knows_device(self, device_id: str) -> bool:
        """Whether a sensor or rig of that id was declared."""
        with self._changed:
            return self._knows(device_id)

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
            statistics = self._journal.statistics
            statistics.queue = self._queue.counts
            return copy.deepcopy(statistics)

    @property
    def bytes_written(self) -> int:
        """Rows and files of this session together."""
        return self._journal.statistics.bytes_written

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
                self._journal.sync()
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
            self._journal.close()
            self._lock.release(finished=self._journal.failure is None)

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
                self._journal.drop(record, stream, QUEUE_FULL)
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
        record, journal = job.record, self._journal
        stream = self._streams[record.sensor_id]
        journal.failure = journal.failure or job.error
        if journal.failure is not None:
            journal.give_up(stream, record.stamp_ns, duplicate=job.duplicate)
        elif job.dropped:
            stream.release(record.stamp_ns, duplicate=job.duplicate)
            with contextlib.suppress(OutputError):  # the journal keeps it
                journal.drop(record, stream, job.dropped)
        else:
            whole = whole_file(job, stream, acknowledged=self._acknowledge is not None)
            self._group.append(whole)
            if len(self._group) >= self._group_size:
                self._commit_group()

    def _commit_group(self) -> None:
        """Append the lines of the files that are whole."""
        group, self._group = self._group, []
        self._journal.add_files(group)
        if self._journal.failure is None:
            self._committed += [whole.record for whole in group if whole.record is not None]

    def _acknowledge_committed(self) -> None:
        """Without the lock."""
        if self._acknowledge:
            with self._changed:
                committed, self._committed = self._committed, []
            for record in committed:
                self._acknowledge(record)

    def _check_usable(self) -> None:
        if self._journal.failure is not None:
            raise self._journal.failure
        if self._closed:
            raise OutputError(f"{self.path} is closed already")

    def _stream_of(self, record: Record) -> Stream:
        stream = self._streams.get(record.sensor_id)
        if stream is None:
            raise OptionError(f"record of the unknown sensor '{record.sensor_id}'")
        if stream.sensor.kind != tables.RECORD_KINDS[type(record)]:
            raise OptionError(
                f"sensor '{record.sensor_id}' is a {stream.sensor.kind} and cannot have a "
                f"{type(record).__name__}"
            )
        return stream

    def _knows(self, device_id: str) -> bool:
        return device_id in self._sensors or any(rig == device_id for rig, _ in self._rigs)

    def _write_sensors(self) -> None:
        try:
            (self.path / tables.SENSORS).parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise output_error(self.path, error) from error
        write_atomically(self.path / sidecar.ORIGINS, sidecar.sensors_text(self._sensors))
        write_atomically(self.path / tables.SENSORS, tables.sensors_text(self._sensors))

    def _load(self) -> None:
        """What a resumed dataset holds already."""
        self._sensors = sidecar.read_sensors(self.path)
        self._rigs = tables.read_rigs(self.path)
        self._streams = read_streams(self.path, self._sensors)
        self._poses = read_poses(self.path)


def _holds_something(path: Path) -> bool:
    try:
        return path.is_dir() and any(path.iterdir())
    except OSError as error:
        raise output_error(path, error) from error
