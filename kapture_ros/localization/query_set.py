"""The queries of a kapture dataset: one per image, or one per instant of its rigs.

Read from `sensors/` and the features of the dataset (or of folders as NAVER ships them),
or from its images where it has no features; consumed by `batch`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kapture_ros.dataset.tables import RECORDS_DATA
from kapture_ros.errors import InputError
from kapture_ros.features.images import read_image
from kapture_ros.localization.inertial import ImuSample
from kapture_ros.localization.odometry import SECOND
from kapture_ros.localization.query import GnssFix, Query, QueryFeatures, QueryImage
from kapture_ros.localization.views import refuse_other_features
from kapture_ros.mapping.feature_files import (
    SUFFIXES,
    FeatureFolder,
    checked_name,
    feature_types,
    unit_rows,
)
from kapture_ros.mapping.gnss import read_fixes
from kapture_ros.mapping.images import ImageTable, read_images
from kapture_ros.mapping.manifest import FeatureTypes
from kapture_ros.mapping.pose_report import restarts
from kapture_ros.mapping.priors import read_records
from kapture_ros.mapping.sessions import FeatureSource
from kapture_ros.transforms.se3 import Array, Transform

log = logging.getLogger(__name__)

MAX_FIX_AGE_NS = 150_000_000  # 2 m of driving at 50 km/h
MAX_FIX_STEP_NS = 1_100_000_000  # between fixes that are interpolated: receivers give one a second
TURNING = 3.0  # m/s²: how much a vehicle may leave the straight line between two fixes
NEGLIGIBLE = 1e-3  # metres between a camera and its base
MAX_SCAN_AGE_NS = 5_000_000_000
GNSS_SIGMA = 5.0  # metres, horizontal, of fixes that come without a covariance


@dataclass(frozen=True, slots=True)
class QueryInfo:
    """What a query is called.

    Attributes:
        name: the image's name, or the rig's id for an instant of several cameras.
        device: the sensor or rig whose pose is asked for.
        images: names of its images.
    """

    stamp_ns: int
    name: str
    device: str
    images: tuple[str, ...]


class QuerySet:
    """Queries of a dataset, read one at a time.

    Attributes:
        infos: what every query is called, in the order of time.
        has_features: whether queries come with features; otherwise with pixels.
        restarts: stamps from which on the dataset's poses are of another frame than before.

    Args:
        wanted: the map's features.
        rigs: whether the images of a rig's instant are one query.
        slop_s: images of a rig so soon after another belong to its instant; the vehicle is
            taken to stand still meanwhile.

    Raises:
        InputError: if it is no dataset with images, or its features are others than the map's.
    """

    def __init__(
        self,
        dataset: Path,
        source: FeatureSource,
        wanted: FeatureTypes,
        *,
        rigs: bool = True,
        slop_s: float = 0.0,
    ):
        self.dataset = dataset
        self.images: ImageTable = read_images(dataset)
        self._types = wanted
        self._features = _feature_folders(dataset, source, wanted)
        self.has_features = bool(self._features)
        self.restarts = restarts(dataset)
        self._fixes = read_fixes(dataset, GNSS_SIGMA)
        scans = read_records(dataset, "wifi")
        self._scans = dict(scans)
        self._scan_stamps = np.array(sorted(self._scans), np.int64)
        self._rows = _groups(self.images, rigs, round(slop_s * SECOND))
        self._row_of = self.images.rows_by_name()
        self.infos = [_info(self.images, rows, rigs) for rows in self._rows]

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, number: int) -> Query:
        """One query with its features or its pixels (None where the file is damaged).

        Raises:
            IndexError: beyond the last.
            InputError: if the features of an image are missing or damaged.
        """
        rows, info = self._rows[number], self.infos[number]
        base_from_rig = self._base_from_rig(info)
        images = []
        for row in rows:
            camera = self.images.cameras[self.images.camera[row]]
            cam_from_base = self.cam_from_base(info, camera.sensor_id)
            name = self.images.names[row]
            if self.has_features:
                image = QueryImage(camera, cam_from_base, features=self._read(name))
            else:
                image = QueryImage(camera, cam_from_base, pixels=self._pixels(name))
            images.append(image)
        return Query(
            info.stamp_ns,
            tuple(images),
            gnss=self._fix(info.stamp_ns, base_from_rig),
            wifi=self._scan(info.stamp_ns),
        )

    @property
    def have_lengths(self) -> bool:
        """Whether a camera of a query is apart from the base, whose pose is asked for."""
        devices = {info.device for info in self.infos} & set(self.images.rigs)
        cameras = {camera.sensor_id for camera in self.images.cameras}
        return any(
            np.linalg.norm(sensor_from_rig.translation) > NEGLIGIBLE
            for device in devices
            for sensor, sensor_from_rig in self.images.rigs[device].items()
            if sensor in cameras
        )

    def given_pose(self, number: int) -> Transform | None:
        """The base of a query in the dataset's own trajectory (odometry); None without."""
        rows, info = self._rows[number], self.infos[number]
        row = rows[len(rows) // 2]  # the query has its stamp
        if not self.images.posed[row]:
            return None
        sensor = self.images.cameras[self.images.camera[row]].sensor_id
        return self.images.cam_from_map(row).inverse() @ self.cam_from_base(info, sensor)

    def imu(self, device: str) -> list[ImuSample]:
        """What the IMU on a device's rig measured, in the axes of the base; none without one.

        Of several gyroscopes the one with most records; accelerations are interpolated to
        its stamps.
        """
        info = next(info for info in self.infos if info.device == device)
        rig, base_from_rig = self._base_from_rig(info)
        placed = self.images.rigs.get(rig, {})
        gyro = _vectors(self.dataset, "gyroscope", placed, ("x_speed", "y_speed", "z_speed"))
        force = _vectors(self.dataset, "accelerometer", placed, ("x_accel", "y_accel", "z_accel"))
        if gyro is None or force is None:
            return []
        axes = [
            (base_from_rig @ placed[found.sensor].inverse()).rotation for found in (gyro, force)
        ]
        rates, forces = axes[0].apply(gyro.values), axes[1].apply(force.values)
        start = gyro.stamps[0]
        forces = [np.interp(gyro.stamps - start, force.stamps - start, axis) for axis in forces.T]
        return [
            ImuSample(stamp, rate, felt)
            for stamp, rate, felt in zip(
                gyro.stamps.tolist(), rates, np.stack(forces, axis=1), strict=True
            )
        ]

    def stamps_of(self, info: QueryInfo) -> list[int]:
        """The stamps of a query's images, each once."""
        return sorted({int(self.images.stamps[self._row_of[name]]) for name in info.images})

    def cam_from_base(self, info: QueryInfo, sensor_id: str) -> Transform:
        """Where a camera of a query sits: the base is the rig, or the camera itself."""
        placed = self.images.rigs.get(info.device)
        return Transform() if placed is None else placed[sensor_id]

    def cameras_of(self, info: QueryInfo) -> list[str]:
        """The sensor id of each image of a query."""
        cameras = [self.images.camera[self._row_of[name]] for name in info.images]
        return [self.images.cameras[camera].sensor_id for camera in cameras]

    def _base_from_rig(self, info: QueryInfo) -> tuple[str, Transform]:
        """The rig a query belongs to ('' if none), and where its base is in it."""
        if info.device in self.images.rigs:
            return info.device, Transform()
        for rig, sensors in self.images.rigs.items():
            if info.device in sensors:
                return rig, sensors[info.device]
        return "", Transform()

    def _read(self, name: str) -> QueryFeatures:
        keypoints = self._features["keypoints"].read(name)[:, :2].astype(np.float32)
        descriptors = unit_rows(self._features["descriptors"].read(name))
        described = self._features["global_features"].read(name).ravel().astype(np.float32)
        by_type = {self._types.global_features: described}
        return QueryFeatures(keypoints, descriptors, by_type, self._types)

    def _pixels(self, name: str) -> npt.NDArray[np.uint8] | None:
        try:
            return read_image(self.dataset / RECORDS_DATA / checked_name(name))
        except InputError as error:
            log.warning("%s", error)
            return None

    def _fix(self, stamp: int, rig_and_base: tuple[str, Transform]) -> GnssFix | None:
        """The position at that time, with the antenna in the base frame if rigs.txt has it.

        Between two fixes of a receiver, or else from the nearest one.
        """
        fixes = self._fixes
        after = int(np.searchsorted(fixes.stamps, stamp))
        pair = [row for row in (after - 1, after) if 0 <= row < len(fixes)]
        if len(pair) == 2 and fixes.sensors[pair[0]] == fixes.sensors[pair[1]]:
            before_ns, after_ns = (abs(int(fixes.stamps[row]) - stamp) for row in pair)
            if before_ns + after_ns <= MAX_FIX_STEP_NS:
                part = before_ns / (before_ns + after_ns)
                weights = np.array([1 - part, part])
                bend = TURNING / 2 * before_ns * after_ns / SECOND**2
                covariance = np.tensordot(weights, fixes.covariances[pair], 1)
                return self._positioned(
                    weights @ fixes.geodetic[pair],
                    covariance + bend**2 * np.eye(3), pair[0], rig_and_base,
                )  # fmt: skip
        row = _nearest(fixes.stamps, stamp, MAX_FIX_AGE_NS)
        if row is None:
            return None
        fix = self._positioned(fixes.geodetic[row], fixes.covariances[row], row, rig_and_base)
        return fix.aged((int(fixes.stamps[row]) - stamp) / SECOND)

    def _positioned(
        self, geodetic: Array, covariance: Array, row: int, rig_and_base: tuple[str, Transform]
    ) -> GnssFix:
        """A fix of the receiver of a row."""
        rig, base_from_rig = rig_and_base
        antenna_from_rig = self.images.rigs.get(rig, {}).get(self._fixes.sensors[row])
        arm = np.zeros(3)
        if antenna_from_rig is not None:
            arm = base_from_rig.apply(antenna_from_rig.inverse().translation)
        latitude, longitude, altitude = geodetic.tolist()
        return GnssFix(latitude, longitude, altitude, covariance, arm)

    def _scan(self, stamp: int) -> dict[str, float] | None:
        """The nearest Wi-Fi scan in time: dBm by BSSID."""
        row = _nearest(self._scan_stamps, stamp, MAX_SCAN_AGE_NS)
        if row is None:
            return None
        sensors = self._scans[int(self._scan_stamps[row])]
        return {
            bssid: float(signal.rssi)
            for heard in sensors.values()
            for bssid, signal in heard.items()
        }


def _feature_folders(
    dataset: Path, source: FeatureSource, wanted: FeatureTypes
) -> dict[str, FeatureFolder]:
    """Where features of the map's types lie, by kind; empty if the dataset has none at all.

    Raises:
        InputError: if there are others only, or some kinds only.
    """
    if source == FeatureSource():
        known = {kind: feature_types(dataset, kind) for kind in SUFFIXES}
        if not any(known.values()):
            return {}
        if all(getattr(wanted, kind) in names for kind, names in known.items()):
            return {
                kind: FeatureFolder.in_dataset(dataset, kind, getattr(wanted, kind))
                for kind in SUFFIXES
            }
    folders = source.folders(dataset)
    names = {kind: folder.type_name for kind, folder in folders.items()}
    refuse_other_features(FeatureTypes(**names), wanted)
    return folders


def _groups(images: ImageTable, rigs: bool, slop_ns: int) -> list[list[int]]:
    """Rows of the images of each query, in the order of time."""
    groups: list[list[int]] = []
    newest: dict[str, list[int]] = {}  # by rig
    for row in np.argsort(images.stamps, kind="stable").tolist():
        rig = images.frame_rigs[images.frames[row]]
        group = newest.get(rig, [])
        if (
            rigs
            and rig in images.rigs
            and group
            and images.stamps[row] - images.stamps[group[0]] <= slop_ns
            and images.camera[row] not in images.camera[group]
        ):
            group.append(row)
        else:
            newest[rig] = [row]
            groups.append(newest[rig])
    return groups


def _info(images: ImageTable, rows: list[int], rigs: bool) -> QueryInfo:
    names = tuple(images.names[row] for row in rows)
    stamp = int(images.stamps[rows[len(rows) // 2]])
    device = images.frame_rigs[images.frames[rows[0]]]
    if rigs and device in images.rigs:
        return QueryInfo(stamp, device, device, names)
    camera = images.cameras[images.camera[rows[0]]].sensor_id
    return QueryInfo(stamp, names[0], camera, names)


@dataclass(frozen=True, slots=True)
class _Vectors:
    """What one sensor measured: stamps (N,), values (N, 3) in its axes."""

    sensor: str
    stamps: npt.NDArray[np.int64]
    values: Array


def _vectors(
    dataset: Path, kind: str, placed: Mapping[str, Transform], names: tuple[str, str, str]
) -> _Vectors | None:
    """The records of that sensor on a rig that has most; None if there is none."""
    by_sensor: dict[str, list[tuple[int, tuple[float, ...]]]] = {}
    for stamp, sensors in sorted(read_records(dataset, kind).items()):
        for sensor, record in sensors.items():
            if sensor in placed:
                values = tuple(getattr(record, name) for name in names)
                by_sensor.setdefault(sensor, []).append((stamp, values))
    if not by_sensor:
        return None
    sensor, rows = max(by_sensor.items(), key=lambda item: len(item[1]))
    stamps = np.array([stamp for stamp, _ in rows], np.int64)
    return _Vectors(sensor, stamps, np.array([values for _, values in rows], float))


def _nearest(stamps: npt.NDArray[np.int64], stamp: int, max_age_ns: int) -> int | None:
    """The row of the nearest of ascending stamps, if it is near enough."""
    if len(stamps) == 0:
        return None
    after = int(np.searchsorted(stamps, stamp))
    rows = [row for row in (after - 1, after) if 0 <= row < len(stamps)]
    row = min(rows, key=lambda r: abs(int(stamps[r]) - stamp))
    return row if abs(int(stamps[row]) - stamp) <= max_age_ns else None
