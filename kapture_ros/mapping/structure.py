"""The points of a map and their observations as arrays, from and to kapture's text files.

`reconstruction/points3d.txt` and `reconstruction/observations.txt` are read line by line:
NAVER's reader keeps every observation as Python objects, which a large map has no memory
for.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kapture_ros.errors import InputError
from kapture_ros.files import write_atomically
from kapture_ros.mapping.images import ImageTable
from kapture_ros.transforms.se3 import Array

HEADER = "# kapture format: 1.1\n"
POINTS = Path("reconstruction") / "points3d.txt"
OBSERVATIONS = Path("reconstruction") / "observations.txt"


@dataclass(frozen=True, slots=True)
class Structure:
    """P points and M observations, sorted by image and keypoint.

    Attributes:
        xyz: (P, 3) metres, map frame.
        rgb: (P, 3) uint8.
        offsets: (N + 1,) int64, the observations of image i are offsets[i]:offsets[i + 1].
        points: (M,) int32, the point observed.
        keypoints: (M,) int32, the keypoint of the image that observes it.
    """

    xyz: Array
    rgb: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    points: npt.NDArray[np.int32]
    keypoints: npt.NDArray[np.int32]

    @classmethod
    def from_rows(
        cls,
        xyz: Array,
        rgb: npt.NDArray[np.uint8],
        images: npt.NDArray[np.int32],
        points: npt.NDArray[np.int32],
        keypoints: npt.NDArray[np.int32],
        count: int,
    ) -> Structure:
        """From observations (M,) in any order, of `count` images."""
        order = np.lexsort((keypoints, images))
        offsets = np.zeros(count + 1, np.int64)
        np.cumsum(np.bincount(images, minlength=count), out=offsets[1:])
        return cls(xyz, rgb, offsets, points[order], keypoints[order])

    @property
    def images(self) -> npt.NDArray[np.int32]:
        """The image of each observation (M,)."""
        count = len(self.offsets) - 1
        return np.repeat(np.arange(count, dtype=np.int32), np.diff(self.offsets))

    def by_point(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Offsets (P + 1,) and the observations' rows (M,), point by point."""
        offsets = np.zeros(len(self.xyz) + 1, np.int64)
        np.cumsum(np.bincount(self.points, minlength=len(self.xyz)), out=offsets[1:])
        return offsets, np.argsort(self.points, kind="stable")


def read_structure(map_dir: Path, images: ImageTable, keypoints_type: str) -> Structure:
    """The points of a map and which keypoints of `images` observe them.

    Observations of other keypoint types and of images that are not in the table are left
    out.

    Raises:
        InputError: if a file is missing or a line is not kapture's.
    """
    xyz, rgb = _read_points(map_dir / POINTS)
    path = map_dir / OBSERVATIONS
    row_of = images.rows_by_name()
    image_rows, points, keypoints = array("i"), array("i"), array("i")
    number = 0
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):  # noqa: B007, the number is for the error
                fields = [field.strip() for field in line.split(",")]
                if line.startswith("#") or not fields[0] or fields[1] != keypoints_type:
                    continue
                for name, keypoint in zip(fields[2::2], fields[3::2], strict=True):
                    row = row_of.get(name)
                    if row is not None:
                        image_rows.append(row)
                        points.append(int(fields[0]))
                        keypoints.append(int(keypoint))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, IndexError, OverflowError) as error:
        raise InputError(f"{path}, line {number}: not a row of observations") from error
    rows = [np.frombuffer(values, np.int32) if values else np.empty(0, np.int32)
            for values in (image_rows, points, keypoints)]  # fmt: skip
    if len(rows[1]) and not 0 <= rows[1].min() <= rows[1].max() < len(xyz):
        raise InputError(f"{path} names points that {POINTS.name} does not have")
    return Structure.from_rows(xyz, rgb, rows[0], rows[1], rows[2], len(images))


def write_structure(
    map_dir: Path, images: ImageTable, keypoints_type: str, structure: Structure
) -> None:
    """Write points3d.txt and observations.txt.

    Raises:
        OutputError: if they cannot be written.
    """
    (map_dir / POINTS.parent).mkdir(parents=True, exist_ok=True)
    lines = [f"{HEADER}# X, Y, Z, R, G, B\n"]
    lines += [
        f"{x:.6f}, {y:.6f}, {z:.6f}, {r}, {g}, {b}\n"
        for (x, y, z), (r, g, b) in zip(structure.xyz, structure.rgb, strict=True)
    ]
    write_atomically(map_dir / POINTS, "".join(lines))
    offsets, rows = structure.by_point()
    image_of = structure.images
    lines = [f"{HEADER}# point3d_id, keypoints_type, [image_path, feature_id]*\n"]
    for point in range(len(structure.xyz)):
        seen = rows[offsets[point] : offsets[point + 1]]
        pairs = "".join(
            f", {images.names[image_of[row]]}, {structure.keypoints[row]}" for row in seen
        )
        lines.append(f"{point}, {keypoints_type}{pairs}\n")
    write_atomically(map_dir / OBSERVATIONS, "".join(lines))


def _read_points(path: Path) -> tuple[Array, npt.NDArray[np.uint8]]:
    try:
        values = np.loadtxt(path, delimiter=",", ndmin=2)
    except OSError as error:
        raise InputError(f"cannot read {path}: it is missing or unreadable") from error
    except ValueError as error:
        raise InputError(f"{path} is not a list of points: {error}") from error
    if values.size == 0:
        return np.empty((0, 3)), np.empty((0, 3), np.uint8)
    if values.shape[1] not in (3, 6) or not np.isfinite(values).all():
        raise InputError(f"{path}: expected rows of X, Y, Z or X, Y, Z, R, G, B")
    rgb = values[:, 3:] if values.shape[1] == 6 else np.zeros((len(values), 3))
    return values[:, :3].copy(), np.clip(rgb, 0, 255).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class PointGeometry:
    """How points were seen; the attributes of the same names in `visual_map.Points`."""

    direction: npt.NDArray[np.float32]
    distance: npt.NDArray[np.float32]
    track_length: npt.NDArray[np.int32]
    covariance: npt.NDArray[np.float32]


def point_geometry(images: ImageTable, structure: Structure) -> PointGeometry:
    """Mean viewing ray, distance, track length and covariance of every point.

    An observation of σ = 1 px measures a bearing b to σ / f radians, hence the point
    to d σ / f across b at the distance d: its information is (I − b bᵀ) f² / (d σ)².
    The covariance is the inverse of the sum, the camera poses being taken as exact.
    """
    count = len(structure.xyz)
    image_of = structure.images
    rays = structure.xyz[structure.points] - images.centers()[image_of]
    distance = np.maximum(np.linalg.norm(rays, axis=1), 1e-9)
    bearing = rays / distance[:, None]
    focal = np.array([camera.focal if camera.params else math.nan for camera in images.cameras])
    weight = (focal[images.camera[image_of]] / distance) ** 2
    length = np.bincount(structure.points, minlength=count)
    seen = np.maximum(length, 1)
    direction = np.stack([_sum(structure.points, b, count) for b in bearing.T], axis=1)
    norm = np.maximum(np.linalg.norm(direction, axis=1, keepdims=True), 1e-9)
    return PointGeometry(
        direction=(direction / norm).astype(np.float32),
        distance=(_sum(structure.points, distance, count) / seen).astype(np.float32),
        track_length=length.astype(np.int32),
        covariance=_covariance(structure.points, bearing, weight, count),
    )


def _covariance(
    points: npt.NDArray[np.int32], bearing: Array, weight: Array, count: int
) -> npt.NDArray[np.float32]:
    information = np.empty((count, 3, 3))
    for row in range(3):
        for column in range(row, 3):
            part = weight * (float(row == column) - bearing[:, row] * bearing[:, column])
            total = _sum(points, part, count)
            information[:, row, column] = information[:, column, row] = total
    result = np.full((count, 6), np.inf, np.float32)
    # Rays that are parallel to 1e-6 say nothing about depth: their inverse is noise.
    spread = np.linalg.eigvalsh(information)
    known = spread[:, 0] > 1e-12 * np.maximum(spread[:, 2], 1e-300)
    inverse = np.linalg.inv(information[known])
    upper = np.triu_indices(3)
    result[known] = inverse[:, upper[0], upper[1]]
    return result


def _sum(points: npt.NDArray[np.int32], values: Array, count: int) -> Array:
    return np.bincount(points, weights=values, minlength=count).astype(float, copy=False)
