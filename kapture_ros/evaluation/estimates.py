"""The table of a localizer's answers, `estimates.csv`: its columns, its writing and reading.

`kapture_ros localize` writes it into its output folder, one row per query instant, together
with one `matches/….npz` per query where drawings are wanted; `kapture_ros evaluate` reads
both. A row says what was asked, what was answered and how long it took:

- `stamp_ns`, `query`: the instant, and the device whose pose `map_from_base` is: a rig id, a
  sensor id, or the name of an image (then it is the pose of the camera that took it).
- `accepted` is 0 or 1. A rejected query may still have a pose: it counts as not localized.
- `reason`: the reason code; `inliers`, `matches`, `candidates` are counts;
  `best_map_image`: the map image with most inliers, for the drawing.
- `tx ty tz` (metres), `qw qx qy qz`: `map_from_base`; all empty where there is no pose.
- `cov_00` … `cov_55`: row by row, the covariance of the pose in the convention of ROS'
  PoseWithCovariance (REP-103): x, y, z in metres and rotations about the *fixed* axes of the
  map through the base's origin, in radians. With `true` the unknown pose, it is the
  covariance of `(t - t_true, Log(R R_trueᵀ))`. It is neither the covariance of the SE(3)
  twist at the map's origin (whose translation part would grow with the distance to it) nor
  that of the twist in the base frame. All empty where unknown.
- `latency_…`: milliseconds per stage; empty where the stage did not run.
- `condition`: what the per-condition tables group by (day, night, …); may be empty.
"""

from __future__ import annotations

import csv
import difflib
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kapture_ros.errors import InputError
from kapture_ros.transforms.se3 import Array, Transform

FILE_NAME = "estimates.csv"
PAIRS_FILE_NAME = "pairs.txt"  # beside it: the map images found for each query image
STAGES = ("decode", "extraction", "retrieval", "matching", "pose", "total")
POSE_COLUMNS = ("tx", "ty", "tz", "qw", "qx", "qy", "qz")
COVARIANCE_COLUMNS = tuple(f"cov_{row}{column}" for row in range(6) for column in range(6))
LATENCY_COLUMNS = tuple(f"latency_{stage}" for stage in STAGES)
COLUMNS = (
    *("stamp_ns", "query", "accepted", "reason", "inliers", "matches", "candidates"),
    "best_map_image",
    *POSE_COLUMNS,
    *COVARIANCE_COLUMNS,
    *LATENCY_COLUMNS,
    "condition",
)


@dataclass(frozen=True, slots=True)
class EstimateRow:
    """One answer of a localizer; see the module for the meaning of each field.

    Attributes:
        covariance: (6, 6) in ROS' order and convention, or None.
        latency_ms: milliseconds by stage, of `STAGES`.
    """

    stamp_ns: int
    query: str
    accepted: bool
    reason: str = ""
    inliers: int = 0
    matches: int = 0
    candidates: int = 0
    best_map_image: str = ""
    map_from_base: Transform | None = None
    covariance: Array | None = None
    latency_ms: Mapping[str, float] = field(default_factory=dict)
    condition: str = ""

    def cells(self) -> list[str]:
        """The row's cells in the order of `COLUMNS`, for `csv.writer`; floats are exact."""
        pose = self.map_from_base
        numbers = [""] * len(POSE_COLUMNS)
        if pose is not None:
            numbers = [repr(float(v)) for v in (*pose.translation, *pose.quaternion)]
        covariance = [""] * len(COVARIANCE_COLUMNS)
        if self.covariance is not None:
            covariance = [repr(float(v)) for v in np.ravel(self.covariance)]
        times = [self.latency_ms.get(stage) for stage in STAGES]
        return [
            *(str(self.stamp_ns), self.query, str(int(self.accepted)), self.reason),
            *(str(self.inliers), str(self.matches), str(self.candidates), self.best_map_image),
            *numbers,
            *covariance,
            *("" if time is None else repr(float(time)) for time in times),
            self.condition,
        ]


def write_estimates(path: Path, rows: Iterable[EstimateRow]) -> None:
    """Write a whole table (a localizer that resumes appends `cells()` instead)."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(row.cells() for row in rows)


def read_estimates(path: Path) -> list[EstimateRow]:
    """Read a table, in the order of the file.

    Raises:
        InputError: if it is missing or empty, a column is missing or unknown, a value is not
            what it should be, or a query comes twice; names the line.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            lines = csv.reader(file)
            _check_header(path, next(lines, []))
            rows = [
                _parse(dict(zip(COLUMNS, cells, strict=False)), f"{path}, line {lines.line_num}")
                for cells in lines
                if _complete(cells, f"{path}, line {lines.line_num}")
            ]
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} is not a CSV file: {error}") from error
    if not rows:
        raise InputError(f"{path} has no row below its header: nothing was localized")
    seen: set[tuple[int, str]] = set()
    for row in rows:
        if (row.stamp_ns, row.query) in seen:
            raise InputError(f"{path}: query '{row.query}' at {row.stamp_ns} comes twice")
        seen.add((row.stamp_ns, row.query))
    return rows


def _check_header(path: Path, header: list[str]) -> None:
    if tuple(header) == COLUMNS:
        return
    if not header:
        raise InputError(f"{path} is empty")
    for name in header:
        if name not in COLUMNS:
            near = difflib.get_close_matches(name, COLUMNS, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InputError(f"{path}: unknown column '{name}'{hint}")
    missing = [name for name in COLUMNS if name not in header]
    if missing:
        raise InputError(f"{path}: column '{missing[0]}' is missing")
    raise InputError(f"{path}: the columns are not in the order {', '.join(COLUMNS)}")


def _complete(cells: list[str], where: str) -> bool:
    if cells and len(cells) != len(COLUMNS):
        raise InputError(f"{where}: {len(cells)} cells instead of {len(COLUMNS)}; cut off?")
    return bool(cells)


def _parse(cells: Mapping[str, str], where: str) -> EstimateRow:
    if cells["accepted"] not in ("0", "1"):
        raise InputError(f"{where}: accepted is '{cells['accepted']}' but must be 0 or 1")
    accepted = cells["accepted"] == "1"
    pose = _pose(cells, where)
    if accepted and pose is None:
        raise InputError(f"{where}: accepted, but there is no pose")
    times = {stage: _number(cells, f"latency_{stage}", where) for stage in STAGES}
    return EstimateRow(
        stamp_ns=_count(cells, "stamp_ns", where),
        query=cells["query"],
        accepted=accepted,
        reason=cells["reason"],
        inliers=_count(cells, "inliers", where),
        matches=_count(cells, "matches", where),
        candidates=_count(cells, "candidates", where),
        best_map_image=cells["best_map_image"],
        map_from_base=pose,
        covariance=_covariance(cells, where),
        latency_ms={stage: time for stage, time in times.items() if time is not None},
        condition=cells["condition"],
    )


def _count(cells: Mapping[str, str], name: str, where: str) -> int:
    try:
        return int(cells[name])
    except ValueError:
        raise InputError(f"{where}: {name} is '{cells[name]}', not a whole number") from None


def _number(cells: Mapping[str, str], name: str, where: str) -> float | None:
    if not cells[name]:
        return None
    try:
        value = float(cells[name])
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise InputError(f"{where}: {name} is '{cells[name]}', not a finite number")
    return value


def _numbers(cells: Mapping[str, str], names: tuple[str, ...], where: str) -> Array | None:
    values = [_number(cells, name, where) for name in names]
    if all(value is None for value in values):
        return None
    for name, value in zip(names, values, strict=True):
        if value is None:
            raise InputError(f"{where}: {name} is empty, but not its neighbours")
    return np.array(values, float)


def _pose(cells: Mapping[str, str], where: str) -> Transform | None:
    numbers = _numbers(cells, POSE_COLUMNS, where)
    if numbers is None:
        return None
    try:
        return Transform.from_quaternion(numbers[3:], numbers[:3])
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _covariance(cells: Mapping[str, str], where: str) -> Array | None:
    numbers = _numbers(cells, COVARIANCE_COLUMNS, where)
    if numbers is None:
        return None
    matrix = numbers.reshape(6, 6)
    spread = np.abs(matrix).max()
    if np.abs(matrix - matrix.T).max() > 1e-9 * spread or np.linalg.eigvalsh(matrix)[0] <= 0:
        raise InputError(f"{where}: the covariance is not symmetric positive definite")
    return matrix


@dataclass(frozen=True, slots=True)
class MatchedPair:
    """What connects a query image with its best map image, for the drawing.

    Attributes:
        query_xy, map_xy: (N, 2) pixels of the matches in the two images.
        inlier: (N,) which of them agree with the pose.
    """

    query_image: str
    map_image: str
    query_xy: npt.NDArray[np.float32]
    map_xy: npt.NDArray[np.float32]
    inlier: npt.NDArray[np.bool_]


def matches_path(folder: Path, stamp_ns: int, query: str) -> Path:
    """Where the matches of a query are, in the folder of `estimates.csv`."""
    return folder / "matches" / f"{query}.{stamp_ns}.npz"


def write_matches(path: Path, pair: MatchedPair) -> None:
    """Write the matches of one query."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        path,
        query_image=np.array(pair.query_image),
        map_image=np.array(pair.map_image),
        query_xy=np.asarray(pair.query_xy, np.float32),
        map_xy=np.asarray(pair.map_xy, np.float32),
        inlier=np.asarray(pair.inlier, bool),
    )


def read_matches(path: Path) -> MatchedPair:
    """Read the matches of one query.

    Raises:
        InputError: if the file is not one of ours.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            pair = MatchedPair(
                str(data["query_image"]),
                str(data["map_image"]),
                data["query_xy"],
                data["map_xy"],
                data["inlier"],
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} holds no matches: {error}") from error
    count = len(pair.inlier)
    if pair.query_xy.shape != (count, 2) or pair.map_xy.shape != (count, 2):
        raise InputError(f"{path}: the arrays of matches differ in length")
    return pair
