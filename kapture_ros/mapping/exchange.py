"""Maps to and from others: COLMAP models, PLY files, reconstructions in kapture.

An export holds `colmap/` (COLMAP's binary model), `points.ply`, `map.yaml`, and the features
in the folders NAVER uses (`local_features/TYPE`, `global_features/TYPE`), since a COLMAP
model has no descriptors; it can be imported again as it is.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pycolmap

from kapture_ros.dataset.camera_models import PIXEL_CENTER
from kapture_ros.errors import InputError
from kapture_ros.files import new_output
from kapture_ros.mapping.colmap import (
    add_structure,
    new_reconstruction,
    quiet_colmap,
    structure_of,
    transform,
)
from kapture_ros.mapping.feature_files import SUFFIXES, FeatureFolder, checked_name
from kapture_ros.mapping.georeference import bounds
from kapture_ros.mapping.held_out import measure_map
from kapture_ros.mapping.images import Camera, ImageTable, read_images, require_calibration
from kapture_ros.mapping.index import build_index
from kapture_ros.mapping.manifest import (
    FILE_NAME,
    FeatureTypes,
    Manifest,
    read_manifest,
    write_manifest,
)
from kapture_ros.mapping.options import MapSettings
from kapture_ros.mapping.sessions import FeatureSource, copy_records, link, write_images
from kapture_ros.mapping.structure import POINTS, Structure, read_structure, write_structure
from kapture_ros.mapping.subset import open_map
from kapture_ros.transforms.se3 import Transform

COLMAP = "colmap"
UNIT = (
    "a COLMAP model does not tell its unit; if it is the metre, write `metric: true` into map.yaml"
)
KAPTURE_MODELS = (
    "SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV", "OPENCV_FISHEYE",
    "FULL_OPENCV", "FOV", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "THIN_PRISM_FISHEYE",
)  # fmt: skip


def export_map(map_dir: Path, out: Path, *, overwrite: bool = False) -> None:
    """Write a map as a COLMAP model with a PLY of its points and its features.

    Raises:
        InputError: if it is no map.
        OutputError: if `out` exists already or cannot be written.
    """
    source = open_map(map_dir)
    model = new_reconstruction(source.images, source.folders["keypoints"])
    add_structure(model, source.structure)
    shifted(model, PIXEL_CENTER)
    with new_output(out, overwrite=overwrite, inputs=[map_dir]) as folder:
        (folder / COLMAP).mkdir()
        with quiet_colmap():
            model.update_point_3d_errors()
            model.write_binary(folder / COLMAP)
            model.export_PLY(folder / "points.ply")
        link(map_dir / FILE_NAME, folder / FILE_NAME)
        for kind, features in source.folders.items():
            group = "global_features" if kind == "global_features" else "local_features"
            target = folder / group / features.type_name / kind
            link(features.folder / f"{kind}.txt", target / f"{kind}.txt")
            for name in source.images.names:
                link(features.path(name), target / (name + SUFFIXES[kind]))


def shifted(model: pycolmap.Reconstruction, pixels: float) -> None:
    """Move the image coordinates of a model: COLMAP's are ours plus half a pixel."""
    for camera in model.cameras.values():
        params = camera.params.copy()
        params[camera.principal_point_idxs()] += pixels
        camera.params = params
    for image in model.images.values():
        for point in image.points2D:
            point.xy = point.xy + pixels


def import_map(
    source: Path, map_dir: Path, settings: MapSettings, *, overwrite: bool = False
) -> None:
    """Make a map of a reconstruction in kapture's or COLMAP's format.

    Raises:
        InputError: if the source is neither, or lacks points or features.
        OutputError: if the map exists already or cannot be written.
    """
    model_dir = _colmap_model(source)
    with new_output(map_dir, overwrite=overwrite, inputs=[source]) as partial:
        if model_dir is not None:
            _import_colmap(source, model_dir, partial, settings)
        else:
            _import_kapture(source, partial, settings)
        build_index(partial)
        measure_map(partial, settings.reconstruct.held_out)


def _colmap_model(source: Path) -> Path | None:
    for folder in (source, source / COLMAP, source / "sparse" / "0"):
        if any((folder / f"cameras{suffix}").is_file() for suffix in (".bin", ".txt")):
            return folder
    return None


def _import_kapture(source: Path, partial: Path, settings: MapSettings) -> None:
    if not (source / POINTS).is_file():
        raise InputError(
            f"{source} is neither a COLMAP model nor a kapture reconstruction ({POINTS} is "
            f"missing): `kapture_ros map {source} MAP` makes a map of a dataset"
        )
    images = read_images(source)
    require_calibration(images, source)
    apart = FeatureSource.of(settings)
    folders = apart.folders(source)
    structure = read_structure(source, images, folders["keypoints"].type_name)
    if len(structure.points) == 0:
        raise InputError(
            f"{source}: no point is observed by keypoints of type "
            f"'{folders['keypoints'].type_name}'"
        )
    _write(partial, images, structure, folders, source, Manifest(_types(folders)))


def _check_counts(model_dir: Path) -> None:
    """Refuse binary files that announce more than they hold: COLMAP would read on for ever.

    A file is a count (uint64) and as many records; the smallest of each kind are known
    (https://colmap.github.io/format.html).

    Raises:
        InputError: naming the file.
    """
    for name, smallest in (("cameras", 24 + 3 * 8), ("images", 4 + 7 * 8 + 4 + 1 + 8),
                           ("points3D", 8 + 3 * 8 + 3 + 8 + 8)):  # fmt: skip
        path = model_dir / f"{name}.bin"
        if not path.is_file():
            continue
        with path.open("rb") as file:
            count = int.from_bytes(file.read(8).ljust(8, b"\xff"), "little")
        if 8 + count * smallest > path.stat().st_size:
            raise InputError(f"{path} is cut off or not COLMAP's: export the model again")


def _import_colmap(source: Path, model_dir: Path, partial: Path, settings: MapSettings) -> None:
    _check_counts(model_dir)
    try:
        with quiet_colmap():
            model = pycolmap.Reconstruction(model_dir)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{model_dir} is not a readable COLMAP model: {error}") from error
    shifted(model, -PIXEL_CENTER)
    folders = FeatureSource(
        settings.local_features or _only_folder(source / "local_features"),
        settings.global_features or _only_folder(source / "global_features"),
    ).folders(source)
    if model.num_reg_images() == 0 or model.num_points3D() == 0:
        raise InputError(f"{model_dir} has no posed images with points: nothing to localize in")
    images, ids = _table_of(model)
    for name, image_id in zip(images.names, ids.tolist(), strict=True):
        ours = folders["keypoints"].count(name)
        if ours != model.image(image_id).num_points2D():
            raise InputError(
                f"{name} has {model.image(image_id).num_points2D()} keypoints in {model_dir} but "
                f"{ours} in {folders['keypoints'].folder}: the features are not the model's"
            )
    unknown_scale = Manifest(_types(folders), metric=False, record={"warnings": [UNIT]})
    _write(partial, images, _renumbered(model, ids), folders, source, unknown_scale)


def _only_folder(parent: Path) -> Path:
    found = sorted(path for path in parent.glob("*") if path.is_dir())
    if len(found) != 1:
        raise InputError(
            f"{parent} holds no features: a COLMAP model has no descriptors; pass "
            "--local-features and --global-features (as `kapture_ros map export` writes them)"
        )
    return found[0]


def _table_of(model: pycolmap.Reconstruction) -> tuple[ImageTable, npt.NDArray[np.int64]]:
    """The registered images of any COLMAP model as a table, and their COLMAP ids."""
    by_name = sorted(model.reg_image_ids(), key=lambda i: _in_order(model.image(i).name))
    ids = np.array(by_name, np.int64)
    camera_ids = sorted({model.image(i).camera_id for i in ids.tolist()})
    cameras = []
    for camera_id in camera_ids:
        camera = model.camera(camera_id)
        if camera.model_name not in KAPTURE_MODELS:
            raise InputError(f"kapture has no camera model {camera.model_name}: undistort first")
        params = tuple(float(value) for value in camera.params)
        size = camera.width, camera.height
        cameras.append(Camera(f"camera{camera_id}", camera.model_name, *size, params))
    images = [model.image(i) for i in ids.tolist()]
    # COLMAP keeps no time: frames count instead, in the order of the names of their images.
    number_of = {id_: n for n, id_ in enumerate(dict.fromkeys(i.frame_id for i in images))}
    frames = [number_of[image.frame_id] for image in images]
    rigs, frame_rigs = _rigs_of(model, list(number_of))
    poses = [transform(image.cam_from_world()) for image in images]
    table = ImageTable(
        names=tuple(checked_name(image.name) for image in images),
        cameras=tuple(cameras),
        camera=np.array([camera_ids.index(image.camera_id) for image in images], np.int32),
        stamps=np.asarray(frames, np.int64),
        frames=np.asarray(frames, np.int32),
        frame_rigs=frame_rigs,
        poses=np.array([[*pose.quaternion, *pose.translation] for pose in poses]),
        rigs=rigs,
    )
    return table, ids


def _in_order(name: str) -> list[tuple[int, str]]:
    """To sort names by, numbers in them by their values."""
    parts = re.split("([0-9]+)", name)
    return [(int(part), "") if n % 2 else (-1, part) for n, part in enumerate(parts)]


def _rigs_of(
    model: pycolmap.Reconstruction, frame_ids: list[int]
) -> tuple[dict[str, dict[str, Transform]], tuple[str, ...]]:
    rigs: dict[str, dict[str, Transform]] = {}
    frame_rigs = []
    for frame_id in frame_ids:
        rig = model.frame(frame_id).rig
        assert rig is not None  # COLMAP reads every frame with its rig
        reference = f"camera{rig.ref_sensor_id.id}"
        if rig.num_sensors() == 1:
            frame_rigs.append(reference)
            continue
        others = {
            f"camera{sensor.id}": transform(pose)
            for sensor, pose in rig.non_ref_sensors.items()
            if pose is not None
        }
        rigs[f"rig{rig.rig_id}"] = {reference: Transform()} | others
        frame_rigs.append(f"rig{rig.rig_id}")
    return rigs, tuple(frame_rigs)


def _renumbered(model: pycolmap.Reconstruction, ids: npt.NDArray[np.int64]) -> Structure:
    """The model's structure with the images in the order of `ids`."""
    largest = int(ids.max())
    by_id = structure_of(model, largest)
    row_of = np.full(largest, -1, np.int32)
    row_of[ids - 1] = np.arange(len(ids), dtype=np.int32)
    images = row_of[by_id.images]
    return Structure.from_rows(
        by_id.xyz, by_id.rgb, images, by_id.points, by_id.keypoints, len(ids)
    )


def _write(
    partial: Path,
    images: ImageTable,
    structure: Structure,
    folders: dict[str, FeatureFolder],
    source: Path,
    manifest: Manifest,
) -> None:
    """Write the map.

    Args:
        manifest: where the source has no map.yaml that tells more.
    """
    for kind, folder in folders.items():
        target = FeatureFolder.create(partial, kind, folder.type_name, folder.values)
        for name in images.names:
            if not folder.has(name):
                raise InputError(f"image {name} has no {kind} in {folder.folder}")
            link(folder.path(name), target.path(name))
    records = copy_records([(source, "")], partial) if _is_dataset(source) else []
    write_images(partial, images, records)
    types = manifest.features
    write_structure(partial, images, types.keypoints, structure)
    known = replace(manifest, sessions=(source.name,))
    if (source / FILE_NAME).is_file():
        known = replace(read_manifest(source), features=types)
    record = dict(known.record) | {"imported_from": source.name}
    write_manifest(partial, replace(known, bounds=bounds(images), record=record))


def _types(folders: dict[str, FeatureFolder]) -> FeatureTypes:
    return FeatureTypes(**{kind: folder.type_name for kind, folder in folders.items()})


def _is_dataset(source: Path) -> bool:
    return (source / "sensors" / "sensors.txt").is_file()
