"""Going on with a conversion that was interrupted: which records are there already."""

from __future__ import annotations

from collections import Counter, defaultdict
from pathlib import Path

from kapture_ros.dataset import sidecar
from kapture_ros.dataset.records import Record
from kapture_ros.dataset.writer import DatasetWriter


class DoneRecords:
    """Tells the records of a resumed dataset from those that are still to be written.

    The bag is read again from its beginning. The first record of a stamp is done if the
    dataset has that stamp; one that comes again is done if its duplicate was kept. Remembers
    all stamps, some 60 bytes a record, which only a resumed conversion costs.
    """

    def __init__(self, writer: DatasetWriter, dataset: Path) -> None:
        self._writer = writer
        self._duplicates: Counter[tuple[str, int]] = Counter()
        for sensor_id in writer.sensors:
            for line in sidecar.read_lines(dataset / sidecar.extra_path(sensor_id)):
                if "duplicate" in line:
                    self._duplicates[sensor_id, line["stamp"]] += 1
        self._seen: dict[str, set[int]] = defaultdict(set)
        self.count = 0

    def __call__(self, record: Record) -> bool:
        """Whether a record is in the dataset; each record is asked for once, in order."""
        seen = self._seen[record.sensor_id]
        if record.stamp_ns not in seen:
            seen.add(record.stamp_ns)
            done = self._writer.has(record.sensor_id, record.stamp_ns)
        else:
            key = (record.sensor_id, record.stamp_ns)
            done = self._duplicates[key] > 0
            self._duplicates[key] -= done
        self.count += done
        return done
