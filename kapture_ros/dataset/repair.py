"""Repair of a dataset whose writer was killed: nothing that was acknowledged is touched.

A killed process leaves at most a torn last line, half-written files, or whole images whose
rows were not written yet; a power failure can leave more. Torn lines and temporary files are
removed, rows without their file are dropped, images without a row get one. Where the writer
could make its files anew, it wrote them in place: then those without a row are removed.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kapture_ros.dataset import sidecar, tables
from kapture_ros.dataset.records import Sensor
from kapture_ros.dataset.storage import AppendFile, FolderLock, output_error, partial_name
from kapture_ros.dataset.tables import TABLES, TRAJECTORY_TABLE, Table
from kapture_ros.files import write_atomically


@dataclass(slots=True)
class RepairReport:
    """What was found and done, in sentences; none if all was well."""

    path: Path
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.path}: " + ("; ".join(self.notes) or "nothing to repair")


def needs_repair(root: Path) -> bool:
    """Whether the last writer did not finish (or is still at work)."""
    return (root / sidecar.LOCK).exists()


def repair(root: Path) -> RepairReport:
    """Make a dataset whole again after its writer was killed.

    Raises:
        OutputError: if a writer is at work there, or the dataset cannot be written.
    """
    lock = FolderLock(root / sidecar.LOCK)
    finished = False
    try:
        report = repair_locked(root, lock)
        finished = True
    finally:
        lock.release(finished=finished)
    return report


def repair_locked(root: Path, lock: FolderLock) -> RepairReport:
    """`repair` for a caller that holds the lock."""
    report = RepairReport(root)
    try:
        _remove_partial_files(root, report)
        sensors = _repair_sensors(root, report)
        for kind, table in TABLES.items():
            of_kind = [sensor for sensor in sensors.values() if sensor.kind == kind]
            _repair_table(root, table, of_kind, report)
            if table.in_files and lock.in_place:
                _remove_unlisted(root, table, of_kind, report)
            elif table.in_files:
                _restore_rows(root, table, of_kind, report)
        _repair_table(root, TRAJECTORY_TABLE, [], report)
        for path in sorted((root / sidecar.EXTRA).glob("*.jsonl")):
            _keep_lines(path, "", lambda line: sidecar.decode(line) is not None, report)
    except OSError as error:
        raise output_error(root, error) from error
    return report


def _remove_partial_files(root: Path, report: RepairReport) -> None:
    partial = [Path(f, n) for f, _, names in os.walk(root) for n in names if _is_partial(n)]
    for path in partial:
        path.unlink()
    if partial:
        report.notes.append(f"removed {len(partial)} half-written files")


def _is_partial(name: str) -> bool:
    return name.startswith(".") and name.endswith(".partial")


def _repair_sensors(root: Path, report: RepairReport) -> dict[str, Sensor]:
    sensors = sidecar.read_sensors(root)
    text = tables.sensors_text(sensors)
    path = root / tables.SENSORS
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text)
        report.notes.append(f"rewrote {tables.SENSORS}")
    return sensors


def _repair_table(root: Path, table: Table, sensors: list[Sensor], report: RepairReport) -> None:
    path = root / table.path
    scans = _torn_scans(root, table, sensors)
    for sensor in sensors:
        _drop_scans(root, sensor, scans, report)

    def is_good(line: bytes) -> bool:
        parts = tables.split_line(table, line)
        if parts is None:
            return False
        stamp, device_id, fields = parts
        if table.in_files:
            file = root / tables.RECORDS_DATA / fields[0]
            return file.is_file() and file.stat().st_size > 0
        return (device_id, stamp) not in scans

    if path.exists():
        _keep_lines(path, table.header, is_good, report)


def _torn_scans(root: Path, table: Table, sensors: list[Sensor]) -> set[tuple[str, int]]:
    """Scans with fewer rows than their sidecar line says: the writer died before the last."""
    expected = {
        (sensor.sensor_id, content["stamp"]): content["rows"]
        for sensor in sensors
        for content in sidecar.read_lines(root / sidecar.extra_path(sensor.sensor_id))
        if content.get("rows") and sidecar.is_record(content)
    }
    if not expected:
        return set()
    found = Counter((line.device_id, line.stamp_ns) for line in tables.read_table(root, table))
    return {scan for scan, rows in expected.items() if found[scan] < rows}


def _drop_scans(
    root: Path, sensor: Sensor, scans: set[tuple[str, int]], report: RepairReport
) -> None:
    stamps = {stamp for sensor_id, stamp in scans if sensor_id == sensor.sensor_id}
    if not stamps:
        return

    def is_good(line: bytes) -> bool:
        content = sidecar.decode(line)
        return content is not None and not (
            content["stamp"] in stamps and sidecar.is_record(content)
        )

    _keep_lines(root / sidecar.extra_path(sensor.sensor_id), "", is_good, report)


def _restore_rows(root: Path, table: Table, sensors: list[Sensor], report: RepairReport) -> None:
    """Append rows for whole files that have none; their names are their stamps."""
    missing = sorted(
        (int(name.partition(".")[0]), sensor_id, name)
        for sensor_id, name, size in _unlisted(root, table, sensors)
        if size > 0
    )
    if not missing:
        return
    file = AppendFile(root / table.path, table.header)
    try:
        for stamp_ns, sensor_id, name in missing:
            file.append(tables.lines(stamp_ns, sensor_id, [(f"{sensor_id}/{name}",)]))
    finally:
        file.close()
    report.notes.append(f"{table.path}: restored {len(missing)} rows from files that had none")


def _remove_unlisted(root: Path, table: Table, sensors: list[Sensor], report: RepairReport) -> None:
    unlisted = list(_unlisted(root, table, sensors))
    for sensor_id, name, _ in unlisted:
        (root / tables.RECORDS_DATA / sensor_id / name).unlink()
    if unlisted:
        report.notes.append(f"removed {len(unlisted)} files that had no row yet")


def _unlisted(root: Path, table: Table, sensors: list[Sensor]) -> Iterator[tuple[str, str, int]]:
    """Sensor, name and size of the files that have no row."""
    listed = {line.fields[0] for line in tables.read_table(root, table)}
    for sensor in sensors:
        folder = root / tables.RECORDS_DATA / sensor.sensor_id
        for entry in os.scandir(folder) if folder.is_dir() else ():
            named = re.match(r"-?\d+\.", entry.name)
            if named and f"{sensor.sensor_id}/{entry.name}" not in listed:
                yield sensor.sensor_id, entry.name, entry.stat().st_size


def _keep_lines(
    path: Path, header: str, is_good: Callable[[bytes], bool], report: RepairReport
) -> None:
    """Rewrite a file without the lines that are not good, in one piece; or leave it alone."""
    with path.open("rb") as file:
        has_header = file.read(len(header)) == header.encode()
        file.seek(0)
        dropped = sum(1 for line in file if not _is_comment(line) and not is_good(line))
    if dropped == 0 and has_header:
        return
    temporary = partial_name(path)
    with path.open("rb") as file, temporary.open("wb") as whole:
        whole.write(header.encode())
        whole.writelines(line for line in file if not _is_comment(line) and is_good(line))
        whole.flush()
        os.fsync(whole.fileno())
    temporary.replace(path)
    name = path.relative_to(report.path)
    report.notes.append(f"{name}: dropped {dropped} lines, torn or without what they name")


def _is_comment(line: bytes) -> bool:
    return line.startswith(b"#")
