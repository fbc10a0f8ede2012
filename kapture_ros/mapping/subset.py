"""A part of a map as a map of its own: some of its images, some of its points."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kapture_ros.mapping.feature_files import SUFFIXES, FeatureFolder
from kapture_ros.mapping.georeference import bounds
from kapture_ros.mapping.images import ImageTable, read_images
from kapture_ros.mapping.manifest import Manifest, read_manifest, write_manifest
from kapture_ros.mapping.sessions import copy_records, link, write_images
from kapture_ros.mapping.structure import Structure, read_structure, write_structure


@dataclass(frozen=True, slots=True)
class OpenMap:
    """A map as its kapture files tell it: what extending, pruning and exporting work on."""

    path: Path
    manifest: Manifest
    images: ImageTable
    structure: Structure
    folders: dict[str, FeatureFolder]


def open_map(map_dir: Path) -> OpenMap:
    """Read a map's images, points and feature folders.

    Raises:
        InputError: if it is no map or a file is damaged.
    """
    manifest = read_manifest(map_dir)
    images = read_images(map_dir)
    structure = read_structure(map_dir, images, manifest.features.keypoints)
    return OpenMap(map_dir, manifest, images, structure, feature_folders(map_dir, manifest))


def feature_folders(map_dir: Path, manifest: Manifest) -> dict[str, FeatureFolder]:
    """The feature folders of a map by kind.

    Raises:
        InputError: if one is missing.
    """
    return {
        kind: FeatureFolder.in_dataset(map_dir, kind, getattr(manifest.features, kind))
        for kind in SUFFIXES
    }


def select_structure(
    structure: Structure, rows: npt.NDArray[np.int64], points: npt.NDArray[np.bool_]
) -> Structure:
    """The points wanted that at least two of the images `rows` still observe."""
    number = np.full(len(structure.offsets) - 1, -1, np.int32)
    number[rows] = np.arange(len(rows), dtype=np.int32)
    image = number[structure.images]
    seen = (image >= 0) & points[structure.points]
    kept = np.bincount(structure.points[seen], minlength=len(structure.xyz)) >= 2
    seen &= kept[structure.points]
    new_point = np.cumsum(kept, dtype=np.int32) - 1
    return Structure.from_rows(
        structure.xyz[kept],
        structure.rgb[kept],
        image[seen],
        new_point[structure.points[seen]],
        structure.keypoints[seen],
        len(rows),
    )


def write_subset(
    source: OpenMap, out: Path, rows: npt.NDArray[np.int64], points: npt.NDArray[np.bool_]
) -> None:
    """Write a map (without index) of the images `rows` and the points wanted.

    Raises:
        OutputError: if it cannot be written.
    """
    images = source.images.select(rows)
    structure = select_structure(source.structure, rows, points)
    for kind, folder in source.folders.items():
        target = FeatureFolder.create(out, kind, folder.type_name, folder.values)
        for name in images.names:
            link(folder.path(name), target.path(name))
    write_images(out, images, copy_records([(source.path, "")], out))
    write_structure(out, images, source.manifest.features.keypoints, structure)
    write_manifest(out, replace(source.manifest, bounds=bounds(images)))
