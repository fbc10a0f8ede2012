"""True poses of a query drive in the frame of a map, where the truth has a frame of its own.

A map that was placed by GNSS lies as well as GNSS did, some decimetres to metres beside the
truth. What a vehicle needs is its place relative to what was mapped: the rigid motion that
takes the true poses of the map's images to those in the map is applied to the truth of the
query. Read and written with NAVER's kapture library.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import kapture
import kapture.io.csv as kapture_csv
import numpy as np
from scipy.spatial.transform import Rotation

from kapture_ros.errors import InputError, OutputError
from kapture_ros.evaluation.poses import read_poses
from kapture_ros.evaluation.trajectory import AbsoluteError, absolute_errors, align
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.se3 import Array, Transform

_TABLES = ("sensors.txt", "rigs.txt", "records_camera.txt")


@dataclass(frozen=True, slots=True)
class Placement:
    """How a map lies in the frame of the truth.

    Attributes:
        map_from_truth: the rigid motion that fits best.
        errors: of the positions of the map's images, before and after alignment.
    """

    map_from_truth: Transform
    errors: tuple[AbsoluteError, ...]


def place_map(map_dir: Path, truth: Path) -> Placement:
    """Fit the map's images to the true poses of the drive it was made from.

    Args:
        truth: a dataset of the mapping drive with its true poses.

    Raises:
        InputError: if they have fewer than three images in common, or all on one line.
    """
    true = read_poses(truth).image_poses()
    mapped = read_poses(map_dir).image_poses()
    # A map names its images after the drive they are of: NAME or DRIVE/NAME.
    pairs = [
        (pose.translation, true[short].translation)
        for name, pose in mapped.items()
        for short in (name, name.partition("/")[2])
        if short in true
    ]
    fitted = None
    if pairs:
        found, expected = (np.array(column) for column in zip(*pairs, strict=True))
        fitted = align(expected, found, with_scale=False)
    if fitted is None:
        raise InputError(
            f"{map_dir} has {len(pairs)} images in common with {truth}: too few, or all on one "
            "line, to lay one over the other"
        )
    return Placement(fitted[1], absolute_errors(found, expected))


def georeference_error(
    map_from_truth: Transform, map_datum: Datum, truth_datum: Datum, place_map: Array
) -> tuple[float, float]:
    """Metres and degrees by which a map's datum puts a place of it (3,) beside where it is.

    Args:
        map_from_truth: how the map really lies in the frame of the truth.
        truth_datum: where that frame is on the Earth, exactly.
    """
    on_earth = truth_datum.latitude, truth_datum.longitude, truth_datum.altitude
    turn = Rotation.from_euler("z", truth_datum.yaw - map_datum.yaw)
    by_datum = Transform(turn, map_datum.map_from_geodetic(*on_earth)[0])
    there = by_datum.apply(map_from_truth.inverse().apply(place_map))
    _, radians = by_datum.distance_to(map_from_truth)
    return float(np.linalg.norm(there - place_map)), float(np.rad2deg(radians))


def write_reference(truth: Path, map_from_truth: Transform, out: Path) -> None:
    """Write a dataset that holds the true poses in the frame of the map, and nothing else.

    Raises:
        InputError: if `truth` has no poses.
        OutputError: if it cannot be written.
    """
    trajectories = kapture.Trajectories()
    truth_from_map = map_from_truth.inverse()
    for device, poses in read_poses(truth).rows.items():
        for stamp, device_from_truth in poses.items():
            moved = device_from_truth @ truth_from_map
            pose = kapture.PoseTransform(moved.quaternion, moved.translation)
            trajectories[stamp, device] = pose
    try:
        (out / "sensors").mkdir(parents=True, exist_ok=True)
        for table in _TABLES:
            if (truth / "sensors" / table).is_file():
                shutil.copyfile(truth / "sensors" / table, out / "sensors" / table)
        kapture_csv.trajectories_to_file(str(out / "sensors" / "trajectories.txt"), trajectories)
    except OSError as error:
        raise OutputError(f"cannot write {error.filename or out}: {error.strerror}") from error
