"""The images of a kapture dataset as arrays: names, cameras, stamps, rig instants, poses.

Read from `sensors/` of a dataset or map with NAVER's kapture library; every step of
mapping works on this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kapture_ros.errors import InputError
from kapture_ros.transforms.se3 import Array, Transform, rotations

if TYPE_CHECKING:
    import kapture

UNCALIBRATED = "UNKNOWN_CAMERA"


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera with kapture's (COLMAP's) model name and parameters.

    The model is UNKNOWN_CAMERA, without parameters, if there was no calibration.
    """

    sensor_id: str
    model: str
    width: int
    height: int
    params: tuple[float, ...]

    @property
    def focal(self) -> float:
        """Focal length in pixels (the first one if there are two)."""
        return self.params[0]


@dataclass(frozen=True, slots=True)
class ImageTable:
    """N images in the order of time.

    Attributes:
        cameras: every camera; `camera` (N,) int32 are rows of it.
        stamps: (N,) int64, as in the dataset (nanoseconds where it was recorded by us).
        frames: (N,) int32, images with the same number were taken at one instant by one
            rig; `frame_rigs` names the rig (or lone camera) of each instant.
        poses: (N, 7) cam_from_map as qw, qx, qy, qz, tx, ty, tz; NaN where unknown.
        rigs: rig id -> sensor id -> sensor_from_rig, nested rigs resolved.
    """

    names: tuple[str, ...]
    cameras: tuple[Camera, ...]
    camera: npt.NDArray[np.int32]
    stamps: npt.NDArray[np.int64]
    frames: npt.NDArray[np.int32]
    frame_rigs: tuple[str, ...]
    poses: Array
    rigs: Mapping[str, Mapping[str, Transform]]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def posed(self) -> npt.NDArray[np.bool_]:
        """Which images have a pose."""
        return np.asarray(np.isfinite(self.poses).all(axis=1))

    def rows_by_name(self) -> dict[str, int]:
        """The row of each image, made anew: keep it where it is asked again."""
        return {name: row for row, name in enumerate(self.names)}

    def cam_from_map(self, row: int) -> Transform:
        """The pose of one image."""
        return Transform.from_quaternion(self.poses[row, :4], self.poses[row, 4:])

    def centers(self) -> Array:
        """Camera centres (N, 3) in the map frame, metres; NaN where unknown."""
        return centers(self.poses)

    def view_directions(self) -> Array:
        """Optical axes (N, 3) in the map frame; NaN where unknown."""
        result = np.full((len(self), 3), np.nan)
        known = self.posed
        if known.any():
            result[known] = rotations(self.poses[known, :4]).inv().apply([0.0, 0.0, 1.0])
        return result

    def with_poses(self, rows: npt.NDArray[np.int64], poses: Array) -> ImageTable:
        """The table with new poses (K, 7) of some images."""
        changed = self.poses.copy()
        changed[rows] = poses
        return replace(self, poses=changed)

    def select(self, rows: npt.ArrayLike) -> ImageTable:
        """The table of some images, in the order given; instants are numbered anew."""
        chosen = np.asarray(rows)
        if chosen.dtype == bool:
            chosen = np.flatnonzero(chosen)
        kept, frames = np.unique(self.frames[chosen], return_inverse=True)
        return replace(
            self,
            names=tuple(self.names[row] for row in chosen),
            camera=self.camera[chosen],
            stamps=self.stamps[chosen],
            frames=frames.astype(np.int32),
            frame_rigs=tuple(self.frame_rigs[frame] for frame in kept),
            poses=self.poses[chosen],
        )


def require_calibration(images: ImageTable, source: Path) -> None:
    """Refuse cameras that took images and have no usable calibration.

    Raises:
        InputError: naming the camera and the cure.
    """
    for row in np.unique(images.camera):
        camera = images.cameras[row]
        if camera.model == UNCALIBRATED:
            raise InputError(
                f"{source}: camera '{camera.sensor_id}' has no calibration; record its "
                "CameraInfo, or pass --estimate-intrinsics to guess and refine it"
            )
        if not np.isfinite(camera.params).all() or camera.focal <= 0:
            raise InputError(f"{source}: the calibration of '{camera.sensor_id}' is not finite")


def centers(poses: Array) -> Array:
    """Camera centres (N, 3) of poses cam_from_map (N, 7); NaN where unknown."""
    result = np.full((len(poses), 3), np.nan)
    known = np.isfinite(poses).all(axis=1)
    if known.any():
        result[known] = -rotations(poses[known, :4]).inv().apply(poses[known, 4:])
    return result


def read_images(dataset: Path) -> ImageTable:
    """The images of a kapture dataset, by time and camera.

    Raises:
        InputError: if the dataset has no images, a file is not kapture's, or two images
            have one name.
    """
    parts = _read_parts(dataset)
    cameras = tuple(
        _camera(sensor_id, sensor)
        for sensor_id, sensor in sorted(parts.sensors.items())
        if sensor.sensor_type == "camera"
    )
    row_of_camera = {camera.sensor_id: row for row, camera in enumerate(cameras)}
    records = sorted(
        (stamp, sensor_id, name)
        for stamp, sensors in parts.records_camera.items()
        for sensor_id, name in sensors.items()
    )
    if not records:
        raise InputError(f"{dataset} has no images (sensors/records_camera.txt is empty)")
    names = tuple(name for _, _, name in records)
    if len(set(names)) < len(names):
        raise InputError(f"{dataset}: an image is listed twice in sensors/records_camera.txt")
    unknown = {sensor_id for _, sensor_id, _ in records} - set(row_of_camera)
    if unknown:
        raise InputError(f"{dataset}: '{min(unknown)}' has images but is no camera in sensors.txt")
    rigs = _flat_rigs(parts.rigs)
    frames, frame_rigs = _frames(records, rigs)
    return ImageTable(
        names=names,
        cameras=cameras,
        camera=np.array([row_of_camera[sensor_id] for _, sensor_id, _ in records], np.int32),
        stamps=np.array([stamp for stamp, _, _ in records], np.int64),
        frames=frames,
        frame_rigs=frame_rigs,
        poses=_poses(records, parts.trajectories, rigs),
        rigs=rigs,
    )


@dataclass(frozen=True, slots=True)
class _Parts:
    sensors: kapture.Sensors
    rigs: kapture.Rigs
    trajectories: kapture.Trajectories
    records_camera: kapture.RecordsCamera


def _read_parts(dataset: Path) -> _Parts:
    # Here, since it takes a second to import and a map's index does without.
    import kapture
    import kapture.io.csv as kapture_csv

    readers: dict[str, tuple[Any, Any]] = {
        "sensors": (kapture_csv.sensors_from_file, None),
        "rigs": (kapture_csv.rigs_from_file, kapture.Rigs()),
        "trajectories": (kapture_csv.trajectories_from_file, kapture.Trajectories()),
        "records_camera": (kapture_csv.records_camera_from_file, None),
    }
    found: dict[str, Any] = {}
    for name, (reader, absent) in readers.items():
        path = dataset / "sensors" / f"{name}.txt"
        if not path.is_file():
            if absent is None:
                raise InputError(f"{dataset} is no kapture dataset: sensors/{name}.txt is missing")
            found[name] = absent
            continue
        try:
            found[name] = reader(str(path))
        except (ValueError, AssertionError, KeyError, TypeError) as error:
            raise InputError(f"{path} is not a valid kapture file: {error}") from error
    return _Parts(**found)


def _camera(sensor_id: str, sensor: kapture.Camera) -> Camera:
    width, height, *params = sensor.camera_params
    return Camera(sensor_id, sensor.camera_type.name, int(width), int(height), tuple(params))


def _flat_rigs(rigs: kapture.Rigs) -> dict[str, dict[str, Transform]]:
    """Every root rig with all its sensors, through rigs of rigs."""
    inner = {sensor_id for sensors in rigs.values() for sensor_id in sensors}

    def sensors_of(rig_id: str, depth: int) -> dict[str, Transform]:
        if depth > len(rigs):
            raise InputError(f"rigs.txt: rig '{rig_id}' contains itself")
        found: dict[str, Transform] = {}
        for sensor_id, pose in rigs[rig_id].items():
            sensor_from_rig = Transform.from_quaternion(pose.r_raw, pose.t_raw)
            if sensor_id not in rigs:
                found[sensor_id] = sensor_from_rig
                continue
            for leaf, leaf_from_sensor in sensors_of(sensor_id, depth + 1).items():
                found[leaf] = leaf_from_sensor @ sensor_from_rig
        return found

    roots = [rig_id for rig_id in rigs if rig_id not in inner]
    if rigs and not roots:
        raise InputError("rigs.txt: every rig contains another in a circle")
    return {rig_id: sensors_of(rig_id, 0) for rig_id in roots}


def _frames(
    records: list[tuple[int, str, str]], rigs: Mapping[str, Mapping[str, Transform]]
) -> tuple[npt.NDArray[np.int32], tuple[str, ...]]:
    rig_of = {sensor_id: rig_id for rig_id, sensors in rigs.items() for sensor_id in sensors}
    numbers: dict[tuple[int, str], int] = {}
    frames = np.empty(len(records), np.int32)
    for row, (stamp, sensor_id, _) in enumerate(records):
        key = stamp, rig_of.get(sensor_id, sensor_id)
        frames[row] = numbers.setdefault(key, len(numbers))
    return frames, tuple(rig_id for _, rig_id in numbers)


def _poses(
    records: list[tuple[int, str, str]],
    trajectories: kapture.Trajectories,
    rigs: Mapping[str, Mapping[str, Transform]],
) -> Array:
    """cam_from_map of every image: its own row, or its rig's moved by the extrinsics."""
    rig_of = {sensor_id: rig_id for rig_id, sensors in rigs.items() for sensor_id in sensors}
    poses = np.full((len(records), 7), np.nan)
    for row, (stamp, sensor_id, _) in enumerate(records):
        at = trajectories.get(stamp, {})
        rig_id = rig_of.get(sensor_id)
        if sensor_id in at:
            pose = _complete(at[sensor_id])
        elif rig_id is not None and rig_id in at:
            rig_from_map = _complete(at[rig_id])
            pose = rigs[rig_id][sensor_id] @ rig_from_map if rig_from_map else None
        else:
            pose = None
        if pose is not None:
            poses[row] = [*pose.quaternion, *pose.translation]
    return poses


def _complete(pose: kapture.PoseTransform) -> Transform | None:
    """The transform, or None if kapture knows only a part of it."""
    if pose.r is None or pose.t is None or not np.isfinite([*pose.r_raw, *pose.t_raw]).all():
        return None
    return Transform.from_quaternion(pose.r_raw, pose.t_raw)
