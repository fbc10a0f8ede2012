"""Poses of a kapture dataset by stamp and device, rigs resolved both ways.

Read from `sensors/trajectories.txt`, `rigs.txt` and `records_camera.txt` with NAVER's
kapture library; used for references, for estimates of any localizer, and for map images.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kapture
import kapture.io.csv as kapture_csv
import numpy as np

from kapture_ros.errors import InputError
from kapture_ros.transforms.se3 import Transform, interpolate


@dataclass(frozen=True, slots=True)
class Track:
    """Where one device was: stamps in the order of time and world_from_device at each."""

    stamps: list[int]
    poses: list[Transform]

    def at(self, stamp_ns: int, max_gap_ns: int = 0) -> Transform | None:
        """The pose, interpolated between two at most `max_gap_ns` apart; None if unknown."""
        after = bisect_left(self.stamps, stamp_ns)
        if after < len(self.stamps) and self.stamps[after] == stamp_ns:
            return self.poses[after]
        if after in (0, len(self.stamps)):
            return None
        start, end = self.stamps[after - 1], self.stamps[after]
        if end - start > max_gap_ns:
            return None
        fraction = (stamp_ns - start) / (end - start)
        return interpolate(self.poses[after - 1], self.poses[after], fraction)


@dataclass(frozen=True, slots=True)
class PoseTable:
    """Where devices and images were.

    Attributes:
        rows: device -> stamp -> device_from_world, as in trajectories.txt.
        mounts: device -> the outermost rig it is on, and device_from_rig; a device on no rig
            is its own.
        images: image name -> (stamp, sensor id).
    """

    rows: Mapping[str, Mapping[int, Transform]]
    mounts: Mapping[str, tuple[str, Transform]]
    images: Mapping[str, tuple[int, str]]

    def device(self, query: str) -> str:
        """The device that a query's name stands for: the camera of an image, else itself."""
        return self.images[query][1] if query in self.images else query

    def track(self, device: str) -> Track:
        """All poses of one device.

        Where it has none of its own, that of its rig, or else of the rig's other sensors, is
        moved by the extrinsics.
        """
        root, device_from_root = self._mount(device)
        others = sorted(name for name in self.rows if self._mount(name)[0] == root)
        found: dict[int, Transform] = {}
        # The nearer to the device the better: later ones replace earlier ones.
        for name in (*reversed(others), root, device):
            name_from_root = self._mount(name)[1]
            name_from_device = name_from_root @ device_from_root.inverse()
            for stamp, name_from_world in self.rows.get(name, {}).items():
                found[stamp] = name_from_world.inverse() @ name_from_device
        stamps = sorted(found)
        return Track(stamps, [found[stamp] for stamp in stamps])

    def image_poses(self) -> dict[str, Transform]:
        """world_from_camera of every image that has a pose."""
        tracks = {sensor: self.track(sensor) for sensor in {s for _, s in self.images.values()}}
        poses = {name: tracks[sensor].at(stamp) for name, (stamp, sensor) in self.images.items()}
        return {name: pose for name, pose in poses.items() if pose is not None}

    def span(self) -> str:
        """Devices and range of stamps in words, for messages."""
        stamps = [stamp for series in self.rows.values() for stamp in series]
        if not stamps:
            return "no poses"
        devices = sorted(self.rows)
        shown = ", ".join(f"'{name}'" for name in devices[:3]) + ", …" * (len(devices) > 3)
        return f"poses of {shown} at stamps {min(stamps)} to {max(stamps)}"

    def _mount(self, device: str) -> tuple[str, Transform]:
        return self.mounts.get(device, (device, Transform()))


def read_poses(dataset: Path) -> PoseTable:
    """The poses of a kapture dataset; rows with only a position or a rotation are left out.

    Raises:
        InputError: if there is no trajectory, a file is not kapture's, a pose is not finite,
            or rigs contain each other.
    """
    trajectories = _read(dataset, "trajectories", kapture_csv.trajectories_from_file)
    if trajectories is None:
        raise InputError(f"{dataset} has no poses: sensors/trajectories.txt is missing")
    rows: dict[str, dict[int, Transform]] = {}
    for stamp, devices in trajectories.items():
        for device, pose in devices.items():
            if pose.r is not None and pose.t is not None:
                where = f"{dataset}/sensors/trajectories.txt: '{device}' at {stamp}"
                rows.setdefault(device, {})[stamp] = _transform(pose, where)
    rigs = _read(dataset, "rigs", kapture_csv.rigs_from_file) or {}
    return PoseTable(rows, _mounts(dataset, rigs), read_images(dataset))


def read_images(dataset: Path) -> dict[str, tuple[int, str]]:
    """Stamp and sensor of every image of a kapture dataset by name; none if it has no images.

    Raises:
        InputError: if the file is not kapture's.
    """
    records = _read(dataset, "records_camera", kapture_csv.records_camera_from_file) or {}
    return {
        name: (stamp, sensor)
        for stamp, sensors in sorted(records.items())
        for sensor, name in sorted(sensors.items())
    }


def _read(dataset: Path, name: str, reader: Callable[[str], Any]) -> Any:
    path = dataset / "sensors" / f"{name}.txt"
    if not path.is_file():
        return None
    try:
        return reader(str(path))
    except (ValueError, AssertionError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not a valid kapture file: {error}") from error


def _transform(pose: kapture.PoseTransform, where: str) -> Transform:
    try:
        return Transform.from_quaternion(pose.r_raw, np.ravel(pose.t_raw))
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error


def _mounts(
    dataset: Path, rigs: Mapping[str, Mapping[str, kapture.PoseTransform]]
) -> dict[str, tuple[str, Transform]]:
    """Every device's outermost rig and device_from_rig, through rigs of rigs."""
    path = dataset / "sensors" / "rigs.txt"
    holders = {
        device: (rig, _transform(pose, f"{path}: '{device}' on '{rig}'"))
        for rig, devices in rigs.items()
        for device, pose in devices.items()
    }
    mounts = {}
    for device in holders:
        top, device_from_top = device, Transform()
        for _ in range(len(holders) + 1):
            if top not in holders:
                break
            top, step = holders[top][0], holders[top][1]
            device_from_top = device_from_top @ step
        else:
            raise InputError(f"{path}: '{device}' is mounted on itself in a circle")
        mounts[device] = (top, device_from_top)
    return mounts
