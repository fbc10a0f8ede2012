"""GNSS fixes of a drive: read with their covariances, and tied to the images.

From `sensors/records_gnss.txt` and the sidecar that keeps a fix's covariance; used to
place a map on the Earth and as position priors in bundle adjustment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.spatial.transform import Rotation

from kapture_ros.dataset import sidecar
from kapture_ros.mapping.images import ImageTable
from kapture_ros.mapping.pose_graph import Positions
from kapture_ros.mapping.priors import vouched_fixes
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.se3 import Array, Transform

UNKNOWN_ALTITUDE_SIGMA = 1e4  # metres: says nothing
MAX_GAP_NS = 2_000_000_000  # between images; farther apart, motion between them is unknown
MEDIAN_ERROR = 2.3  # relative, times √n: of a variance from the median of n squares
NO_POSITIONS = Positions(
    np.empty(0, np.int64), np.empty((0, 3)), np.empty((0, 3)), np.empty((0, 3, 3))
)
MIN_SIGMA = 0.01  # metres; receivers that claim less, or zero, are not believed


@dataclass(frozen=True, slots=True)
class GnssFixes:
    """G fixes in the order of time.

    Attributes:
        stamps: (G,) int64.
        geodetic: (G, 3) latitude and longitude in degrees, altitude in metres.
        covariances: (G, 3, 3) square metres, east-north-up.
        sensors: (G,) the receiver of each.
    """

    stamps: npt.NDArray[np.int64]
    geodetic: Array
    covariances: Array
    sensors: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.stamps)

    def select(self, rows: npt.NDArray[np.bool_]) -> GnssFixes:
        """Some of the fixes; `rows` (G,)."""
        sensors = tuple(self.sensors[row] for row in np.flatnonzero(rows))
        return GnssFixes(self.stamps[rows], self.geodetic[rows], self.covariances[rows], sensors)

    def positions(self, datum: Datum) -> Array:
        """Positions (G, 3) of the antenna in the map frame of a datum."""
        return datum.map_from_geodetic(*self.geodetic.T)

    def datum(self) -> Datum:
        """The place of the first fix, with the median altitude."""
        latitude, longitude, _ = self.geodetic[0]
        return Datum(float(latitude), float(longitude), float(np.median(self.geodetic[:, 2])))


def read_fixes(dataset: Path, default_sigma: float) -> GnssFixes:
    """The fixes of a dataset that their receivers vouch for.

    Args:
        default_sigma: horizontal standard deviation in metres of a fix without covariance;
            the vertical one is taken as twice that.

    Raises:
        InputError: if the records are not kapture's.
    """
    rows = vouched_fixes(dataset)
    told = {
        sensor_id: _told_covariances(dataset, sensor_id)
        for sensor_id in {sensor_id for _, sensor_id, _ in rows}
    }
    fallback = np.diag([default_sigma, default_sigma, 2 * default_sigma]) ** 2
    covariances = np.array(
        [told[sensor_id].get(stamp, fallback) for stamp, sensor_id, _ in rows]
    ).reshape(-1, 3, 3)
    geodetic = np.array([(fix.y, fix.x, fix.z) for _, _, fix in rows], float).reshape(-1, 3)
    level = ~np.isfinite(geodetic[:, 2])
    known = geodetic[~level, 2]
    geodetic[level, 2] = np.median(known) if len(known) else 0.0
    covariances[level, 2, :] = covariances[level, :, 2] = 0.0
    covariances[level, 2, 2] = UNKNOWN_ALTITUDE_SIGMA**2
    return GnssFixes(
        np.array([stamp for stamp, _, _ in rows], np.int64),
        geodetic,
        covariances,
        tuple(sensor_id for _, sensor_id, _ in rows),
    )


def _told_covariances(dataset: Path, sensor_id: str) -> dict[int, Array]:
    """Covariances (3, 3) by stamp, of the fixes that came with a usable one."""
    found = {}
    for line in sidecar.read_lines(dataset / sidecar.extra_path(sensor_id)):
        extra = line.get("extra", {})
        if not sidecar.is_record(line) or extra.get("position_covariance_type", 0) == 0:
            continue
        values = np.array(extra.get("position_covariance", ()), float)
        if values.size != 9 or not np.isfinite(values).all():
            continue
        matrix = values.reshape(3, 3)
        matrix = 0.5 * (matrix + matrix.T)
        spread, axes = np.linalg.eigh(matrix)
        if spread[-1] <= 0:
            continue
        spread = np.maximum(spread, MIN_SIGMA**2)
        found[int(line["stamp"])] = (axes * spread) @ axes.T
    return found


@dataclass(frozen=True, slots=True)
class RigTrack:
    """Where the rigs of F instants were, drive by drive and by time within a drive.

    Attributes:
        frames: (F,) the instants, numbers of the image table.
        sessions: (F,) the drive of each.
        stamps: (F,) int64.
        rotations, translations: map_from_rig; translations (F, 3).
    """

    frames: npt.NDArray[np.int64]
    sessions: npt.NDArray[np.int64]
    stamps: npt.NDArray[np.int64]
    rotations: Rotation
    translations: Array

    def pose(self, row: int) -> Transform:
        """map_from_rig of one instant."""
        return Transform(self.rotations[row], self.translations[row])

    @property
    def breaks(self) -> npt.NDArray[np.bool_]:
        """(F - 1,) where the next instant is of another drive."""
        return np.asarray(self.sessions[1:] != self.sessions[:-1])


def rig_track(images: ImageTable, sessions: npt.NDArray[np.int32]) -> RigTrack:
    """The rig poses of all posed instants; `sessions` (N,) is the drive of each image."""
    posed = np.flatnonzero(images.posed)
    _, first = np.unique(images.frames[posed], return_index=True)
    rows = posed[first]
    rows = rows[np.lexsort((images.stamps[rows], sessions[rows]))]
    poses = [map_from_rig(images, int(row)) for row in rows]
    return RigTrack(
        images.frames[rows].astype(np.int64),
        sessions[rows].astype(np.int64),
        images.stamps[rows],
        Rotation.concatenate([pose.rotation for pose in poses]) if poses else Rotation.identity(0),
        np.array([pose.translation for pose in poses]).reshape(-1, 3),
    )


def map_from_rig(images: ImageTable, row: int) -> Transform:
    """The pose of the rig that took an image (of the camera, if it is on no rig)."""
    return images.cam_from_map(row).inverse() @ sensor_from_rig(images, row)


def sensor_from_rig(images: ImageTable, row: int) -> Transform:
    """The extrinsics of an image's camera; the identity if it is on no rig."""
    sensors = images.rigs.get(images.frame_rigs[images.frames[row]], {})
    return sensors.get(images.cameras[images.camera[row]].sensor_id, Transform())


def antenna_in_rig(images: ImageTable, sensor_id: str) -> Array:
    """The antenna (3,) in its rig, by rigs.txt; the rig's origin if it is not listed."""
    for sensors in images.rigs.values():
        if sensor_id in sensors:
            return sensors[sensor_id].inverse().translation
    return np.zeros(3)


def tie_to_rigs(
    images: ImageTable,
    track: RigTrack,
    fixes: Sequence[GnssFixes],
    datum: Datum,
    correlation_s: float = 0.0,
) -> Positions:
    """Every fix as a measurement of the antenna at the instant nearest in time.

    The motion between fix and instant is taken from the track, which is exact enough over
    such a time even if it drifts. Fixes in gaps of the track are left out.

    Args:
        fixes: one entry a drive.
        correlation_s: seconds over which errors persist; covariances grow accordingly
            (`inflation`). Zero leaves them as the receiver told them.

    Returns:
        Measurements whose `rows` are rows of the track.
    """
    found = [NO_POSITIONS]
    for session, own in enumerate(fixes):
        part = np.flatnonzero(track.sessions == session)
        if len(part) >= 2 and len(own):
            found.append(_tie(images, track, part, own, datum, correlation_s))
    return Positions(
        np.concatenate([part.rows for part in found]),
        np.concatenate([part.points for part in found]),
        np.concatenate([part.levers for part in found]),
        np.concatenate([part.covariances for part in found]),
    )


def _tie(
    images: ImageTable,
    track: RigTrack,
    part: npt.NDArray[np.int64],
    fixes: GnssFixes,
    datum: Datum,
    correlation_s: float,
) -> Positions:
    levers = np.array([antenna_in_rig(images, s) for s in fixes.sensors]).reshape(-1, 3)
    stamps = track.stamps[part]
    later = np.clip(np.searchsorted(stamps, fixes.stamps), 1, len(stamps) - 1)
    gap = stamps[later] - stamps[later - 1]
    fraction = (fixes.stamps - stamps[later - 1]) / np.maximum(gap, 1)
    inside = (fraction >= -0.5) & (fraction <= 1.5) & (gap <= MAX_GAP_NS)
    before, after = part[later - 1], part[later]
    start, end = (
        track.translations[row] + track.rotations[row].apply(levers) for row in (before, after)
    )
    moved = start + fraction[:, None] * (end - start)
    nearest = np.where(fraction < 0.5, before, after)
    here = track.translations[nearest] + track.rotations[nearest].apply(levers)
    at = fixes.positions(datum)
    growth = inflation(
        (at - moved)[inside], fixes.covariances[inside], fixes.stamps[inside], correlation_s
    )
    covariances = fixes.covariances[inside] * growth
    return Positions(nearest[inside], (at + here - moved)[inside], levers[inside], covariances)


def inflation(
    residuals: Array, covariances: Array, stamps: npt.NDArray[np.int64], correlation_s: float
) -> float:
    """By how much errors that persist enlarge the variance of each of many fixes.

    A receiver's error is partly white and partly a slow bias. The white part shows in the
    differences of successive residuals against the track (G, 3); what the told variance
    holds beyond that persists, so that of all fixes within twice the correlation time
    together only one counts.
    """
    count = len(residuals)
    if correlation_s <= 0 or count < 4:
        return 1.0
    steps = np.diff(residuals[:, :2], axis=0)
    # The median of squares, scaled to the variance of a normal distribution.
    white = float(np.median(steps**2) / 0.455 / 2.0)
    told = float(np.median(covariances[:, 0, 0] + covariances[:, 1, 1]) / 2.0)
    slow = 1.0 - white / told
    # The median of few squares is rough: errors are white until shown otherwise.
    if slow < 2.0 * MEDIAN_ERROR / math.sqrt(steps.size):
        return 1.0
    interval = float(stamps[-1] - stamps[0]) / 1e9 / (count - 1)
    together = min(max(2.0 * correlation_s / max(interval, 1e-9), 1.0), float(count))
    return (1.0 - slow) + slow * together


def positions_of_images(images: ImageTable, fixes: GnssFixes, datum: Datum) -> Array:
    """Positions (N, 3) of images that have no poses: fixes interpolated, levers neglected.

    NaN outside the time of the fixes and in gaps of more than ten seconds.
    """
    result = np.full((len(images), 3), np.nan)
    if len(fixes) == 0:
        return result
    at = fixes.positions(datum)
    stamps, first = np.unique(fixes.stamps, return_index=True)
    after = np.clip(np.searchsorted(stamps, images.stamps), 1, max(len(stamps) - 1, 1))
    inside = (images.stamps >= stamps[0]) & (images.stamps <= stamps[-1])
    if len(stamps) > 1:
        inside &= stamps[after] - stamps[after - 1] <= 10_000_000_000
    since = (images.stamps - stamps[0]).astype(float)
    for axis in range(3):
        known = np.interp(since, (stamps - stamps[0]).astype(float), at[first, axis])
        result[inside, axis] = known[inside]
    return result
