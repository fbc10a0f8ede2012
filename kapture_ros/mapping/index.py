"""The map's binary index: made from its kapture files, checked, opened by memory mapping.

Read from `sensors/`, `reconstruction/` and `map.yaml` of a map, written to `index/`
beside them: one `.npy` file an array and `header.json` with shapes, sources and hashes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from kapture_ros.errors import InputError, KaptureRosError
from kapture_ros.files import new_output, write_atomically
from kapture_ros.mapping.feature_files import FeatureFolder, unit_rows
from kapture_ros.mapping.grid import SpatialGrid
from kapture_ros.mapping.images import ImageTable, read_images
from kapture_ros.mapping.manifest import FILE_NAME, Manifest, read_manifest
from kapture_ros.mapping.priors import gnss_arrays, wifi_arrays
from kapture_ros.mapping.retrieval_index import build_lists, storage_type
from kapture_ros.mapping.structure import Structure, point_geometry, read_structure

FOLDER = "index"
HEADER = "header.json"
LISTS = "global.faiss"
FORMAT = 1
CELL = 10.0  # metres; some dozens of images each
POINT_PARTS = (
    "xyz", "direction", "distance", "track_length", "covariance", "rgb", "offset", "observation",
)  # fmt: skip

Arrays = dict[str, npt.NDArray[Any]]


class StaleIndexError(KaptureRosError):
    """There is no usable index: missing, damaged, or of another state of the map."""


def build_index(map_dir: Path) -> None:
    """Make `index/` from the kapture files of a map.

    Raises:
        InputError: if the map's files are missing or damaged.
        OutputError: if the index cannot be written.
    """
    manifest = read_manifest(map_dir)
    images = read_images(map_dir)
    images = images.select(images.posed)
    if len(images) == 0:
        raise InputError(f"{map_dir}: no image has a pose, so there is nothing to localize in")
    structure = read_structure(map_dir, images, manifest.features.keypoints)
    with new_output(map_dir / FOLDER, overwrite=True) as folder:
        writer = _Writer(folder)
        _add_images(writer, images)
        _add_structure(writer, images, structure)
        _add_features(writer, map_dir, manifest, images, structure)
        retrieval = _add_global(writer, map_dir, manifest, images)
        writer.add_all("gnss", gnss_arrays(map_dir, manifest.datum))
        writer.add_all("wifi", wifi_arrays(map_dir, images))
        sources = {name: _fingerprint(map_dir / name) for name in _sources(map_dir, manifest)}
        header = {
            "format": FORMAT,
            "map_id": _map_id(sources),
            "sources": sources,
            "arrays": writer.written,
            "retrieval": retrieval,
            "cameras": [dataclasses.asdict(camera) for camera in images.cameras],
            "rigs": {
                rig_id: {
                    sensor_id: [*pose.quaternion, *pose.translation]
                    for sensor_id, pose in sensors.items()
                }
                for rig_id, sensors in images.rigs.items()
            },
        }
        write_atomically(folder / HEADER, json.dumps(header))


def read_header(map_dir: Path, manifest: Manifest) -> dict[str, Any]:
    """The header of an index that belongs to the map as it is now.

    Raises:
        StaleIndexError: saying why the index must be built (again).
    """
    path = map_dir / FOLDER / HEADER
    try:
        header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = header["sources"]
        current = header["format"] == FORMAT
    except FileNotFoundError as error:
        raise StaleIndexError("there is none yet") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StaleIndexError(f"{path} is damaged") from error
    if not current:
        raise StaleIndexError(f"{path} is of another version of kapture_ros")
    names = _sources(map_dir, manifest)
    if set(names) != set(known):
        raise StaleIndexError("files of the map were added or removed")
    for name in names:
        if _changed(map_dir / name, known[name]):
            raise StaleIndexError(f"{name} has changed")
    return header


def open_arrays(map_dir: Path, header: dict[str, Any]) -> Arrays:
    """Memory-map every array of an index.

    Raises:
        StaleIndexError: if a file is missing, cut off or of another shape.
    """
    arrays: Arrays = {}
    for name, expected in header["arrays"].items():
        path = map_dir / FOLDER / f"{name}.npy"
        try:
            array = np.load(path, mmap_mode="r" if expected["shape"][0] else None)
        except (OSError, ValueError, EOFError) as error:
            raise StaleIndexError(f"{path} is damaged") from error
        if [str(array.dtype), *array.shape] != [expected["dtype"], *expected["shape"]]:
            raise StaleIndexError(f"{path} does not fit its header")
        arrays[name] = np.asarray(array)  # slices of a plain array cost less
    return arrays


def damaged_arrays(map_dir: Path) -> list[str]:
    """Read the whole index and name the arrays whose content is not what was written.

    Raises:
        StaleIndexError: if there is no index to check.
    """
    header = read_header(map_dir, read_manifest(map_dir))
    return [
        name
        for name, expected in header["arrays"].items()
        if _hash(map_dir / FOLDER / f"{name}.npy") != expected["hash"]
    ]


class _Writer:
    """Writes arrays and remembers what it wrote for the header."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.written: dict[str, dict[str, Any]] = {}

    def add(self, name: str, values: npt.NDArray[Any]) -> None:
        np.save(self.folder / f"{name}.npy", np.ascontiguousarray(values))
        self._note(name, values)

    def add_all(self, of: str, arrays: Arrays) -> None:
        for part, values in arrays.items():
            self.add(f"{of}_{part}", values)

    def fill(
        self,
        name: str,
        shape: tuple[int, int],
        dtype: npt.DTypeLike,
        blocks: Iterable[npt.NDArray[Any]],
    ) -> npt.NDArray[Any]:
        """Write an array row block by row block, so that it need not fit into memory."""
        path = self.folder / f"{name}.npy"
        if shape[0] == 0:
            self.add(name, np.empty(shape, dtype))
            return np.empty(shape, dtype)
        array = np.lib.format.open_memmap(path, mode="w+", dtype=np.dtype(dtype), shape=shape)
        start = 0
        for block in blocks:
            array[start : start + len(block)] = block
            start += len(block)
        array.flush()
        self._note(name, array)
        return array

    def _note(self, name: str, values: npt.NDArray[Any]) -> None:
        self.written[name] = {
            "dtype": str(values.dtype),
            "shape": list(values.shape),
            "hash": _hash(self.folder / f"{name}.npy"),
        }


def _add_images(writer: _Writer, images: ImageTable) -> None:
    writer.add("image_name", np.frombuffer("\n".join(images.names).encode(), np.uint8))
    writer.add("image_camera", images.camera)
    writer.add("image_stamp", images.stamps)
    writer.add("image_frame", images.frames)
    writer.add("image_pose", images.poses)
    middles = images.centers()
    writer.add("image_center", middles)
    grid = SpatialGrid.build(middles, CELL)
    parts: Arrays = {"key": grid.keys, "offset": grid.offsets, "row": grid.rows}
    writer.add_all("image_grid", parts)


def _add_structure(writer: _Writer, images: ImageTable, structure: Structure) -> None:
    geometry = point_geometry(images, structure)
    offsets, observations = structure.by_point()
    parts: tuple[npt.NDArray[Any], ...] = (
        structure.xyz, geometry.direction, geometry.distance, geometry.track_length,
        geometry.covariance, structure.rgb, offsets, observations,
    )  # fmt: skip
    for part, values in zip(POINT_PARTS, parts, strict=True):
        writer.add(f"point_{part}", values)


def _add_features(
    writer: _Writer, map_dir: Path, manifest: Manifest, images: ImageTable, structure: Structure
) -> None:
    """Descriptors and pixels of the triangulated keypoints, image by image."""
    types = manifest.features
    keypoints = FeatureFolder.in_dataset(map_dir, "keypoints", types.keypoints)
    descriptors = FeatureFolder.in_dataset(map_dir, "descriptors", types.descriptors)
    total = len(structure.points)

    def blocks(folder: FeatureFolder, columns: slice, unit: bool) -> Iterable[npt.NDArray[Any]]:
        for row, name in enumerate(tqdm(images.names, f"index {folder.kind}", disable=None)):
            wanted = structure.keypoints[structure.offsets[row] : structure.offsets[row + 1]]
            if len(wanted) == 0:
                continue
            values = folder.read(name)
            if not 0 <= wanted.min() <= wanted.max() < len(values):
                raise InputError(
                    f"{folder.path(name)} holds {len(values)} rows but a point is observed by "
                    f"keypoint {wanted.max()}: the map's features and points do not belong together"
                )
            yield unit_rows(values[wanted]) if unit else values[wanted, columns]

    writer.add("observation_offset", structure.offsets)
    writer.add("observation_point", structure.points)
    everything = slice(None)
    writer.fill("observation_xy", (total, 2), np.float32, blocks(keypoints, slice(2), False))
    shape = (total, descriptors.width)
    writer.fill("observation_descriptor", shape, np.float16, blocks(descriptors, everything, True))


def _add_global(
    writer: _Writer, map_dir: Path, manifest: Manifest, images: ImageTable
) -> dict[str, float]:
    folder = FeatureFolder.in_dataset(map_dir, "global_features", manifest.features.global_features)
    names = tqdm(images.names, "index global features", disable=None)
    values = writer.fill(
        "global_descriptor",
        (len(images), folder.width),
        storage_type(len(images)),
        (unit_rows(folder.read(name).reshape(1, -1)) for name in names),
    )
    return build_lists(values, writer.folder / LISTS)


def _sources(map_dir: Path, manifest: Manifest) -> list[str]:
    """The text files an index is made of, relative to the map."""
    types = manifest.features
    names = [
        FILE_NAME,
        *(f"sensors/{part}.txt" for part in
          ("sensors", "rigs", "trajectories", "records_camera", "records_gnss", "records_wifi")),
        "reconstruction/points3d.txt",
        "reconstruction/observations.txt",
        f"reconstruction/keypoints/{types.keypoints}/keypoints.txt",
        f"reconstruction/descriptors/{types.descriptors}/descriptors.txt",
        f"reconstruction/global_features/{types.global_features}/global_features.txt",
    ]  # fmt: skip
    return [name for name in names if (map_dir / name).is_file()]


def _fingerprint(path: Path) -> dict[str, Any]:
    stat = path.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "hash": _hash(path)}


def _changed(path: Path, known: dict[str, Any]) -> bool:
    """Whether a source differs; its content is read only if its size or time does."""
    stat = path.stat()
    if stat.st_size != known["size"]:
        return True
    return bool(stat.st_mtime_ns != known["mtime_ns"] and _hash(path) != known["hash"])


def _hash(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def _map_id(sources: dict[str, dict[str, Any]]) -> str:
    text = "".join(f"{name} {source['hash']}\n" for name, source in sorted(sources.items()))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
