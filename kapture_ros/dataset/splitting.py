"""A long recording as a row of datasets, each complete in itself: drive_000, drive_001, …"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from kapture_ros.dataset import sidecar, tables
from kapture_ros.dataset.filequeue import MEGABYTE, WriterOptions
from kapture_ros.dataset.records import Record, RigRow, Sensor, TrajectoryRow
from kapture_ros.dataset.writer import DatasetWriter, WriterStatistics
from kapture_ros.errors import OutputError
from kapture_ros.files import write_atomically
from kapture_ros.options import option

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class SplitOptions:
    """When to go on in a new dataset."""

    split_megabytes: float | None = option(
        None, "go on in a new dataset after so much; empty never does", unit="MB", minimum=1
    )
    split_s: float | None = option(
        None, "go on in a new dataset after that time; empty never does", unit="s", minimum=1
    )


class SplitWriter:
    """A `DatasetWriter` that begins a new dataset when the present one is large or long enough.

    Every part has all sensors and rigs. Poses are known later than the images they belong
    to, so the last part but one stays open for trajectory rows of its time. Time is that of
    receiving, where records tell it: stamps are of several clocks, and of static transforms old.

    Args:
        path: the name to which _000, _001, … are appended.
        is_awaited: whether a pose may still come for what was received up to a time; no
            further part begins while one may that belongs to the part before.

    Raises:
        OutputError: as `DatasetWriter`; or if parts of that name are there already.
    """

    def __init__(
        self,
        path: Path,
        split: SplitOptions,
        options: WriterOptions | None = None,
        *,
        is_awaited: Callable[[int], bool] = lambda received_ns: False,
        acknowledge: Callable[[Record], None] | None = None,
    ) -> None:
        if any(path.parent.glob(f"{path.name}_[0-9][0-9][0-9]*")):
            raise OutputError(f"parts of {path} exist already; choose another name")
        self.paths: list[Path] = []
        self._base = path
        self._split = split
        self._options = options
        self._is_awaited = is_awaited
        self._acknowledge = acknowledge
        self._statistics = WriterStatistics()  # of the parts that are closed
        self._previous: DatasetWriter | None = None
        self._previous_newest_ns = 0
        self._oldest_ns = self._newest_ns = 0  # stamps of the part
        self._began_ns: int | None = None  # when the first record of the part was received
        self._previous_ended_ns = 0  # when the last one of the part before was
        self._part = self._new_part()

    @property
    def path(self) -> Path:
        """The part that is being written."""
        return self._part.path

    @property
    def sensors(self) -> dict[str, Sensor]:
        """The sensors declared so far."""
        return self._part.sensors

    @property
    def rigs(self) -> list[RigRow]:
        """The rig rows so far."""
        return self._part.rigs

    @property
    def queued(self) -> int:
        """Files that wait to be written."""
        return self._part.queued + (self._previous.queued if self._previous else 0)

    @property
    def statistics(self) -> WriterStatistics:
        """The counts of all parts together."""
        parts = [self._statistics, self._part.statistics]
        if self._previous is not None:
            parts.append(self._previous.statistics)
        return _sum(parts)

    def add_sensor(self, sensor: Sensor) -> None:
        """As `DatasetWriter.add_sensor`."""
        self._part.add_sensor(sensor)

    def add_rig(self, row: RigRow) -> None:
        """As `DatasetWriter.add_rig`; also for the parts before."""
        self._part.add_rig(row)
        if self._previous is not None and row.sensor_id in self._previous.sensors:
            self._previous.add_rig(row)

    def add_trajectory(self, row: TrajectoryRow) -> bool:
        """As `DatasetWriter.add_trajectory`, into the part of its time: both where they overlap."""
        previous, added = self._previous, False
        is_of_previous = previous is not None and row.stamp_ns <= self._previous_newest_ns
        if previous is not None and is_of_previous and previous.knows_device(row.device_id):
            added = previous.add_trajectory(row)
            if row.stamp_ns < self._oldest_ns:
                return added
        return self._part.add_trajectory(row) or added

    def write(self, record: Record) -> bool:
        """As `DatasetWriter.write`; one thread at a time."""
        received = record.extra.get("received")
        now_ns = received if isinstance(received, int) else record.stamp_ns
        if self._is_time(now_ns):
            self._begin_next()
            self._previous_ended_ns = now_ns
        if self._began_ns is None:
            self._began_ns = now_ns
            self._oldest_ns = self._newest_ns = record.stamp_ns
        self._oldest_ns = min(self._oldest_ns, record.stamp_ns)
        self._newest_ns = max(self._newest_ns, record.stamp_ns)
        return self._part.write(record)

    def has(self, sensor_id: str, stamp_ns: int) -> bool:
        """Whether one of the two newest parts has a record of that stamp."""
        parts = [self._part] if self._previous is None else [self._part, self._previous]
        return any(part.has(sensor_id, stamp_ns) for part in parts)

    def flush(self) -> None:
        """As `DatasetWriter.flush`."""
        if self._previous is not None:
            self._previous.flush()
        self._part.flush()

    def close(self) -> None:
        """Finish the last part, and let the others know the rigs that were known late."""
        rigs = self.rigs
        try:
            self._close_previous()
        finally:
            self._part.close()
        for path in self.paths[:-1]:
            _complete_rigs(path, rigs)

    def __enter__(self) -> SplitWriter:
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

    def _is_time(self, now_ns: int) -> bool:
        if self._began_ns is None:
            return False
        size, seconds = self._split.split_megabytes, self._split.split_s
        is_long = seconds is not None and now_ns - self._began_ns >= seconds * NANOSECONDS
        is_large = size is not None and self._part.bytes_written >= size * MEGABYTE
        if not is_long and not is_large:
            return False
        return self._previous is None or not self._is_awaited(self._previous_ended_ns)

    def _begin_next(self) -> None:
        self._close_previous()
        self._previous, self._previous_newest_ns = self._part, self._newest_ns
        self._part = self._new_part()
        for sensor in self._previous.sensors.values():
            self._part.add_sensor(sensor)
        for row in self._previous.rigs:
            self._part.add_rig(row)
        self._began_ns = None

    def _close_previous(self) -> None:
        if self._previous is None:
            return
        self._previous.close()
        self._statistics = _sum([self._statistics, self._previous.statistics])
        self._previous = None

    def _new_part(self) -> DatasetWriter:
        path = self._base.with_name(f"{self._base.name}_{len(self.paths):03d}")
        self.paths.append(path)
        return DatasetWriter(path, self._options, acknowledge=self._acknowledge)


def _complete_rigs(path: Path, rows: list[RigRow]) -> None:
    """Add to a finished part the rig rows of its sensors that it does not have."""
    sensors, known = sidecar.read_sensors(path), tables.read_rigs(path)
    late = {(row.rig_id, row.sensor_id): row for row in rows if row.sensor_id in sensors}
    if not late.keys() <= known.keys():
        write_atomically(path / tables.RIGS, tables.rigs_text(late | known))


def _sum(parts: list[WriterStatistics]) -> WriterStatistics:
    total = WriterStatistics()
    for part in parts:
        total.trajectory_rows += part.trajectory_rows
        total.trajectory_duplicates += part.trajectory_duplicates
        total.bytes_written += part.bytes_written
        queue = total.queue
        total.queue = dataclasses.replace(
            queue,
            waits=queue.waits + part.queue.waits,
            waited_s=queue.waited_s + part.queue.waited_s,
            longest=max(queue.longest, part.queue.longest),
        )
        for sensor_id, counts in part.sensors.items():
            merged = total.sensors[sensor_id]
            merged.written += counts.written
            merged.duplicates += counts.duplicates
            for reason, number in counts.dropped.items():
                merged.dropped[reason] += number
    return total
