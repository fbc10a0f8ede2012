"""Going on with a conversion that was interrupted: which records are there already."""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from pathlib import Path

from kapture_ros.dataset import sidecar
from kapture_ros.dataset.records import Record
from kapture_ros.dataset.writer import DatasetWriter

RECENT = 4096


class DoneRecords:
    """Tells the records of a resumed dataset from those that are still to be written.

    The bag is read again from its beginning. The first record of a stamp is done if the
    dataset has that stamp; one that comes again is done if its duplicate was kept.
    """

    def __init__(self, writer: DatasetWriter, dataset: Path) -> None:
        self._writer = writer
        self._duplicates: Counter[tuple[str, int]] = Counter()
        for sensor_id in writer.sensors:
            for line in sidecar.read_lines(dataset / sidecar.extra_path(sensor_id)):
                if "duplicate" in line:
                    self._duplicates[sensor_id, line["stamp"]] += 1
        self._newest: dict[str, int] = {}
        self._recent: dict[str, deque[int]] = defaultdict(lambda: deque(maxlen=RECENT))
        self.count = 0

    def __call__(self, record: Record) -> bool:
        """Whether a record is in the dataset; each record is asked for once, in order."""
        if not self._writer.has(record.sensor_id, record.stamp_ns):
            return False
        key = (record.sensor_id, record.stamp_ns)
        recent = self._recent[record.sensor_id]
        newest = self._newest.get(record.sensor_id, -1)
        if record.stamp_ns <= newest and record.stamp_ns in recent:
            if not self._duplicates[key]:
                return False
            self._duplicates[key] -= 1
        self._newest[record.sensor_id] = max(newest, record.stamp_ns)
        recent.append(record.stamp_ns)
        self.count += 1
        return True
