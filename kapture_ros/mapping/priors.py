"""What else a drive knew about where it was: GNSS fixes and Wi-Fi scans in the map frame.

Read from a map's kapture records; kept in the index as priors for localization.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kapture_ros.dataset import sidecar
from kapture_ros.errors import InputError
from kapture_ros.mapping.images import ImageTable
from kapture_ros.messages.gnss import is_vouched_for
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.se3 import Array

LONG_NS = 10_000_000_000
FAR = 20.0  # metres; Wi-Fi tells a place no better
Arrays = dict[str, npt.NDArray[Any]]


def read_records(dataset: Path, kind: str) -> Any:
    """kapture's records of a kind (gnss, wifi, …), empty if the dataset has none.

    Raises:
        InputError: if the file is not kapture's.
    """
    import kapture.io.csv as kapture_csv  # takes a second to import

    path = dataset / "sensors" / f"records_{kind}.txt"
    if not path.is_file():
        return {}
    try:
        return getattr(kapture_csv, f"records_{kind}_from_file")(str(path))
    except (ValueError, AssertionError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a valid kapture file: {error}") from error


def vouched_fixes(dataset: Path) -> list[tuple[int, str, Any]]:
    """GNSS fixes as stamp, sensor and kapture's record, by time.

    Left out are those without a position, and those that their receiver does not vouch for.

    Raises:
        InputError: if the file is not kapture's.
    """
    found = [
        (stamp, sensor_id, fix)
        for stamp, sensors in sorted(read_records(dataset, "gnss").items())
        for sensor_id, fix in sorted(sensors.items())
        if np.isfinite([fix.x, fix.y]).all()
    ]
    doubtful = {
        (line["stamp"], sensor_id)
        for sensor_id in {sensor_id for _, sensor_id, _ in found}
        for line in sidecar.read_lines(dataset / sidecar.extra_path(sensor_id))
        if sidecar.is_record(line) and not is_vouched_for(line.get("extra", {}))
    }
    return [item for item in found if item[:2] not in doubtful]


def gnss_arrays(map_dir: Path, datum: Datum | None) -> Arrays:
    """GNSS fixes: stamp (G,), xyz (G, 3) in the map frame, dop (G,); none without a datum."""
    fixes = [(stamp, fix.x, fix.y, fix.z, fix.dop) for stamp, _, fix in vouched_fixes(map_dir)]
    if datum is None or not fixes:
        fixes = []
        xyz = np.empty((0, 3))
    else:
        _, longitude, latitude, altitude, _ = np.array(fixes, dtype=float).T
        # Receivers without a vertical solution report NaN: the fix is then taken as level.
        altitude = np.where(np.isfinite(altitude), altitude, datum.altitude)
        xyz = datum.map_from_geodetic(latitude, longitude, altitude)
    return {
        "stamp": np.array([fix[0] for fix in fixes], np.int64),
        "xyz": xyz,
        "dop": np.array([fix[4] for fix in fixes], np.float32),
    }


def wifi_arrays(map_dir: Path, images: ImageTable) -> Arrays:
    """Wi-Fi scans with the place of each, interpolated between the poses of the images.

    Scans before the first or after the last image of the drives are left out.
    """
    scans = [
        (stamp, signals)
        for stamp, sensors in sorted(read_records(map_dir, "wifi").items())
        for signals in sensors.values()
    ]
    places = positions_at(images, np.array([stamp for stamp, _ in scans], np.int64))
    kept = [row for row in range(len(scans)) if np.isfinite(places[row]).all()]
    heard = [list(scans[row][1].items()) for row in kept]
    names = sorted({bssid for scan in heard for bssid, _ in scan})
    row_of = {bssid: row for row, bssid in enumerate(names)}
    return {
        "xyz": places[kept],
        "offset": np.cumsum([0] + [len(scan) for scan in heard], dtype=np.int64),
        "bssid": np.array([row_of[bssid] for scan in heard for bssid, _ in scan], np.int32),
        "rssi": np.array([float(s.rssi) for scan in heard for _, s in scan], np.float32),
        "name": np.frombuffer("\n".join(names).encode(), np.uint8),
    }


def positions_at(images: ImageTable, stamps: npt.NDArray[np.int64]) -> Array:
    """Where the cameras were (T, 3) at other stamps (T,), straight between images.

    NaN outside the time of the images, and between two that are long and far apart: what was
    driven there has no images.
    """
    result = np.full((len(stamps), 3), np.nan)
    posed = images.posed
    known, first = np.unique(images.stamps[posed], return_index=True)
    if len(known) == 0 or len(stamps) == 0:
        return result
    centers = images.centers()[posed][first]
    inside = (stamps >= known[0]) & (stamps <= known[-1])
    # Differences before floats: nanoseconds since 1970 have no exact float.
    at = (stamps[inside] - known[0]).astype(float)
    for axis in range(3):
        result[inside, axis] = np.interp(at, (known - known[0]).astype(float), centers[:, axis])
    if len(known) > 1:
        later = np.clip(np.searchsorted(known, stamps), 1, len(known) - 1)
        apart = np.linalg.norm(centers[later] - centers[later - 1], axis=1)
        unknown = (known[later] - known[later - 1] > LONG_NS) & (apart > FAR)
        result[unknown & ~np.isin(stamps, known)] = np.nan
    return result
