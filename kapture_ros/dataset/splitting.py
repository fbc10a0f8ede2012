"""A long recording as a row of datasets, each complete in itself: drive_000, drive_001, …"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from kapture_ros.dataset.filequeue import MEGABYTE, WriterOptions
from kapture_ros.dataset.records import Record, RigRow, Sensor, TrajectoryRow
from kapture_ros.dataset.writer import DatasetWriter, WriterStatistics
from kapture_ros.errors import OutputError
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
    to, so the last part but one stays open for trajectory rows of its time.

    Args:
        path: the name to which _000, _001, … are appended.

    Raises:
        OutputError: as `DatasetWriter`; or if parts of that name are there already.
    """

    def __init__(
        self,
        path: Path,
        split: SplitOptions,
        options: WriterOptions | None = None,
        *,
        acknowledge: Callable[[Record], None] | None = None,
    ) -> None:
        if any(path.parent.glob(f"{path.name}_[0-9][0-9][0-9]*")):
            raise OutputError(f"parts of {path} exist already; choose another name")
        self.paths: list[Path] = []
        self._base = path
        self._split = split
        self._options = options
        self._acknowledge = acknowledge
        self._statistics = WriterStatistics()  # of the parts that are closed
        self._previous: DatasetWriter | None = None
        self._previous_newest_ns = 0
        self._first_ns: int | None = None
        self._newest_ns = 0
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
        """As `DatasetWriter.add_rig`."""
        self._part.add_rig(row)

    def add_trajectory(self, row: TrajectoryRow) -> bool:
        """As `DatasetWriter.add_trajectory`, into the part of its time."""
        if self._previous is not None and row.stamp_ns <= self._previous_newest_ns:
            return self._previous.add_trajectory(row)
        return self._part.add_trajectory(row)

    def write(self, record: Record) -> bool:
        """As `DatasetWriter.write`; one thread at a time."""
        if self._is_time(record.stamp_ns):
            self._begin_next()
        if self._first_ns is None:
            self._first_ns = self._newest_ns = record.stamp_ns
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
        """Finish the last part."""
        try:
            self._close_previous()
        finally:
            self._part.close()

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

    def _is_time(self, stamp_ns: int) -> bool:
        if self._first_ns is None:
            return False
        size, seconds = self._split.split_megabytes, self._split.split_s
        if seconds is not None and stamp_ns - self._first_ns >= seconds * NANOSECONDS:
            return True
        return size is not None and self._part.bytes_written >= size * MEGABYTE

    def _begin_next(self) -> None:
        self._close_previous()
        self._previous, self._previous_newest_ns = self._part, self._newest_ns
        self._part = self._new_part()
        for sensor in self._previous.sensors.values():
            self._part.add_sensor(sensor)
        for row in self._previous.rigs:
            self._part.add_rig(row)
        self._first_ns = None

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
