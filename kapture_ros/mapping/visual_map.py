"""The map as a localizer sees it: memory-mapped arrays, loaded without parsing text.

`build_index` (in `index.py`) makes the arrays from the kapture files of a map;
`VisualMap.load` maps them into memory and rebuilds them when the map has changed.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from kapture_ros.errors import InputError
from kapture_ros.files import write_atomically
from kapture_ros.mapping import index
from kapture_ros.mapping.grid import SpatialGrid
from kapture_ros.mapping.images import Camera
from kapture_ros.mapping.manifest import FeatureTypes, Manifest, read_manifest
from kapture_ros.mapping.retrieval_index import RetrievalIndex
from kapture_ros.transforms.geodesy import Datum
from kapture_ros.transforms.se3 import Transform

HELD_OUT = "held_out.csv"
AXES = ("x", "y", "z", "rx", "ry", "rz")
HELD_OUT_COLUMNS = (
    *("x", "y", "z", "second_m", "error_m", "error_deg"),
    *("dx_m", "dy_m", "dz_m", "rx_deg", "ry_deg", "rz_deg"),
    *(f"own_{a}_{b}" for a, b in itertools.combinations_with_replacement(AXES, 2)),
    "weighed",
    "drift",
)
ADDED = (1, 2, 2 + 21, 2 + 21 + 6)  # so many of the last of them older tables do not have
TWINS = "twins.csv"
TWIN_COLUMNS = ("point", "twin")
log = logging.getLogger(__name__)

Array = npt.NDArray[np.float64]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """What one map image offers for matching.

    Attributes:
        descriptors: (n, D) float16, unit length, of its triangulated keypoints only.
        points: (n,) int32, the point each belongs to.
        keypoints: (n, 2) float32 pixels, in the coordinates of the camera parameters.
    """

    descriptors: npt.NDArray[np.float16]
    points: Int32
    keypoints: Floats


@dataclass(frozen=True, slots=True)
class Points:
    """P points of the map.

    Attributes:
        xyz: (P, 3) float64 metres, map frame.
        direction: (P, 3) float32, mean unit vector from the cameras to the point.
        distance: (P,) float32, mean distance of the cameras, metres.
        track_length: (P,) int32, images that observe it.
        covariance: (P, 6) float32 square metres: xx, xy, xz, yy, yz, zz, poses taken as
            exact and 1 px noise; infinite for points without two rays.
        rgb: (P, 3) uint8, zero where colours are unknown.
        offsets: (P + 1,) int64 into `observations`.
        observations: (M,) int64, rows of the map's observation arrays, point by point.
    """

    xyz: Array
    direction: Floats
    distance: Floats
    track_length: Int32
    covariance: Floats
    rgb: npt.NDArray[np.uint8]
    offsets: Int64
    observations: Int64

    def __len__(self) -> int:
        return len(self.xyz)


@dataclass(frozen=True, slots=True)
class GnssRecords:
    """GNSS fixes of the mapping drives: stamps (G,) ns, positions (G, 3) map frame, dop (G,)."""

    stamps: Int64
    positions: Array
    dop: Floats


@dataclass(frozen=True, slots=True)
class WifiScans:
    """Wi-Fi fingerprints of the mapping drives.

    Attributes:
        positions: (S, 3) where each scan was taken, map frame.
        offsets: (S + 1,) int64 into the two arrays below.
        bssid: (W,) int32, rows of `bssids`.
        rssi: (W,) float32 dBm.
        bssids: every access point heard.
    """

    positions: Array
    offsets: Int64
    bssid: Int32
    rssi: Floats
    bssids: tuple[str, ...]


class VisualMap:
    """A map, memory-mapped. N images, P points, M observations of points in images.

    Rows of images are in the order of time. Use `load`.

    Attributes:
        path: the map's folder.
        manifest: the content of map.yaml.
        map_id: hash of the map's content; two maps with one id are the same map.
        cameras: the cameras; `image_camera` (N,) int32 are rows of it.
        rigs: rig id -> sensor id -> sensor_from_rig.
        image_stamps: (N,) int64.
        image_frames: (N,) int32, equal for images of one rig instant.
        image_poses: (N, 7) cam_from_map, qw, qx, qy, qz, tx, ty, tz.
        image_centers: (N, 3) camera centres, map frame, metres.
        retrieval: search over the global descriptors.
        points, gnss, wifi: see there.
        image_grid: spatial grid over `image_centers`.
        observation_offsets: (N + 1,) int64, an image's rows in the observation arrays.
        observation_points: (M,) int32; observation_keypoints: (M, 2) float32 pixels;
        observation_descriptors: (M, D) float16.
    """

    def __init__(self, path: Path, manifest: Manifest, header: dict[str, Any]):
        arrays = index.open_arrays(path, header)
        self.path = path
        self.manifest = manifest
        self.map_id: str = header["map_id"]
        self.retrieval_recall: float = header["retrieval"]["recall"]
        self.cameras = tuple(
            Camera(**{**camera, "params": tuple(camera["params"])}) for camera in header["cameras"]
        )
        self.rigs = {
            rig_id: {
                sensor_id: Transform.from_quaternion(pose[:4], pose[4:])
                for sensor_id, pose in sensors.items()
            }
            for rig_id, sensors in header["rigs"].items()
        }
        self.image_camera: Int32 = arrays["image_camera"]
        self.image_stamps: Int64 = arrays["image_stamp"]
        self.image_frames: Int32 = arrays["image_frame"]
        self.image_poses: Array = arrays["image_pose"]
        self.image_centers: Array = arrays["image_center"]
        self.observation_offsets: Int64 = arrays["observation_offset"]
        self.observation_points: Int32 = arrays["observation_point"]
        self.observation_keypoints: Floats = arrays["observation_xy"]
        self.observation_descriptors: npt.NDArray[np.float16] = arrays["observation_descriptor"]
        self.retrieval = RetrievalIndex.load(
            arrays["global_descriptor"], path / index.FOLDER / index.LISTS
        )
        self.points = Points(
            *(arrays[f"point_{part}"] for part in index.POINT_PARTS),
        )
        keys, offsets, rows = (arrays[f"image_grid_{part}"] for part in ("key", "offset", "row"))
        self.image_grid = SpatialGrid(index.CELL, keys, offsets, rows, self.image_centers)
        self.gnss = GnssRecords(*(arrays[f"gnss_{part}"] for part in ("stamp", "xyz", "dop")))
        self._names: npt.NDArray[np.uint8] = arrays["image_name"]
        self._arrays = arrays

    @classmethod
    def load(cls, path: Path) -> VisualMap:
        """Map a map into memory; its index is built anew if it is missing, of another
        state of the map, or damaged (a warning says which).

        Raises:
            InputError: if `path` is no map or its kapture files are damaged.
            OutputError: if the index must be built and cannot be written.
        """
        manifest = read_manifest(path)
        try:
            return cls(path, manifest, index.read_header(path, manifest))
        except index.StaleIndexError as reason:
            log.warning("%s: building the index (%s)", path, reason)
        index.build_index(path)
        try:
            return cls(path, manifest, index.read_header(path, manifest))
        except index.StaleIndexError as reason:
            raise InputError(
                f"{path}: the index cannot be used just after building: {reason}"
            ) from reason

    def __len__(self) -> int:
        return len(self.image_camera)

    @property
    def datum(self) -> Datum | None:
        """Where the map frame is on the Earth, if known."""
        return self.manifest.datum

    @property
    def feature_types(self) -> FeatureTypes:
        """The names (with their hashes) of the features a query must have too."""
        return self.manifest.features

    @cached_property
    def image_names(self) -> tuple[str, ...]:
        """The names of all images (N); decoded at the first use."""
        return _lines(self._names)

    @cached_property
    def wifi(self) -> WifiScans:
        """The Wi-Fi scans; the addresses are decoded at the first use."""
        parts = (self._arrays[f"wifi_{part}"] for part in ("xyz", "offset", "bssid", "rssi"))
        positions, offsets, bssid, rssi = parts
        return WifiScans(positions, offsets, bssid, rssi, _lines(self._arrays["wifi_name"]))

    @cached_property
    def held_out(self) -> Array:
        """How wrong the map is (H, 35), an instant that was localized without itself a row.

        Camera centre (3), the distance to the second nearest instant left, root mean square error
        over the three axes of position and, in degrees, of orientation; the error itself (6) and
        the covariance that its pose was told with, the map taken as exact (21, the upper
        triangle in metres and degrees); whether its points were weighed (`weighs_points`) and
        at which rate the map was taken to drift (`drift_rate`).
        Older tables lack the last of these (NaN). Empty where it was not measured.

        Raises:
            InputError: if the table is damaged.
        """
        return _table(self.path / HELD_OUT, HELD_OUT_COLUMNS, np.float64, ADDED)

    @cached_property
    def weighs_points(self) -> bool:
        """Whether a match weighs by the covariance of its point (`mapping.held_out`)."""
        return not (self.held_out[:, HELD_OUT_COLUMNS.index("weighed")] == 0).any()

    @cached_property
    def drift_rate(self) -> float:
        """Metres by which poses a metre apart are off each other (`localization.map_drift`)."""
        rates = self.held_out[:, HELD_OUT_COLUMNS.index("drift")]
        return float(np.nan_to_num(rates[:1]).sum())

    @cached_property
    def twins(self) -> Int32:
        """Pairs of points (T, 2) that look alike at two places, both ways, sorted.

        Raises:
            InputError: if the table is damaged.
        """
        pairs: Int32 = _table(self.path / TWINS, TWIN_COLUMNS, np.int32)
        if len(pairs) and not 0 <= pairs.min() <= pairs.max() < len(self.points):
            raise InputError(f"{self.path / TWINS} is of another map: it has other points")
        return pairs

    def twins_of(self, points: Int32) -> tuple[Int64, Int32]:
        """The twins (t,) of points (n,), and which of the points each belongs to (t,)."""
        known = self.twins[:, 0]
        first, last = (np.searchsorted(known, points, side) for side in ("left", "right"))
        owner, within = _ranges(last - first)
        return owner, self.twins[first[owner] + within, 1]

    def are_seen(self, points: Int32, images: Int64) -> npt.NDArray[np.bool_]:
        """Whether any of some images observes each of some points (n,)."""
        owner, rows = self.observations_of(points)
        seen = np.isin(self.observing_images(rows), images)
        return np.bincount(owner, seen, len(points)) > 0

    def camera(self, image: int) -> Camera:
        """The camera that took an image."""
        return self.cameras[int(self.image_camera[image])]

    def cam_from_map(self, image: int) -> Transform:
        """The pose of an image."""
        pose = self.image_poses[image]
        return Transform.from_quaternion(pose[:4], pose[4:])

    def features(self, image: int) -> ImageFeatures:
        """Descriptors, points and pixels of an image's triangulated keypoints (views)."""
        part = slice(self.observation_offsets[image], self.observation_offsets[image + 1])
        return ImageFeatures(
            self.observation_descriptors[part],
            self.observation_points[part],
            self.observation_keypoints[part],
        )

    def point_observations(self, point: int) -> Int64:
        """Rows of the observation arrays in which a point is seen."""
        offsets = self.points.offsets
        return self.points.observations[offsets[point] : offsets[point + 1]]

    def observations_of(self, points: npt.NDArray[np.integer]) -> tuple[Int64, Int64]:
        """Rows of the observation arrays (m,) in which points (n,) are seen, in their order, and
        which of the points each is of (m,), first.
        """
        starts, ends = self.points.offsets[points], self.points.offsets[points + 1]
        owner, within = _ranges(ends - starts)
        return owner, self.points.observations[starts[owner] + within]

    def observing_images(self, observations: npt.ArrayLike) -> Int64:
        """The image of each row of the observation arrays."""
        rows = np.asarray(observations)
        return np.searchsorted(self.observation_offsets, rows, side="right") - 1


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Iterable[float]]) -> None:
    """Write a table beside a map, with a header; whole numbers of 32 bits stay exact.

    Raises:
        OutputError: if it cannot be written.
    """
    lines = [",".join(columns), *(",".join(f"{value:.10g}" for value in row) for row in rows)]
    write_atomically(path, "\n".join(lines) + "\n")


def _table(
    path: Path, columns: Sequence[str], dtype: type[Any], added: Sequence[int] = ()
) -> npt.NDArray[Any]:
    """Rows (n, columns) of a table with a header; none where there is no table.

    Args:
        added: so many of the last columns may not be there: NaN.

    Raises:
        InputError: if it is damaged.
    """
    if not path.is_file():
        return np.empty((0, len(columns)), dtype)
    try:
        rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines()[1:]]
        missing = len(columns) - len(rows[0]) if rows else 0
        if missing in added:
            rows = [[*row, *["nan"] * missing] for row in rows]
        return np.array(rows, dtype).reshape(-1, len(columns))
    except ValueError as error:
        raise InputError(f"{path} is damaged: {error}") from error


def _ranges(counts: Int64) -> tuple[Int64, Int64]:
    """Of ranges so long (n,), one after another: which one, and how far into it, (m,) each."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return owner, np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)


def _lines(text: npt.NDArray[np.uint8]) -> tuple[str, ...]:
    return tuple(text.tobytes().decode("utf-8").split("\n")) if len(text) else ()


__all__ = ["GnssRecords", "ImageFeatures", "Points", "VisualMap", "WifiScans", "write_table"]
